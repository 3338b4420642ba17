//! The handle that everybody records with.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use portcullis_policy::Verdict;

use crate::budget::Summarised;
use crate::counters::{Counters, Snapshot};
use crate::event::{Close, Event, Process};
use crate::finder::{Finder, FoundProcess, ProcessFinder};
use crate::id::{Boot, DecisionId, IdSource};
use crate::line;
use crate::memory::Memory;
use crate::origin::Origin;
use crate::prepared::{Prepared, Program};
use crate::queue::{Backlog, Item, Kind};
use crate::repeat::{Recorded, Repeat};
use crate::sink::{self, Output, Sink};
use crate::subscription::{Subscribers, Subscription};
use crate::summary::{DeniedSummary, Groups, Tally};
use crate::windows::{Fresh, Merge};
use crate::writer::{FINAL_WRITE_TIMEOUT, Writer};
use crate::writer_thread::WriterThread;

/// Takes decisions and closes, and writes them in its own time. Clones share everything: the records of
/// a recorder and its clones have one `boot`, and one row of numbers (`seq`).
///
/// Make it in the process that uses it: its writer is a thread, and threads do not survive a fork. Where
/// one process has many recorders, they can share one ([`Recorder::with_writer_thread`]).
/// When the last clone is dropped, what waits is written, for a second at most.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    counters: Counters,
    denied: Groups,
    subscribers: Subscribers,
    finder: OnceLock<Finder>,
    lines: Lines,
}

/// Whether lines are written at all.
enum Lines {
    Written(Arc<Writer>),
    /// Only counted.
    Null(IdSource),
}

/// How a flush ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flushed {
    /// Whether every line up to the call was written before the deadline.
    pub complete: bool,
    /// Decisions and closes that were ever lost for want of room.
    pub lost: u64,
    /// The sink's error, if its last write failed.
    pub error: Option<String>,
}

/// How the record does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// The sink's error, until a write succeeds again.
    pub last_error: Option<String>,
    /// Lines that wait to be written; open windows are not among them.
    pub waiting: usize,
    /// Decisions and closes that were ever lost for want of room. The file says so too, in a record
    /// with the reason `records-lost`.
    pub lost: u64,
}

impl Recorder {
    /// Appends to the file at `path`, which is made if need be, readable by its owner alone.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn to_file(path: impl AsRef<Path>, origin: impl Into<Origin>) -> io::Result<Recorder> {
        Ok(Recorder::from_file(sink::open(path.as_ref())?, origin))
    }

    /// Writes to a file that is open already, at its end if it was opened for appending.
    #[must_use]
    pub fn from_file(file: File, origin: impl Into<Origin>) -> Recorder {
        Recorder::with_sink(Sink::File(file), origin)
    }

    /// Writes to anything. The writer's own thread calls it, and may block in it.
    #[must_use]
    pub fn to_writer(writer: Box<dyn Write + Send>, origin: impl Into<Origin>) -> Recorder {
        Recorder::with_sink(Sink::Writer(writer), origin)
    }

    /// Writes to memory.
    #[must_use]
    pub fn to_memory(origin: impl Into<Origin>) -> (Recorder, Memory) {
        let memory = Memory::default();
        (
            Recorder::to_writer(Box::new(memory.clone()), origin),
            memory,
        )
    }

    /// Writes nothing; counters, summary and subscriptions work.
    #[must_use]
    pub fn null() -> Recorder {
        Recorder::with_lines(Lines::Null(IdSource::new(Boot::new())))
    }

    fn with_sink(sink: Sink, origin: impl Into<Origin>) -> Recorder {
        let writer = Writer::new(&origin.into(), Output::new(sink));
        Recorder::with_lines(Lines::Written(Arc::new(writer)))
    }

    fn with_lines(lines: Lines) -> Recorder {
        let (counters, denied, subscribers) = (Counters::new(), Groups::new(), Subscribers::new());
        Recorder(Arc::new(Inner {
            counters,
            denied,
            subscribers,
            finder: OnceLock::new(),
            lines,
        }))
    }

    /// Sets how many lines a minute each class of denials may write (its layer, protocol, verdict and
    /// reason together); [`DEFAULT_DENIAL_LINES`](crate::DEFAULT_DENIAL_LINES) otherwise. Above it
    /// one line a second stands for all of its class. For all classes together it is eight times as
    /// much, and a line of more than 512 bytes counts as several.
    #[must_use]
    pub fn with_denial_lines(self, lines: NonZeroU32) -> Self {
        if let Lines::Written(writer) = &self.0.lines {
            writer.budget.set(lines);
        }
        self
    }

    /// Has this thread write the records, together with those of other recorders, instead of one of its
    /// own. Say so before anything is recorded; only the first thread counts.
    #[must_use]
    pub fn with_writer_thread(self, thread: &WriterThread) -> Self {
        if let Lines::Written(writer) = &self.0.lines {
            writer.take_seat(thread.0.clone());
        }
        self
    }

    /// Says whom to tell, and why, if the thread that writes ends although nobody stopped it: nothing
    /// is recorded from then on. Called from that thread. Only the first call counts.
    pub fn on_death(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        if let Lines::Written(writer) = &self.0.lines {
            writer.tell_death(Box::new(tell));
        }
    }

    /// Lets this recorder and its clones find the program behind a denial whose event says which
    /// socket it came by ([`Event::client`]). Only fresh records ask, never those that join an
    /// equal one, and only within a budget of look-ups and of time for each second; `finder` is
    /// called on the thread that records. The first finder stays.
    #[must_use]
    pub fn with_process_finder(self, finder: ProcessFinder) -> Recorder {
        let _ = self.0.finder.set(Finder::new(finder));
        self
    }

    /// Records a decision and returns the id of its record, which equal decisions share.
    ///
    /// Never waits for I/O. Joining an equal decision allocates nothing.
    pub fn decision(&self, event: Event<'_>) -> DecisionId {
        self.decision_at(&event, Instant::now())
    }

    /// Records a decision that was made so many times when nobody looked. It is counted each time, and
    /// shown to subscribers once: what is lost must not crowd out what is known.
    pub fn decisions(&self, event: &Event<'_>, times: u32) {
        let (now, suggest) = (Instant::now(), || event.suggestion.map(str::to_owned));
        for time in 0..times {
            self.take(event, now, &suggest, time == 0);
        }
    }

    /// [`Recorder::decision`] for a path that is taken often. `suggest` makes the event's
    /// suggestion, and is asked only where somebody will read it; `now` is the time, which a batch
    /// of decisions shares.
    pub fn decide(
        &self,
        event: &Event<'_>,
        now: Instant,
        suggest: &dyn Fn() -> Option<String>,
    ) -> Recorded {
        self.take(event, now, suggest, true)
    }

    fn take(
        &self,
        event: &Event<'_>,
        now: Instant,
        suggest: &dyn Fn() -> Option<String>,
        is_shown: bool,
    ) -> Recorded {
        let inner = &*self.0;
        inner
            .counters
            .decision(event.layer, event.verdict, event.reason);
        let tally = || (event.verdict == Verdict::Deny).then(|| inner.denied.count(event, suggest));
        let recorded = match &inner.lines {
            Lines::Null(_) => uncounted(self.id_of(event), event, tally(), now),
            Lines::Written(writer) => self.write(writer, event, now, &tally),
        };
        if is_shown {
            inner.subscribers.show(recorded.id, event, suggest);
        }
        recorded
    }

    /// Counts a decision once more, as it was made before and by the same entrance, while its record
    /// is open. `false` means that it must be recorded anew, by [`Recorder::decide`].
    pub fn repeat(&self, repeat: &Repeat, now: Instant) -> bool {
        let inner = &*self.0;
        if now >= repeat.until || inner.subscribers.any() {
            return false;
        }
        if let Some(count) = &repeat.count
            && !count.add()
        {
            return false;
        }
        if let Some(tally) = &repeat.tally {
            tally.fetch_add(1, Ordering::Relaxed);
        }
        inner
            .counters
            .decision(repeat.layer, repeat.verdict, repeat.reason);
        true
    }

    pub(crate) fn decision_at(&self, event: &Event<'_>, now: Instant) -> DecisionId {
        let suggest = || event.suggestion.map(str::to_owned);
        self.decide(event, now, &suggest).id
    }

    fn write(
        &self,
        writer: &Arc<Writer>,
        event: &Event<'_>,
        now: Instant,
        tally: &dyn Fn() -> Option<Tally>,
    ) -> Recorded {
        let merge = Merge::of(event);
        let denial = merge == Some(Merge::Denial);
        if denial {
            if let Some(joined) = writer.windows.join(Merge::Denial, event, now) {
                return joined;
            }
            if let Some(id) = summarise(writer, event, now) {
                tally();
                return Recorded { id, repeat: None };
            }
        }
        // Looked up before the window is held, which others wait for.
        let found = match event.prepared {
            Some(prepared) => prepared.process.clone(),
            None => self.find_process(event, now),
        };
        let process = found.as_ref().map(|found| Process {
            pid: found.pid,
            command: &found.command,
        });
        let event = &event.process(process.or(event.process));
        let fresh = || {
            let id = self.id_of(event);
            let time = event
                .prepared
                .map_or_else(Timestamp::now, |prepared| prepared.time);
            let line = line::decision(&writer.origin, id, time, event);
            if denial {
                writer.budget.spend(event, now, line.len());
            }
            Fresh {
                id,
                line,
                tally: tally(),
            }
        };
        enter(writer, event, now, fresh)
    }

    /// Takes down what belongs to the moment of a decision that may be recorded later. Nothing is
    /// counted or written.
    pub fn prepare(&self, event: &Event<'_>, now: Instant) -> Prepared {
        Prepared {
            id: self.next_id(),
            time: Timestamp::now(),
            process: self.find_process(event, now),
        }
    }

    fn next_id(&self) -> DecisionId {
        match &self.0.lines {
            Lines::Null(ids) => ids.next(),
            Lines::Written(writer) => writer.ids.next(),
        }
    }

    fn id_of(&self, event: &Event<'_>) -> DecisionId {
        event.prepared.map_or_else(|| self.next_id(), Prepared::id)
    }

    /// The program behind a denial, within the budget of look-ups.
    fn find_process(&self, event: &Event<'_>, now: Instant) -> Option<Program> {
        let (finder, client) = self.0.finder.get().zip(Finder::client(event))?;
        let FoundProcess { pid, command } = finder.find(client, now)?;
        Some(Program { pid, command })
    }

    /// Records the end of a flow. `id` is that of the decision that opened it: one whose verdict is
    /// `allow` or `audit`, since others may share a record.
    pub fn close(&self, id: DecisionId, close: Close<'_>) {
        self.0.counters.close(&close);
        if let Lines::Written(writer) = &self.0.lines {
            let line = line::close(&writer.origin, id, Timestamp::now(), &close);
            writer.queue.push(Item {
                line,
                kind: Kind::Close,
                stands_for: 1,
            });
            writer.ensure_started();
        }
    }

    /// What `boot` says in these records; `None` where nothing is written.
    #[must_use]
    pub fn boot(&self) -> Option<Boot> {
        match &self.0.lines {
            Lines::Null(_) => None,
            Lines::Written(writer) => Some(writer.boot),
        }
    }

    /// Decisions so far, by layer, verdict and reason, and flows that have ended.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.0.counters.snapshot()
    }

    /// Denials so far, grouped.
    #[must_use]
    pub fn denied_summary(&self) -> DeniedSummary {
        self.0.denied.summary()
    }

    /// A live view of every decision from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.0.subscribers.subscribe()
    }

    /// How the record does.
    #[must_use]
    pub fn health(&self) -> Health {
        match &self.0.lines {
            Lines::Null(_) => Health {
                last_error: None,
                waiting: 0,
                lost: 0,
            },
            Lines::Written(writer) => {
                let Backlog { waiting, lost } = writer.queue.backlog();
                Health {
                    last_error: writer.last_error(),
                    waiting,
                    lost,
                }
            }
        }
    }

    /// Closes all windows and writes everything, waiting at most `at_most`. Blocks: in an
    /// asynchronous program call it where blocking is allowed.
    pub fn flush(&self, at_most: Duration) -> Flushed {
        let Lines::Written(writer) = &self.0.lines else {
            return Flushed {
                complete: true,
                lost: 0,
                error: None,
            };
        };
        let complete = writer.flush(at_most);
        let Health {
            last_error, lost, ..
        } = self.health();
        Flushed {
            complete,
            lost,
            error: last_error,
        }
    }

    /// [`Recorder::flush`], for the end: this handle is gone afterwards.
    pub fn shutdown(self, at_most: Duration) -> Flushed {
        self.flush(at_most)
    }
}

/// Counts a denial whose class is above its budget; gives the id of the record that it shares.
fn summarise(writer: &Arc<Writer>, event: &Event<'_>, now: Instant) -> Option<DecisionId> {
    let begin = || {
        let id = writer.ids.next();
        let class = Event::new(event.layer, event.protocol, event.verdict, event.reason);
        (
            id,
            line::decision(&writer.origin, id, Timestamp::now(), &class),
        )
    };
    let Summarised {
        id,
        opened,
        finished,
    } = writer.budget.summarise(event, now, begin)?;
    if let Some(item) = finished {
        writer.queue.push_unhurried(item);
    }
    if opened {
        // The writer may sleep without an end while nothing waits for its time.
        writer.queue.wake();
        writer.ensure_started();
    }
    Some(id)
}

/// Puts a decision into its window, or a line of its own into the queue.
fn enter(
    writer: &Arc<Writer>,
    event: &Event<'_>,
    now: Instant,
    fresh: impl FnOnce() -> Fresh,
) -> Recorded {
    let Some(merge) = Merge::of(event) else {
        let Fresh { id, line, .. } = fresh();
        let kind = match event.verdict {
            Verdict::Deny | Verdict::Error => Kind::Urgent,
            Verdict::Allow | Verdict::Audit => Kind::Usual,
        };
        let line = line::finish_decision(line, 1);
        writer.queue.push(Item {
            line,
            kind,
            stands_for: 1,
        });
        writer.ensure_started();
        return Recorded { id, repeat: None };
    };
    let entered = writer.windows.enter(merge, event, now, fresh);
    if let Some(item) = entered.finished {
        writer.queue.push_unhurried(item);
    } else if entered.first_open {
        // The writer may sleep without an end while no window is open.
        writer.queue.wake();
    }
    writer.ensure_started();
    entered.recorded
}

/// A decision where nothing is written: equal ones share its id as if they shared its record.
fn uncounted(id: DecisionId, event: &Event<'_>, tally: Option<Tally>, now: Instant) -> Recorded {
    let repeat = Merge::of(event).map(|merge| Repeat {
        layer: event.layer,
        verdict: event.verdict,
        reason: event.reason,
        until: now + merge.window(),
        count: None,
        tally,
    });
    Recorded { id, repeat }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Lines::Written(writer) = &self.lines {
            writer.finish(FINAL_WRITE_TIMEOUT);
        }
    }
}
