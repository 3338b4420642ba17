//! Another policy under live traffic: checked, put in force in one step, then everything that stands
//! follows.
//!
//! Answers *failing open* (docs/threats.md): what cannot be put in
//! force as a whole is not put in force at all, and what is in force is in force for the flows that
//! stand as well.
//!
//! The order is: what may refuse the policy (the range of made-up addresses, the resolvers, the
//! kernel's list of networks), the swap, the leases with the kernel's set of leased addresses, the
//! flows. A connection that comes in between is decided on by whichever policy it meets and looked at
//! again when it opens.

use crate::startup::{Acceptable, BuildError, check};
use crate::synthetic::{self, RangeError};
use portcullis_dns::{Leases, PolicyHandle};
use portcullis_policy::{Policy, Reason};
use portcullis_proxy::{Inspector, Proxy};
use portcullis_record::{Event, Layer, Protocol, Recorder};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::info;

/// Puts the networks of a policy's address rules into the kernel; see
/// [`Builder::networks`](crate::Builder::networks).
pub type Networks = Box<dyn Fn(&Policy) -> io::Result<()> + Send + Sync>;

/// What came of putting another policy in force.
#[derive(Debug)]
pub struct Replaced {
    /// Rules of the policy that is in force now.
    pub rules: usize,
    /// Flows that it does not allow: they are reset.
    pub cut: usize,
    /// The kernel's refusal to follow in what is refused at connect(). Each connection is decided on
    /// when it is accepted all the same.
    pub kernel: Option<io::Error>,
}

impl std::fmt::Display for Replaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = |number| if number == 1 { "" } else { "s" };
        let Replaced { rules, cut, kernel } = self;
        write!(f, "{rules} rule{}, {cut} flow{} cut", s(*rules), s(*cut))?;
        match kernel {
            Some(error) => write!(f, "; the kernel's set did not follow: {error}"),
            None => Ok(()),
        }
    }
}

/// Why a policy was not put in force. The one before stays.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// No gateway like this one could be built with it.
    #[error(transparent)]
    Unfit(#[from] BuildError),
    /// The kernel did not take its address rules.
    #[error("the kernel did not take the address rules: {0}")]
    Kernel(#[source] io::Error),
}

impl ReplaceError {
    /// Whether the host lacked something for the moment, such as a descriptor or memory: the same
    /// policy may be put in force a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            ReplaceError::Unfit(BuildError::Range(RangeError::Unknown(error)))
            | ReplaceError::Unfit(BuildError::Unacceptable(error))
            | ReplaceError::Kernel(error) => error.raw_os_error().is_some(),
            _ => false,
        }
    }
}

/// The policy in force, and everything that follows it when another takes its place.
pub(crate) struct PolicySlot {
    pub(crate) policy: PolicyHandle,
    pub(crate) leases: Arc<Leases>,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) recorder: Recorder,
    pub(crate) inspector: Option<Arc<Inspector>>,
    pub(crate) transparent: bool,
    pub(crate) networks: Option<Networks>,
    pub(crate) acceptable: Option<Acceptable>,
    /// Held while a policy is put in the place of another.
    pub(crate) replacing: Mutex<()>,
}

impl PolicySlot {
    /// See [`Gateway::replace_policy`](crate::Gateway::replace_policy).
    pub(crate) fn replace(&self, policy: Policy) -> Result<Replaced, ReplaceError> {
        // One at a time: the steps of two would mix.
        let replacing = self.replacing.lock();
        let _replacing = replacing.unwrap_or_else(PoisonError::into_inner);
        let result = self.put_in_force(Arc::new(policy));
        match &result {
            Ok(replaced) => self.record(Reason::PolicyReloaded, &replaced.to_string()),
            Err(error) => self.record_rejected(&error.to_string()),
        }
        result
    }

    fn put_in_force(&self, policy: Arc<Policy>) -> Result<Replaced, ReplaceError> {
        check(&policy, self.transparent, self.acceptable.as_ref())?;
        portcullis_proxy::covers(self.inspector.as_deref(), &policy).map_err(BuildError::from)?;
        if let Some(networks) = &self.networks
            && let Err(error) = networks(&policy)
        {
            // As it was, as far as the kernel takes that; it has less open now, never more.
            let _ = networks(&self.policy.load());
            return Err(ReplaceError::Kernel(error));
        }
        synthetic::give_range(&self.leases, &policy, self.transparent);
        self.policy.store(policy.clone());
        self.proxy.follow_limits(&policy);
        let kernel = self.leases.follow(&policy).err();
        Ok(Replaced {
            rules: policy.rule_count(),
            cut: self.proxy.recheck(&policy),
            kernel,
        })
    }

    pub(crate) fn record_rejected(&self, why: &str) {
        self.record(Reason::PolicyRejected, why);
    }

    fn record(&self, reason: Reason, detail: &str) {
        info!(reason = reason.code(), detail, "policy");
        let event = Event::new(Layer::Gateway, Protocol::Startup, reason.verdict(), reason);
        self.recorder.decision(event.detail(detail));
    }
}
