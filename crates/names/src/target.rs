//! TARGET as operators write it, in policies and on the command line.
//!
//! `NAME`, `NAME:PORT`, `NAME:*`, `CIDR`, `CIDR:PORT`, and `[v6/len]:PORT` for IPv6 with a port.
//! A bare name means ports 80 and 443; a bare range means every port. Ports are TCP's, unless `/udp`
//! stands behind them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::error::{NameError, PatternError, TargetError};
use crate::host::parse_port;
use crate::pattern::Pattern;
use crate::ports::{PortSet, Transport};
use crate::services::{SSH, port_of};

/// Longest piece of the operator's text that an error repeats, in characters.
const MAX_QUOTED_CHARS: usize = 64;

/// The schemes whose ports a bare name means.
const WEB: [&str; 4] = ["http", "https", "ws", "wss"];

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Names, with their ports.
    Name {
        /// Which names.
        pattern: Pattern,
        /// Which ports.
        ports: PortSet,
        /// Whether the ports were written, rather than being what a bare name means.
        explicit_ports: bool,
        /// What they are ports of.
        transport: Transport,
    },
    /// Addresses, with their ports.
    Net {
        /// Which addresses; one address is a range of one.
        net: IpNet,
        /// Which ports.
        ports: PortSet,
        /// What they are ports of.
        transport: Transport,
    },
}

impl Target {
    /// Reads one target.
    ///
    /// # Errors
    /// [`TargetError`], with a hint where there is a likely correction.
    pub fn from_policy(text: &str) -> Result<Target, TargetError> {
        Target::read(text).map_err(|error| match error {
            // An address it is, and no name.
            TargetError::BadNet { .. } | TargetError::HostBits { .. } => error,
            // What names its protocol is meant as a target.
            _ if text.ends_with("/udp") || text.ends_with("/tcp") => error,
            _ => recognized(text).unwrap_or(error),
        })
    }

    /// [`Target::from_policy`] that takes a text for nothing but a target.
    fn read(text: &str) -> Result<Target, TargetError> {
        if let Some((rest, protocol)) = text.rsplit_once('/') {
            if protocol == "udp" {
                return Target::udp(rest);
            }
            if protocol.eq_ignore_ascii_case("tcp") || protocol.eq_ignore_ascii_case("udp") {
                return Err(TargetError::BadPort { text: quoted(text) });
            }
        }
        Target::tcp(text)
    }

    /// The target that stands in front of `/udp`.
    fn udp(text: &str) -> Result<Target, TargetError> {
        let mut target = Target::tcp(text)?;
        let written = match &mut target {
            Target::Name {
                transport,
                explicit_ports,
                ..
            } => {
                *transport = Transport::Udp;
                *explicit_ports
            }
            Target::Net {
                transport, ports, ..
            } => {
                *transport = Transport::Udp;
                !ports.is_any() || text.ends_with(":*")
            }
        };
        let text = quoted(text);
        written
            .then_some(target)
            .ok_or(TargetError::UdpWithoutPort { text })
    }

    fn tcp(text: &str) -> Result<Target, TargetError> {
        let transport = Transport::Tcp;
        if let Some(inner) = text.strip_prefix('[') {
            return bracketed(inner, text);
        }
        if let Some((address, rest)) = text.split_once('/')
            && address.parse::<IpAddr>().is_ok()
        {
            let (prefix, ports) = match rest.split_once(':') {
                Some((prefix, port)) => (prefix, read_ports(port)?),
                None => (rest, PortSet::ANY),
            };
            return Ok(Target::Net {
                net: read_net(address, Some(prefix))?,
                ports,
                transport,
            });
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Target::Net {
                net: read_net(text, None)?,
                ports: PortSet::ANY,
                transport,
            });
        }
        let (host, ports) = match text.split_once(':') {
            Some((host, port)) => (host, Some(read_ports(port)?)),
            None => (text, None),
        };
        if host.parse::<Ipv4Addr>().is_ok() {
            let ports = ports.unwrap_or(PortSet::ANY);
            return Ok(Target::Net {
                net: read_net(host, None)?,
                ports,
                transport,
            });
        }
        Ok(Target::Name {
            pattern: Pattern::from_policy(host)?,
            explicit_ports: ports.is_some(),
            ports: ports.unwrap_or(PortSet::WEB),
            transport,
        })
    }

    /// Whether a program means the machine that it is on: `localhost` and the names below it, the loopback,
    /// and the address of no host (RFC 6761, section 6.3; RFC 1122, section 3.2.1.3).
    pub fn is_loopback(&self) -> bool {
        match self {
            Target::Name { pattern, .. } => pattern.base().is_localhost(),
            Target::Net { net, .. } => net.addr().is_loopback() || net.addr().is_unspecified(),
        }
    }

    /// The ports of the target.
    pub fn ports(&self) -> &PortSet {
        match self {
            Target::Name { ports, .. } | Target::Net { ports, .. } => ports,
        }
    }

    /// What they are ports of.
    pub fn transport(&self) -> Transport {
        match self {
            Target::Name { transport, .. } | Target::Net { transport, .. } => *transport,
        }
    }
}

/// In the form [`Target::from_policy`] reads.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Name {
                pattern,
                explicit_ports: false,
                ..
            } => write!(f, "{pattern}"),
            Target::Name { pattern, ports, .. } => write!(f, "{pattern}:{ports}"),
            Target::Net {
                net,
                ports,
                transport: Transport::Tcp,
            } if ports.is_any() => write!(f, "{net}"),
            Target::Net {
                net: IpNet::V4(net),
                ports,
                ..
            } => write!(f, "{net}:{ports}"),
            Target::Net {
                net: IpNet::V6(net),
                ports,
                ..
            } => write!(f, "[{net}]:{ports}"),
        }?;
        match self.transport() {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/udp"),
        }
    }
}

/// `[v6]`, `[v6/len]`, each with `:PORT` or without; `inner` is what follows the first bracket.
fn bracketed(inner: &str, whole: &str) -> Result<Target, TargetError> {
    let bad = || TargetError::BadNet {
        text: quoted(whole),
    };
    let (inside, rest) = inner.split_once(']').ok_or_else(bad)?;
    let ports = match rest.strip_prefix(':') {
        Some(port) => read_ports(port)?,
        None if rest.is_empty() => PortSet::ANY,
        None => return Err(bad()),
    };
    let (address, prefix) = match inside.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (inside, None),
    };
    if address.parse::<Ipv6Addr>().is_err() {
        return Err(bad());
    }
    Ok(Target::Net {
        net: read_net(address, prefix)?,
        ports,
        transport: Transport::Tcp,
    })
}

/// An address with its prefix length; without one, a range of one address.
pub(crate) fn read_net(address: &str, prefix: Option<&str>) -> Result<IpNet, TargetError> {
    let text = || match prefix {
        Some(prefix) => quoted(&format!("{address}/{prefix}")),
        None => quoted(address),
    };
    let bad = || TargetError::BadNet { text: text() };
    let ip: IpAddr = address.parse().map_err(|_| bad())?;
    let Some(prefix) = prefix else {
        return Ok(IpNet::from(ip));
    };
    // `u8::from_str` takes `+8` and `08`; a policy has one spelling.
    let plain = prefix == "0" || (!prefix.starts_with('0') && !prefix.starts_with('+'));
    let bits = prefix
        .parse::<u8>()
        .ok()
        .filter(|_| plain)
        .ok_or_else(bad)?;
    let net = IpNet::new(ip, bits).map_err(|_| bad())?;
    if net.trunc() != net {
        return Err(TargetError::HostBits {
            text: text(),
            net: net.trunc(),
        });
    }
    Ok(net)
}

/// A port, or `*`.
fn read_ports(text: &str) -> Result<PortSet, TargetError> {
    if text == "*" {
        return Ok(PortSet::ANY);
    }
    parse_port(text.as_bytes())
        .map(PortSet::single)
        .ok_or_else(|| TargetError::BadPort { text: quoted(text) })
}

/// What a text is that people take for a target, if it is one of those. Nothing is allowed by guess: which
/// ports, and whether subdomains belong to it, is for the operator to say.
fn recognized(text: &str) -> Option<TargetError> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let instead = of_url(scheme, rest);
        return Some(TargetError::Url { instead });
    }
    if let Some(rest) = text.strip_prefix("//") {
        let instead = of_url("", rest);
        return Some(TargetError::Url { instead });
    }
    if let Some(name) = text.strip_prefix('.') {
        let name = Target::read(name).ok()?.to_string().into();
        return Some(TargetError::LeadingDot { name });
    }
    if let Some((_, host)) = text.split_once('@') {
        return Some(TargetError::User {
            instead: of_user(host),
        });
    }
    let (host, _) = text.split_once('/')?;
    // `github.com:org/repo` is git's too, without a user.
    let (name, short) = match host.split_once(':') {
        Some((name, port)) if port.parse::<u16>().is_err() && port != "*" => (name, Some(SSH)),
        _ => (host, None),
    };
    with_port(name, short).map(|instead| TargetError::Path { instead })
}

/// The target of a URL, if it has a good one: its host, and its port unless that is the web's.
fn of_url(scheme: &str, rest: &str) -> Option<Box<str>> {
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    // `git+ssh` and `svn+ssh` are SSH.
    let scheme = scheme.rsplit('+').next()?;
    let is_web = WEB.iter().any(|web| web.eq_ignore_ascii_case(scheme));
    let port = port_of(scheme).filter(|_| !is_web);
    let host = match authority.rsplit_once('@') {
        // A name that is shown in front of the host is there to deceive.
        Some(_) if is_web => return None,
        Some((_, host)) => host,
        None => authority,
    };
    with_port(host, port).or_else(|| with_port(host.split(':').next()?, port))
}

/// The target of `host` or `host:path` behind a user's name.
fn of_user(host: &str) -> Option<Box<str>> {
    let (name, rest) = host.split_once(':').unwrap_or((host, ""));
    match rest.parse::<u16>() {
        Ok(port) => with_port(name, Some(port)),
        Err(_) => with_port(name, Some(SSH)),
    }
}

/// A target as it is written, with this port where it has none.
fn with_port(text: &str, port: Option<u16>) -> Option<Box<str>> {
    let mut target = Target::read(text).ok()?;
    if let Some(port) = port {
        match &mut target {
            Target::Name {
                ports,
                explicit_ports,
                ..
            } if !*explicit_ports => {
                *explicit_ports = true;
                *ports = PortSet::single(port);
            }
            Target::Net { ports, .. } if ports.is_any() => *ports = PortSet::single(port),
            Target::Name { .. } | Target::Net { .. } => {}
        }
    }
    Some(target.to_string().into())
}

fn quoted(text: &str) -> Box<str> {
    text.chars().take(MAX_QUOTED_CHARS).collect()
}

impl From<NameError> for TargetError {
    fn from(e: NameError) -> Self {
        TargetError::Pattern(PatternError::Name(e))
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
