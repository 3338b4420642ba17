//! Canonical names: the names of a listed name's CNAME chain, while the chain is known.
//!
//! A program that learnt a host's canonical name (`getfqdn`, Kerberos) may look that name up too.
//! Answers *resolution as a way out* (docs/threats.md): an entry here lifts nothing but the lookup
//! of A, AAAA and PTR, each use is decided again under the listed name it came from, and it ends
//! when the chain is forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use portcullis_names::{Name, NameRef};
use smallvec::SmallVec;

/// Canonical names known for one sandbox.
const MAX_CANONICAL_NAMES: usize = 16_384;

/// Listed names remembered for one canonical name.
const MAX_OWNERS: usize = 8;

/// The listed names behind a canonical name.
pub(crate) type Owners = SmallVec<[Name; 2]>;

#[derive(Debug)]
struct Owner {
    listed: Name,
    until: Instant,
}

/// One sandbox's canonical names.
#[derive(Debug, Default)]
pub(crate) struct CanonicalNames {
    /// Changes whenever a canonical name gets an owner that it did not have.
    learnt: AtomicU64,
    table: Mutex<HashMap<Name, SmallVec<[Owner; 1]>>>,
}

impl CanonicalNames {
    /// Remembers that a chain from `listed` led to `canonical`, until `until`.
    ///
    /// A full table forgets what has run out, and otherwise does not learn: the canonical name
    /// then stays unlisted, which fails closed.
    pub(crate) fn learn(&self, canonical: &Name, listed: &Name, now: Instant, until: Instant) {
        let mut table = self.lock();
        if !table.contains_key(canonical) && table.len() >= MAX_CANONICAL_NAMES {
            table.retain(|_, owners| owners.iter().any(|owner| now < owner.until));
            if table.len() >= MAX_CANONICAL_NAMES {
                return;
            }
        }
        let owners = table.entry(canonical.clone()).or_default();
        if let Some(owner) = owners.iter_mut().find(|owner| owner.listed == *listed) {
            if owner.until <= now {
                self.learnt.fetch_add(1, Ordering::AcqRel);
            }
            owner.until = owner.until.max(until);
            return;
        }
        owners.retain(|owner| now < owner.until);
        if owners.len() < MAX_OWNERS {
            self.learnt.fetch_add(1, Ordering::AcqRel);
            owners.push(Owner {
                listed: listed.clone(),
                until,
            });
        }
    }

    /// How often a canonical name got an owner: while the number stands, a name that was none is
    /// none.
    pub(crate) fn learnt(&self) -> u64 {
        self.learnt.load(Ordering::Acquire)
    }

    /// The listed names whose chains led to `canonical`; empty where none is known.
    pub(crate) fn owners(&self, canonical: NameRef<'_>, now: Instant) -> Owners {
        if self.learnt() == 0 {
            return Owners::new();
        }
        match self.lock().get(canonical.as_str()) {
            None => Owners::new(),
            Some(owners) => owners
                .iter()
                .filter(|o| now < o.until)
                .map(|o| o.listed.clone())
                .collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, SmallVec<[Owner; 1]>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_policy(text).unwrap()
    }

    #[test]
    fn a_canonical_name_is_known_while_its_chain_is() {
        let names = CanonicalNames::default();
        let now = Instant::now();
        let (listed, end) = (name("listed.example"), name("end.example"));
        names.learn(&end, &listed, now, now + Duration::from_secs(10));
        assert_eq!(
            names.owners(end.as_ref(), now).as_slice(),
            std::slice::from_ref(&listed)
        );
        assert!(names.owners(listed.as_ref(), now).is_empty());
        assert!(
            names
                .owners(end.as_ref(), now + Duration::from_secs(10))
                .is_empty()
        );
    }

    #[test]
    fn a_million_canonical_names_keep_the_table_bounded() {
        let names = CanonicalNames::default();
        let now = Instant::now();
        let listed = name("listed.example");
        for n in 0..MAX_CANONICAL_NAMES + 100 {
            names.learn(
                &name(&format!("c{n}.example")),
                &listed,
                now,
                now + Duration::from_secs(9),
            );
        }
        assert_eq!(names.lock().len(), MAX_CANONICAL_NAMES);
        let later = now + Duration::from_secs(9);
        names.learn(
            &name("late.example"),
            &listed,
            later,
            later + Duration::from_secs(9),
        );
        assert_eq!(names.lock().len(), 1);
    }

    #[test]
    fn owners_of_one_canonical_name_are_bounded() {
        let names = CanonicalNames::default();
        let now = Instant::now();
        let end = name("end.example");
        for n in 0..MAX_OWNERS + 5 {
            let listed = name(&format!("l{n}.example"));
            names.learn(&end, &listed, now, now + Duration::from_secs(9));
        }
        assert_eq!(names.owners(end.as_ref(), now).len(), MAX_OWNERS);
    }
}
