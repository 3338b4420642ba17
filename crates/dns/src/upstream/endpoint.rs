//! One encrypted server as the operator wrote it: where it is, who it must prove to be, and what is
//! spoken there.

use std::net::IpAddr;

use portcullis_policy::{LookupPermit, ProxyHost};

/// What is spoken to a server.
#[derive(Debug)]
pub(super) enum Protocol {
    /// RFC 7858.
    Tls,
    /// RFC 8484.
    Https(#[cfg_attr(not(feature = "doh"), expect(dead_code, reason = "nobody asks it"))] Url),
}

/// The parts of a DNS over HTTPS server's URL that go into requests.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "doh"),
    expect(dead_code, reason = "only requests read it")
)]
pub(super) struct Url {
    /// `HOST` or `HOST:PORT`.
    pub authority: Box<str>,
    /// From `/` on.
    pub path: Box<str>,
}

/// One encrypted server.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub host: ProxyHost,
    pub port: u16,
    pub protocol: Protocol,
    /// The operator's permit to look up the server's name; `None` where it has an address.
    pub permit: Option<LookupPermit>,
}

impl Protocol {
    /// DNS over HTTPS at a path of a server.
    pub(super) fn https(host: &ProxyHost, port: u16, path: &str) -> Protocol {
        const HTTPS_PORT: u16 = 443;
        let host = match host {
            ProxyHost::Name(name) => name.to_string(),
            ProxyHost::Address(IpAddr::V4(address)) => address.to_string(),
            ProxyHost::Address(IpAddr::V6(address)) => format!("[{address}]"),
        };
        let authority = match port {
            HTTPS_PORT => host,
            port => format!("{host}:{port}"),
        };
        Protocol::Https(Url {
            authority: authority.into(),
            path: path.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_policy::Resolver;

    #[test]
    fn rfc_9110_the_authority_leaves_the_default_port_out() {
        let of = |text: &str| {
            let Resolver::Https { host, port, path } = Resolver::parse(text).unwrap() else {
                panic!("{text}");
            };
            match Protocol::https(&host, port, &path) {
                Protocol::Https(url) => format!("{}{}", url.authority, url.path),
                Protocol::Tls => String::new(),
            }
        };
        assert_eq!(of("https://dns.example"), "dns.example/dns-query");
        assert_eq!(of("https://dns.example:8443/q"), "dns.example:8443/q");
        assert_eq!(of("https://[2001:db8::53]/q"), "[2001:db8::53]/q");
        assert_eq!(of("https://192.0.2.53:444/q"), "192.0.2.53:444/q");
    }
}
