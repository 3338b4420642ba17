//! What a rule says about the flows that it lets through: what they may carry, how much, and how
//! fast; and the same limits for a whole sandbox.
//!
//! Answers *exhaustion* (docs/threats.md). What the rules of one pattern say for one port adds up to the narrowest:
//! a request has to pass every one of them, so that no file and no flag widens another's rule
//! without anybody noticing. Limits of one port come from one rule; two do not load.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use crate::http::{MethodSet, PathSet};

/// What the rule that allowed a flow says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTerms {
    /// The rule's pattern and ports in canonical form: the same for the same rule of a policy that
    /// was loaded again. Flows with one key share the rule's limits.
    pub key: Box<str>,
    /// TLS is opened, so that its requests can be decided on.
    pub inspect: bool,
    /// Certificates (PEM) that vouch for the upstream besides the host's own, where `inspect`.
    pub ca_pem: Option<Arc<str>>,
    /// The methods that requests may have; every one where none are named.
    pub methods: Option<MethodSet>,
    /// The paths that requests may have; every one where none are named.
    pub paths: Option<PathSet>,
    /// The rule's limits.
    pub limits: RuleLimits,
}

impl RuleTerms {
    /// Whether nothing but requests that are decided on one by one may pass.
    pub fn only_http(&self) -> bool {
        self.methods.is_some() || self.paths.is_some()
    }

    /// Whether a connection may change to another protocol (WebSocket). Behind it there are no
    /// methods any more, so a rule that limits methods lets none through; a rule for paths alone
    /// has decided on the path that it leads to.
    pub fn allows_upgrade(&self) -> bool {
        self.methods.is_none()
    }
}

/// The limits of one rule, over all of its flows in one sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleLimits {
    /// Bytes per second, up and down together.
    pub rate: Option<NonZeroU64>,
    /// Flows at once.
    pub connections: Option<NonZeroU32>,
    /// New flows per second.
    pub connections_per_second: Option<NonZeroU32>,
    /// Bytes in the sandbox's life, up and down together.
    pub total_bytes: Option<NonZeroU64>,
    /// How long a flow may carry nothing.
    pub idle_timeout: Option<Duration>,
}

impl RuleLimits {
    /// Whether the rule limits nothing.
    pub fn is_empty(&self) -> bool {
        *self == RuleLimits::default()
    }
}

/// What a rule says about its flows; many rules share one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Says {
    pub inspect: bool,
    pub ca_pem: Option<Arc<str>>,
    pub methods: Option<MethodSet>,
    pub paths: Option<PathSet>,
    pub limits: RuleLimits,
}

impl Says {
    pub fn only_http(&self) -> bool {
        self.methods.is_some() || self.paths.is_some()
    }
}

/// What rules of one pattern say together. `said` comes in the rules' own order; `key` is asked for
/// the rule that has the limits, or else for the first.
pub(crate) fn together<'t, R: Copy>(
    said: impl Iterator<Item = (R, &'t Says)>,
    limited: bool,
    key: impl FnOnce(R) -> Box<str>,
    any: impl FnOnce() -> Option<R>,
) -> Option<Arc<RuleTerms>> {
    let mut all = Says::default();
    let mut named: Option<R> = None;
    for (rule, one) in said {
        if named.is_none() || !one.limits.is_empty() {
            named = Some(rule);
        }
        all.inspect |= one.inspect;
        all.ca_pem = match (all.ca_pem.take(), &one.ca_pem) {
            (Some(a), Some(b)) if a != *b => Some(format!("{a}\n{b}").into()),
            (a, b) => a.or_else(|| b.clone()),
        };
        all.methods = match (all.methods.take(), &one.methods) {
            (Some(a), Some(b)) => Some(a.intersection(b)),
            (a, b) => a.or_else(|| b.clone()),
        };
        all.paths = match (all.paths.take(), &one.paths) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or_else(|| b.clone()),
        };
        if !one.limits.is_empty() {
            all.limits = one.limits;
        }
    }
    if limited {
        let safe = MethodSet::limited();
        all.methods = Some(match &all.methods {
            Some(own) => own.intersection(&safe),
            None => safe,
        });
        named = named.or_else(any);
    }
    let key = key(named?);
    let Says {
        inspect,
        ca_pem,
        methods,
        paths,
        limits,
    } = all;
    Some(Arc::new(RuleTerms {
        key,
        inspect,
        ca_pem,
        methods,
        paths,
        limits,
    }))
}
