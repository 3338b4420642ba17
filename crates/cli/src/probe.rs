//! The inner half of `diagnose`: walks DNS → TCP → TLS → HTTP as an ordinary program would, from
//! inside the sandbox, and reports what each layer showed. It decides nothing: what a program sees
//! is the evidence.

use crate::vantage::Place;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{self, Name, RData};
use portcullis_names::{NameBuf, RecordType, Target};
use portcullis_policy::HOST_NAME;
use portcullis_sandbox::Attachment;
use portcullis_tls::{Authorities, client_config_blocking};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The hidden command that runs this.
pub const COMMAND: &str = "__probe";
/// How long one DNS answer may take: longer than the gateway's own limit of 4 s.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one connect() may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS or HTTP peer may stay silent.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to watch a fresh connection of an unknown protocol for a reset.
const RESET_WATCH: Duration = Duration::from_millis(1_500);
/// How long the gateway's proxy may take to answer: longer than the 10 s for which it dials.
const PROXY_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest DNS answer over UDP that is read, bytes.
const MAX_ANSWER_BYTES: usize = 4_096;
/// The extended DNS error of an answer that a policy blocks: *Blocked* (RFC 8914, 4.16).
const EDE_BLOCKED: u16 = 15;
/// Largest HTTP response head that is read, bytes.
const MAX_HEAD_BYTES: usize = 16_384;
/// The resolver of a system that names none.
const LOCAL_RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// Ports that speak TLS from the first byte.
const TLS_PORTS: [u16; 7] = [443, 465, 636, 853, 993, 995, 8443];
/// Ports that speak plain HTTP.
const HTTP_PORTS: [u16; 3] = [80, 8000, 8080];

/// A layer of a connection, bottom-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Name resolution.
    Dns,
    /// The connection itself.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// The HTTP exchange.
    Http,
}

impl Layer {
    /// Its place from the bottom: 1 to 4.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Layer::Dns => "DNS",
            Layer::Tcp => "TCP",
            Layer::Tls => "TLS",
            Layer::Http => "HTTP",
        })
    }
}

/// What one layer showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Which layer.
    pub layer: Layer,
    /// Whether it let the connection pass.
    pub ok: bool,
    /// Whether the answer itself says that the gateway's policy refused.
    pub refused_by_policy: bool,
    /// What was seen, in the words of the ordinary tool.
    pub saw: String,
    /// Milliseconds the layer took.
    pub milliseconds: f64,
}

/// The hidden command's arguments: it is no command for people, so neither help nor the suggestions
/// for a mistyped command know it.
#[derive(clap::Parser)]
pub struct Arguments {
    /// NAME:PORT
    target: String,
    /// Write results to this descriptor instead of stdout
    #[arg(long)]
    report_fd: Option<i32>,
    /// Walk from the network of this process
    #[arg(long, conflicts_with = "netns")]
    pid: Option<u32>,
    /// Walk from this network
    #[arg(long)]
    netns: Option<PathBuf>,
}

/// A name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    name: String,
    port: u16,
}

impl Endpoint {
    /// Splits NAME[:PORT]; a name alone means port 443.
    pub fn parse(target: &str) -> Option<Endpoint> {
        let target = target.strip_prefix("https://").unwrap_or(target);
        let (target, default) = match target.strip_prefix("http://") {
            Some(rest) => (rest, 80),
            None => (target, 443),
        };
        let target = target.split('/').next()?;
        if let Ok(address) = target.parse::<IpAddr>() {
            return Some(Endpoint {
                name: address.to_string(),
                port: default,
            });
        }
        if let Ok(socket) = target.parse::<SocketAddr>() {
            return Some(Endpoint {
                name: socket.ip().to_string(),
                port: socket.port(),
            });
        }
        let (name, port) = match target.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()?),
            None => (target, default),
        };
        // DNS, TLS and HTTP have international names in ASCII.
        let ascii = portcullis_names::Name::from_policy(name)
            .ok()
            .filter(|_| !name.is_ascii());
        let name = ascii.map_or_else(|| name.to_owned(), |name| name.to_string());
        (!name.is_empty()).then_some(Endpoint { name, port })
    }

    /// Whether a sandbox takes it for itself.
    pub fn is_loopback(&self) -> bool {
        Target::from_policy(&self.to_string()).is_ok_and(|target| target.is_loopback())
    }

    /// The same port of the host's loopback.
    pub fn at_host(&self) -> Endpoint {
        Endpoint {
            name: HOST_NAME.to_owned(),
            port: self.port,
        }
    }
}

/// With brackets where the name is an IPv6 address.
impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Endpoint { name, port } = self;
        if name.contains(':') {
            write!(f, "[{name}]:{port}")
        } else {
            write!(f, "{name}:{port}")
        }
    }
}

/// What a layer that let the connection pass showed, and what the next one works on.
struct Passed<T> {
    saw: String,
    next: T,
}

/// What a layer that stopped the connection showed.
struct Failure {
    saw: String,
    refused_by_policy: bool,
    /// The layer that is to blame, where it is another than the one that showed it.
    layer: Option<Layer>,
}

/// A failure of the layer itself; the policy has no part in it.
impl<T: std::fmt::Display> From<T> for Failure {
    fn from(saw: T) -> Failure {
        Failure {
            saw: saw.to_string(),
            refused_by_policy: false,
            layer: None,
        }
    }
}

type Step<T> = Result<Passed<T>, Failure>;

fn passed<T>(saw: impl Into<String>, next: T) -> Step<T> {
    let saw = saw.into();
    Ok(Passed { saw, next })
}

/// Walks the layers until one fails; the last finding is the culprit or HTTP.
pub fn walk(endpoint: &Endpoint) -> Vec<Finding> {
    walk_from(&Place::here(), endpoint)
}

fn walk_from(place: &Place, endpoint: &Endpoint) -> Vec<Finding> {
    let mut findings = Vec::new();
    // The last finding says how far it went.
    let _ = walk_into(&mut findings, place, endpoint);
    findings
}

fn walk_into(findings: &mut Vec<Finding>, place: &Place, endpoint: &Endpoint) -> Option<()> {
    let Endpoint { name, port } = endpoint;
    let addresses = match name.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => step(findings, Layer::Dns, || dns(place, name))?,
    };
    let mut stream = step(findings, Layer::Tcp, || tcp(&addresses, *port))?;
    if TLS_PORTS.contains(port) {
        let mut stream = step(findings, Layer::Tls, || {
            tls(&place.authorities, name, stream)
        })?;
        step(findings, Layer::Http, || http(name, &mut stream))
    } else if HTTP_PORTS.contains(port) {
        step(findings, Layer::Http, || http(name, &mut stream))
    } else {
        // What comes after the connection is a finding only where it is a failure.
        let opened = findings.pop()?;
        step(findings, Layer::Tcp, || watch(place, stream, endpoint))?;
        *findings.last_mut()? = opened;
        Some(())
    }
}

/// Takes one step and keeps what it showed.
fn step<T>(findings: &mut Vec<Finding>, layer: Layer, step: impl FnOnce() -> Step<T>) -> Option<T> {
    let start = Instant::now();
    let result = step();
    let mut finding = Finding {
        layer,
        ok: result.is_ok(),
        refused_by_policy: false,
        saw: String::new(),
        milliseconds: start.elapsed().as_secs_f64() * 1_000.0,
    };
    let next = match result {
        Ok(passed) => {
            finding.saw = passed.saw;
            Some(passed.next)
        }
        Err(failure) => {
            finding.layer = failure.layer.unwrap_or(layer);
            finding.refused_by_policy = failure.refused_by_policy;
            finding.saw = failure.saw;
            None
        }
    };
    findings.push(finding);
    next
}

/// Looks a name up as the C library does: the names that the search list makes of it, one after the other.
fn dns(place: &Place, name: &str) -> Step<Vec<IpAddr>> {
    if let Some(resolver) = place.resolver {
        return dns_of(resolver, name);
    }
    let host = portcullis_gateway::host_resolv_conf()
        .map_err(|error| format!("/etc/resolv.conf: {error}"))?;
    let servers = portcullis_gateway::usable_resolvers(&host);
    // Where none is named the C library asks the loopback (resolv.conf(5)).
    let server = *servers.first().unwrap_or(&LOCAL_RESOLVER);
    let mut last = None;
    let parsed = NameBuf::from_program(name.as_bytes());
    let parsed = parsed.as_ref().map_err(ToString::to_string)?;
    let search = portcullis_gateway::callers_search(&host);
    let relative = Some(parsed.as_ref()).filter(|_| !name.ends_with('.'));
    let mut candidates: Vec<String> = relative
        .into_iter()
        .flat_map(|name| search.candidates(name))
        .map(|name| name.to_string())
        .collect();
    if candidates.is_empty() {
        candidates.push(name.to_owned());
    }
    for candidate in candidates {
        match dns_of(server, &candidate) {
            Ok(mut found) => {
                if candidate != name {
                    found.saw = format!("{} as {candidate}", found.saw);
                }
                return Ok(found);
            }
            // What the policy lets through says more than what it refuses.
            Err(failure) if failure.refused_by_policy && last.is_some() => {}
            Err(failure) => last = Some(failure),
        }
    }
    Err(last.unwrap_or_else(|| "no name to look up".into()))
}

fn dns_of(server: SocketAddr, name: &str) -> Step<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    let mut worst = None;
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = match ask(server, name, kind) {
            Ok(answer) => answer,
            Err(failure) => {
                worst = Some(failure);
                continue;
            }
        };
        if answer.metadata.response_code != ResponseCode::NoError {
            worst = Some(dns_failure(&answer));
            break;
        }
        let data = answer.answers.iter().map(|record| &record.data);
        addresses.extend(data.filter_map(|data| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        }));
    }
    if addresses.is_empty() {
        let none = || "the name exists but has no usable address (NODATA)".into();
        return Err(worst.unwrap_or_else(none));
    }
    let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    passed(list.join(", "), addresses)
}

fn dns_failure(answer: &Message) -> Failure {
    let mut failure = Failure::from(code_name(answer.metadata.response_code));
    if let Some(ExtendedError { code, text }) = extended_error(answer) {
        failure.saw.push_str(&format!(" (EDE {code}: {text})"));
        failure.refused_by_policy = code == EDE_BLOCKED;
    }
    failure
}

fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => other.to_string(),
    }
}

/// Extended DNS Error (RFC 8914).
struct ExtendedError {
    code: u16,
    text: String,
}

fn extended_error(answer: &Message) -> Option<ExtendedError> {
    let options = answer.edns.as_ref()?.options().as_ref();
    options.iter().find_map(|(_, option)| match option {
        EdnsOption::Unknown(15, data) => {
            let (code, text) = data.split_first_chunk()?;
            Some(ExtendedError {
                code: u16::from_be_bytes(*code),
                text: String::from_utf8_lossy(text).into_owned(),
            })
        }
        _ => None,
    })
}

fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Result<Message, Failure> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    let mut query = Message::query();
    let id = query.metadata.id;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name, rr::RecordType::from(kind.number())));
    let mut edns = Edns::new();
    edns.set_max_payload(1_232);
    query.edns = Some(edns);
    let bytes = query.to_vec()?;
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(DNS_TIMEOUT))?;
    socket.send(&bytes)?;
    let silent = || format!("no answer from {server} in 5 s");
    let mut buffer = [0; MAX_ANSWER_BYTES];
    let deadline = Instant::now() + DNS_TIMEOUT;
    while Instant::now() < deadline {
        let length = socket
            .recv(&mut buffer)
            .map_err(|error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => silent(),
                _ => format!("{server}: {error}"),
            })?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answer.metadata.id == id => return Ok(answer),
            _ => continue,
        }
    }
    Err(silent().into())
}

fn tcp(addresses: &[IpAddr], port: u16) -> Step<TcpStream> {
    let mut last = Failure::from("no address to connect to");
    for address in addresses {
        let target = SocketAddr::new(*address, port);
        let error = match TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) {
            Ok(stream) => return passed(format!("connected to {target}"), stream),
            Err(error) => error,
        };
        last = Failure::from(match error.kind() {
            ErrorKind::ConnectionRefused => format!("{target}: connection refused"),
            ErrorKind::TimedOut => format!("{target}: timed out"),
            _ => format!("{target}: {error}"),
        });
        // Inside a sandbox only the kernel's rules refuse at connect(): upstreams show as resets.
        last.refused_by_policy = error.kind() == ErrorKind::ConnectionRefused;
    }
    Err(last)
}

/// Tells what is wrong with a connection of an unknown protocol that opened, if anything is. It is
/// torn down where upstream refuses. Silence may be a server that waits for its client, or an
/// upstream that never answers, since the kernel accepts before the gateway can dial; the gateway's
/// proxy tells them apart: it says 200 only when the upstream connection stands.
fn watch(place: &Place, mut stream: TcpStream, endpoint: &Endpoint) -> Step<()> {
    if stream.set_read_timeout(Some(RESET_WATCH)).is_err() {
        return passed("", ());
    }
    match stream.read(&mut [0; 1]).map_err(|error| error.kind()) {
        Err(ErrorKind::ConnectionReset) => Err(opened_then_reset()),
        Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => by_proxy(place.proxy, endpoint),
        _ => passed("", ()),
    }
}

/// Asks the gateway's proxy for a tunnel. Where there is no such proxy, nothing speaks against what
/// was seen so far.
fn by_proxy(proxy: Option<SocketAddr>, endpoint: &Endpoint) -> Step<()> {
    let connect = |address: SocketAddr| {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).ok()?;
        stream.set_read_timeout(Some(PROXY_TIMEOUT)).ok()?;
        Some(stream)
    };
    let Some(mut stream) = proxy.and_then(connect) else {
        return passed("", ());
    };
    let request = format!("CONNECT {endpoint} HTTP/1.1\r\nHost: {endpoint}\r\n\r\n");
    // Whatever it says, it is about the connection.
    exchange(&mut stream, &request).map_err(|failure| Failure {
        layer: Some(Layer::Tcp),
        ..failure
    })
}

fn opened_then_reset() -> Failure {
    Failure {
        layer: Some(Layer::Tcp),
        ..Failure::from("the connection opened, then was reset")
    }
}

type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn tls(authorities: &Authorities, name: &str, stream: TcpStream) -> Step<Tls> {
    let config = client_config_blocking(authorities)?;
    let server = rustls::pki_types::ServerName::try_from(name.to_owned())
        .map_err(|_| format!("{name} cannot be a TLS server name"))?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    stream.set_write_timeout(Some(READ_TIMEOUT))?;
    let connection = rustls::ClientConnection::new(Arc::new(config), server)?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        if let Err(error) = stream.conn.complete_io(&mut stream.sock) {
            // The gateway's refusal is an alert. A reset before any answer is an upstream that
            // could not be reached: the kernel accepts before the gateway can dial.
            let unanswered = stream.conn.protocol_version().is_none();
            return Err(match error.kind() {
                ErrorKind::ConnectionReset if unanswered => opened_then_reset(),
                _ => tls_failure(&error),
            });
        }
    }
    passed("the handshake stands, the certificate verifies", stream)
}

fn tls_failure(error: &std::io::Error) -> Failure {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => Failure {
            refused_by_policy: matches!(
                alert,
                rustls::AlertDescription::UnrecognisedName | rustls::AlertDescription::AccessDenied
            ),
            ..Failure::from(format!("fatal alert: {alert:?}"))
        },
        Some(rustls::Error::InvalidCertificate(cause)) => {
            format!("certificate error: {cause}").into()
        }
        Some(other) => other.into(),
        None => match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => {
                "closed or reset during the handshake".into()
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                "no answer to the handshake in 10 s".into()
            }
            _ => error.into(),
        },
    }
}

fn http(name: &str, stream: &mut (impl Read + Write)) -> Step<()> {
    let request = format!(
        "HEAD / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: portcullis-diagnose\r\nConnection: close\r\n\r\n"
    );
    exchange(stream, &request)
}

/// Sends a request and judges the head of its answer.
fn exchange(stream: &mut (impl Read + Write), request: &str) -> Step<()> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut head = Vec::new();
    let mut chunk = [0; 1_024];
    while head.len() < MAX_HEAD_BYTES && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => head.extend_from_slice(&chunk[..length]),
            Err(error) if head.is_empty() => {
                return Err(match error.kind() {
                    ErrorKind::ConnectionReset => "reset before an answer".into(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in 10 s".into(),
                    _ => error.into(),
                });
            }
            Err(_) => break,
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.lines().next().unwrap_or_default().trim();
    if !status.starts_with("HTTP/") {
        return Err("closed without an HTTP answer".into());
    }
    let header = |wanted: &str| {
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    if let Some(code) = header("x-proxy-error") {
        return Err(Failure {
            refused_by_policy: true,
            ..Failure::from(format!("{status} ({code})"))
        });
    }
    if let Some(cause) = header("proxy-status").filter(|value| value.starts_with("portcullis")) {
        // Said in HTTP, but about the way there (RFC 9209, 2.3).
        let on_the_way = ["error=connection_", "error=destination_"];
        let tcp = on_the_way.iter().any(|error| cause.contains(error));
        return Err(Failure {
            layer: tcp.then_some(Layer::Tcp),
            ..Failure::from(format!("{status} (the gateway could not reach it)"))
        });
    }
    passed(status, ())
}

/// Walks the layers from where it runs and writes a JSON object a line.
pub fn main(args: &Arguments) -> ExitCode {
    let Some(endpoint) = Endpoint::parse(&args.target) else {
        return ExitCode::from(crate::exit::USAGE);
    };
    let by_pid = args.pid.map(|pid| Attachment::Process { pid, root: None });
    let by_path = args.netns.clone().map(Attachment::Namespace);
    let place = match by_pid.or(by_path) {
        Some(attachment) => match Place::enter(&attachment) {
            Ok(place) => place,
            Err(error) => {
                crate::output::error(&error, error.fix());
                return ExitCode::FAILURE;
            }
        },
        None => Place::here(),
    };
    let mut text = String::new();
    for finding in walk_from(&place, &endpoint) {
        match serde_json::to_string(&finding) {
            Ok(line) => {
                text.push_str(&line);
                text.push('\n');
            }
            Err(_) => return ExitCode::FAILURE,
        }
    }
    let written = match args.report_fd {
        Some(fd) => File::options()
            .write(true)
            .open(format!("/proc/self/fd/{fd}"))
            .and_then(|mut file| file.write_all(text.as_bytes())),
        None => std::io::stdout().write_all(text.as_bytes()),
    };
    if written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_a_name_and_a_port() {
        let split = |text| Endpoint::parse(text).map(|endpoint| (endpoint.name, endpoint.port));
        assert_eq!(split("a.example"), Some(("a.example".into(), 443)));
        assert_eq!(split("a.example:22"), Some(("a.example".into(), 22)));
        assert_eq!(split("http://a.example/x"), Some(("a.example".into(), 80)));
        assert_eq!(split("203.0.113.7:80"), Some(("203.0.113.7".into(), 80)));
        assert_eq!(
            split("[2001:db8::1]:443"),
            Some(("2001:db8::1".into(), 443))
        );
        for bad in ["", ":443", "a:b", "a:70000"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::parse(text).unwrap()
    }

    #[test]
    fn the_proxy_tells_a_silent_server_from_a_dead_one() {
        let stands = "HTTP/1.1 200 Connection established\r\n\r\n";
        let dead = "HTTP/1.1 504 Gateway Timeout\r\n\
                    proxy-status: portcullis; error=connection_timeout\r\n\r\n";
        for (answer, ok) in [(stands, true), (dead, false)] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let proxy = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 256];
                let length = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&request[..length]).into_owned()
            });
            let step = by_proxy(Some(proxy), &endpoint("[2001:db8::7]:5432"));
            match step {
                Ok(passed) => assert!(ok, "{}", passed.saw),
                Err(failure) => {
                    assert!(!ok, "{}", failure.saw);
                    assert_eq!(failure.layer, Some(Layer::Tcp));
                }
            }
            let request = server.join().unwrap();
            assert!(
                request.starts_with("CONNECT [2001:db8::7]:5432 HTTP/1.1\r\n"),
                "{request}"
            );
        }
        assert!(
            by_proxy(None, &endpoint("a.example:1")).is_ok(),
            "no proxy, no objection"
        );
    }
}
