//! Another policy under live traffic: checked, put in force in one step, then everything that stands
//! follows.
//!
//! Answers "a reload that fails" and "a reload that narrows" among the threats: what cannot be put in
//! force as a whole is not put in force at all, and what is in force is in force for the flows that
//! stand as well.
//!
//! The order is: what may refuse the policy (the range of made-up addresses, the resolvers, the
//! kernel's list of networks), the swap, the leases with the kernel's set of leased addresses, the
//! flows. A connection that comes in between is decided on by whichever policy it meets and looked at
//! again when it opens.

use crate::gateway::{Gateway, give_range};
use crate::synthetic::{self, RangeError};
use portcullis_policy::{Policy, Reason, Verdict};
use portcullis_record::{Event, Layer, Protocol};
use std::io;
use std::sync::{Arc, PoisonError};

/// Puts the networks of a policy's address rules into the kernel; see
/// [`Builder::networks`](crate::Builder::networks).
pub type Networks = Box<dyn Fn(&Policy) -> io::Result<()> + Send + Sync>;

/// Whether this gateway could serve a policy; see
/// [`Builder::acceptable`](crate::Builder::acceptable).
pub type Acceptable = Box<dyn Fn(&Policy) -> Result<(), String> + Send + Sync>;

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
    /// The range of made-up addresses that it needs is in use.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// This gateway could not serve it.
    #[error("{0}")]
    Unacceptable(String),
    /// The kernel did not take its address rules.
    #[error("the kernel did not take the address rules: {0}")]
    Kernel(#[source] io::Error),
}

impl Gateway {
    /// Puts another policy in force, under live traffic. Leases of names that it lists live on, with
    /// their ports there; addresses that it no longer lists are refused at the next connect(); flows
    /// that it no longer allows are reset. Budgets of new names and what upstream servers were found
    /// to be go on. Names that are new are resolved when they are asked for, also where the policy
    /// says `resolve = "startup"`: nothing waits for them.
    ///
    /// It leaves one record, whatever comes of it.
    ///
    /// # Errors
    /// See [`ReplaceError`]; the policy before is in force then, unchanged.
    pub fn replace_policy(&self, policy: Policy) -> Result<Replaced, ReplaceError> {
        // One at a time: the steps of two would mix.
        let turn = self.replacing.lock();
        let _turn = turn.unwrap_or_else(PoisonError::into_inner);
        let result = self.replace(Arc::new(policy));
        match &result {
            Ok(replaced) => self.note_policy(Reason::PolicyReloaded, &replaced.to_string()),
            Err(error) => self.note_policy(Reason::PolicyRejected, &error.to_string()),
        }
        result
    }

    fn replace(&self, policy: Arc<Policy>) -> Result<Replaced, ReplaceError> {
        if self.needs_range(&policy) {
            synthetic::check_synthetic_range(&policy)?;
        }
        self.covers(&policy)
            .map_err(|error| ReplaceError::Unacceptable(error.to_string()))?;
        if let Some(acceptable) = &self.acceptable {
            acceptable(&policy).map_err(ReplaceError::Unacceptable)?;
        }
        if let Some(networks) = &self.networks
            && let Err(error) = networks(&policy)
        {
            // As it was, as far as the kernel takes that; it has less open now, never more.
            let _ = networks(&self.policy().load());
            return Err(ReplaceError::Kernel(error));
        }
        give_range(self.leases(), &policy, self.transparent);
        self.policy().store(policy.clone());
        self.proxy.follow_limits(&policy);
        let kernel = self.leases().follow(&policy).err();
        Ok(Replaced {
            rules: policy.rule_count(),
            cut: self.proxy.recheck(&policy),
            kernel,
        })
    }

    fn needs_range(&self, policy: &Policy) -> bool {
        synthetic::answers_synthetic(policy) || (self.transparent && synthetic::makes_up(policy))
    }

    /// Leaves the record of a policy that did not even load: `why` is its first error.
    pub fn note_rejected(&self, why: &str) {
        self.note_policy(Reason::PolicyRejected, why);
    }

    fn note_policy(&self, reason: Reason, detail: &str) {
        let verdict: Verdict = reason.verdict();
        let event = Event::new(Layer::Gateway, Protocol::Startup, verdict, reason);
        self.recorder().decision(event.detail(detail));
    }
}
