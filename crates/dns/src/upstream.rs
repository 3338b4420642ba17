//! Asking upstream resolvers.

use std::net::SocketAddr;

/// The upstream resolvers of one sandbox.
pub struct Upstream {
    #[allow(dead_code)]
    servers: Vec<SocketAddr>,
}

impl Upstream {
    /// Resolvers, in order of preference.
    pub fn new(servers: Vec<SocketAddr>) -> Upstream {
        Upstream { servers }
    }
}
