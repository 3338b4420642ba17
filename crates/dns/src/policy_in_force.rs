//! The policy in force, and how many came before it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use portcullis_policy::Policy;

/// The policy in force, swapped under live traffic on reload.
pub type PolicyHandle = Arc<ArcSwap<Policy>>;

/// One policy as it was found in force.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub policy: Arc<Policy>,
    /// How many policies came before it. Answers of another epoch are not given out.
    pub epoch: u64,
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
        let policy = self.handle.load_full();
        let seen = self.seen.load();
        if Arc::ptr_eq(&seen.policy, &policy) {
            let epoch = seen.epoch;
            return InForce { policy, epoch };
        }
        drop(seen);
        let _one_at_a_time = self
            .numbering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Read again: another thread may have been here, and an older policy must not come back.
        let policy = self.handle.load_full();
        let seen = self.seen.load();
        if Arc::ptr_eq(&seen.policy, &policy) {
            let epoch = seen.epoch;
            return InForce { policy, epoch };
        }
        let next = InForce {
            policy,
            epoch: seen.epoch + 1,
        };
        self.seen.store(Arc::new(next.clone()));
        next
    }
}
