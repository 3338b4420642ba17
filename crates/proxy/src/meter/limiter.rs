//! The limits of one sandbox and of its rules: who may come in, and which share is whose.
//!
//! A rule is known by its key, which is the same after its policy was loaded again; so what it has
//! used outlives a reload, and a changed limit takes effect at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_names::Transport;
use portcullis_policy::{
    ConnectPermit, DatagramPermit, Destination, FlowLimits, Mode, PermitTarget, Policy, Request,
    RuleTerms,
};

use super::flow::Meter;
use super::share::{Of, Open, OverLimit, Share};

/// The limits of one sandbox.
#[derive(Debug)]
pub(crate) struct Limiter {
    sandbox: Arc<Share>,
    /// Whether the sandbox itself has limits; without them its share is not asked.
    limited: AtomicBool,
    /// Whether limits hold at all: not where the policy only watches.
    enforces: AtomicBool,
    /// The rules with limits that were used, by their keys: no more than the policy has, since
    /// those that it has no longer go with a reload.
    rules: Mutex<HashMap<Box<str>, Rule>>,
}

#[derive(Debug)]
struct Rule {
    share: Arc<Share>,
    /// A destination that it allowed: who asks a policy for it learns what became of the rule.
    target: PermitTarget,
    port: u16,
    transport: Transport,
}

/// A permit, of either transport.
#[derive(Clone, Copy)]
pub(crate) struct Permitted<'p> {
    terms: Option<&'p Arc<RuleTerms>>,
    target: &'p PermitTarget,
    port: u16,
    transport: Transport,
}

impl<'p> From<&'p ConnectPermit> for Permitted<'p> {
    fn from(permit: &'p ConnectPermit) -> Self {
        Permitted {
            terms: permit.terms(),
            target: permit.target(),
            port: permit.port(),
            transport: Transport::Tcp,
        }
    }
}

impl<'p> From<&'p DatagramPermit> for Permitted<'p> {
    fn from(permit: &'p DatagramPermit) -> Self {
        Permitted {
            terms: permit.terms(),
            target: permit.target(),
            port: permit.port(),
            transport: Transport::Udp,
        }
    }
}

/// A flow's place among those of its rule, where that has limits. All that belongs to the flow
/// holds it.
pub(crate) type Admitted = Option<Arc<Open>>;

impl Limiter {
    pub(crate) fn new(policy: &Policy) -> Limiter {
        let limiter = Limiter {
            sandbox: Share::new(Of::Sandbox, FlowLimits::default()),
            limited: AtomicBool::new(false),
            enforces: AtomicBool::new(true),
            rules: Mutex::default(),
        };
        limiter.follow(policy);
        limiter
    }

    /// Takes over the limits of a policy that came into force. Flows that stand keep what they are
    /// limited by, at the new rates; limits where there were none are for new flows.
    pub(crate) fn follow(&self, policy: &Policy) {
        let enforces = policy.mode() != Mode::Audit;
        let limits = if enforces {
            FlowLimits {
                connections: None, // counted where they are accepted, with limits or without
                ..policy.settings().limits.flows
            }
        } else {
            FlowLimits::default()
        };
        self.enforces.store(enforces, Ordering::Release);
        self.sandbox.change(limits);
        self.limited.store(!limits.is_empty(), Ordering::Release);
        self.rules().retain(|key, rule| {
            let terms = rule.terms(policy);
            let same = terms.filter(|terms| terms.key == *key && enforces);
            let limits = same.as_ref().map(|terms| terms.limits);
            rule.share.change(limits.unwrap_or_default());
            limits.is_some_and(|limits| !limits.is_empty())
        });
    }

    /// Takes in a connection of the sandbox. How many there are is not counted here.
    ///
    /// # Errors
    /// The limit that it is above.
    pub(crate) fn enter(&self) -> Result<(), OverLimit> {
        if !self.limited.load(Ordering::Acquire) {
            return Ok(());
        }
        self.sandbox.open().map(drop)
    }

    /// Takes in a flow of the rule that permits it; one that is in already stays where it is.
    ///
    /// # Errors
    /// The limit of the rule that it is above.
    pub(crate) fn admit<'p>(
        &self,
        permit: impl Into<Permitted<'p>>,
        already: Option<&Arc<Open>>,
    ) -> Result<Admitted, OverLimit> {
        let Some(share) = self.share(permit.into()) else {
            return Ok(None);
        };
        match already {
            Some(open) if Arc::ptr_eq(open.share(), &share) => Ok(Some(open.clone())),
            _ => share.open().map(|open| Some(Arc::new(open))),
        }
    }

    /// A meter for a flow that was taken in, where anything is to be metered.
    pub(crate) fn meter(&self, admitted: Option<&Arc<Open>>) -> Option<Box<Meter>> {
        let limited = self.limited.load(Ordering::Acquire);
        let sandbox = limited.then(|| self.sandbox.clone());
        Meter::new([sandbox, admitted.map(|open| open.share().clone())])
    }

    fn share(&self, permit: Permitted<'_>) -> Option<Arc<Share>> {
        let terms = permit.terms?;
        if terms.limits.is_empty() || !self.enforces.load(Ordering::Acquire) {
            return None;
        }
        let mut rules = self.rules();
        if let Some(rule) = rules.get(&terms.key) {
            return Some(rule.share.clone());
        }
        let share = Share::new(Of::Rule, terms.limits);
        let rule = Rule {
            share: share.clone(),
            target: permit.target.clone(),
            port: permit.port,
            transport: permit.transport,
        };
        rules.insert(terms.key.clone(), rule);
        Some(share)
    }

    fn rules(&self) -> MutexGuard<'_, HashMap<Box<str>, Rule>> {
        // Plain values: whoever panicked with it left it whole.
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule {
    /// What `policy` says about a flow that the rule allowed.
    fn terms(&self, policy: &Policy) -> Option<Arc<RuleTerms>> {
        let to = &match &self.target {
            PermitTarget::Name(name) | PermitTarget::NameAt(name, _) => {
                Destination::name(name.as_ref())
            }
            PermitTarget::Address(address) => Destination::address(*address),
            // No rule is about it.
            PermitTarget::Inside(_) => return None,
        };
        let port = self.port;
        match self.transport {
            Transport::Tcp => {
                let decision = policy.decide(&Request::Connect { to, port });
                decision.connect_permit()?.terms().cloned()
            }
            Transport::Udp => {
                let decision = policy.decide(&Request::Datagrams { to, port });
                decision.datagram_permit()?.terms().cloned()
            }
        }
    }
}
