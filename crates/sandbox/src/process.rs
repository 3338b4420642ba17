//! Which program inside holds a socket: for records, and for the end of flows whose socket is gone;
//! never for decisions.
//!
//! A record says which of a hundred processes it was: the sandbox's own socket tables give the inode
//! of the socket that a request came from, and the descriptors of the processes below its first
//! one say who holds that. Everything read here is written by the sandbox or grows with it, so that
//! each look-up has limits; beyond them, and wherever two sockets share an address, the answer is
//! "not known". A process may pass its sockets on: what is found is a holder, and its name is one
//! it chose itself.

use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::socket_diag::SocketDiag;

/// Bytes read of one socket table: some 1,700 sockets.
const MAX_TABLE_BYTES: u64 = 256 * 1024;
/// Processes looked at in one look-up.
const MAX_PROCESSES: usize = 256;
/// Processes of the host among which a namespace's are looked for in one look-up.
const MAX_HOST_PROCESSES: usize = 16 * 1024;
/// Threads whose children are asked for in one look-up.
const MAX_THREADS: usize = 1024;
/// Descriptors looked at in one look-up.
const MAX_DESCRIPTORS: usize = 4096;
/// Bytes read of one thread's list of children: some 500 of them.
const MAX_CHILDREN_BYTES: u64 = 4 * 1024;
/// Bytes read of a command name; the kernel keeps fifteen.
const MAX_COMMAND_BYTES: u64 = 64;

/// Who is named as the sender where it does not matter who sends.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// `TCP_LISTEN` in a table: a listener is nobody's client.
const STATE_LISTEN: &str = "0A";

/// The transport of a socket that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A process inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id, as the host sees it.
    pub pid: u32,
    /// Its command name, without control characters.
    pub command: String,
}

/// Which processes are a sandbox's, as the host sees them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Members {
    /// This one, its first, and all below it.
    Below(u32),
    /// Those in the network namespace of this number.
    Namespace(u64),
}

impl Members {
    /// The processes from which the others are found.
    fn roots(self) -> Vec<u32> {
        match self {
            Self::Below(first) => vec![first],
            Self::Namespace(inode) => in_namespace(inode),
        }
    }
}

/// The processes of a network namespace, the youngest last. Those of other users are not seen.
fn in_namespace(inode: u64) -> Vec<u32> {
    let link = format!("net:[{inode}]");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_there = |pid: &u32| {
        let at = fs::read_link(format!("/proc/{pid}/ns/net"));
        at.is_ok_and(|at| at.as_os_str() == &*link)
    };
    let mut found: Vec<u32> = pids.take(MAX_HOST_PROCESSES).filter(is_there).collect();
    found.sort_unstable();
    found
}

/// The processes of one sandbox.
#[derive(Debug)]
pub struct Processes {
    members: Members,
    diag: SocketDiag,
    /// Where a UDP socket of the sandbox's is that is never closed.
    known: SocketAddr,
}

impl Processes {
    pub(crate) fn new(members: Members, diag: SocketDiag, known: SocketAddr) -> Self {
        Self {
            members,
            diag,
            known,
        }
    }

    /// The process that holds the socket with this local address, connected to `server` where that
    /// is known, if it can be told. Reads `/proc`, and takes a tenth of a millisecond or two in a
    /// small sandbox; milliseconds for TCP where the kernel cannot be asked for one connection,
    /// since its table of them is one for the whole host.
    #[must_use]
    pub fn find(
        &self,
        transport: Transport,
        client: SocketAddr,
        server: Option<SocketAddr>,
    ) -> Option<Process> {
        let asked = server
            .filter(|_| transport == Transport::Tcp)
            .map(|server| self.diag.tcp(plain(client), plain(server)));
        let inode = match asked {
            Some(Ok(found)) => found?,
            Some(Err(_)) | None => self.inode(transport, client)?,
        };
        let link = format!("socket:[{inode}]");
        self.holder(link.as_bytes())
    }

    /// Whether the socket of a flow of datagrams is surely gone: nothing inside would take what
    /// `server` sends to `client`. Asks the kernel up to three times, some microseconds each.
    ///
    /// A look may miss a socket that is just being connected, so two have to agree. And a kernel that
    /// cannot tell says the same as one that has no such socket: so it must know one that is there.
    #[must_use]
    pub fn is_gone(&self, client: SocketAddr, server: SocketAddr) -> bool {
        let (client, server) = (plain(client), plain(server));
        let gone = || self.diag.has_udp(client, server).is_ok_and(|there| !there);
        let known = || {
            self.diag
                .has_udp(self.known, NOBODY)
                .is_ok_and(|there| there)
        };
        gone() && known() && gone()
    }

    fn inode(&self, transport: Transport, client: SocketAddr) -> Option<u64> {
        let tables = match transport {
            Transport::Tcp => ["tcp", "tcp6"],
            Transport::Udp => ["udp", "udp6"],
        };
        let mut search = Search::new(transport, client);
        // An IPv4 client may be a socket of either family.
        let first = usize::from(search.address.is_ipv6());
        for table in &tables[first..] {
            let path = format!("/proc/{}/net/{table}", self.members.roots().first()?);
            let text = read(Path::new(&path), MAX_TABLE_BYTES)?;
            search.read(&String::from_utf8_lossy(&text));
            if search.exact != Matches::Nothing {
                break;
            }
        }
        search.found()
    }

    /// The process whose descriptors have this link. Young ones first: they are the likely ones.
    fn holder(&self, link: &[u8]) -> Option<Process> {
        let mut waiting = self.members.roots();
        // One is below another: none is looked at twice.
        let by_descent = matches!(self.members, Members::Below(_));
        let mut descriptors = MAX_DESCRIPTORS;
        let mut threads = MAX_THREADS;
        for _ in 0..MAX_PROCESSES {
            let pid = waiting.pop()?;
            if holds(pid, link, &mut descriptors) {
                return Some(Process {
                    pid,
                    command: command(pid)?,
                });
            }
            if descriptors == 0 {
                return None;
            }
            if !by_descent {
                continue;
            }
            let room = MAX_PROCESSES.saturating_sub(waiting.len());
            waiting.extend(children(pid, &mut threads).into_iter().take(room));
        }
        None
    }
}

/// The inode of a client's socket in the text of one of the kernel's tables.
#[cfg(fuzzing)]
pub(crate) fn inode_in(table: &str, transport: Transport, client: SocketAddr) -> Option<u64> {
    let mut search = Search::new(transport, client);
    search.read(table);
    search.found()
}

fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads at most so many bytes; `None` where nothing can be read: the process is gone.
fn read(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn holds(pid: u32, link: &[u8], left: &mut usize) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    for entry in entries.flatten() {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let target = fs::read_link(entry.path());
        if target.is_ok_and(|target| target.as_os_str().as_bytes() == link) {
            return true;
        }
    }
    false
}

fn children(pid: u32, threads: &mut usize) -> Vec<u32> {
    let mut found = Vec::new();
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    for entry in entries.into_iter().flatten().flatten() {
        if *threads == 0 {
            break;
        }
        *threads -= 1;
        let Some(list) = read(&entry.path().join("children"), MAX_CHILDREN_BYTES) else {
            continue;
        };
        // Each number ends with a space: one that the limit cut off does not.
        let Some(end) = list.iter().rposition(|byte| *byte == b' ') else {
            continue;
        };
        let numbers = String::from_utf8_lossy(&list[..end]).into_owned();
        found.extend(
            numbers
                .split(' ')
                .filter_map(|number| number.parse::<u32>().ok()),
        );
    }
    found
}

fn command(pid: u32) -> Option<String> {
    let name = read(Path::new(&format!("/proc/{pid}/comm")), MAX_COMMAND_BYTES)?;
    Some(safe(&name))
}

/// A command name without its line end and without anything that acts on a terminal.
fn safe(name: &[u8]) -> String {
    let name = name.strip_suffix(b"\n").unwrap_or(name);
    String::from_utf8_lossy(name).replace(char::is_control, "\u{FFFD}")
}

/// What was found of a kind of match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matches {
    Nothing,
    One(u64),
    /// Nobody can tell which.
    Several,
}

impl Matches {
    fn add(&mut self, inode: u64) {
        *self = match *self {
            Matches::Nothing => Matches::One(inode),
            Matches::One(known) if known == inode => Matches::One(inode),
            _ => Matches::Several,
        };
    }
}

/// The search for one local address in the text of the kernel's socket tables.
struct Search {
    transport: Transport,
    address: IpAddr,
    port: u16,
    /// Sockets with this very address.
    exact: Matches,
    /// Datagram sockets bound to the port on all addresses.
    wildcard: Matches,
}

impl Search {
    fn new(transport: Transport, client: SocketAddr) -> Self {
        Self {
            transport,
            address: client.ip().to_canonical(),
            port: client.port(),
            exact: Matches::Nothing,
            wildcard: Matches::Nothing,
        }
    }

    fn read(&mut self, table: &str) {
        // The first line is the heading; a last line that is cut off has too few fields, or lacks
        // the spaces and numbers behind the inode.
        for line in table.lines().skip(1) {
            let _ = self.line(line);
        }
    }

    fn line(&mut self, line: &str) -> Option<()> {
        // sl, local, remote, state, queues, timer, retransmits, uid, timeout, inode, references
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (address, port) = endpoint(fields.next()?)?;
        if port != self.port {
            return None;
        }
        let _remote = fields.next()?;
        let state = fields.next()?;
        let mut fields = fields.skip(5);
        let inode: u64 = fields.next()?.parse().ok()?;
        let _references = fields.next()?;
        // A connection that its program has closed belongs to no inode any more.
        if inode == 0 || (self.transport == Transport::Tcp && state == STATE_LISTEN) {
            return None;
        }
        if address.to_canonical() == self.address {
            self.exact.add(inode);
        } else if self.transport == Transport::Udp && address.is_unspecified() {
            self.wildcard.add(inode);
        }
        Some(())
    }

    fn found(&self) -> Option<u64> {
        match (self.exact, self.wildcard) {
            (Matches::One(inode), _) | (Matches::Nothing, Matches::One(inode)) => Some(inode),
            _ => None,
        }
    }
}

/// `0F02000A:1F90`: the address as words in the machine's byte order, the port as a number.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.copy_from_slice(words.as_flattened());
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const HEADING: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \
                           retrnsmt   uid  timeout inode\n";

    /// A line as the kernel writes it, with the words of the address in this machine's order.
    fn line(local: &str, state: &str, inode: u64) -> String {
        let local: SocketAddr = local.parse().unwrap();
        let hex: String = match local.ip() {
            IpAddr::V4(ip) => words(&ip.octets()),
            IpAddr::V6(ip) => words(&ip.octets()),
        };
        format!(
            "   7: {hex}:{:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 \
             1000        0 {inode} 2 0000000000000000 0\n",
            local.port()
        )
    }

    fn words(octets: &[u8]) -> String {
        let word = |four: &[u8]| u32::from_ne_bytes(four.try_into().unwrap());
        octets
            .chunks(4)
            .map(|four| format!("{:08X}", word(four)))
            .collect()
    }

    fn search(transport: Transport, client: &str, lines: &[String]) -> Option<u64> {
        let mut search = Search::new(transport, client.parse().unwrap());
        search.read(&format!("{HEADING}{}", lines.concat()));
        search.found()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_kernel_s_own_lines_are_read() {
        let text = format!(
            "{HEADING}   0: 0F02000A:9C40 0202000A:0C38 01 00000000:00000000 00:00000000 00000000  \
             1000        0 4711 1 0000000000000000 20 4 30 10 -1\n"
        );
        let mut found = Search::new(Transport::Tcp, "10.0.2.15:40000".parse().unwrap());
        found.read(&text);
        assert_eq!(found.found(), Some(4711));
        assert_eq!(
            endpoint("B80D0120000000000000000001000000:0035"),
            Some(("2001:db8::1".parse().unwrap(), 53))
        );
    }

    #[test]
    fn sockets_of_both_families_match_an_ipv4_client() {
        for local in ["10.0.2.15:40000", "[::ffff:10.0.2.15]:40000"] {
            let lines = [line("10.0.2.16:40000", "01", 1), line(local, "01", 2)];
            let found = search(Transport::Tcp, "10.0.2.15:40000", &lines);
            assert_eq!(found, Some(2), "{local}");
            let found = search(Transport::Tcp, "[::ffff:10.0.2.15]:40000", &lines);
            assert_eq!(found, Some(2), "{local}");
        }
    }

    #[test]
    fn datagram_sockets_bound_to_every_address_match_by_port() {
        let bound = |local: &str| [line("10.0.2.15:53", "07", 1), line(local, "07", 2)];
        for (client, local, found) in [
            ("10.0.2.15:4000", "0.0.0.0:4000", Some(2)),
            ("10.0.2.15:4000", "[::]:4000", Some(2)),
            ("[2001:db8::5]:4000", "[::]:4000", Some(2)),
            ("[2001:db8::5]:4000", "[2001:db8::5]:4000", Some(2)),
            ("[2001:db8::5]:4000", "[2001:db8::6]:4000", None),
            ("10.0.2.15:4000", "0.0.0.0:4001", None),
        ] {
            let udp = search(Transport::Udp, client, &bound(local));
            assert_eq!(udp, found, "{client} {local}");
        }
        let tcp = search(Transport::Tcp, "10.0.2.15:4000", &bound("0.0.0.0:4000"));
        assert_eq!(tcp, None, "no connection has every address");
        let own = [
            line("0.0.0.0:4000", "07", 1),
            line("10.0.2.15:4000", "07", 2),
        ];
        let found = search(Transport::Udp, "10.0.2.15:4000", &own);
        assert_eq!(found, Some(2), "the kernel prefers the very address too");
    }

    #[test]
    fn what_is_ambiguous_is_not_known() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let lines = [
                line("10.0.2.15:4000", "01", 1),
                line("10.0.2.15:4000", "01", 2),
            ];
            assert_eq!(search(transport, "10.0.2.15:4000", &lines), None);
        }
        let shared = [line("0.0.0.0:4000", "07", 1), line("[::]:4000", "07", 2)];
        assert_eq!(search(Transport::Udp, "10.0.2.15:4000", &shared), None);
    }

    #[test]
    fn listeners_and_closed_connections_are_nobody_s() {
        let lines = [
            line("10.0.2.15:4000", STATE_LISTEN, 1),
            line("10.0.2.15:4000", "06", 0),
        ];
        assert_eq!(search(Transport::Tcp, "10.0.2.15:4000", &lines), None);
    }

    #[test]
    fn every_prefix_of_a_table_is_harmless() {
        let table = format!("{HEADING}{}", line("10.0.2.15:4000", "01", 4711));
        let client = "10.0.2.15:4000".parse().unwrap();
        for end in 0..table.len() {
            let mut found = Search::new(Transport::Tcp, client);
            found.read(&table[..end]);
            let found = found.found();
            assert!(matches!(found, None | Some(4711)), "{end}: {found:?}");
        }
        for odd in [
            "",
            ":",
            "é0000000:1",
            "0F02000A:",
            "0F02000A:12345",
            "0F02:1",
        ] {
            assert_eq!(endpoint(odd), None, "{odd}");
        }
    }

    fn below(init: u32, known: &UdpSocket) -> Processes {
        let diag = SocketDiag::new(crate::socket_diag::make_socket().unwrap());
        Processes::new(Members::Below(init), diag, known.local_addr().unwrap())
    }

    fn known() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn the_holder_of_a_socket_is_found_and_gone_ones_are_not() {
        let known = known();
        let own = below(std::process::id(), &known);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = udp.local_addr().unwrap();
        let found = own.find(Transport::Udp, at, None).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert!(!found.command.is_empty());
        let server = "192.0.2.1:123".parse().unwrap();
        assert!(!own.is_gone(at, server));
        drop(udp);
        assert!(own.is_gone(at, server));
        assert_eq!(own.find(Transport::Udp, at, None), None);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for server in [None, client.peer_addr().ok()] {
            let found = own.find(Transport::Tcp, client.local_addr().unwrap(), server);
            assert_eq!(found.map(|process| process.pid), Some(std::process::id()));
        }
        let another = Some("127.0.0.1:9".parse().unwrap());
        let found = own.find(Transport::Tcp, client.local_addr().unwrap(), another);
        assert_eq!(found, None, "another connection of the same address");

        let nobody = below(u32::MAX, &known);
        assert_eq!(nobody.find(Transport::Udp, at, None), None);
        drop(known);
        assert!(!own.is_gone(at, server), "as in a kernel that cannot tell");
    }

    #[test]
    fn a_child_s_socket_is_the_child_s() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        // A socket that only the shell's child holds.
        let program = "import socket,sys\n\
                       s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
                       s.bind(('127.0.0.1',0))\n\
                       print(s.getsockname()[1],flush=True)\n\
                       sys.stdin.read()";
        let mut shell = Command::new("sh")
            .args(["-c", "python3 -c \"$1\"; :", "sh", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap()));
        let found = below(shell.id(), &known()).find(Transport::Udp, at, None);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        let found = found.unwrap();
        assert_ne!(found.pid, shell.id());
        assert!(found.command.starts_with("python"), "{found:?}");
    }

    #[test]
    fn a_command_name_cannot_act_on_a_terminal() {
        assert_eq!(safe(b"curl\n"), "curl");
        assert_eq!(safe(b"a\x1b[2J\nb\n"), "a\u{FFFD}[2J\u{FFFD}b");
        assert_eq!(safe(b"\xff\n"), "\u{FFFD}");
    }
}
