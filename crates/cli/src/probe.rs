//! The inner half of `diagnose`: walks DNS → TCP → TLS → HTTP as an ordinary program would, from
//! inside the sandbox, and reports what each layer showed. It decides nothing: what a program sees
//! is the evidence.

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{self, Name, RData};
use portcullis_names::RecordType;
use portcullis_tls::{Authorities, client_config_blocking};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
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
/// Where a sandboxed program is told that the gateway's proxy is.
const PROXY_VARIABLE: &str = "HTTP_PROXY";
/// Largest DNS answer over UDP that is read, bytes.
const MAX_ANSWER_BYTES: usize = 4_096;
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
        let name = name.to_owned();
        (!name.is_empty()).then_some(Endpoint { name, port })
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

/// Walks the layers until one fails; the last finding is the culprit or HTTP.
pub fn walk(endpoint: &Endpoint) -> Vec<Finding> {
    let Endpoint { name, port } = endpoint;
    let mut findings = Vec::new();
    let addresses = match name.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            let (finding, addresses) = timed(|| dns(name));
            findings.push(finding);
            addresses
        }
    };
    if addresses.is_empty() {
        return findings;
    }
    let (finding, stream) = timed(|| tcp(&addresses, *port));
    findings.push(finding);
    let Some(stream) = stream else {
        return findings;
    };
    if TLS_PORTS.contains(port) {
        let (finding, stream) = timed(|| tls(name, stream));
        findings.push(finding);
        if let Some(mut stream) = stream {
            findings.push(timed(|| (http(name, &mut stream), ())).0);
        }
    } else if HTTP_PORTS.contains(port) {
        let mut stream = stream;
        findings.push(timed(|| (http(name, &mut stream), ())).0);
    } else if let Some(failed) = watch(stream, endpoint)
        && let Some(finding) = findings.last_mut()
    {
        *finding = failed;
    }
    findings
}

fn timed<T>(step: impl FnOnce() -> (Finding, T)) -> (Finding, T) {
    let start = Instant::now();
    let (mut finding, rest) = step();
    finding.milliseconds = start.elapsed().as_secs_f64() * 1_000.0;
    (finding, rest)
}

fn finding(layer: Layer, ok: bool, saw: impl Into<String>) -> Finding {
    Finding {
        layer,
        ok,
        refused_by_policy: false,
        saw: saw.into(),
        milliseconds: 0.0,
    }
}

fn dns(name: &str) -> (Finding, Vec<IpAddr>) {
    let server = match portcullis_gateway::host_resolvers() {
        // Where none is named the C library asks the loopback (resolv.conf(5)).
        Ok(servers) => *servers.first().unwrap_or(&LOCAL_RESOLVER),
        Err(error) => {
            return (
                finding(Layer::Dns, false, format!("/etc/resolv.conf: {error}")),
                Vec::new(),
            );
        }
    };
    let mut addresses = Vec::new();
    let mut worst = None;
    for kind in [RecordType::A, RecordType::AAAA] {
        match ask(server, name, kind) {
            Ok(answer) => {
                let code = answer.metadata.response_code;
                if code == ResponseCode::NoError {
                    addresses.extend(answer.answers.iter().filter_map(
                        |record| match &record.data {
                            RData::A(a) => Some(IpAddr::V4(a.0)),
                            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
                            _ => None,
                        },
                    ));
                } else {
                    let (ede, text) = extended_error(&answer);
                    let mut seen = finding(Layer::Dns, false, code_name(code));
                    if let Some(ede) = ede {
                        seen.saw.push_str(&format!(" (EDE {ede}: {text})"));
                        seen.refused_by_policy = ede == 15;
                    }
                    worst = Some(seen);
                    break;
                }
            }
            Err(error) => worst = Some(finding(Layer::Dns, false, error)),
        }
    }
    if !addresses.is_empty() {
        let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        return (finding(Layer::Dns, true, list.join(", ")), addresses);
    }
    let none = || {
        finding(
            Layer::Dns,
            false,
            "the name exists but has no usable address (NODATA)",
        )
    };
    (worst.unwrap_or_else(none), Vec::new())
}

fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => other.to_string(),
    }
}

fn extended_error(answer: &Message) -> (Option<u16>, String) {
    let option = answer.edns.as_ref().and_then(|edns| {
        edns.options()
            .as_ref()
            .iter()
            .find_map(|(code, option)| match option {
                EdnsOption::Unknown(15, data) if *code == EdnsCode::Unknown(15) => {
                    Some(data.clone())
                }
                _ => None,
            })
    });
    match option {
        Some(data) if data.len() >= 2 => (
            Some(u16::from_be_bytes([data[0], data[1]])),
            String::from_utf8_lossy(&data[2..]).into_owned(),
        ),
        _ => (None, String::new()),
    }
}

fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Result<Message, String> {
    let fail = |error: &dyn std::fmt::Display| error.to_string();
    let mut name = Name::from_ascii(name).map_err(|error| fail(&error))?;
    name.set_fqdn(true);
    let mut query = Message::query();
    let id = query.metadata.id;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name, rr::RecordType::from(kind.number())));
    let mut edns = Edns::new();
    edns.set_max_payload(1_232);
    query.edns = Some(edns);
    let bytes = query.to_vec().map_err(|error| fail(&error))?;
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(local).map_err(|error| fail(&error))?;
    socket.connect(server).map_err(|error| fail(&error))?;
    socket
        .set_read_timeout(Some(DNS_TIMEOUT))
        .map_err(|error| fail(&error))?;
    socket.send(&bytes).map_err(|error| fail(&error))?;
    let mut buffer = [0; MAX_ANSWER_BYTES];
    let deadline = Instant::now() + DNS_TIMEOUT;
    while Instant::now() < deadline {
        let length = socket
            .recv(&mut buffer)
            .map_err(|error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    format!("no answer from {server} in 5 s")
                }
                _ => format!("{server}: {error}"),
            })?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answer.metadata.id == id => return Ok(answer),
            _ => continue,
        }
    }
    Err(format!("no answer from {server} in 5 s"))
}

fn tcp(addresses: &[IpAddr], port: u16) -> (Finding, Option<TcpStream>) {
    let mut last = String::new();
    let mut refused = false;
    for address in addresses {
        let target = SocketAddr::new(*address, port);
        match TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) {
            Ok(stream) => {
                return (
                    finding(Layer::Tcp, true, format!("connected to {target}")),
                    Some(stream),
                );
            }
            Err(error) => {
                refused = error.kind() == ErrorKind::ConnectionRefused;
                last = match error.kind() {
                    ErrorKind::ConnectionRefused => format!("{target}: connection refused"),
                    ErrorKind::TimedOut => format!("{target}: timed out"),
                    _ => format!("{target}: {error}"),
                };
            }
        }
    }
    let mut seen = finding(Layer::Tcp, false, last);
    // Inside a sandbox only the kernel's rules refuse at connect(): upstreams show as resets.
    seen.refused_by_policy = refused;
    (seen, None)
}

/// Tells what is wrong with a connection of an unknown protocol that opened, if anything is. It is
/// torn down where upstream refuses. Silence may be a server that waits for its client, or an
/// upstream that never answers, since the kernel accepts before the gateway can dial; the gateway's
/// proxy tells them apart: it says 200 only when the upstream connection stands.
fn watch(mut stream: TcpStream, endpoint: &Endpoint) -> Option<Finding> {
    stream.set_read_timeout(Some(RESET_WATCH)).ok()?;
    match stream.read(&mut [0; 1]).map_err(|error| error.kind()) {
        Err(ErrorKind::ConnectionReset) => Some(opened_then_reset()),
        Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            let proxy = std::env::var(PROXY_VARIABLE).unwrap_or_default();
            let (failed, ()) = timed(|| (by_proxy(&proxy, endpoint), ()));
            Some(failed).filter(|failed| !failed.ok)
        }
        _ => None,
    }
}

/// Asks the gateway's proxy for a tunnel. Where there is no such proxy, nothing speaks against what
/// was seen so far.
fn by_proxy(proxy: &str, endpoint: &Endpoint) -> Finding {
    let reachable = || finding(Layer::Tcp, true, "");
    let address = proxy.trim_start_matches("http://").trim_end_matches('/');
    let Some(mut stream) = address
        .parse()
        .ok()
        .and_then(|address: SocketAddr| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).ok())
    else {
        return reachable();
    };
    let request = format!("CONNECT {endpoint} HTTP/1.1\r\nHost: {endpoint}\r\n\r\n");
    if stream.set_read_timeout(Some(PROXY_TIMEOUT)).is_err() {
        return reachable();
    }
    // Whatever it says, it is about the connection.
    Finding {
        layer: Layer::Tcp,
        ..exchange(&mut stream, &request)
    }
}

fn opened_then_reset() -> Finding {
    finding(Layer::Tcp, false, "the connection opened, then was reset")
}

type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn tls(name: &str, stream: TcpStream) -> (Finding, Option<Tls>) {
    let fail = |text: String| (finding(Layer::Tls, false, text), None);
    let config = match client_config_blocking(&Authorities::Host) {
        Ok(config) => config,
        Err(error) => return fail(error.to_string()),
    };
    let Ok(server) = rustls::pki_types::ServerName::try_from(name.to_owned()) else {
        return fail(format!("{name} cannot be a TLS server name"));
    };
    for result in [
        stream.set_read_timeout(Some(READ_TIMEOUT)),
        stream.set_write_timeout(Some(READ_TIMEOUT)),
    ] {
        if let Err(error) = result {
            return fail(error.to_string());
        }
    }
    let mut stream = match rustls::ClientConnection::new(Arc::new(config), server) {
        Ok(connection) => rustls::StreamOwned::new(connection, stream),
        Err(error) => return fail(error.to_string()),
    };
    while stream.conn.is_handshaking() {
        if let Err(error) = stream.conn.complete_io(&mut stream.sock) {
            // The gateway's refusal is an alert. A reset before any answer is an upstream that
            // could not be reached: the kernel accepts before the gateway can dial.
            if error.kind() == ErrorKind::ConnectionReset
                && stream.conn.protocol_version().is_none()
            {
                return (opened_then_reset(), None);
            }
            return (tls_failure(&error), None);
        }
    }
    (
        finding(
            Layer::Tls,
            true,
            "the handshake stands, the certificate verifies",
        ),
        Some(stream),
    )
}

fn tls_failure(error: &std::io::Error) -> Finding {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => {
            let mut seen = finding(Layer::Tls, false, format!("fatal alert: {alert:?}"));
            seen.refused_by_policy = matches!(
                alert,
                rustls::AlertDescription::UnrecognisedName | rustls::AlertDescription::AccessDenied
            );
            seen
        }
        Some(rustls::Error::InvalidCertificate(cause)) => {
            finding(Layer::Tls, false, format!("certificate error: {cause}"))
        }
        Some(other) => finding(Layer::Tls, false, other.to_string()),
        None => match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => {
                finding(Layer::Tls, false, "closed or reset during the handshake")
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                finding(Layer::Tls, false, "no answer to the handshake in 10 s")
            }
            _ => finding(Layer::Tls, false, error.to_string()),
        },
    }
}

fn http(name: &str, stream: &mut (impl Read + Write)) -> Finding {
    let request = format!(
        "HEAD / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: portcullis-diagnose\r\nConnection: close\r\n\r\n"
    );
    exchange(stream, &request)
}

/// Sends a request and judges the head of its answer.
fn exchange(stream: &mut (impl Read + Write), request: &str) -> Finding {
    if let Err(error) = stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.flush())
    {
        return finding(Layer::Http, false, error.to_string());
    }
    let mut head = Vec::new();
    let mut chunk = [0; 1_024];
    while head.len() < MAX_HEAD_BYTES && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => head.extend_from_slice(&chunk[..length]),
            Err(error) if head.is_empty() => {
                let text = match error.kind() {
                    ErrorKind::ConnectionReset => "reset before an answer".to_owned(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in 10 s".to_owned(),
                    _ => error.to_string(),
                };
                return finding(Layer::Http, false, text);
            }
            Err(_) => break,
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.lines().next().unwrap_or_default().trim().to_owned();
    if !status.starts_with("HTTP/") {
        return finding(Layer::Http, false, "closed without an HTTP answer");
    }
    let header = |wanted: &str| {
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(wanted)
                .then(|| value.trim().to_owned())
        })
    };
    if let Some(code) = header("x-proxy-error") {
        let mut seen = finding(Layer::Http, false, format!("{status} ({code})"));
        seen.refused_by_policy = true;
        return seen;
    }
    if let Some(cause) = header("proxy-status").filter(|value| value.starts_with("portcullis")) {
        // Said in HTTP, but about the way there (RFC 9209, 2.3).
        let on_the_way = ["error=connection_", "error=destination_"];
        let layer = match on_the_way.iter().any(|error| cause.contains(error)) {
            true => Layer::Tcp,
            false => Layer::Http,
        };
        return finding(
            layer,
            false,
            format!("{status} (the gateway could not reach it)"),
        );
    }
    finding(Layer::Http, true, status)
}

/// Walks the layers from where it runs and writes a JSON object a line.
pub fn main(args: &Arguments) -> ExitCode {
    let Some(endpoint) = Endpoint::parse(&args.target) else {
        return ExitCode::from(crate::exit::USAGE);
    };
    let mut text = String::new();
    for finding in walk(&endpoint) {
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
            let proxy = format!("http://{}", listener.local_addr().unwrap());
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 256];
                let length = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&request[..length]).into_owned()
            });
            let seen = by_proxy(&proxy, &endpoint("[2001:db8::7]:5432"));
            assert_eq!((seen.ok, seen.layer), (ok, Layer::Tcp), "{}", seen.saw);
            let request = server.join().unwrap();
            assert!(
                request.starts_with("CONNECT [2001:db8::7]:5432 HTTP/1.1\r\n"),
                "{request}"
            );
        }
        assert!(
            by_proxy("", &endpoint("a.example:1")).ok,
            "no proxy, no objection"
        );
    }
}
