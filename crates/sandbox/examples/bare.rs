//! The smallest gateway, through which the tests drive the sandbox.
//!
//! `bare [OPTIONS] -- CMD…` runs a command in a sandbox. Its gateway answers every DNS query with
//! an echo (all that the start-up check needs), tells every client of a catch-all where it wanted to
//! go, and writes what the kernel refused to a file. It decides nothing.
//!
//! `bare --foreign [OPTIONS] -- CMD…` serves the same sockets in a namespace that `unshare` made,
//! where another process has them made and sends them here. `bare --hold` is a holder.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_sandbox::{
    Addresses, Control, Family, GatewaySide, Inside, Keyring, NameFiles, NamedSockets, Network,
    OpenRule, OpenRules, SocketName, Sockets, Spec, Tap, TapUser, UnixSockets,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socketpair,
};

/// How long the foreign namespace may take to be built.
const BUILD_TIMEOUT: Duration = Duration::from_secs(20);

/// How the gateway behaves.
#[derive(Default)]
struct Behaviour {
    /// Opens these in the kernel's set before it is ready.
    open: Vec<SocketAddr>,
    /// Writes refusals there.
    refused: Option<File>,
    /// Connects to this port inside, says hello, and sends what it hears to `refused`.
    publish: Option<u16>,
    /// Says that it cannot start.
    fail: bool,
    /// Ends at once.
    die: bool,
    /// Does not answer DNS.
    mute: bool,
    /// Writes its process id there once it is ready.
    pid_file: Option<OsString>,
    /// Serves a namespace that somebody else made.
    foreign: bool,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--doctor") {
        for check in portcullis_sandbox::doctor::checks() {
            println!(
                "{} {}: {} {:?}",
                check.ok, check.name, check.found, check.fix
            );
        }
        return;
    }
    if std::env::args().nth(1).as_deref() == Some("--build") {
        std::process::exit(build(std::env::args_os().skip(2)));
    }
    if std::env::args().nth(1).as_deref() == Some("--hold") {
        std::process::exit(portcullis_sandbox::hold());
    }
    let (spec, behaviour) = arguments();
    if behaviour.foreign {
        std::process::exit(foreign(&spec, behaviour).expect("a foreign namespace"));
    }
    let name = spec
        .argv
        .first()
        .map(|name| name.to_string_lossy().into_owned());
    let code = match portcullis_sandbox::run(spec, |side| gateway(side, behaviour)) {
        Ok(status) => {
            if let Some(message) = status.message(&name.unwrap_or_default()) {
                eprintln!("bare: {message}");
            }
            status.exit_code()
        }
        Err(error) => {
            eprintln!("bare: {error}");
            if let Some(fix) = error.fix() {
                eprintln!("bare: fix: {fix}");
            }
            125
        }
    };
    std::process::exit(code);
}

fn arguments() -> (Spec, Behaviour) {
    let mut arguments = std::env::args_os().skip(1);
    let mut spec = Spec {
        trust: false,
        argv: Vec::new(),
        env: std::env::vars_os().collect(),
        cwd: None,
        read_only: Vec::new(),
        hidden: Vec::new(),
        tap: None,
        timeout: None,
        open: OpenRules::default(),
        probe_refused: SocketAddr::from(([192, 0, 2, 1], 9)),
        addresses: Addresses::new(),
        keyring: Keyring::default(),
        unix_sockets: UnixSockets::Auto,
        let_in: Vec::new(),
        name_files: NameFiles::default(),
    };
    let mut behaviour = Behaviour::default();
    while let Some(argument) = arguments.next().filter(|argument| argument != "--") {
        let option = argument.to_string_lossy().into_owned();
        let mut value = || arguments.next().expect("a value");
        let text = |value: OsString| value.to_string_lossy().into_owned();
        match option.as_str() {
            "--tap" => {
                spec.tap = Some(Tap {
                    name: text(value()),
                    mtu: 1500,
                    user: TapUser::Program,
                });
                spec.addresses = Addresses::with_tap();
            }
            "--keyring-inherit" => spec.keyring = Keyring::Inherit,
            "--timeout-ms" => {
                let ms = text(value()).parse().expect("milliseconds");
                spec.timeout = Some(Duration::from_millis(ms));
            }
            "--read-only" => spec.read_only.push(value().into()),
            "--unix-socket" => spec.let_in.push(value().into()),
            "--unix-sockets" => spec.unix_sockets = unix_sockets(&text(value())),
            "--hidden" => spec.hidden.push(value().into()),
            "--cwd" => spec.cwd = Some(value().into()),
            "--audit" => {
                spec.open.audit = true;
                spec.open.guarded.push(network([10, 0, 0, 0], 8));
                spec.open.guarded.push(network([192, 0, 2, 0], 24));
            }
            "--rules" => {
                let count: u32 = text(value()).parse().expect("a number");
                spec.open.rules = (0..count).map(rule).collect();
            }
            "--closed" => {
                let address: SocketAddr = text(value()).parse().expect("an address");
                spec.open.closed.push(OpenRule {
                    network: Network {
                        address: address.ip(),
                        prefix: 32,
                    },
                    ports: vec![address.port()..=address.port()],
                });
            }
            "--open" => behaviour
                .open
                .push(text(value()).parse().expect("an address")),
            "--refused" => behaviour.refused = Some(File::create(value()).expect("a file")),
            "--publish" => behaviour.publish = Some(text(value()).parse().expect("a port")),
            "--fail" => behaviour.fail = true,
            "--die" => behaviour.die = true,
            "--mute" => behaviour.mute = true,
            "--pid-file" => behaviour.pid_file = Some(value()),
            "--foreign" => behaviour.foreign = true,
            other => panic!("unknown option {other}"),
        }
    }
    spec.argv = arguments.collect();
    (spec, behaviour)
}

fn unix_sockets(word: &str) -> UnixSockets {
    match word {
        "supervised" => UnixSockets::Supervised,
        "landlock" => UnixSockets::Landlock,
        "none" => UnixSockets::None,
        other => panic!("unknown kind {other}"),
    }
}

fn network(address: [u8; 4], prefix: u8) -> Network {
    Network {
        address: IpAddr::from(address),
        prefix,
    }
}

/// Some of many rules: `198.18.x.y:1000-2000`.
fn rule(index: u32) -> OpenRule {
    let [_, _, high, low] = index.to_be_bytes();
    OpenRule {
        network: network([198, 18, high, low], 32),
        ports: vec![1000..=2000, 7..=7],
    }
}

fn gateway(mut side: GatewaySide, mut behaviour: Behaviour) -> i32 {
    if behaviour.die {
        return 9;
    }
    let Ok(sockets) = side.receive() else {
        return 1;
    };
    if behaviour.fail {
        let _ = side.control.failed("no upstream", 0);
        return 1;
    }
    open(&sockets, &behaviour);
    if side.control.ready().is_err() {
        return 1;
    }
    if let Some(path) = &behaviour.pid_file {
        std::fs::write(path, std::process::id().to_string()).expect("a pid file");
    }
    let control = &side.control;
    match serve(control.lifeline(), Some(control), &sockets, &mut behaviour) {
        Ok(()) => 0,
        Err(error) => {
            if let Some(file) = &mut behaviour.refused {
                let _ = writeln!(file, "gateway: {error}");
            }
            1
        }
    }
}

/// Opens what is to be open in the kernel's set.
fn open(sockets: &Sockets, behaviour: &Behaviour) {
    for address in &behaviour.open {
        let port = address.port();
        // Twice: the second extends the first.
        for seconds in [1, 60] {
            let time = Duration::from_secs(seconds);
            sockets
                .kernel
                .allow(address.ip(), &[port..=port], time)
                .expect("the kernel takes it");
        }
    }
}

/// Serves a namespace that `unshare` makes and [`build`] furnishes; returns CMD's exit code.
fn foreign(spec: &Spec, mut behaviour: Behaviour) -> io::Result<i32> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
    let mut maker = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(std::env::current_exe()?)
        .arg("--build")
        .args(&spec.argv)
        .stdin(theirs)
        .spawn()?;
    let sockets = NamedSockets::receive(ours.as_fd(), BUILD_TIMEOUT)?;
    let sockets = Sockets::of(sockets, maker.id())?;
    open(&sockets, &behaviour);
    send(&ours, b"go", SendFlags::NOSIGNAL)?;
    serve(ours.as_fd(), None, &sockets, &mut behaviour)?;
    Ok(maker.wait()?.code().unwrap_or(1))
}

/// Furnishes the namespace that it finds itself in, sends the sockets over its standard input, and
/// runs CMD there once it is told to.
fn build(mut command: impl Iterator<Item = OsString>) -> i32 {
    let sockets = Inside::default().build().expect("a namespace of its own");
    let log = sockets.get(SocketName::RefusalLog).expect("a log");
    portcullis_sandbox::begin_refusal_log(log).expect("the kernel logs");
    let gateway = io::stdin();
    sockets.send(gateway.as_fd()).expect("a gateway");
    drop(sockets);
    let mut go = [0; 2];
    recv(gateway.as_fd(), &mut go, RecvFlags::empty()).expect("a word from the gateway");
    let status = Command::new(command.next().expect("a command"))
        .args(command)
        .stdin(Stdio::null())
        .status();
    status.expect("the command runs").code().unwrap_or(1)
}

/// Serves until the sandbox is gone, which the lifeline tells.
fn serve(
    lifeline: BorrowedFd<'_>,
    control: Option<&Control>,
    sockets: &Sockets,
    behaviour: &mut Behaviour,
) -> io::Result<()> {
    loop {
        let fds = [
            lifeline,
            sockets.dns_udp4.as_fd(),
            sockets.dns_udp6.as_fd(),
            sockets.catch_all4.as_fd(),
            sockets.catch_all6.as_fd(),
            sockets.refused.fd(),
        ];
        let timeout = if behaviour.publish.is_some() { 20 } else { -1 };
        let ready = poll(fds, timeout)?;
        if ready[1] && !behaviour.mute {
            echo(sockets.dns_udp4.as_fd())?;
        }
        if ready[2] && !behaviour.mute {
            echo(sockets.dns_udp6.as_fd())?;
        }
        for (index, listener) in [(3, &sockets.catch_all4), (4, &sockets.catch_all6)] {
            if ready[index] {
                tell_destination(listener)?;
            }
        }
        if ready[5] || ready[0] {
            write_refused(sockets, behaviour)?;
        }
        if ready[0] {
            return Ok(());
        }
        if let (Some(port), Some(control)) = (behaviour.publish, control)
            && let Ok(heard) = visit(control, port)
        {
            behaviour.publish = None;
            if let Some(file) = &mut behaviour.refused {
                writeln!(file, "heard {heard}")?;
            }
        }
    }
}

fn write_refused(sockets: &Sockets, behaviour: &mut Behaviour) -> io::Result<()> {
    let batch = sockets.refused.read()?;
    if let Some(file) = &mut behaviour.refused {
        for refused in batch.refused {
            writeln!(
                file,
                "{:?} {} uid {:?}",
                refused.protocol, refused.destination, refused.uid
            )?;
        }
        if batch.overflowed {
            writeln!(file, "overflowed")?;
        }
    }
    Ok(())
}

/// Reaches a server inside, as `--publish` does.
fn visit(control: &Control, port: u16) -> io::Result<String> {
    use std::io::Read;
    let mut stream = TcpStream::from(control.new_tcp_socket(Family::V4)?);
    stream.set_nonblocking(false)?;
    connect(&stream, &SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.write_all(b"hello\n")?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard)?;
    Ok(heard)
}

fn tell_destination(listener: &OwnedFd) -> io::Result<()> {
    let listener = TcpListener::from(listener.try_clone()?);
    while let Ok((mut client, _)) = listener.accept() {
        let destination = client.local_addr()?;
        let _ = writeln!(client, "{destination}");
    }
    Ok(())
}

fn poll<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: i32) -> io::Result<[bool; N]> {
    let mut set = fds.map(|fd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: set holds N live entries.
    if unsafe { libc::poll(set.as_mut_ptr(), N as libc::nfds_t, timeout) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(set.map(|entry| entry.revents != 0))
}

/// Answers one query with itself, from the address that was asked.
fn echo(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut packet = [0_u8; 1500];
    let mut control = [0_u64; 16];
    // SAFETY: zeroed structures of this kind are valid; the pointers are to live buffers, and
    // the control message that arrives (the packet's destination) is sent back unchanged but for
    // IPv4's interface, which must be left to the route.
    unsafe {
        let mut from: libc::sockaddr_storage = std::mem::zeroed();
        let mut iov = libc::iovec {
            iov_base: packet.as_mut_ptr().cast(),
            iov_len: packet.len(),
        };
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_name = (&raw mut from).cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        let got = libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0);
        if got < 4 {
            return Ok(());
        }
        let bytes = (*header.msg_iov).iov_base.cast::<u8>();
        *bytes.add(2) |= 0x80;
        *bytes.add(3) &= 0xf0;
        (*header.msg_iov).iov_len = got as usize;
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        if !first.is_null() && (*first).cmsg_level == libc::SOL_IP {
            let info = libc::CMSG_DATA(first).cast::<libc::in_pktinfo>();
            (*info).ipi_spec_dst = (*info).ipi_addr;
            (*info).ipi_ifindex = 0;
        }
        if libc::sendmsg(socket.as_raw_fd(), &raw const header, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
