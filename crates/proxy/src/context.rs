//! What every connection of one sandbox shares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_dial::{AbsoluteForm, Dialer, Stream, reaches};
use portcullis_dns::{Leases, PolicyHandle};
use portcullis_policy::{Mode, Policy};
use portcullis_record::Recorder;

use crate::datagrams::MAX_DATAGRAM_FLOWS;
use crate::flows::Flows;
use crate::inspect::Inspector;
use crate::limits::{
    HEADER_TIMEOUT, HELLO_TIMEOUT, KEEP_ALIVE_TIMEOUT, MAX_CONNECTIONS, MAX_REFUSALS, Slot, Slots,
};
use crate::meter::{Limiter, Meter, Open, OverLimit};
use crate::note::Peer;
use crate::open_error::OpenError;
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
    /// How many those may be where the policy does not say.
    max_connections: usize,
    /// What the policy limits.
    pub(crate) limiter: Limiter,
    /// Connections that are being told that there are too many.
    pub(crate) refusals: Arc<Slots>,
    /// The certificates of inspected names, where there are any.
    pub(crate) inspector: Option<Arc<Inspector>>,
    /// Flows of datagrams.
    pub(crate) datagram_slots: Arc<Slots>,
}

impl ProxyContext {
    /// A context without listeners to protect; see [`ProxyContext::with_listeners`].
    pub fn new(
        policy: PolicyHandle,
        dialer: Arc<Dialer>,
        leases: Arc<Leases>,
        recorder: Recorder,
    ) -> ProxyContext {
        let limiter = Limiter::new(&policy.load());
        let context = ProxyContext {
            policy,
            dialer,
            leases,
            recorder,
            flows: Arc::default(),
            listeners: Vec::new(),
            host_listeners: Vec::new(),
            slots: Slots::new(MAX_CONNECTIONS),
            max_connections: MAX_CONNECTIONS,
            limiter,
            refusals: Slots::new(MAX_REFUSALS),
            inspector: None,
            datagram_slots: Slots::new(MAX_DATAGRAM_FLOWS),
        };
        context.follow_limits(&context.policy.load());
        context
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

    /// Sets how many connections the sandbox may have at once, over all entrances, where its policy
    /// does not say ([`MAX_CONNECTIONS`] by default).
    #[must_use]
    pub fn with_max_connections(mut self, max: usize) -> ProxyContext {
        self.max_connections = max;
        self.follow_limits(&self.policy.load());
        self
    }

    /// Takes over the limits of a policy that came into force. What was used stays used.
    pub fn follow_limits(&self, policy: &Policy) {
        // A policy that only watches refuses nothing.
        let enforces = policy.mode() != Mode::Audit;
        let own = policy.settings().limits.connections.filter(|_| enforces);
        let own = own.and_then(|most| usize::try_from(most.get()).ok());
        self.slots.set_max(own.unwrap_or(self.max_connections));
        self.limiter.follow(policy);
    }

    /// Takes in a connection.
    ///
    /// # Errors
    /// The limit of the sandbox that it is above.
    pub(crate) fn take_in(&self) -> Result<Slot, OverLimit> {
        let slot = self.slots.take().ok_or(OverLimit::TOO_MANY)?;
        self.limiter.enter()?;
        Ok(slot)
    }

    /// A meter for a connection that stands, where anything of it is limited.
    pub(crate) fn meter(&self, peer: &Peer) -> Option<Box<Meter>> {
        self.limiter.meter(peer.admitted.as_ref())
    }

    /// Has a connection that stands count as one of the rule that it is decided by now.
    ///
    /// # Errors
    /// The limit of that rule that it is above.
    pub(crate) fn readmit(&self, peer: &mut Peer, ruling: &Ruling) -> Result<(), OpenError> {
        let already = peer.admitted.as_ref();
        peer.admitted = self.limiter.admit(ruling.permit()?, already)?;
        Ok(())
    }

    /// How long a handshake (TLS, SOCKS) may take.
    pub(crate) fn handshake_timeout(&self) -> Duration {
        let limits = self.policy.load().settings().limits;
        limits.handshake_timeout.unwrap_or(HELLO_TIMEOUT)
    }

    /// How long a request's head may take.
    pub(crate) fn header_timeout(&self) -> Duration {
        let limits = self.policy.load().settings().limits;
        limits.header_timeout.unwrap_or(HEADER_TIMEOUT)
    }

    /// How long a kept-alive connection may be silent between two requests.
    pub(crate) fn keep_alive_timeout(&self) -> Duration {
        let limits = self.policy.load().settings().limits;
        let idle = limits.idle_timeout.unwrap_or(KEEP_ALIVE_TIMEOUT);
        idle.min(KEEP_ALIVE_TIMEOUT)
    }

    /// Opens the connection that a ruling permits, where its rule has room for one more; `already`
    /// is the room that the flow has, where this connection takes the place of another one of it.
    pub(crate) async fn dial(
        &self,
        ruling: &Ruling,
        already: Option<&Arc<Open>>,
    ) -> Result<(Stream, Peer), OpenError> {
        let permit = ruling.permit()?;
        let admitted = self.limiter.admit(permit, already)?;
        let dialed = self.dialer.connect(permit).await?;
        let (stream, mut peer) = Peer::of(dialed);
        peer.admitted = admitted;
        Ok((stream, peer))
    }

    /// Opens the connection for a plain HTTP request; the last value says how the request is to be
    /// written in absolute form, where the connection ends at the company's proxy.
    pub(crate) async fn dial_http(
        &self,
        ruling: &Ruling,
        already: Option<&Arc<Open>>,
    ) -> Result<(Stream, Peer, Absolute), OpenError> {
        let permit = ruling.permit()?;
        let admitted = self.limiter.admit(permit, already)?;
        let dialed = self.dialer.connect_http(permit).await?;
        let absolute = dialed.absolute.clone();
        let (stream, mut peer) = Peer::of(dialed);
        peer.admitted = admitted;
        Ok((stream, peer, absolute))
    }

    /// Whether a socket that was dialled to `address` arrives at one of our own listeners.
    pub(crate) fn is_host_listener(&self, address: SocketAddr) -> bool {
        self.host_listeners
            .iter()
            .any(|listener| reaches(address, *listener, false))
    }
}
