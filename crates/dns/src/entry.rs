//! One answer: what it says, who found it, and for how long it is right.
//!
//! Answers "a name that worked a minute ago is gone because a resolver is": an answer that has run
//! out is given out again while the upstreams fail (RFC 8767), with EDE 3 and a reason of its own.
//! Answers "failures that cost the upstreams more than answers do": a failure is remembered for
//! longer the more often it comes again (RFC 9520).
//!
//! Invariant: what is given out again was found under the policy in force. Another policy may name
//! other resolvers, lift other addresses or follow no CNAME, so its answers are looked up anew.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis_names::{Name, RecordType};
use portcullis_policy::Reason;
use smallvec::SmallVec;

use crate::reply::{Body, rcode};
use crate::upstream::Unanswered;

/// What an entry is taken to weigh besides its variable parts, bytes: itself, its key, its slot.
const ENTRY_OVERHEAD_BYTES: usize = size_of::<Entry>() + 160;

/// Answers that hold for less are not fetched ahead of their end: they would be asked for without
/// pause.
const MIN_REFRESHED_TTL: Duration = Duration::from_secs(10);

/// The part of an answer's life, counted from its end, in which it is fetched anew: a tenth.
const REFRESH_PART: u32 = 10;

/// How often an answer must have been given out to be fetched anew before somebody has to wait.
const HOT_USES: u32 = 3;

/// How long after its end an answer may be given out again. RFC 8767 5 advises one to three days;
/// the shortest of them, since an address opens the gate for the name, and addresses change hands.
pub(crate) const MAX_STALE: Duration = Duration::from_secs(24 * 3_600);

/// How long an answer holds that is given out again, and how long the upstreams are then left in
/// peace (RFC 8767 5: 30 s for both).
pub(crate) const STALE_TTL: Duration = Duration::from_secs(30);

/// How long a program waits for a lookup before it gets the earlier answer (RFC 8767 5).
pub(crate) const CLIENT_RESPONSE_TIMER: Duration = Duration::from_millis(1_800);

/// What the record says where the lookup takes longer than [`CLIENT_RESPONSE_TIMER`].
pub(crate) const SLOW: &str = "given out again: the lookup takes longer than 1.8 s";

/// How a failure becomes the detail of an answer given out again.
pub(crate) fn because(detail: Option<&str>) -> String {
    format!("given out again: {}", detail.unwrap_or("the lookup failed"))
}

/// How long a failure is remembered at first (RFC 9520 3.2 asks for at least a second).
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// How long a failure is remembered at most. RFC 9520 allows five minutes; a name that an outage
/// took should be back soon after it.
const FAILURE_TTL_CEILING: Duration = Duration::from_secs(8);

/// A failure this long after the one before it counts as the first.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);

/// How long a failed reverse lookup is remembered.
const REVERSE_FAILURE_TTL: Duration = Duration::from_secs(60);

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
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
    pub kind: EntryKind,
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
    /// What a failure says of the question.
    pub unanswered: Unanswered,
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
    pub(crate) fn new(kind: EntryKind, born: Instant, ttl: Duration, epoch: u64) -> Entry {
        Entry {
            kind,
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
            unanswered: Unanswered::default(),
            stale_since: None,
            refresh_at: born + ttl - ttl / REFRESH_PART,
            uses: AtomicU32::new(0),
            refreshed: AtomicBool::new(ttl < MIN_REFRESHED_TTL),
            leased: AtomicU64::new(NEVER_LEASED),
        }
    }

    /// Adds who answered.
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

    /// Remembers that the addresses are granted.
    pub(crate) fn set_leased(&self, state: u64) {
        self.leased.store(state, Ordering::Release);
    }

    /// An entry that says why there is no answer.
    pub(crate) fn failed(
        reason: Reason,
        detail: &str,
        qtype: RecordType,
        born: Instant,
        epoch: u64,
    ) -> Entry {
        let ttl = if qtype == RecordType::PTR {
            REVERSE_FAILURE_TTL
        } else {
            FAILURE_TTL
        };
        let mut entry = Entry::new(EntryKind::Failed(reason), born, ttl, epoch);
        entry.detail = Some(detail.into());
        entry
    }

    /// A failure that comes after what was kept before it: after another failure it is remembered
    /// for twice as long as that one, up to a limit (RFC 9520 3.2).
    pub(crate) fn after(mut self, kept: &Entry) -> Entry {
        let again = matches!(kept.kind, EntryKind::Failed(_))
            && self.born.saturating_duration_since(kept.expires) < FAILURE_MEMORY;
        if again {
            let before = kept.left(kept.born);
            let ttl = (before * 2)
                .min(FAILURE_TTL_CEILING)
                .max(self.left(self.born));
            self.expires = self.born + ttl;
        }
        self
    }

    /// Whether this answer may be given out after its end: records, or a name without records of
    /// this type. An NXDOMAIN is not: to say that a name is gone takes somebody who knows.
    pub(crate) fn outlives_its_end(&self, now: Instant, epoch: u64, qtype: RecordType) -> bool {
        let end = self.stale_since.unwrap_or(self.expires);
        self.kind == EntryKind::Found
            && self.body.rcode == rcode::NO_ERROR
            // A reverse lookup has the lease's own name to answer.
            && qtype != RecordType::PTR
            && self.epoch == epoch
            && now < end + MAX_STALE
    }

    /// The same answer, to be given out again from `now` on.
    pub(crate) fn renewed(&self, now: Instant, detail: &str) -> Arc<Entry> {
        let mut entry = Entry::new(self.kind, now, STALE_TTL, self.epoch);
        entry.body = self.body.with_ttl(STALE_TTL.as_secs() as u32);
        entry.addresses.clone_from(&self.addresses);
        entry.refused.clone_from(&self.refused);
        entry.targets.clone_from(&self.targets);
        entry.server.clone_from(&self.server);
        entry.stale_since = Some(self.stale_since.unwrap_or(self.expires));
        entry.detail = Some(detail.into());
        Arc::new(entry)
    }

    /// Whether the answer had run out before it was given out.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale_since.is_some()
    }

    /// What it takes of the cache's memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: RecordType = RecordType::A;

    #[test]
    fn an_answer_is_given_out_again_for_a_day_and_under_its_own_policy() {
        let born = Instant::now();
        let entry = Entry::new(EntryKind::Found, born, Duration::from_secs(60), 3);
        let end = entry.expires;
        assert!(entry.outlives_its_end(end, 3, A));
        assert!(!entry.outlives_its_end(end, 4, A), "another policy");
        assert!(!entry.outlives_its_end(end, 3, RecordType::PTR));
        let last = end + MAX_STALE - Duration::from_secs(1);
        let renewed = entry.renewed(last, SLOW);
        assert!(renewed.is_stale() && renewed.is_valid(last, 3));
        assert!(renewed.outlives_its_end(last, 3, A));
        let after = last + Duration::from_secs(1);
        assert!(
            !renewed.outlives_its_end(after, 3, A),
            "the day counts from the true answer's end"
        );
    }

    #[test]
    fn only_an_answer_is_given_out_again() {
        let now = Instant::now();
        let failed = EntryKind::Failed(Reason::DnsTimeout);
        for kind in [
            EntryKind::NameNotFound,
            EntryKind::Private,
            EntryKind::PrivateFamily,
            failed,
        ] {
            let entry = Entry::new(kind, now, Duration::ZERO, 0);
            assert!(!entry.outlives_its_end(now, 0, A), "{kind:?}");
        }
    }

    #[test]
    fn failures_in_a_row_are_remembered_longer_up_to_a_limit() {
        let failed = EntryKind::Failed(Reason::DnsTimeout);
        let mut now = Instant::now();
        let mut kept = Entry::new(failed, now, FAILURE_TTL, 0);
        let mut times = Vec::new();
        for _ in 0..5 {
            now = kept.expires + Duration::from_secs(4);
            kept = Entry::new(failed, now, FAILURE_TTL, 0).after(&kept);
            times.push(kept.left(now).as_secs());
        }
        assert_eq!(times, [2, 4, 8, 8, 8]);
        now = kept.expires + FAILURE_MEMORY;
        let late = Entry::new(failed, now, FAILURE_TTL, 0).after(&kept);
        assert_eq!(late.left(now), FAILURE_TTL);
        let reverse = Entry::new(failed, now, REVERSE_FAILURE_TTL, 0).after(&kept);
        assert_eq!(reverse.left(now), REVERSE_FAILURE_TTL);
        let found = Entry::new(EntryKind::Found, now, Duration::from_secs(9), 0);
        let first = Entry::new(failed, now, FAILURE_TTL, 0).after(&found);
        assert_eq!(first.left(now), FAILURE_TTL);
    }

    #[test]
    fn a_hot_answer_is_due_once_in_the_last_tenth_of_its_life() {
        let now = Instant::now();
        let entry = Entry::new(EntryKind::Found, now, Duration::from_secs(100), 0);
        let late = now + Duration::from_secs(90);
        assert!(!entry.is_due(late), "nobody asks for it");
        (0..HOT_USES).for_each(|_| entry.count_use());
        assert!(!entry.is_due(late - Duration::from_millis(1)));
        assert!(entry.is_due(late));
        assert!(entry.claim_refresh(late));
        assert!(!entry.claim_refresh(late) && !entry.is_due(late), "once");
        let short = Entry::new(EntryKind::Found, now, Duration::from_secs(9), 0);
        (0..HOT_USES).for_each(|_| short.count_use());
        assert!(!short.is_due(now + Duration::from_secs(9)));
    }

    #[test]
    fn an_entry_ends_with_its_ttl_and_with_its_policy() {
        let now = Instant::now();
        let entry = Entry::new(EntryKind::Found, now, Duration::from_secs(60), 7);
        assert!(entry.is_valid(now, 7));
        assert!(!entry.is_valid(now, 8));
        assert!(!entry.is_valid(now + Duration::from_secs(60), 7));
        assert!(!entry.is_leased(0));
        entry.set_leased(3);
        assert!(entry.is_leased(3) && !entry.is_leased(4));
    }
}
