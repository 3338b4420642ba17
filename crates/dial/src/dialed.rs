//! A connection that was opened, and what is known of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portcullis_names::Name;
use portcullis_record::Timings;

use crate::stream::Stream;

/// An open connection, and how it came about.
#[derive(Debug)]
pub struct Dialed {
    /// The stream: to the destination, or through an upstream proxy as if it were.
    pub stream: Stream,
    /// The address that was connected: the destination's, or the upstream proxy's.
    pub address: SocketAddr,
    /// The upstream proxy, if it goes through one: `http://host:port`, without credentials.
    pub upstream_proxy: Option<String>,
    /// The stream ends at the upstream proxy itself, which expects plain HTTP requests in absolute
    /// form, written so. Only from [`Dialer::connect_http`](crate::Dialer::connect_http).
    pub absolute: Option<Arc<AbsoluteForm>>,
    /// The end of the name's CNAME chain, where the name was looked up and has one.
    pub canonical: Option<Name>,
    /// The addresses that the name has, where it was looked up; the address dialled otherwise.
    pub addresses: Vec<IpAddr>,
    /// Whether it ends at a server of the sandbox's own: `address` is the sandbox's.
    pub inside: bool,
    /// How long the stages took.
    pub timings: Timings,
}

/// How a plain HTTP request is written to an upstream proxy.
#[derive(PartialEq, Eq)]
pub struct AbsoluteForm {
    /// The value of `Proxy-Authorization`, where the proxy wants one. A secret.
    pub authorization: Option<String>,
    /// What stands in the request's target instead of the host, where the proxy is asked by address.
    pub address: Option<SocketAddr>,
}

impl fmt::Debug for AbsoluteForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbsoluteForm")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
