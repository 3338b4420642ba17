//! What a world is made of: its zone, its faults, its servers. Plain data, sent as JSON from the
//! test process to the process that plays the world.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A whole world. [`WorldSpec::standard`] is the one most tests want; change it with the builder
/// methods, then hand it to [`crate::World::start`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorldSpec {
    /// Zone and DNS servers; can be replaced while the world lives ([`crate::World::set_dns`]).
    pub dns: DnsSpec,
    /// Servers in the internet namespace.
    pub services: Vec<Service>,
    /// Servers in the host's namespace (on its loopback), for `host.portcullis.internal`.
    pub host_services: Vec<Service>,
    /// Internet addresses that are alive without any server: a connection there is refused.
    pub addresses: Vec<IpAddr>,
    /// Addresses the host has no route to: `EHOSTUNREACH` at once.
    pub unreachable: Vec<IpAddr>,
    /// What `/etc/resolv.conf` of the host says; `None` names the first two DNS servers.
    pub resolv_conf: Option<String>,
    /// Without IPv6 the host has an IPv6 loopback and nothing else.
    pub ipv6: bool,
    /// The helper program and its first arguments; `None` looks next to the running program.
    #[serde(skip)]
    pub helper: Option<Vec<std::path::PathBuf>>,
}

/// Zone, servers and faults of the authoritative DNS server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DnsSpec {
    /// The addresses that answer on port 53, UDP and TCP. All serve the same zone.
    pub servers: Vec<DnsServer>,
    /// Lines of `NAME [TTL] TYPE DATA`, names without a trailing dot; `*.x` is a wildcard.
    /// Types: A, AAAA, CNAME, NS, PTR, SRV, TXT, MX, CAA, HTTPS, SVCB, SOA.
    pub zone: Vec<String>,
    /// Faults by lower-case name.
    pub faults: BTreeMap<String, Fault>,
}

/// One address of the DNS server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DnsServer {
    /// Where it listens.
    pub address: IpAddr,
    /// A fault that strikes every query this address gets.
    pub fault: Option<Fault>,
}

/// What can go wrong with an answer. Every query is logged first, whatever happens to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// No answer at all.
    Drop,
    /// No answer to the first N queries of this name (all servers and types together), then good.
    DropFirst(u32),
    /// SERVFAIL.
    ServFail,
    /// SERVFAIL for the first N queries, then good.
    ServFailFirst(u32),
    /// REFUSED.
    Refused,
    /// NXDOMAIN, with SOA.
    NxDomain,
    /// TC and nothing else over UDP; the true answer over TCP.
    Truncate,
    /// The true answer after so many milliseconds.
    Delay(u64),
    /// The true answer under a wrong transaction id (a forger who guesses).
    WrongId,
    /// The true answer to another question (cache poisoning).
    WrongQuestion,
    /// A wrong-id forgery first, the true answer 20 ms after it.
    ForgedFirst,
    /// Bytes that are no DNS message.
    Garbage,
    /// A different address of this list with each A or AAAA query in turn, TTL 0 (DNS rebinding).
    Rebind(Vec<IpAddr>),
    /// Over TCP: the connection is closed without an answer. Over UDP: TC.
    TcpClose,
    /// The true answer, and beside it records that nobody asked for: this name at this address, as
    /// answer, authority and additional record.
    Beside(String, IpAddr),
    /// Over UDP: the right id and question from another port of the server, with this address; the
    /// true answer follows.
    ForgedSource(IpAddr),
}

/// One server of the world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Where it listens.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// What it does.
    pub kind: ServiceKind,
}

/// What a server does with its connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// Plain HTTP/1.1; the paths are listed at [`crate`].
    Http,
    /// The same over TLS, with a certificate of the world's CA for whatever name is asked for.
    Https,
    /// HTTPS whose certificates ended in 2020.
    HttpsExpired,
    /// HTTPS whose certificates are for `wrong.invalid`.
    HttpsWrongName,
    /// HTTPS whose certificates the world's CA did not sign.
    HttpsUntrusted,
    /// Speaks first (this text, sent as it stands), then echoes.
    Banner(String),
    /// Answers 220, then 250 to each line, 354 to DATA, 221 to QUIT.
    Smtp,
    /// TCP echo, half-close kept: what was sent comes back, then EOF.
    Echo,
    /// Reads all, answers nothing until the client's EOF, then one line `received N`.
    Sink,
    /// Sends this many bytes of the pattern, then closes.
    Source(u64),
    /// Accepts, then never says or reads anything.
    Mute,
    /// Accepts, then resets at once.
    Reset,
    /// Answers with these bytes, hexadecimal, as soon as the client has sent something.
    Reply(String),
    /// UDP echo; the log shows every datagram.
    UdpEcho,
    /// The world's zone over TLS (RFC 7858).
    DnsTls,
    /// The world's zone over HTTPS (RFC 8484), HTTP/1.1 alone.
    DnsHttps,
    /// An upstream proxy (CONNECT and absolute form); `user:password` where it asks.
    UpstreamProxy(Option<String>),
}

impl WorldSpec {
    /// Adds a zone line, `NAME [TTL] TYPE DATA`.
    #[must_use]
    pub fn record(mut self, line: &str) -> Self {
        self.dns.zone.push(line.to_owned());
        self
    }

    /// Removes every record of a name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.dns.remove(name);
        self
    }

    /// Gives a name a fault.
    #[must_use]
    pub fn fault(mut self, name: &str, fault: Fault) -> Self {
        self.dns.faults.insert(name.to_ascii_lowercase(), fault);
        self
    }

    /// Gives the n-th DNS server (0 is the first of resolv.conf) a fault for all it is asked.
    #[must_use]
    pub fn server_fault(mut self, index: usize, fault: Fault) -> Self {
        if let Some(server) = self.dns.servers.get_mut(index) {
            server.fault = Some(fault);
        }
        self
    }

    /// Adds a server.
    #[must_use]
    pub fn service(mut self, address: &str, port: u16, kind: ServiceKind) -> Self {
        self.services.push(Service {
            address: ip(address),
            port,
            kind,
        });
        self
    }

    /// Adds HTTP on 80 and HTTPS on 443.
    #[must_use]
    pub fn web(self, address: &str) -> Self {
        self.service(address, 80, ServiceKind::Http)
            .service(address, 443, ServiceKind::Https)
    }

    /// Adds an address that is alive, with every port closed.
    #[must_use]
    pub fn closed(mut self, address: &str) -> Self {
        self.addresses.push(ip(address));
        self
    }

    /// Takes IPv6 away from the host.
    #[must_use]
    pub fn without_ipv6(mut self) -> Self {
        self.ipv6 = false;
        self
    }

    /// Names the program that plays the world (one whose `main` begins with [`crate::dispatch`]).
    #[must_use]
    pub fn helper(mut self, program: impl Into<std::path::PathBuf>) -> Self {
        self.helper = Some(vec![program.into()]);
        self
    }

    /// The same for a program that calls [`crate::demo::run`] when its first argument is `demo`.
    #[must_use]
    pub fn demo_helper(mut self, program: impl Into<std::path::PathBuf>) -> Self {
        self.helper = Some(vec![program.into(), "demo".into()]);
        self
    }
}

impl DnsSpec {
    /// Removes every record of a name.
    pub fn remove(&mut self, name: &str) {
        self.zone.retain(|line| {
            !line
                .split_whitespace()
                .next()
                .unwrap_or("")
                .eq_ignore_ascii_case(name)
        });
    }

    /// Adds a zone line.
    pub fn add(&mut self, line: &str) {
        self.zone.push(line.to_owned());
    }
}

/// An address written in test code; a typing error there is the test's failure.
///
/// # Panics
/// When the text is no address.
pub fn ip(text: &str) -> IpAddr {
    match text.parse() {
        Ok(address) => address,
        Err(_) => panic!("{text:?} in the world's description is no IP address"),
    }
}
