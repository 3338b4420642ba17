//! FTP in passive mode: the data connections that a server names on its control connection (RFC 959, RFC 2428).
//!
//! Answers *decision and destination differ* (docs/threats.md): by a rule with `ftp = true`, the port that an
//! answer to PASV or EPSV names is opened for one connection, within a short time, to the very address that
//! the control connection was dialled at. The address in the answer does not count, nor does an answer that
//! nobody asked for, nor a line in the middle of a longer one, where a server repeats what it was sent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_dns::{Leases, PolicyHandle};
use portcullis_policy::{Asked, Reason, Request, Verdict};
use portcullis_record::{Client, Event, Layer, Recorder};
use tokio::time::Instant;
use tracing::debug;

use crate::inbound::Inbound;
use crate::meter::Way;
use crate::opened::Opened;
use crate::relay::Watcher;
use crate::target::Target;

/// How long a data connection may come after the answer that names it.
const DATA_TIMEOUT: Duration = Duration::from_secs(30);
/// Data connections that are waited for at once, of one sandbox.
const MAX_EXPECTED: usize = 256;
/// Ports that are opened in the kernel in one second, of one sandbox: each takes a worker some
/// microseconds, or milliseconds where the port is open still.
const MAX_OPENINGS: u32 = 32;
/// How long that counts.
const OPENINGS_PER: Duration = Duration::from_secs(1);
/// Longest line that is read, in bytes; of a longer one no more counts.
const MAX_LINE_BYTES: usize = 512;
/// The lowest port that a server may name: those below are services of their own.
const MIN_PORT: u16 = 1024;

/// The data connections that may come.
pub(crate) struct DataConnections {
    policy: PolicyHandle,
    leases: Arc<Leases>,
    recorder: Recorder,
    expected: Mutex<Vec<Expected>>,
    openings: Mutex<Openings>,
}

/// The ports that are open in the kernel. At most [`MAX_OPENINGS`] a second of [`DATA_TIMEOUT`].
#[derive(Default)]
struct Openings {
    until: HashMap<(IpAddr, u16), Instant>,
    /// When this second began, and how many ports it has opened.
    since: Option<Instant>,
    count: u32,
}

/// Whether a port is to be opened.
#[derive(Debug, PartialEq, Eq)]
enum Opening {
    /// It is open, for long enough.
    Open,
    Wanted,
    TooMany,
}

impl Openings {
    fn ask(&mut self, place: (IpAddr, u16), now: Instant) -> Opening {
        self.until.retain(|_, until| *until > now);
        let left = self.until.get(&place).map(|until| *until - now);
        if left.is_some_and(|left| left > DATA_TIMEOUT / 2) {
            return Opening::Open;
        }
        if self.since.is_none_or(|since| now - since >= OPENINGS_PER) {
            (self.since, self.count) = (Some(now), 0);
        }
        if self.count == MAX_OPENINGS {
            return Opening::TooMany;
        }
        self.count += 1;
        self.until.insert(place, now + DATA_TIMEOUT);
        Opening::Wanted
    }
}

/// One data connection that may come.
struct Expected {
    server: Arc<Server>,
    port: u16,
    until: Instant,
}

/// The server of one control connection.
struct Server {
    inbound: Inbound,
    /// Where the program takes it to be.
    target: Asked<'static>,
    /// The port of the control connection.
    control: u16,
    /// Where it is.
    address: IpAddr,
    /// The address and the names that its data connections are decided by.
    asked: Asked<'static>,
}

impl DataConnections {
    pub(crate) fn new(
        policy: PolicyHandle,
        leases: Arc<Leases>,
        recorder: Recorder,
    ) -> DataConnections {
        DataConnections {
            policy,
            leases,
            recorder,
            expected: Mutex::default(),
            openings: Mutex::default(),
        }
    }

    /// The server's data connection to the target, if one is waited for: it has come now.
    pub(crate) fn take(&self, target: &Target) -> Option<Target> {
        let mut expected = self.expected();
        let now = Instant::now();
        expected.retain(|one| one.until > now);
        let at = expected
            .iter()
            .position(|one| one.port == target.port && one.server.is_meant(&target.asked))?;
        let Expected { server, port, .. } = expected.swap_remove(at);
        Some(Target {
            asked: server.asked.clone(),
            port,
            ftp_control: Some(server.control),
            written: None,
        })
    }

    /// Opens a port that a server named.
    fn expect(&self, server: &Arc<Server>, port: u16) {
        // The answer before this one is void.
        self.forget(server);
        if port < MIN_PORT {
            let why = "a port below 1024 in the FTP server's answer to PASV or EPSV is not opened";
            return self.refuse(server, Some(port), Reason::PortNotAllowed, why);
        }
        let to = server.asked.clone().unshown();
        let passes = |request: Request<'_>| self.policy.load().decide(&request).permits();
        let control = server.control;
        // What passes by itself, on a port of some rule, needs no help.
        let by_address = server.target.borrowed().unshown();
        if [&to, &by_address]
            .into_iter()
            .any(|to| passes(Request::connect(to, port)))
        {
            return;
        }
        let data = Request::FtpData {
            to: &to,
            control,
            port,
        };
        if !passes(data) {
            return;
        }
        {
            let now = Instant::now();
            let mut expected = self.expected();
            expected.retain(|one| one.until > now);
            if expected.len() >= MAX_EXPECTED {
                drop(expected);
                let why = "too many FTP data connections are waited for";
                return self.refuse(server, Some(port), Reason::TooManyConnections, why);
            }
            expected.push(Expected {
                server: server.clone(),
                port,
                until: now + DATA_TIMEOUT,
            });
        }
        if let Asked::Address { address, .. } | Asked::Synthetic { address, .. } = server.target {
            let mut openings = self.openings.lock().unwrap_or_else(PoisonError::into_inner);
            let opening = openings.ask((address, port), Instant::now());
            drop(openings);
            match opening {
                Opening::Open => {}
                Opening::Wanted => {
                    if let Err(error) = self.leases.open_port(address, port, DATA_TIMEOUT) {
                        self.refuse(server, Some(port), Reason::Internal, &error.to_string());
                    }
                }
                Opening::TooMany => {
                    self.forget(server);
                    let why = "more than 32 FTP data connections were named in one second";
                    return self.refuse(server, Some(port), Reason::TooManyConnections, why);
                }
            }
        }
        debug!(
            conn = server.inbound.conn,
            port, "an FTP data connection may come"
        );
    }

    fn forget(&self, server: &Arc<Server>) {
        (self.expected()).retain(|one| !Arc::ptr_eq(&one.server, server));
    }

    /// Records what is not opened.
    fn refuse(&self, server: &Server, port: Option<u16>, reason: Reason, why: &str) {
        let addresses = [server.address];
        let protocol = server.inbound.protocol;
        let mut event = Event::new(Layer::Tcp, protocol, Verdict::Deny, reason)
            .addresses(&addresses)
            .detail(why);
        event.port = port;
        event.client = server.inbound.from.map(|address| Client {
            transport: protocol.transport(),
            address,
            server: server.inbound.to,
        });
        event.name = server.asked.owner().map(|name| name.as_str());
        self.recorder.decision(event);
    }

    fn expected(&self) -> MutexGuard<'_, Vec<Expected>> {
        // Plain values: whoever panicked with it left it whole.
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    fn is_meant(&self, asked: &Asked<'_>) -> bool {
        match asked {
            Asked::Name(name) => {
                let own = match &self.target {
                    Asked::Name(own) => Some(own.as_str()),
                    Asked::Synthetic { name, .. } => name.as_ref().map(|name| name.as_str()),
                    Asked::Address { .. } => self.asked.owner().map(|own| own.as_str()),
                };
                own == Some(name.as_str())
            }
            Asked::Address { address, .. } | Asked::Synthetic { address, .. } => {
                let seen = match &self.target {
                    Asked::Address { address, .. } | Asked::Synthetic { address, .. } => *address,
                    Asked::Name(_) => self.address,
                };
                address.to_canonical() == seen.to_canonical()
            }
        }
    }
}

/// Follows one control connection.
pub(crate) struct Control {
    data: Arc<DataConnections>,
    server: Arc<Server>,
    dialogue: Mutex<Dialogue>,
}

impl Control {
    /// A watcher for a connection whose rule has `ftp`; `None` for any other, and behind an upstream proxy,
    /// where nobody here knows the server's address.
    pub(crate) fn of(data: &Arc<DataConnections>, opened: &Opened) -> Option<Arc<Control>> {
        let terms = opened.ruling.terms().filter(|terms| terms.ftp);
        let is_data = opened.target.ftp_control.is_some();
        if terms.is_none() || is_data || opened.peer.upstream_proxy.is_some() || opened.peer.inside
        {
            return None;
        }
        let address = opened.peer.address.ip().to_canonical();
        let owners = match (&opened.ruling.name, &opened.target.asked) {
            (Some(name), _) => vec![name.clone()].into(),
            (None, Asked::Address { owners, .. }) => owners.clone(),
            (None, _) => return None,
        };
        let server = Server {
            inbound: opened.inbound,
            target: opened.target.asked.clone(),
            control: opened.target.port,
            address,
            asked: Asked::Address { address, owners },
        };
        Some(Arc::new(Control {
            data: data.clone(),
            server: Arc::new(server),
            dialogue: Mutex::default(),
        }))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.data.forget(&self.server);
    }
}

impl Watcher for Control {
    fn saw(&self, way: Way, bytes: &[u8]) {
        let mut dialogue = self.dialogue.lock().unwrap_or_else(PoisonError::into_inner);
        dialogue.read(way, bytes, |event| match event {
            Named::Port(port) => self.data.expect(&self.server, port),
            Named::Active => {
                let why = "FTP in active mode (PORT, EPRT) cannot work: nothing connects into the sandbox; \
                           use passive mode";
                (self.data).refuse(&self.server, None, Reason::ProtocolNotAllowed, why);
            }
        });
    }
}

/// What is worth knowing of a dialogue.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// The server waits on this port.
    Port(u16),
    /// The program wants the server to connect to it.
    Active,
}

/// What has been said on a control connection, as far as it matters.
#[derive(Default)]
struct Dialogue {
    commands: Lines,
    replies: Lines,
    /// Questions for a port that have no answer yet.
    asked: u8,
    /// The code of the answer of several lines that is under way.
    several: Option<[u8; 3]>,
    /// TLS was asked for.
    tls: bool,
    hidden: bool,
}

impl Dialogue {
    fn read(&mut self, way: Way, bytes: &[u8], mut named: impl FnMut(Named)) {
        if self.hidden {
            return;
        }
        for byte in bytes {
            let lines = match way {
                Way::Up => &mut self.commands,
                Way::Down => &mut self.replies,
            };
            let Some(line) = lines.push(*byte) else {
                continue;
            };
            let event = match way {
                Way::Up => self.command(&line),
                Way::Down => self.reply(&line),
            };
            if let Some(event) = event {
                named(event);
            }
        }
    }

    fn command(&mut self, line: &[u8]) -> Option<Named> {
        // An interrupt of Telnet may stand in front (RFC 959 section 4.1.3).
        let start = line.iter().position(u8::is_ascii_alphabetic)?;
        let mut words = line[start..].split(|byte| byte.is_ascii_whitespace());
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        let all = words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case(b"all"));
        match &*verb {
            b"PASV" => self.asked = self.asked.saturating_add(1),
            b"EPSV" if !all => self.asked = self.asked.saturating_add(1),
            b"PORT" | b"EPRT" | b"LPRT" => return Some(Named::Active),
            b"AUTH" => self.tls = true,
            _ => {}
        }
        None
    }

    fn reply(&mut self, line: &[u8]) -> Option<Named> {
        let code: Option<[u8; 3]> = line.first_chunk().copied();
        let code = code.filter(|code| code.iter().all(u8::is_ascii_digit));
        let (several, last) = (self.several, line.get(3) != Some(&b'-'));
        match (several, code) {
            (Some(several), Some(code)) if several == code && last => self.several = None,
            (Some(_), _) | (None, None) => return None,
            (None, Some(code)) if !last => {
                self.several = Some(code);
                return None;
            }
            (None, Some(_)) => {}
        }
        let text = line.get(4..).unwrap_or_default();
        match &code? {
            b"227" | b"229" if self.asked == 0 => None,
            b"227" => self.answered(pasv(text)),
            b"229" => self.answered(epsv(text)),
            b"234" if self.tls => {
                self.hidden = true; // behind it stands TLS
                None
            }
            [b'4' | b'5', ..] => {
                self.asked = self.asked.saturating_sub(1);
                None
            }
            _ => None,
        }
    }

    fn answered(&mut self, port: Option<u16>) -> Option<Named> {
        self.asked = self.asked.saturating_sub(1);
        port.map(Named::Port)
    }
}

/// The port in an answer to PASV: the last two of six numbers (RFC 959 section 4.1.2).
fn pasv(text: &[u8]) -> Option<u16> {
    let start = text.iter().position(u8::is_ascii_digit)?;
    let end = text[start..]
        .iter()
        .position(|byte| !byte.is_ascii_digit() && *byte != b',');
    let numbers = &text[start..end.map_or(text.len(), |end| start + end)];
    let numbers = std::str::from_utf8(numbers).ok()?.split(',');
    let numbers: Vec<u8> = numbers.map(str::parse).collect::<Result<_, _>>().ok()?;
    let [_, _, _, _, high, low] = numbers[..] else {
        return None;
    };
    Some(u16::from_be_bytes([high, low]))
}

/// The port in an answer to EPSV: `(|||PORT|)`, with any delimiter (RFC 2428 section 3).
fn epsv(text: &[u8]) -> Option<u16> {
    let start = text.iter().position(|byte| *byte == b'(')?;
    let [delimiter, rest @ ..] = &text[start + 1..] else {
        return None;
    };
    let mut fields = rest.split(|byte| byte == delimiter);
    let (family, host, port) = (fields.next()?, fields.next()?, fields.next()?);
    let plain = family.is_empty() && host.is_empty() && port.iter().all(u8::is_ascii_digit);
    let port = std::str::from_utf8(port).ok().filter(|_| plain)?;
    port.parse().ok()
}

/// The line that is under way in one direction.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    /// The line that ends with this byte.
    fn push(&mut self, byte: u8) -> Option<Vec<u8>> {
        if byte == b'\n' {
            let mut line = std::mem::take(&mut self.line);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Some(line);
        }
        if self.line.len() < MAX_LINE_BYTES {
            self.line.push(byte);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a dialogue names; lines of the server begin with a digit.
    fn named(lines: &[&str]) -> Vec<Named> {
        let mut dialogue = Dialogue::default();
        let mut all = Vec::new();
        for line in lines {
            let server = line.starts_with(|c: char| c.is_ascii_digit() || c == ' ');
            let way = if server { Way::Down } else { Way::Up };
            for byte in format!("{line}\r\n").as_bytes() {
                dialogue.read(way, &[*byte], |event| all.push(event));
            }
        }
        all
    }

    #[test]
    fn ports_as_servers_name_them() {
        for (question, answer, port) in [
            (
                "PASV",
                "227 Entering Passive Mode (192,0,2,1,195,80).",
                Some(50_000),
            ),
            ("pasv", "227 Entering Passive Mode 0,0,0,0,4,0", Some(1024)),
            ("PASV", "227 =192,0,2,1,255,255", Some(65_535)),
            (
                "EPSV",
                "229 Entering Extended Passive Mode (|||50000|)",
                Some(50_000),
            ),
            ("EPSV 2", "229 ok (!!!50000!)", Some(50_000)),
            ("\u{ff}EPSV", "229 ok (|||50000|)", Some(50_000)),
            ("PASV", "227 (192,0,2,1,195)", None),
            ("PASV", "227 (192,0,2,1,256,80)", None),
            ("PASV", "227 (192,0,2,1,1,2,3)", None),
            ("EPSV", "229 (|1|192.0.2.2|50000|)", None),
            ("EPSV", "229 (|||65536|)", None),
            ("EPSV", "229 (|||+500|)", None),
            ("EPSV", "229 |||50000|", None),
            ("EPSV ALL", "229 (|||50000|)", None),
            ("NOOP", "227 (192,0,2,1,195,80)", None),
        ] {
            let expected: Vec<Named> = port.map(Named::Port).into_iter().collect();
            assert_eq!(named(&[question, answer]), expected, "{question} {answer}");
        }
    }

    #[test]
    fn what_a_server_repeats_in_the_middle_of_an_answer_names_no_port() {
        let said = [
            "PASV",
            "213-status of a file that the program has named",
            "227 Entering Passive Mode (192,0,2,1,0,22)",
            " 227 (192,0,2,1,0,22)",
            "213 end",
            "227 Entering Passive Mode (192,0,2,1,195,80)",
            // One answer for one question.
            "227 Entering Passive Mode (192,0,2,1,195,81)",
        ];
        assert_eq!(named(&said), [Named::Port(50_000)]);
        assert_eq!(named(&["EPSV", "500 what?", "229 (|||50000|)"]), []);
        let several = ["PASV", "227-as it", "227 goes (192,0,2,1,195,80)"];
        assert_eq!(named(&several), [Named::Port(50_000)]);
        // A line too long is no other one.
        let long = format!("{}227 (192,0,2,1,195,80)", "2".repeat(MAX_LINE_BYTES));
        assert_eq!(named(&["PASV", &long]), []);
    }

    #[test]
    fn a_server_that_names_ports_without_end_opens_few_in_the_kernel() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let (mut openings, now) = (Openings::default(), Instant::now());
        assert_eq!(openings.ask((address, 50_000), now), Opening::Wanted);
        assert_eq!(openings.ask((address, 50_000), now), Opening::Open);
        let asked: Vec<Opening> = (1..=1000)
            .map(|port| openings.ask((address, 50_000 + port), now))
            .collect();
        let wanted = asked.iter().filter(|one| **one == Opening::Wanted).count();
        assert_eq!(wanted, MAX_OPENINGS as usize - 1);
        assert_eq!(openings.until.len(), MAX_OPENINGS as usize);
        let later = now + OPENINGS_PER;
        assert_eq!(openings.ask((address, 60_000), later), Opening::Wanted);
        // Before it closes it is opened anew.
        let late = now + DATA_TIMEOUT * 2 / 3;
        assert_eq!(openings.ask((address, 50_000), late), Opening::Wanted);
    }

    #[test]
    fn active_mode_and_tls_are_noticed() {
        assert_eq!(named(&["PORT 10,0,2,15,195,80"]), [Named::Active]);
        assert_eq!(named(&["EPRT |1|10.0.2.15|50000|"]), [Named::Active]);
        let tls = ["AUTH TLS", "234 go on", "PASV", "227 (192,0,2,1,195,80)"];
        assert_eq!(named(&tls), []);
        let refused = ["AUTH TLS", "530 no", "PASV", "227 (192,0,2,1,195,80)"];
        assert_eq!(named(&refused), [Named::Port(50_000)]);
    }
}
