//! What every connection of one sandbox shares.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_dial::{AbsoluteForm, DialError, Dialer, Stream, reaches};
use portcullis_dns::{Leases, PolicyHandle};
use portcullis_record::Recorder;

use crate::flows::Flows;
use crate::inspect::Inspector;
use crate::limits::{MAX_CONNECTIONS, MAX_REFUSALS, Slots};
use crate::note::Peer;
use crate::target::Ruling;

/// How requests are written, where a connection ends at the company's proxy.
pub(crate) type Absolute = Option<Arc<AbsoluteForm>>;

/// What the entrances of one sandbox share.
pub struct ProxyContext {
    pub(crate) policy: PolicyHandle,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) recorder: Recorder,
    /// The flows that stand, for when the policy changes.
    pub(crate) flows: Arc<Flows>,
    pub(crate) listeners: Vec<SocketAddr>,
    pub(crate) host_listeners: Vec<SocketAddr>,
    /// Connections of the sandbox, over all entrances.
    pub(crate) slots: Arc<Slots>,
    /// Connections that are being told that there are too many.
    pub(crate) refusals: Arc<Slots>,
    /// The certificates of inspected names, where there are any.
    pub(crate) inspector: Option<Arc<Inspector>>,
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
            flows: Arc::default(),
            listeners: Vec::new(),
            host_listeners: Vec::new(),
            slots: Slots::new(MAX_CONNECTIONS),
            refusals: Slots::new(MAX_REFUSALS),
            inspector: None,
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

    /// What HTTPS is inspected with. Without it, names that a rule inspects are refused.
    #[must_use]
    pub fn with_inspector(mut self, inspector: Option<Arc<Inspector>>) -> ProxyContext {
        self.inspector = inspector;
        self
    }

    /// Sets how many connections the sandbox may have at once, over all entrances
    /// ([`MAX_CONNECTIONS`] by default).
    #[must_use]
    pub fn with_max_connections(mut self, max: usize) -> ProxyContext {
        self.slots = Slots::new(max);
        self
    }

    /// Opens the connection that a ruling permits.
    pub(crate) async fn dial(&self, ruling: &Ruling) -> Result<(Stream, Peer), DialError> {
        let dialed = self.dialer.connect(ruling.permit()?).await?;
        Ok(Peer::of(dialed))
    }

    /// Opens the connection for a plain HTTP request; the last value says how the request is to be
    /// written in absolute form, where the connection ends at the company's proxy.
    pub(crate) async fn dial_http(
        &self,
        ruling: &Ruling,
    ) -> Result<(Stream, Peer, Absolute), DialError> {
        let dialed = self.dialer.connect_http(ruling.permit()?).await?;
        let absolute = dialed.absolute.clone();
        let (stream, peer) = Peer::of(dialed);
        Ok((stream, peer, absolute))
    }

    /// Whether a socket that was dialled to `address` arrives at one of our own listeners.
    pub(crate) fn is_host_listener(&self, address: SocketAddr) -> bool {
        self.host_listeners
            .iter()
            .any(|listener| reaches(address, *listener, false))
    }
}
