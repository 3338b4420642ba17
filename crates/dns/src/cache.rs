//! Answers kept: by canonical name and type, bounded by bytes, each valid under one policy.
//!
//! An entry holds the reply's bytes ready to copy, so that a cached answer costs a lookup, a copy
//! and a few patched TTLs. It also remembers under which state of the leases its addresses were
//! granted: while that state stands, nothing need be granted again before the answer is given out.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis_names::{Name, NameRef, RecordType};
use portcullis_policy::Reason;
use quick_cache::{Equivalent, Weighter, sync};
use smallvec::SmallVec;

use crate::reply::Body;

/// What an entry is taken to weigh besides its variable parts, bytes: itself, its key, its slot.
const ENTRY_OVERHEAD_BYTES: usize = size_of::<Entry>() + 160;

/// What a small answer weighs, bytes; used to estimate how many fit.
const TYPICAL_ENTRY_BYTES: u64 = 640;

/// Answers that hold for less are not fetched ahead of their end: they would be asked for without
/// pause.
const MIN_REFRESHED_TTL: Duration = Duration::from_secs(10);

/// The part of an answer's life, counted from its end, in which it is fetched anew: a tenth.
const REFRESH_PART: u32 = 10;

/// How often an answer must have been given out to be fetched anew before somebody has to wait.
const HOT_USES: u32 = 3;

/// How an upstream's answer is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Records, or a name without records of this type.
    Found,
    /// The name does not exist, says the upstream.
    NameNotFound,
    /// Every address of either family is guarded, and no rule lifts any.
    Private,
    /// Every address of this family is guarded; the other family may have usable ones, which an
    /// NXDOMAIN would take away too (RFC 8020).
    PrivateFamily,
    /// No usable answer.
    Failed(Reason),
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Entry {
    pub outcome: Outcome,
    pub body: Body,
    /// Addresses that may be given out.
    pub addresses: SmallVec<[IpAddr; 4]>,
    /// Addresses that the guard took out.
    pub refused: SmallVec<[IpAddr; 1]>,
    /// The names of the CNAME chain after the asked one.
    pub targets: SmallVec<[Name; 2]>,
    /// The host name that a reverse lookup found.
    pub pointer: Option<Name>,
    pub born: Instant,
    pub expires: Instant,
    /// The policy's epoch under which addresses were sorted into given out and taken out.
    pub epoch: u64,
    /// Who answered, as text, so that a record of a cached answer formats nothing.
    pub server: Option<Arc<str>>,
    pub attempts: u32,
    /// What went wrong, for the operator's record.
    pub detail: Option<Box<str>>,
    /// Set where the answer had run out and is given out again (RFC 8767): when it ran out.
    pub stale_since: Option<Instant>,
    /// From then on a hot answer is fetched anew.
    refresh_at: Instant,
    /// How often it was given out, roughly: threads that count at the same moment count once.
    uses: AtomicU32,
    /// Whether somebody fetches it anew already.
    refreshed: AtomicBool,
    /// The leases' state under which the addresses were granted; [`NEVER_LEASED`] at first.
    leased: AtomicU64,
}

const NEVER_LEASED: u64 = u64::MAX;

impl Entry {
    /// An answer with nothing in it.
    pub(crate) fn new(outcome: Outcome, born: Instant, ttl: Duration, epoch: u64) -> Entry {
        Entry {
            outcome,
            body: Body::default(),
            addresses: SmallVec::new(),
            refused: SmallVec::new(),
            targets: SmallVec::new(),
            pointer: None,
            born,
            expires: born + ttl,
            epoch,
            server: None,
            attempts: 0,
            detail: None,
            stale_since: None,
            refresh_at: born + ttl - ttl / REFRESH_PART,
            uses: AtomicU32::new(0),
            refreshed: AtomicBool::new(ttl < MIN_REFRESHED_TTL),
            leased: AtomicU64::new(NEVER_LEASED),
        }
    }

    /// Notes who answered.
    pub(crate) fn answered_by(mut self, server: Option<Arc<str>>, attempts: u32) -> Entry {
        self.server = server;
        self.attempts = attempts;
        self
    }

    /// Whether the entry may still be given out.
    pub(crate) fn is_valid(&self, now: Instant, epoch: u64) -> bool {
        now < self.expires && self.epoch == epoch
    }

    /// How long the answer still holds.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.expires.saturating_duration_since(now)
    }

    /// Counts one more time that it was given out.
    pub(crate) fn count_use(&self) {
        // No read-modify-write: a lost count costs nothing, and a shared cache line would.
        let uses = self.uses.load(Ordering::Relaxed);
        self.uses.store(uses.saturating_add(1), Ordering::Relaxed);
    }

    /// Whether a valid answer should be fetched anew before it runs out: it is in demand, near its
    /// end, and nobody does so yet.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.refresh_at
            && !self.refreshed.load(Ordering::Relaxed)
            && self.uses.load(Ordering::Relaxed) >= HOT_USES
    }

    /// Makes the caller the one who fetches a due answer anew; `false` for everybody else.
    pub(crate) fn claim_refresh(&self, now: Instant) -> bool {
        self.is_due(now) && !self.refreshed.swap(true, Ordering::Relaxed)
    }

    /// The end of the CNAME chain, where there is one.
    pub(crate) fn canonical(&self) -> Option<&Name> {
        self.targets.last()
    }

    /// Whether the addresses were granted under this state of the leases.
    pub(crate) fn is_leased(&self, state: u64) -> bool {
        self.leased.load(Ordering::Acquire) == state
    }

    /// Notes that the addresses are granted.
    pub(crate) fn set_leased(&self, state: u64) {
        self.leased.store(state, Ordering::Release);
    }

    fn bytes(&self) -> usize {
        ENTRY_OVERHEAD_BYTES
            + self.body.bytes.len()
            + self.body.ttls.len() * 2
            + self
                .targets
                .iter()
                .map(|name| name.as_str().len() + 32)
                .sum::<usize>()
            + self.detail.as_ref().map_or(0, |detail| detail.len())
    }
}

/// What answers are found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub name: Name,
    pub qtype: RecordType,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyRef {
            name: self.name.as_ref(),
            qtype: self.qtype,
        }
        .hash(state);
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
        let kept = self.get(KeyRef {
            name: key.name.as_ref(),
            qtype: key.qtype,
        });
        if kept.is_none_or(|kept| kept.epoch <= entry.epoch) {
            self.entries.insert(key, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        Key {
            name: Name::from_policy(&format!("n{n}.example")).unwrap(),
            qtype: RecordType::A,
        }
    }

    fn entry() -> Arc<Entry> {
        let mut entry = Entry::new(Outcome::Found, Instant::now(), Duration::from_secs(60), 0);
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
    fn a_hot_answer_is_due_once_in_the_last_tenth_of_its_life() {
        let now = Instant::now();
        let entry = Entry::new(Outcome::Found, now, Duration::from_secs(100), 0);
        let late = now + Duration::from_secs(90);
        assert!(!entry.is_due(late), "nobody asks for it");
        (0..HOT_USES).for_each(|_| entry.count_use());
        assert!(!entry.is_due(late - Duration::from_millis(1)));
        assert!(entry.is_due(late));
        assert!(entry.claim_refresh(late));
        assert!(!entry.claim_refresh(late) && !entry.is_due(late), "once");
        let short = Entry::new(Outcome::Found, now, Duration::from_secs(9), 0);
        (0..HOT_USES).for_each(|_| short.count_use());
        assert!(!short.is_due(now + Duration::from_secs(9)));
    }

    #[test]
    fn an_older_policys_lookup_does_not_replace_a_later_ones() {
        let cache = Cache::new(1 << 20);
        let of = |epoch| {
            let (now, ttl) = (Instant::now(), Duration::from_secs(60));
            Arc::new(Entry::new(Outcome::Found, now, ttl, epoch))
        };
        let key = key(1);
        let kept = || {
            let key = KeyRef {
                name: key.name.as_ref(),
                qtype: key.qtype,
            };
            cache.get(key).map(|entry| entry.epoch)
        };
        for (epoch, then) in [(2, 2), (1, 2), (2, 2), (3, 3)] {
            cache.insert(key.clone(), of(epoch));
            assert_eq!(kept(), Some(then));
        }
    }

    #[test]
    fn an_entry_ends_with_its_ttl_and_with_its_policy() {
        let now = Instant::now();
        let entry = Entry::new(Outcome::Found, now, Duration::from_secs(60), 7);
        assert!(entry.is_valid(now, 7));
        assert!(!entry.is_valid(now, 8));
        assert!(!entry.is_valid(now + Duration::from_secs(60), 7));
        assert!(!entry.is_leased(0));
        entry.set_leased(3);
        assert!(entry.is_leased(3) && !entry.is_leased(4));
    }
}
