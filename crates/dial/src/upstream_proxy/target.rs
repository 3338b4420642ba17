//! What an upstream proxy is asked for, and how it says no.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use portcullis_names::Name;

use crate::error::DialError;

/// The destination that a proxy is asked to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectTarget {
    pub(crate) host: TargetHost,
    pub(crate) port: u16,
}

/// By name, or by an address that the guard passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetHost {
    Name(Name),
    Address(IpAddr),
}

impl ConnectTarget {
    /// The address that is asked for, where it is one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match &self.host {
            TargetHost::Address(address) => Some(SocketAddr::new(*address, self.port)),
            TargetHost::Name(_) => None,
        }
    }
}

/// `name:port`, `[v6]:port`. Made from a canonical name or an address: it holds no byte that could
/// end a line.
impl fmt::Display for ConnectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            TargetHost::Name(name) => write!(f, "{name}:{}", self.port),
            TargetHost::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
        }
    }
}

/// Why a proxy opened no connection.
#[derive(Debug)]
pub(crate) enum ProxyFailure {
    /// It answered. Another proxy is not asked for a better answer.
    Answered(DialError),
    /// It failed itself: another one may do better.
    Down(DialError),
}

impl ProxyFailure {
    pub(crate) fn error(self) -> DialError {
        match self {
            ProxyFailure::Answered(error) | ProxyFailure::Down(error) => error,
        }
    }

    pub(crate) fn map(self, change: impl FnOnce(DialError) -> DialError) -> ProxyFailure {
        match self {
            ProxyFailure::Answered(error) => ProxyFailure::Answered(change(error)),
            ProxyFailure::Down(error) => ProxyFailure::Down(change(error)),
        }
    }
}
