//! Equal decisions share a record: denials and errors for a second, allowed lookups for a minute.
//!
//! Answers log floods: a program that asks the same thing a million times leaves one line with a
//! count. The table is split so that threads rarely meet, finds an equal decision by a keyed
//! 128-bit fingerprint without allocating, and is bounded in entries and bytes. When it is full,
//! decisions are no longer merged; they still leave a record each.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portcullis_names::RecordType;
use portcullis_policy::{Reason, Verdict};

use crate::event::{Event, Layer, Protocol};
use crate::id::DecisionId;
use crate::line::{self, finish_decision};
use crate::queue::{Item, Kind};
use crate::repeat::{Count, Recorded, Repeat};
use crate::summary::Tally;
use crate::text::path_only;

/// How long equal denials and errors share a record.
pub(crate) const DENIAL_WINDOW: Duration = Duration::from_secs(1);
/// How long equal allowed lookups share a record.
pub(crate) const LOOKUP_WINDOW: Duration = Duration::from_secs(60);

const SHARDS: usize = 16;
/// Open windows of one kind in one shard.
const MAX_WINDOWS_PER_SHARD: usize = 512;
/// Bytes of the lines that wait in open windows, for each kind.
const MAX_WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Which decisions share a record, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Merge {
    Denial,
    Lookup,
}

impl Merge {
    /// How an event is merged; `None` when it has a record of its own. What opens a flow always
    /// has, since a close refers to it.
    pub(crate) fn of(event: &Event<'_>) -> Option<Merge> {
        if event.layer == Layer::Gateway || event.protocol == Protocol::Startup {
            return None;
        }
        match event.verdict {
            // A cluster's search list makes several names of every one that a program asks for.
            Verdict::Error if event.reason == Reason::SearchExpansion => Some(Merge::Lookup),
            Verdict::Deny | Verdict::Error => Some(Merge::Denial),
            Verdict::Audit if event.layer == Layer::Dns => Some(Merge::Denial),
            Verdict::Allow if event.layer == Layer::Dns => Some(Merge::Lookup),
            Verdict::Audit | Verdict::Allow => None,
        }
    }

    pub(crate) fn window(self) -> Duration {
        match self {
            Merge::Denial => DENIAL_WINDOW,
            Merge::Lookup => LOOKUP_WINDOW,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Merge::Denial => Kind::Urgent,
            Merge::Lookup => Kind::Usual,
        }
    }

    const ALL: [Merge; 2] = [Merge::Denial, Merge::Lookup];
}

type Fingerprint = (u64, u64);

/// A record that still takes in equal decisions.
struct Window {
    id: DecisionId,
    opened: Instant,
    line: Vec<u8>,
    count: Count,
    tally: Option<Tally>,
}

impl Window {
    /// Takes in an equal decision, unless the window's time is up.
    fn join(&self, merge: Merge, event: &Event<'_>, now: Instant) -> Option<Recorded> {
        if now.saturating_duration_since(self.opened) >= merge.window() || !self.count.add() {
            return None;
        }
        if let Some(tally) = &self.tally {
            tally.fetch_add(1, Ordering::Relaxed);
        }
        let repeat = Repeat {
            layer: event.layer,
            verdict: event.verdict,
            reason: event.reason,
            until: self.opened + merge.window(),
            count: Some(self.count.clone()),
            tally: self.tally.clone(),
        };
        Some(Recorded {
            id: self.id,
            repeat: Some(repeat),
        })
    }

    fn close(self, merge: Merge) -> Item {
        let stands_for = self.count.take();
        Item {
            line: finish_decision(self.line, stands_for),
            kind: merge.kind(),
            stands_for,
        }
    }
}

type Shard = [HashMap<Fingerprint, Window>; 2];

/// All open windows.
pub(crate) struct Windows {
    shards: [Mutex<Shard>; SHARDS],
    keys: [RandomState; 2],
    bytes: [AtomicUsize; 2],
    open: AtomicUsize,
}

/// A new record, made while the shard is held so that two threads cannot make the same one.
pub(crate) struct Fresh {
    pub(crate) id: DecisionId,
    /// The line without its end ([`line::decision`]).
    pub(crate) line: Vec<u8>,
    pub(crate) tally: Option<Tally>,
}

/// What became of a decision.
pub(crate) struct Entered {
    pub(crate) recorded: Recorded,
    /// A finished record to be written now: the one that the new window replaces, or the
    /// decision's own when there was no room for a window.
    pub(crate) finished: Option<Item>,
    /// No other window was open: nobody may be watching the time.
    pub(crate) first_open: bool,
}

impl Windows {
    pub(crate) fn new() -> Windows {
        Windows {
            shards: std::array::from_fn(|_| Mutex::new([HashMap::new(), HashMap::new()])),
            keys: [RandomState::new(), RandomState::new()],
            bytes: [AtomicUsize::new(0), AtomicUsize::new(0)],
            open: AtomicUsize::new(0),
        }
    }

    /// Joins the decision to an equal one, if there is one.
    pub(crate) fn join(&self, merge: Merge, event: &Event<'_>, now: Instant) -> Option<Recorded> {
        let fingerprint = self.fingerprint(event);
        let shard = self.shard(fingerprint.0 as usize % SHARDS);
        shard[merge as usize]
            .get(&fingerprint)?
            .join(merge, event, now)
    }

    /// Joins the decision to an equal one, or opens a window with what `fresh` makes.
    pub(crate) fn enter(
        &self,
        merge: Merge,
        event: &Event<'_>,
        now: Instant,
        fresh: impl FnOnce() -> Fresh,
    ) -> Entered {
        let fingerprint = self.fingerprint(event);
        let mut shard = self.shard(fingerprint.0 as usize % SHARDS);
        let windows = &mut shard[merge as usize];
        let room = windows.len() < MAX_WINDOWS_PER_SHARD
            && self.bytes[merge as usize].load(Ordering::Relaxed) + line::MAX_LINE_BYTES
                <= MAX_WINDOW_BYTES;
        let entered = |recorded, finished, first_open| Entered {
            recorded,
            finished,
            first_open,
        };
        match windows.entry(fingerprint) {
            Entry::Occupied(mut entry) => {
                if let Some(recorded) = entry.get().join(merge, event, now) {
                    return entered(recorded, None, false);
                }
                let (recorded, window) = open(fresh(), now);
                let old = entry.insert(window);
                self.moved(merge, old.line.len(), entry.get().line.len());
                entered(recorded, Some(old.close(merge)), false)
            }
            Entry::Vacant(entry) => {
                let (recorded, window) = open(fresh(), now);
                if !room {
                    return entered(recorded, Some(window.close(merge)), false);
                }
                self.moved(merge, 0, window.line.len());
                let first_open = self.open.fetch_add(1, Ordering::SeqCst) == 0;
                entry.insert(window);
                entered(recorded, None, first_open)
            }
        }
    }

    /// Whether any window is open.
    pub(crate) fn any_open(&self) -> bool {
        self.open.load(Ordering::SeqCst) > 0
    }

    /// Closes the windows whose time is up, or all.
    pub(crate) fn close(&self, now: Instant, all: bool, finished: &mut Vec<Item>) {
        if !self.any_open() {
            return;
        }
        for index in 0..SHARDS {
            let mut shard = self.shard(index);
            for merge in Merge::ALL {
                let expired = |_: &Fingerprint, window: &mut Window| {
                    all || now.saturating_duration_since(window.opened) >= merge.window()
                };
                for (_, window) in shard[merge as usize].extract_if(expired) {
                    self.moved(merge, window.line.len(), 0);
                    self.open.fetch_sub(1, Ordering::SeqCst);
                    finished.push(window.close(merge));
                }
            }
        }
    }

    fn moved(&self, merge: Merge, out: usize, in_: usize) {
        let bytes = &self.bytes[merge as usize];
        bytes.fetch_add(in_, Ordering::Relaxed);
        bytes.fetch_sub(out, Ordering::Relaxed);
    }

    fn shard(&self, index: usize) -> MutexGuard<'_, Shard> {
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What makes two decisions equal. Keyed anew in each process, so that nobody can prepare two
    /// that collide.
    fn fingerprint(&self, event: &Event<'_>) -> Fingerprint {
        // What has a fixed length goes in as two numbers, and only the texts that are there follow,
        // each behind its length: a hash costs by the piece.
        let texts = [
            event.name.map(str::as_bytes),
            event.raw_name,
            event.asked,
            event.method.map(str::as_bytes),
            event.path.map(|path| path_only(path).as_bytes()),
        ];
        let mut there = 0;
        for (place, text) in texts.iter().enumerate() {
            there |= u64::from(text.is_some()) << place;
        }
        let codes = [
            event.layer as u64,
            event.protocol as u64,
            event.verdict as u64,
            event.reason as u64,
        ];
        let kind = codes.iter().fold(there, |kind, code| kind << 8 | code);
        let number = |number: Option<u16>| number.map_or(0, |number| u64::from(number) + 1);
        let numbers = number(event.port) << 32 | number(event.qtype.map(RecordType::number));
        let half = |key: &RandomState| {
            let mut hasher = key.build_hasher();
            hasher.write_u64(kind);
            hasher.write_u64(numbers);
            for text in texts.into_iter().flatten() {
                hasher.write_usize(text.len());
                hasher.write(text);
            }
            // A lookup's answer may differ from one time to the next; a destination is the
            // decision's subject.
            if event.layer != Layer::Dns || event.name.is_none() {
                event.addresses.hash(&mut hasher);
            }
            hasher.finish()
        };
        (half(&self.keys[0]), half(&self.keys[1]))
    }
}

fn open(fresh: Fresh, now: Instant) -> (Recorded, Window) {
    let Fresh { id, line, tally } = fresh;
    let window = Window {
        id,
        opened: now,
        line,
        count: Count::one(),
        tally,
    };
    (Recorded { id, repeat: None }, window)
}
