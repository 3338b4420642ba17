//! Connections to destinations: opened by a permit, where the permit's rule has room for one more.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portcullis_dial::{AbsoluteForm, Dialed, Dialer, Stream};
use portcullis_names::Name;
use portcullis_policy::{ConnectPermit, PermitTarget};
use portcullis_record::Timings;

use crate::meter::{Admitted, Limiter, Meter, Open, OverLimit};
use crate::open_error::OpenError;
use crate::target::{Ruling, Target};

/// Opens connections for one sandbox, within the limits of its rules.
pub(crate) struct Connector {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) limiter: Arc<Limiter>,
}

/// A connection that stands.
pub(crate) struct Connected {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    /// How requests are written, where the connection ends at an upstream proxy that expects them
    /// in absolute form.
    pub(crate) absolute: Option<Arc<AbsoluteForm>>,
}

impl Connector {
    /// Opens the connection that a ruling permits; `already` is the room that the flow has, where
    /// this connection takes the place of another one of it.
    pub(crate) async fn connect(
        &self,
        ruling: &Ruling,
        already: Option<&Arc<Open>>,
    ) -> Result<Connected, OpenError> {
        let permit = ruling.permit()?;
        let admitted = self.limiter.admit(permit, already)?;
        let dialed = self.dialer.connect(permit).await?;
        Ok(Connected::new(dialed, admitted))
    }

    /// The same for a plain HTTP request.
    pub(crate) async fn connect_http(
        &self,
        ruling: &Ruling,
        already: Option<&Arc<Open>>,
    ) -> Result<Connected, OpenError> {
        let permit = ruling.permit()?;
        let admitted = self.limiter.admit(permit, already)?;
        let dialed = self.dialer.connect_http(permit).await?;
        Ok(Connected::new(dialed, admitted))
    }

    /// Holds what this ruling permits to a connection that counts as one of the rule it was opened by.
    ///
    /// # Errors
    /// It has other limits.
    pub(crate) fn same_limits(&self, ruling: &Ruling, of: &Admitted) -> Result<(), OpenError> {
        let admitted = self.limiter.admit(ruling.permit()?, of.as_ref())?;
        let same = match (&admitted, of) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same.then_some(()).ok_or(OverLimit::OF_ANOTHER_RULE.into())
    }

    /// Whether a connection that was kept may carry what this ruling permits: the policy in force now
    /// must let the dialler go where it ends, whatever policy it was dialled by.
    pub(crate) fn may_reuse(&self, ruling: &Ruling, peer: &Peer) -> bool {
        let goes_there = |permit: &ConnectPermit| match permit.target() {
            PermitTarget::Inside(addresses) => {
                peer.inside && addresses.contains(&peer.address.ip())
            }
            _ => !peer.inside && self.dialer.would_open(permit, peer.address),
        };
        peer.upstream_proxy.is_some() || ruling.permit.as_ref().is_some_and(goes_there)
    }

    /// Whether what this ruling permits is at `address` too.
    pub(crate) async fn is_at(&self, ruling: &Ruling, address: SocketAddr) -> bool {
        match &ruling.permit {
            Some(permit) => self.dialer.leads_to(permit, address).await,
            None => false,
        }
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
}

impl Connected {
    fn new(dialed: Dialed, admitted: Admitted) -> Connected {
        Connected {
            stream: dialed.stream,
            absolute: dialed.absolute,
            peer: Peer {
                address: dialed.address,
                upstream_proxy: dialed.upstream_proxy,
                addresses: dialed.addresses,
                inside: dialed.inside,
                canonical: dialed.canonical,
                timings: dialed.timings,
                admitted,
            },
        }
    }
}

/// What a record says about the other end of a flow, and what the flow's further decisions need.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The address that was connected: the destination's, or the upstream proxy's.
    pub(crate) address: SocketAddr,
    /// The upstream proxy, where the flow goes through one.
    pub(crate) upstream_proxy: Option<String>,
    /// Addresses of the destination, as far as they are known.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) canonical: Option<Name>,
    /// It ends at a server of the sandbox's own.
    pub(crate) inside: bool,
    pub(crate) timings: Timings,
    /// Its place among the connections of its rule.
    pub(crate) admitted: Admitted,
}

impl Peer {
    /// No stage is timed twice: what follows on this connection was not dialled again.
    pub(crate) fn forget_timings(&mut self) {
        self.timings = Timings::default();
    }

    /// Whether the connection may have ended at another place than `target` means under another
    /// name than the one it was dialled by: the ruling's, whose rule may send it away.
    pub(crate) fn may_be_elsewhere(
        &self,
        target: &Target,
        same_name: bool,
        ruling: &Ruling,
    ) -> bool {
        if let Some(to) = ruling.permit.as_ref().and_then(ConnectPermit::to) {
            return self.upstream_proxy.is_some() || self.address != to;
        }
        let there = self.upstream_proxy.is_none()
            && self.address.port() == target.port
            && Some(self.address.ip().to_canonical()) == target.ip();
        !same_name && !there && target.ip().is_some()
    }
}

#[cfg(test)]
impl Peer {
    /// A connection that stands to this address.
    pub(crate) fn standing(address: SocketAddr) -> Peer {
        Peer {
            address,
            upstream_proxy: None,
            addresses: vec![address.ip()],
            canonical: None,
            inside: false,
            timings: Timings::default(),
            admitted: None,
        }
    }
}
