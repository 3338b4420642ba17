//! What the host tells of its network now.

use std::net::IpAddr;
use std::sync::Arc;

/// The host's network, asked anew each time: it may have moved.
pub(crate) struct Host {
    pub ipv6_route: Arc<dyn Fn() -> bool + Send + Sync>,
    pub owns: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

impl Host {
    /// Whether IPv6 addresses can be reached.
    pub(crate) fn routes_ipv6(&self) -> bool {
        (self.ipv6_route)()
    }

    /// Whether an address is one of the host's own.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        (self.owns)(address.to_canonical())
    }
}
