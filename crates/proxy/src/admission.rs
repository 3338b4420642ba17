//! Who comes in: one sandbox's connections against its limits.
//!
//! Answers *exhaustion* (docs/threats.md).

use std::sync::Arc;

use portcullis_policy::{Mode, Policy};

use crate::limits::{MAX_CONNECTIONS, MAX_DATAGRAM_FLOWS, MAX_REFUSALS, Slot, Slots};
use crate::meter::{Limiter, OverLimit};

/// The places of one sandbox.
pub(crate) struct Admission {
    /// Connections, over all entrances.
    slots: Arc<Slots>,
    /// Connections that are being told that there are too many.
    refusals: Arc<Slots>,
    /// Flows of datagrams.
    datagrams: Arc<Slots>,
    /// How many connections there may be where the policy does not say.
    pub(crate) max_connections: usize,
    limiter: Arc<Limiter>,
}

impl Admission {
    pub(crate) fn new(limiter: Arc<Limiter>) -> Admission {
        Admission {
            slots: Slots::new(MAX_CONNECTIONS),
            refusals: Slots::new(MAX_REFUSALS),
            datagrams: Slots::new(MAX_DATAGRAM_FLOWS),
            max_connections: MAX_CONNECTIONS,
            limiter,
        }
    }

    /// Takes over the limits of a policy that came into force. What was used stays used.
    pub(crate) fn follow(&self, policy: &Policy) {
        // A policy that only watches refuses nothing.
        let enforces = policy.mode() != Mode::Audit;
        let own = policy
            .settings()
            .limits
            .flows
            .connections
            .filter(|_| enforces);
        let own = own.and_then(|most| usize::try_from(most.get()).ok());
        self.slots.set_max(own.unwrap_or(self.max_connections));
        self.limiter.follow(policy);
    }

    /// Takes in a connection.
    ///
    /// # Errors
    /// The limit of the sandbox that it is above.
    pub(crate) fn connection(&self) -> Result<Slot, OverLimit> {
        let slot = self.slots.take().ok_or(OverLimit::TOO_MANY)?;
        self.limiter.enter()?;
        Ok(slot)
    }

    /// A place to tell a connection that it is one too many; there are few.
    pub(crate) fn refusal(&self) -> Option<Slot> {
        self.refusals.take()
    }

    /// Takes in a flow of datagrams.
    pub(crate) fn datagram_flow(&self) -> Option<Slot> {
        self.datagrams.take()
    }
}
