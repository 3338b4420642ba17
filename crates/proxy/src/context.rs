//! What every connection of one sandbox shares.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_dial::Dialer;
use portcullis_dns::{Leases, PolicyHandle};
use portcullis_record::Recorder;

/// What the entrances of one sandbox share.
pub struct ProxyContext {
    pub(crate) policy: PolicyHandle,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) recorder: Recorder,
    pub(crate) listeners: Vec<SocketAddr>,
    pub(crate) host_listeners: Vec<SocketAddr>,
}

impl ProxyContext {
    /// A context without listeners to protect; see [`ProxyContext::with_listeners`].
    pub fn new(
        policy: PolicyHandle,
        dialer: Arc<Dialer>,
        leases: Arc<Leases>,
        recorder: Recorder,
    ) -> ProxyContext {
        ProxyContext {
            policy,
            dialer,
            leases,
            recorder,
            listeners: Vec::new(),
            host_listeners: Vec::new(),
        }
    }

    /// Names the gateway's listeners as programs reach them: a request for one of these addresses
    /// would come back to the gateway and is refused with `gateway-loop`.
    #[must_use]
    pub fn with_listeners(mut self, listeners: Vec<SocketAddr>) -> ProxyContext {
        self.listeners = listeners;
        self
    }

    /// Names the gateway's listeners in the namespace that it dials from (plain listeners of
    /// `serve`): a connection that ends at one of them is refused with `gateway-loop`, by whatever
    /// name it got there.
    #[must_use]
    pub fn with_host_listeners(mut self, listeners: Vec<SocketAddr>) -> ProxyContext {
        self.host_listeners = listeners;
        self
    }
}
