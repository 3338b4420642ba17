//! A host as a program names it: a name or a literal address, never something in between.
//!
//! Answers *names* (docs/threats.md): `[::1%25eth0]`, `[evil.com]`, `0177.0.0.1` and their like. An
//! address has one spelling that is accepted, everything else must be a canonical name, and a name never ends
//! in a number.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::buf::NameBuf;
use crate::error::NameError;

/// A destination host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant)] // lives on the stack of one request; boxing would allocate
pub enum Host {
    /// A canonical name.
    Name(NameBuf),
    /// A literal address.
    Address(IpAddr),
}

impl Host {
    /// Reads a host as it stands in a URL, a CONNECT target or a Host field: a name, a dotted quad
    /// (four decimal numbers without leading zeros), or an IPv6 address in brackets without zone.
    ///
    /// # Errors
    /// [`NameError::BadBrackets`] for brackets around anything but an IPv6 address, otherwise as
    /// [`NameBuf::from_program`].
    pub fn from_program(text: &[u8]) -> Result<Host, NameError> {
        if text.first() == Some(&b'[') {
            let inner = text
                .strip_prefix(b"[")
                .and_then(|t| t.strip_suffix(b"]"))
                .ok_or(NameError::BadBrackets)?;
            return ascii(inner)
                .and_then(|t| t.parse::<Ipv6Addr>().ok())
                .map(|a| Host::Address(a.into()))
                .ok_or(NameError::BadBrackets);
        }
        if let Some(v4) = ascii(text).and_then(|t| t.parse::<Ipv4Addr>().ok()) {
            return Ok(Host::Address(v4.into()));
        }
        NameBuf::from_program(text).map(Host::Name)
    }

    /// As [`Host::from_program`], and an IPv6 address without brackets is accepted too: for fields
    /// that hold a host and nothing else (SOCKS5 domains, command-line arguments).
    ///
    /// # Errors
    /// As [`Host::from_program`].
    pub fn from_bare(text: &[u8]) -> Result<Host, NameError> {
        match ascii(text).and_then(|t| t.parse::<Ipv6Addr>().ok()) {
            Some(v6) => Ok(Host::Address(v6.into())),
            None => Host::from_program(text),
        }
    }

    /// Reads `host` or `host:port` (RFC 9110 section 7.2, RFC 3986 section 3.2 without userinfo).
    ///
    /// # Errors
    /// [`NameError::BadPort`] if a colon is there but no port from 1 to 65535 in its shortest
    /// form, otherwise as [`Host::from_program`].
    pub fn with_port(text: &[u8]) -> Result<(Host, Option<u16>), NameError> {
        let split = if text.first() == Some(&b'[') {
            let end = text
                .iter()
                .position(|b| *b == b']')
                .ok_or(NameError::BadBrackets)?;
            end + 1
        } else {
            text.iter().position(|b| *b == b':').unwrap_or(text.len())
        };
        let (host, rest) = text.split_at(split);
        let port = match rest {
            [] => None,
            [b':', digits @ ..] => Some(parse_port(digits).ok_or(NameError::BadPort)?),
            _ => return Err(NameError::BadBrackets),
        };
        Ok((Host::from_program(host)?, port))
    }

    /// The name, if it is one.
    pub fn name(&self) -> Option<&NameBuf> {
        match self {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
    }

    /// The address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Host::Name(_) => None,
            Host::Address(address) => Some(*address),
        }
    }
}

/// As in a URL: IPv6 addresses in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => name.fmt(f),
            Host::Address(IpAddr::V4(v4)) => v4.fmt(f),
            Host::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// A port from 1 to 65535: decimal digits, no sign, no leading zero.
pub fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.first() == Some(&b'0') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    ascii(digits)?.parse().ok()
}

fn ascii(text: &[u8]) -> Option<&str> {
    if text.is_ascii() {
        std::str::from_utf8(text).ok()
    } else {
        None
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
