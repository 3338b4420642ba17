//! Upstream resolvers as operators write them: addresses, `tls://` and `https://`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use portcullis_names::Name;

use crate::permit::LookupPermit;
use crate::proxies::{Endpoint, ProxyHost};

/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// The port of DNS over TLS (RFC 7858 section 3.1).
const TLS_PORT: u16 = 853;
/// The port of DNS over HTTPS where its URL has none.
const HTTPS_PORT: u16 = 443;
/// The path of a DNS over HTTPS server whose URL has none (the example of RFC 8484, and what
/// everybody uses).
const DNS_PATH: &str = "/dns-query";
/// Longest path of a DNS over HTTPS server, in bytes.
const MAX_PATH_BYTES: usize = 1024;
/// Longest name of a network interface, in bytes (IFNAMSIZ without its end).
const MAX_INTERFACE_BYTES: usize = 15;

/// An upstream resolver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resolver {
    /// UDP, and TCP where an answer is too long for it: `10.0.0.53`, `10.0.0.53:5353`.
    Plain(SocketAddr),
    /// The same on one link, by its interface: `fe80::53%eth0`, `[fe80::53%eth0]:5353`.
    OnLink {
        /// A link-local address.
        address: Ipv6Addr,
        /// Its port, 53 where none is written.
        port: u16,
        /// The interface's name or number. It may come and go.
        interface: Box<str>,
    },
    /// DNS over TLS (RFC 7858): `tls://HOST[:PORT]`.
    Tls {
        /// The server, and the name that its certificate must carry.
        host: ProxyHost,
        /// Its port, 853 where none is written.
        port: u16,
    },
    /// DNS over HTTPS (RFC 8484): `https://HOST[:PORT][/PATH]`.
    Https {
        /// The server, and the name that its certificate must carry.
        host: ProxyHost,
        /// Its port, 443 where none is written.
        port: u16,
        /// The path, beginning with `/`; `/dns-query` where none is written.
        path: Box<str>,
    },
}

impl Resolver {
    /// Reads a resolver: `ADDRESS`, `ADDRESS:PORT`, `[V6]:PORT`, `V6%INTERFACE`, `tls://HOST[:PORT]`,
    /// `https://HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// A sentence that says what is wrong. It never repeats the text, which may hold a password.
    pub fn parse(text: &str) -> Result<Resolver, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text.contains('%') {
                true => on_link(text),
                false => plain(text).map(Resolver::Plain),
            };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "tls" => {
                let authority = rest.strip_suffix('/').unwrap_or(rest);
                if authority.contains(['/', '?', '#', '\\']) {
                    return Err("a DNS over TLS server has no path; write `tls://HOST:PORT`".into());
                }
                let Endpoint { host, port } = server(authority, TLS_PORT)?;
                Ok(Resolver::Tls { host, port })
            }
            "https" => {
                let (authority, path) = match rest.find('/') {
                    Some(at) => rest.split_at(at),
                    None => (rest, DNS_PATH),
                };
                let Endpoint { host, port } = server(authority, HTTPS_PORT)?;
                let path = if path == "/" { DNS_PATH } else { path };
                Ok(Resolver::Https {
                    host,
                    port,
                    path: path_of(path)?.into(),
                })
            }
            "http" => Err("plain HTTP protects nothing; DNS over HTTPS needs `https://`".into()),
            "udp" | "tcp" | "dns" => {
                Err("for DNS over UDP and TCP, write an address alone: `10.0.0.53`".into())
            }
            "quic" | "h3" => {
                Err("DNS over QUIC is not supported; write `tls://` or `https://`".into())
            }
            _ => Err("a resolver must be an address, `tls://HOST` or `https://HOST/PATH`".into()),
        }
    }

    /// The address of a plain resolver; of one on a link without the link.
    pub fn plain(&self) -> Option<SocketAddr> {
        match self {
            Resolver::Plain(address) => Some(*address),
            Resolver::OnLink { address, port, .. } => {
                Some(SocketAddr::new((*address).into(), *port))
            }
            Resolver::Tls { .. } | Resolver::Https { .. } => None,
        }
    }

    /// The server's name, where it is known by one.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Resolver::Tls { host, .. } | Resolver::Https { host, .. } => match host {
                ProxyHost::Name(name) => Some(name),
                ProxyHost::Address(_) => None,
            },
            Resolver::Plain(_) | Resolver::OnLink { .. } => None,
        }
    }

    /// The interface that it is reached by, where it names one.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Resolver::OnLink { interface, .. } => Some(interface),
            _ => None,
        }
    }

    /// Permission to resolve the server's own name, where it has one: the operator chose it, so no rule
    /// is needed.
    pub fn lookup_permit(&self) -> Option<LookupPermit> {
        let (Resolver::Tls { port, .. } | Resolver::Https { port, .. }) = self else {
            return None;
        };
        let name = self.name()?.clone();
        Some(LookupPermit::for_operator(name, *port))
    }
}

/// In the form that [`Resolver::parse`] reads.
impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = |host: &ProxyHost, port| Endpoint {
            host: host.clone(),
            port,
        };
        match self {
            Resolver::Plain(address) => write!(f, "{address}"),
            Resolver::OnLink {
                address,
                port,
                interface,
            } => write!(f, "[{address}%{interface}]:{port}"),
            Resolver::Tls { host, port } => write!(f, "tls://{}", server(host, *port)),
            Resolver::Https { host, port, path } => {
                write!(f, "https://{}{path}", server(host, *port))
            }
        }
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, `[V6]`, `[V6]:PORT`.
fn plain(text: &str) -> Result<SocketAddr, String> {
    let inner = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    let resolver = match (text.parse::<SocketAddr>(), inner.parse::<IpAddr>()) {
        (Ok(socket), _) => socket,
        (_, Ok(address)) => SocketAddr::new(address, DNS_PORT),
        _ => {
            return Err(
                "a resolver must be an address with or without a port, such as `10.0.0.53`, \
                 `10.0.0.53:5353` or `[2001:db8::53]:53`, or `tls://HOST` or `https://HOST/PATH`"
                    .into(),
            );
        }
    };
    reachable(resolver.ip())?;
    if matches!(resolver.ip(), IpAddr::V6(six) if six.is_unicast_link_local()) {
        return Err("a link-local resolver needs its interface: `fe80::53%eth0`".into());
    }
    if resolver.port() == 0 {
        return Err("no resolver can be reached on port 0".into());
    }
    Ok(resolver)
}

/// `V6%INTERFACE`, `[V6%INTERFACE]`, `[V6%INTERFACE]:PORT`.
fn on_link(text: &str) -> Result<Resolver, String> {
    let (inner, port) = match text.strip_prefix('[').map(|text| text.split_once(']')) {
        None => (text, None),
        Some(Some((inner, ""))) => (inner, None),
        Some(Some((inner, port))) => (inner, Some(port)),
        Some(None) => return Err("the `]` behind the resolver's address is missing".into()),
    };
    let (address, interface) = inner.split_once('%').unwrap_or((inner, ""));
    let of_one_link = |address: &Ipv6Addr| address.is_unicast_link_local();
    let Some(address) = address.parse().ok().filter(of_one_link) else {
        let why = "only a link-local address (fe80::/10) has an interface behind it, such as `fe80::53%eth0`";
        return Err(why.into());
    };
    let can_stand = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%');
    let length = 1..=MAX_INTERFACE_BYTES;
    if !length.contains(&interface.len()) || !interface.bytes().all(can_stand) {
        return Err("what stands behind `%` is no name of a network interface".into());
    }
    let port = match port.map(|port| port.strip_prefix(':').and_then(|port| port.parse().ok())) {
        None => DNS_PORT,
        Some(Some(port @ 1..)) => port,
        Some(_) => return Err("a resolver's port is a number from 1 to 65535".into()),
    };
    Ok(Resolver::OnLink {
        address,
        port,
        interface: interface.into(),
    })
}

fn reachable(address: IpAddr) -> Result<(), String> {
    if address.is_unspecified() || address.is_multicast() {
        return Err("no resolver can be reached at this address".into());
    }
    Ok(())
}

/// `HOST[:PORT]` of a URL.
fn server(authority: &str, default_port: u16) -> Result<Endpoint, String> {
    if authority.contains('@') {
        return Err("a resolver's URL cannot hold credentials".into());
    }
    let endpoint = Endpoint::parse(authority, default_port, "resolver")?;
    if let ProxyHost::Address(address) = endpoint.host {
        reachable(address)?;
    }
    Ok(endpoint)
}

/// The path of a DNS over HTTPS server: what can stand in a request line as it is.
fn path_of(path: &str) -> Result<&str, String> {
    if path.contains(['{', '}']) {
        return Err(
            "write a resolver's URL without the `{?dns}` of a template; queries are sent by POST"
                .into(),
        );
    }
    if path.contains(['?', '#']) {
        return Err("a resolver's URL cannot have a query or a fragment".into());
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!(
            "the path of a resolver's URL is longer than {MAX_PATH_BYTES} bytes"
        ));
    }
    let plain = |b: u8| {
        b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'|')
    };
    if !path.bytes().all(plain) {
        return Err("the path of a resolver's URL has a character that URLs cannot have".into());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use portcullis_names::PortSet;

    use super::*;

    #[test]
    fn plain_resolvers() {
        let at = |text: &str| Resolver::parse(text).unwrap().to_string();
        assert_eq!(at("10.0.0.53"), "10.0.0.53:53");
        assert_eq!(at("10.0.0.53:5353"), "10.0.0.53:5353");
        assert_eq!(at("2001:db8::53"), "[2001:db8::53]:53");
        assert_eq!(at("[2001:db8::53]"), "[2001:db8::53]:53");
        assert_eq!(at("[2001:db8::53]:5353"), "[2001:db8::53]:5353");
        for bad in [
            "dns.example",
            "10.0.0.53:0",
            "0.0.0.0",
            "224.0.0.1",
            "10.0.0",
            "",
        ] {
            assert!(Resolver::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_resolver_on_a_link_names_its_interface() {
        for (text, shown) in [
            ("fe80::53%eth0", "[fe80::53%eth0]:53"),
            ("[fe80::53%wg-corp.1]", "[fe80::53%wg-corp.1]:53"),
            ("[fe80::53%3]:5353", "[fe80::53%3]:5353"),
        ] {
            let resolver = Resolver::parse(text).unwrap();
            assert_eq!(resolver.to_string(), shown);
            assert_eq!(Resolver::parse(shown).unwrap(), resolver);
            assert!(resolver.interface().is_some() && resolver.plain().is_some());
        }
        for (bad, why) in [
            ("fe80::53", "needs its interface"),
            ("[fe80::53]:53", "needs its interface"),
            ("2001:db8::53%eth0", "only a link-local"),
            ("10.0.0.53%eth0", "only a link-local"),
            ("fe80::53%", "no name of a network interface"),
            ("fe80::53%../x", "no name of a network interface"),
            (
                "fe80::53%an-interface-too-long",
                "no name of a network interface",
            ),
            ("[fe80::53%eth0", "`]`"),
            ("[fe80::53%eth0]:0", "from 1 to 65535"),
            ("[fe80::53%eth0]x", "from 1 to 65535"),
        ] {
            let error = Resolver::parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn encrypted_resolvers_are_read_as_they_are_shown() {
        for (text, shown) in [
            ("tls://dns.example", "tls://dns.example:853"),
            ("TLS://Dns.Example:8853/", "tls://dns.example:8853"),
            ("tls://192.0.2.53", "tls://192.0.2.53:853"),
            ("tls://[2001:db8::53]", "tls://[2001:db8::53]:853"),
            ("tls://[2001:db8::53]:8853", "tls://[2001:db8::53]:8853"),
            ("https://dns.example", "https://dns.example:443/dns-query"),
            ("https://dns.example/", "https://dns.example:443/dns-query"),
            (
                "https://dns.example:8443/q/x",
                "https://dns.example:8443/q/x",
            ),
            (
                "https://[2001:db8::53]/dns",
                "https://[2001:db8::53]:443/dns",
            ),
        ] {
            let resolver = Resolver::parse(text).unwrap();
            assert_eq!(resolver.to_string(), shown);
            assert_eq!(Resolver::parse(shown).unwrap(), resolver);
        }
    }

    #[test]
    fn what_no_resolver_can_be() {
        for (bad, why) in [
            ("http://dns.example/dns-query", "needs `https://`"),
            ("udp://10.0.0.53", "an address alone"),
            ("quic://dns.example", "QUIC is not supported"),
            ("sdns://AQ", "`tls://HOST` or `https://HOST/PATH`"),
            ("tls://dns.example/x", "has no path"),
            ("tls://dns.example:0", "a number from 1 to 65535"),
            ("tls://dns.example:x", "a number from 1 to 65535"),
            ("tls://0.0.0.0", "can be reached"),
            ("tls://[::1", "the resolver's host"),
            ("tls://[dns]", "not an IPv6 address"),
            ("tls://", "the resolver's host"),
            ("tls://*.dns.example", "the resolver's host"),
            ("https://me:secret@dns.example/", "cannot hold credentials"),
            (
                "https://dns.example/dns-query{?dns}",
                "without the `{?dns}`",
            ),
            (
                "https://dns.example/dns-query?x=secret",
                "cannot have a query",
            ),
            ("https://dns.example?x=secret", "the resolver's host"),
            ("https://dns.example/a b", "cannot have"),
        ] {
            let error = Resolver::parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let long = format!("https://dns.example/{}", "a".repeat(MAX_PATH_BYTES));
        assert!(Resolver::parse(&long).unwrap_err().contains("longer than"));
    }

    #[test]
    fn a_named_server_may_be_looked_up_and_no_other() {
        let permit = |text: &str| Resolver::parse(text).unwrap().lookup_permit();
        let named = permit("https://dns.example/q").unwrap();
        assert_eq!(named.name().as_str(), "dns.example");
        assert_eq!(named.ports(), &PortSet::HTTPS);
        assert_eq!(
            permit("tls://dns.example").unwrap().ports(),
            &PortSet::single(853)
        );
        for bare in ["10.0.0.53", "tls://10.0.0.53", "https://[2001:db8::53]/q"] {
            assert!(permit(bare).is_none(), "{bare}");
        }
    }
}
