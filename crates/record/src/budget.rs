//! How many lines denials may write; above that they are counted.
//!
//! Answers *exhaustion* (docs/threats.md): a program that is refused something new each time, a
//! thousand times a second, would fill the disk with its denials. Each class of denials has a budget
//! of lines, and all classes together have one. Above it, one line a second stands for all denials
//! of its class.
//!
//! Invariant: a denial is counted in exactly one line.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portcullis_policy::Reason;

use crate::event::{Event, Layer, Protocol};
use crate::id::DecisionId;
use crate::line;
use crate::queue::{Item, Kind};
use crate::summary::name_of;

/// Lines a minute for each class of denials, unless set otherwise.
pub const DEFAULT_DENIAL_LINES: NonZeroU32 = NonZeroU32::new(2_000).unwrap();
/// Budgets that all classes together have.
const CLASSES_AT_ONCE: u32 = 8;
/// What one line of the budget pays for, in bytes; longer lines count as several.
const PAID_BYTES: usize = 512;
/// How long a class may write ahead of its rate. With the rate set so that half of a minute's lines
/// come back in a minute, no minute has more lines than the budget.
const AHEAD: Duration = Duration::from_secs(60);
/// In what time a whole budget comes back.
const REFILL: Duration = Duration::from_secs(120);
/// How long one line stands for all denials of a class that is above its budget.
const SUMMARY_WINDOW: Duration = Duration::from_secs(1);
/// Names that such a line shows.
const MAX_NAMES: usize = 4;
/// The longest part of a name that it shows, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// What denials of one class have in common.
type Class = (Layer, Protocol, u8, Reason);

fn class(event: &Event<'_>) -> Class {
    (
        event.layer,
        event.protocol,
        event.verdict as u8,
        event.reason,
    )
}

/// The budgets of one record.
pub(crate) struct Budget {
    /// Lines a minute for each class.
    lines: AtomicU32,
    state: Mutex<State>,
    /// Summaries that are open.
    open: AtomicUsize,
}

#[derive(Default)]
struct State {
    all: Bucket,
    /// As many as there are codes, at most.
    classes: HashMap<Class, OfClass>,
}

#[derive(Default)]
struct OfClass {
    bucket: Bucket,
    summary: Option<Summary>,
}

/// The time until which what was written is paid for.
#[derive(Default)]
struct Bucket(Option<Instant>);

impl Bucket {
    fn has_room(&self, now: Instant) -> bool {
        self.0.is_none_or(|paid| paid < now + AHEAD)
    }

    fn spend(&mut self, now: Instant, cost: Duration) {
        self.0 = Some(self.0.map_or(now, |paid| paid.max(now)) + cost);
    }
}

/// The line that stands for the denials of a class while it is above its budget.
struct Summary {
    id: DecisionId,
    opened: Instant,
    /// The line without its end.
    line: Vec<u8>,
    count: u64,
    names: Vec<String>,
}

impl Summary {
    fn add(&mut self, event: &Event<'_>) {
        self.count += 1;
        if self.names.len() < MAX_NAMES {
            let mut name = name_of(event);
            // Printable ASCII, so any byte is a character.
            name.truncate(MAX_NAME_BYTES);
            if !name.is_empty() && !self.names.contains(&name) {
                self.names.push(name);
            }
        }
    }

    fn close(self) -> Item {
        Item {
            line: line::finish_summary(self.line, &self.names, self.count),
            kind: Kind::Urgent,
            stands_for: self.count,
        }
    }
}

/// A denial that was counted into a summary.
pub(crate) struct Summarised {
    /// The summary's id.
    pub(crate) id: DecisionId,
    /// Whether this denial opened it.
    pub(crate) opened: bool,
    /// The summary that it replaces.
    pub(crate) finished: Option<Item>,
}

impl Budget {
    pub(crate) fn new() -> Budget {
        Budget {
            lines: AtomicU32::new(DEFAULT_DENIAL_LINES.get()),
            state: Mutex::default(),
            open: AtomicUsize::new(0),
        }
    }

    pub(crate) fn set(&self, lines: NonZeroU32) {
        self.lines.store(lines.get(), Ordering::Relaxed);
    }

    /// Counts a denial into its class's summary if the class is above its budget; `begin` makes the
    /// id and the line of a new summary.
    pub(crate) fn summarise(
        &self,
        event: &Event<'_>,
        now: Instant,
        begin: impl FnOnce() -> (DecisionId, Vec<u8>),
    ) -> Option<Summarised> {
        let mut state = self.state();
        let room_for_all = state.all.has_room(now);
        let class = state.classes.entry(class(event)).or_default();
        if room_for_all && class.bucket.has_room(now) {
            return None;
        }
        let current =
            |summary: &Summary| now.saturating_duration_since(summary.opened) < SUMMARY_WINDOW;
        if let Some(summary) = class.summary.as_mut().filter(|summary| current(summary)) {
            summary.add(event);
            return Some(Summarised {
                id: summary.id,
                opened: false,
                finished: None,
            });
        }
        let (id, line) = begin();
        let mut summary = Summary {
            id,
            opened: now,
            line,
            count: 0,
            names: Vec::new(),
        };
        summary.add(event);
        let finished = class.summary.replace(summary).map(Summary::close);
        if finished.is_none() {
            self.open.fetch_add(1, Ordering::SeqCst);
        }
        Some(Summarised {
            id,
            opened: true,
            finished,
        })
    }

    /// Pays for a denial's own line.
    pub(crate) fn spend(&self, event: &Event<'_>, now: Instant, line_bytes: usize) {
        let lines = self.lines.load(Ordering::Relaxed);
        let paid = u32::try_from(line_bytes.div_ceil(PAID_BYTES)).unwrap_or(u32::MAX);
        let cost = REFILL.saturating_mul(paid) / lines;
        let mut state = self.state();
        state.all.spend(now, cost / CLASSES_AT_ONCE);
        let class = state.classes.entry(class(event)).or_default();
        class.bucket.spend(now, cost);
    }

    /// Whether any summary is open.
    pub(crate) fn any_open(&self) -> bool {
        self.open.load(Ordering::SeqCst) > 0
    }

    /// Closes the summaries whose time is up, or all.
    pub(crate) fn close(&self, now: Instant, all: bool, finished: &mut Vec<Item>) {
        if !self.any_open() {
            return;
        }
        let mut state = self.state();
        for class in state.classes.values_mut() {
            let expired = |summary: &mut Summary| {
                all || now.saturating_duration_since(summary.opened) >= SUMMARY_WINDOW
            };
            if let Some(summary) = class.summary.take_if(expired) {
                self.open.fetch_sub(1, Ordering::SeqCst);
                finished.push(summary.close());
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
