//! A proxy or a resolver, as a URL names it.
//!
//! Read here and not by the `url` crate, which is written for browsers: it takes tabs out, reads
//! backslashes as slashes and `0x7f.1` as an address, and decodes hosts. What it accepts would need
//! the same checks once more, and a setting of the operator's has one reading.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use portcullis_names::{Name, parse_port};

/// Where a proxy or a resolver is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProxyHost {
    /// By name, resolved through the policy's resolvers.
    Name(Name),
    /// By address.
    Address(IpAddr),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: ProxyHost,
    pub(crate) port: u16,
}

impl Endpoint {
    /// Reads `HOST[:PORT]` of a `kind` of server.
    ///
    /// # Errors
    /// A sentence that says what is wrong. It never repeats the text, which may hold a password.
    pub(crate) fn parse(text: &str, default_port: u16, kind: &str) -> Result<Endpoint, String> {
        let (host, port) = match text.rsplit_once(':') {
            // not the last colon of `[::1]`
            Some((host, port)) if !port.ends_with(']') => {
                let bad = || format!("the {kind}'s port must be a number from 1 to 65535");
                (host, parse_port(port.as_bytes()).ok_or_else(bad)?)
            }
            _ => (text, default_port),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match (bare, host.parse::<Ipv4Addr>()) {
            (Some(v6), _) => {
                let bad = |_| format!("the {kind}'s host is not an IPv6 address");
                ProxyHost::Address(v6.parse::<Ipv6Addr>().map_err(bad)?.into())
            }
            (None, Ok(address)) => ProxyHost::Address(address.into()),
            (None, Err(_)) => {
                let bad = |_| format!("the {kind}'s host is neither a name nor an address");
                ProxyHost::Name(Name::from_policy(host).map_err(bad)?)
            }
        };
        Ok(Endpoint { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ProxyHost::Name(name) => write!(f, "{name}:{}", self.port),
            ProxyHost::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
        }
    }
}
