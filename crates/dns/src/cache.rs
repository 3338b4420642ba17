//! Answers kept: by canonical name and type, bounded by bytes, each valid under one policy.
//!
//! An entry holds the reply's bytes ready to copy, so that a cached answer costs a lookup, a copy
//! and a few patched TTLs. It also remembers under which state of the leases its addresses were
//! granted: while that state stands, nothing need be granted again before the answer is given out.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use portcullis_names::{Name, NameRef, RecordType};
use quick_cache::{Equivalent, Weighter, sync};

use crate::entry::Entry;

/// What a small answer weighs, bytes; used to estimate how many fit.
const TYPICAL_ENTRY_BYTES: u64 = 640;

/// What answers are found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub name: Name,
    pub qtype: RecordType,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyRef::from(self).hash(state);
    }
}

/// A [`Key`] that borrows its name, to look up without allocating.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    pub name: NameRef<'a>,
    pub qtype: RecordType,
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.as_str().hash(state);
        self.qtype.hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.qtype == key.qtype && self.name.as_str() == key.name.as_str()
    }
}

impl<'a> From<&'a Key> for KeyRef<'a> {
    fn from(key: &'a Key) -> KeyRef<'a> {
        KeyRef {
            name: key.name.as_ref(),
            qtype: key.qtype,
        }
    }
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Key, Arc<Entry>> for Bytes {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        (key.name.as_str().len() + entry.bytes()) as u64
    }
}

/// One sandbox's answers.
pub(crate) struct Cache {
    entries: sync::Cache<Key, Arc<Entry>, Bytes>,
}

impl Cache {
    /// A cache of at most `bytes`.
    pub(crate) fn new(bytes: u64) -> Cache {
        let items = (bytes / TYPICAL_ENTRY_BYTES).max(16) as usize;
        Cache {
            entries: sync::Cache::with_weighter(items, bytes, Bytes),
        }
    }

    /// The entry for a question, valid or not.
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Option<Arc<Entry>> {
        self.entries.get(&key)
    }

    /// Keeps an answer, unless a later policy's is there already: a lookup that was under way when
    /// the policy changed must not undo what was found since.
    pub(crate) fn insert(&self, key: Key, entry: Arc<Entry>) {
        let kept = self.get(KeyRef::from(&key));
        if kept.is_none_or(|kept| kept.epoch <= entry.epoch) {
            self.entries.insert(key, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::entry::EntryKind;

    fn key(n: usize) -> Key {
        Key {
            name: Name::from_policy(&format!("n{n}.example")).unwrap(),
            qtype: RecordType::A,
        }
    }

    fn entry() -> Arc<Entry> {
        let mut entry = Entry::new(EntryKind::Found, Instant::now(), Duration::from_secs(60), 0);
        entry.body.bytes = vec![0; 200].into();
        Arc::new(entry)
    }

    #[test]
    fn a_million_names_keep_the_cache_within_its_bytes() {
        let limit = 256 * 1024;
        let cache = Cache::new(limit);
        for n in 0..10_000 {
            cache.insert(key(n), entry());
        }
        assert!(cache.entries.weight() <= limit);
        assert!(cache.entries.len() > 100, "and it does keep answers");
    }

    #[test]
    fn a_borrowed_key_finds_what_an_owned_one_put_in() {
        let cache = Cache::new(1 << 20);
        cache.insert(key(1), entry());
        let key = key(1);
        assert!(
            cache
                .get(KeyRef {
                    name: key.name.as_ref(),
                    qtype: RecordType::A
                })
                .is_some()
        );
        assert!(
            cache
                .get(KeyRef {
                    name: key.name.as_ref(),
                    qtype: RecordType::AAAA
                })
                .is_none()
        );
    }

    #[test]
    fn an_older_policys_lookup_does_not_replace_a_later_ones() {
        let cache = Cache::new(1 << 20);
        let of = |epoch| {
            let (now, ttl) = (Instant::now(), Duration::from_secs(60));
            Arc::new(Entry::new(EntryKind::Found, now, ttl, epoch))
        };
        let key = key(1);
        let kept = || cache.get(KeyRef::from(&key)).map(|entry| entry.epoch);
        for (epoch, then) in [(2, 2), (1, 2), (2, 2), (3, 3)] {
            cache.insert(key.clone(), of(epoch));
            assert_eq!(kept(), Some(then));
        }
    }
}
