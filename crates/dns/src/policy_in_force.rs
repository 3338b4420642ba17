//! The policy in force, and how many came before it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use portcullis_names::{Name, NameRef, RecordType};
use portcullis_policy::{Decision, LookupPermit, Policy, Request};

/// The policy in force, swapped under live traffic on reload.
pub type PolicyHandle = Arc<ArcSwap<Policy>>;

/// One policy as it was found in force.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub policy: Arc<Policy>,
    /// How many policies came before it. Answers of another epoch are not given out.
    pub epoch: u64,
}

impl InForce {
    /// Decides a lookup.
    pub(crate) fn decide<'n>(&self, name: NameRef<'n>, qtype: RecordType) -> Decision<'n> {
        self.policy.decide(&Request::Lookup { name, qtype })
    }

    /// A permit to look up a name's addresses, where those of either family may be asked for.
    pub(crate) fn address_permit(&self, name: &Name) -> Option<LookupPermit> {
        let decide = |qtype| self.decide(name.as_ref(), qtype).lookup_permit();
        decide(RecordType::A).or_else(|| decide(RecordType::AAAA))
    }
}

/// Numbers the policies that come into force.
#[derive(Debug)]
pub(crate) struct PolicyInForce {
    handle: PolicyHandle,
    /// The policy that was seen last. Holding it keeps its address from being used again, so that
    /// comparing pointers tells policies apart.
    seen: ArcSwap<InForce>,
    /// Held while a new policy is numbered.
    numbering: Mutex<()>,
}

impl PolicyInForce {
    pub(crate) fn new(handle: PolicyHandle) -> PolicyInForce {
        let seen = InForce {
            policy: handle.load_full(),
            epoch: 0,
        };
        PolicyInForce {
            handle,
            seen: ArcSwap::from_pointee(seen),
            numbering: Mutex::default(),
        }
    }

    /// The policy in force and its epoch.
    pub(crate) fn current(&self) -> InForce {
        self.numbered().unwrap_or_else(|_| self.number())
    }

    /// Gives the policy in force another epoch: what was found until now is not given out any more.
    pub(crate) fn renew(&self) {
        let numbering = self.numbering.lock();
        let _one_at_a_time = numbering.unwrap_or_else(PoisonError::into_inner);
        let next = InForce {
            policy: self.handle.load_full(),
            epoch: self.seen.load().epoch + 1,
        };
        self.seen.store(Arc::new(next));
    }

    /// The policy in force; as an error, with the next epoch, where it has no number yet.
    fn numbered(&self) -> Result<InForce, InForce> {
        let policy = self.handle.load_full();
        let seen = self.seen.load();
        let epoch = seen.epoch;
        if Arc::ptr_eq(&seen.policy, &policy) {
            return Ok(InForce { policy, epoch });
        }
        let epoch = epoch + 1;
        Err(InForce { policy, epoch })
    }

    #[cold]
    fn number(&self) -> InForce {
        let numbering = self.numbering.lock();
        let _one_at_a_time = numbering.unwrap_or_else(PoisonError::into_inner);
        // Read again: another thread may have been here, and an older policy must not come back.
        self.numbered().unwrap_or_else(|next| {
            self.seen.store(Arc::new(next.clone()));
            next
        })
    }
}
