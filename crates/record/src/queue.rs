//! The way from a decision to the writer: a bounded queue that never makes anyone wait.
//!
//! Denials may fill it; everything else stops at three quarters, so that a flood of allowed flows
//! does not push a denial out. What finds no room is counted by kind, and the writer turns the
//! count into a record as soon as it can.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::line::Lost;

/// Lines that may wait.
const MAX_LINES: usize = 16 * 1024;
/// Bytes that may wait.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// What the writer takes at once, in bytes (a little more when the last line is long).
const BATCH_BYTES: usize = 256 * 1024;
/// Batches after which everything that waited at the first has been taken.
pub(crate) const MAX_BATCHES: usize = MAX_BYTES / BATCH_BYTES + 1;
/// Lines that may wait for the writer to look by itself, where it does.
const UNHURRIED_LINES: usize = MAX_LINES / 16;
/// How long the writer collects lines after it has written some. The first line after a quiet time is
/// written at once; where lines follow each other, to wake the writer for each would cost more than
/// the line.
const COLLECT: Duration = Duration::from_millis(20);
/// Between two attempts to write to a sink that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The same, while the recorder ends.
const LAST_RETRY_PAUSE: Duration = Duration::from_millis(25);
/// How much longer than the writer's last attempt its end is waited for.
const END_SLACK: Duration = Duration::from_millis(200);

/// How much a line is worth when room is short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Denials and errors: may use the reserve.
    Urgent,
    /// Other decisions.
    Usual,
    /// Ends of flows.
    Close,
}

/// One line, finished but for what [`crate::line::Origin::end`] adds.
pub(crate) struct Item {
    pub(crate) line: Vec<u8>,
    pub(crate) kind: Kind,
    /// Decisions that the line stands for.
    pub(crate) stands_for: u64,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Item>,
    bytes: usize,
    lost: Lost,
    lost_ever: u64,
    /// The writer is to be woken for lines.
    asleep: bool,
    /// It was woken since it lay down.
    rung: bool,
    /// It waits for a tick at most.
    ticking: bool,
    /// It collects: nothing but many lines or an order wakes it.
    collecting: bool,
    /// Flushes asked for and done; a flush is done when the number reaches its own.
    flushes_asked: u64,
    flushes_done: u64,
    /// When the writer gives up, once no more work will come.
    stop: Option<Instant>,
    ended: bool,
}

/// What the writer shall do next.
pub(crate) struct Orders {
    /// A flush is wanted: its number.
    pub(crate) flush: Option<u64>,
    /// No more work will come, and what is not written by then is given up.
    pub(crate) stop: Option<Instant>,
}

/// Why the writer rests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rest {
    /// It has written and lets lines collect for a moment.
    Collect,
    /// It had nothing to write.
    Wait,
    /// The sink failed, and is tried again in a while. Only the recorder's end comes before.
    Retry,
}

/// How long the writer rests, unless it is woken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pause {
    /// Until then.
    Until(Instant),
    /// Until open windows are looked at next.
    Tick,
    /// Until it is woken.
    Woken,
}

/// Wakes the writer. Called with the queue held: it takes no lock that is held around one of the queue's.
pub(crate) type Wake = Box<dyn Fn() + Send + Sync>;

/// The queue.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    remote: OnceLock<Wake>,
    flushed: Condvar,
}

/// Lines that wait, and decisions and closes that were ever lost for want of room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Backlog {
    pub(crate) waiting: usize,
    pub(crate) lost: u64,
}

impl Queue {
    /// Takes a line in, or counts it as lost, and wakes the writer.
    pub(crate) fn push(&self, item: Item) {
        self.add(item, 0);
    }

    /// [`Queue::push`], but where the writer looks by itself before long it is woken only when much
    /// waits: to wake it for each line would cost more than the line.
    pub(crate) fn push_unhurried(&self, item: Item) {
        self.add(item, UNHURRIED_LINES);
    }

    fn add(&self, item: Item, unhurried: usize) {
        let mut state = self.state();
        let (lines, bytes) = match item.kind {
            Kind::Urgent => (MAX_LINES, MAX_BYTES),
            Kind::Usual | Kind::Close => (MAX_LINES / 4 * 3, MAX_BYTES / 4 * 3),
        };
        if state.lines.len() >= lines || state.bytes + item.line.len() > bytes {
            let lost = match item.kind {
                Kind::Urgent => &mut state.lost.urgent,
                Kind::Usual => &mut state.lost.usual,
                Kind::Close => &mut state.lost.closes,
            };
            *lost += item.stands_for;
            state.lost.lines += 1;
            state.lost_ever += item.stands_for;
            return;
        }
        state.bytes += item.line.len();
        state.lines.push_back(item);
        let unhurried = match (state.collecting, state.ticking) {
            (true, _) => UNHURRIED_LINES,
            (false, true) => unhurried,
            (false, false) => 0,
        };
        if state.asleep && state.lines.len() > unhurried {
            self.ring(&mut state);
        }
    }

    /// Wakes the writer so that it looks at the windows; one that collects looks by itself.
    pub(crate) fn wake(&self) {
        let mut state = self.state();
        if state.asleep && !state.collecting {
            self.ring(&mut state);
        }
    }

    /// Writer: gets up, and reads its orders.
    pub(crate) fn orders(&self) -> Orders {
        let mut state = self.state();
        (state.asleep, state.collecting) = (false, false);
        let flush = (state.flushes_asked > state.flushes_done).then_some(state.flushes_asked);
        Orders {
            flush,
            stop: state.stop,
        }
    }

    /// Writer: lies down, for as long as that says or until it is woken; `None` where there is work.
    /// `watching` says whether the time matters. It is asked with the queue held, so that a
    /// [`Queue::wake`] cannot fall in between.
    pub(crate) fn lie_down(&self, rest: Rest, watching: impl FnOnce() -> bool) -> Option<Pause> {
        let mut state = self.state();
        let ordered = state.flushes_asked != state.flushes_done || state.stop.is_some();
        let pause = match rest {
            Rest::Retry if state.stop.is_some() => Pause::Until(Instant::now() + LAST_RETRY_PAUSE),
            Rest::Retry => Pause::Until(Instant::now() + RETRY_PAUSE),
            _ if ordered => return None,
            Rest::Collect => {
                (state.asleep, state.collecting) = (true, true);
                Pause::Until(Instant::now() + COLLECT)
            }
            Rest::Wait if state.lines.is_empty() && state.lost == Lost::default() => {
                state.asleep = true;
                state.ticking = watching();
                match state.ticking {
                    true => Pause::Tick,
                    false => Pause::Woken,
                }
            }
            Rest::Wait => return None,
        };
        state.rung = false;
        Some(pause)
    }

    /// Writer with a thread of its own: sleeps, as [`Queue::lie_down`] said.
    pub(crate) fn sleep(&self, pause: Pause, tick: Duration) {
        let until = match pause {
            Pause::Until(until) => Some(until),
            Pause::Tick => Some(Instant::now() + tick),
            Pause::Woken => None,
        };
        let mut state = self.state();
        while !state.rung {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            state = match left {
                Some(left) if left.is_zero() => return,
                Some(left) => {
                    let waited = self.work.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.work.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Has the writer woken in another way than by waking a thread of its own. Only the first counts.
    pub(crate) fn woken_by(&self, wake: Wake) {
        let _ = self.remote.set(wake);
    }

    fn ring(&self, state: &mut State) {
        (state.asleep, state.rung) = (false, true);
        match self.remote.get() {
            Some(wake) => wake(),
            None => self.work.notify_one(),
        }
    }

    /// Writer: takes up to a batch of lines, and what was lost until now. The loss is not told
    /// while lines remain, so that its record stands behind them, unless it is `due`.
    pub(crate) fn take(&self, batch: &mut Vec<Item>, due: bool) -> Option<Lost> {
        let mut state = self.state();
        let mut taken = 0;
        while taken < BATCH_BYTES
            && let Some(item) = state.lines.pop_front()
        {
            taken += item.line.len();
            batch.push(item);
        }
        state.bytes -= taken;
        if (!state.lines.is_empty() && !due) || state.lost == Lost::default() {
            return None;
        }
        Some(std::mem::take(&mut state.lost))
    }

    /// Writer: whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state();
        state.lines.is_empty() && state.lost == Lost::default()
    }

    /// Writer: everything up to flush `number` is written.
    pub(crate) fn flushed(&self, number: u64) {
        let mut state = self.state();
        state.flushes_done = state.flushes_done.max(number);
        self.flushed.notify_all();
    }

    /// Asks for a flush and waits for it until `deadline`; whether it was done.
    pub(crate) fn flush(&self, deadline: Instant) -> bool {
        let mut state = self.state();
        state.flushes_asked += 1;
        let number = state.flushes_asked;
        // One that retries a full disk goes on retrying in its own time.
        if state.asleep {
            self.ring(&mut state);
        }
        while state.flushes_done < number {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return false;
            }
            state = self
                .flushed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Tells the writer that no more work will come and that it has until `by`, and waits for its
    /// end.
    pub(crate) fn stop(&self, by: Instant) {
        let mut state = self.state();
        state.stop = Some(by);
        self.ring(&mut state);
        while !state.ended {
            let left = (by + END_SLACK).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .flushed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Writer: gone.
    pub(crate) fn ended(&self) {
        self.state().ended = true;
        self.flushed.notify_all();
    }

    /// How far the writer is behind.
    pub(crate) fn backlog(&self) -> Backlog {
        let state = self.state();
        Backlog {
            waiting: state.lines.len(),
            lost: state.lost_ever,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: Kind, bytes: usize) -> Item {
        Item {
            line: vec![b'x'; bytes],
            kind,
            stands_for: 2,
        }
    }

    #[test]
    fn log_flood_of_allowed_flows_leaves_room_for_denials() {
        let queue = Queue::default();
        for _ in 0..MAX_LINES {
            queue.push(item(Kind::Usual, 8));
        }
        assert_eq!(
            queue.backlog(),
            Backlog {
                waiting: MAX_LINES / 4 * 3,
                lost: (MAX_LINES / 4 * 2) as u64,
            }
        );
        for _ in 0..MAX_LINES / 4 {
            queue.push(item(Kind::Urgent, 8));
        }
        assert_eq!(queue.backlog().waiting, MAX_LINES);
        queue.push(item(Kind::Urgent, 8));
        assert_eq!(queue.backlog().lost, (MAX_LINES / 4 * 2 + 2) as u64);
    }

    #[test]
    fn long_lines_are_bounded_by_bytes() {
        let queue = Queue::default();
        for _ in 0..2_000 {
            queue.push(item(Kind::Urgent, 16 * 1024));
        }
        assert_eq!(queue.backlog().waiting, MAX_BYTES / (16 * 1024));
    }

    #[test]
    fn the_loss_is_told_once_and_behind_the_lines_before_it() {
        let queue = Queue::default();
        for _ in 0..MAX_LINES + 1 {
            queue.push(item(Kind::Close, 100));
        }
        let (mut batch, mut lost) = (Vec::new(), None);
        while lost.is_none() {
            lost = queue.take(&mut batch, false);
        }
        assert_eq!(batch.len(), MAX_LINES / 4 * 3);
        let expected = Lost {
            closes: ((MAX_LINES / 4 + 1) * 2) as u64,
            lines: (MAX_LINES / 4 + 1) as u64,
            ..Lost::default()
        };
        assert_eq!(lost, Some(expected));
        assert_eq!(queue.take(&mut batch, false), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_writer_that_collects_is_woken_for_many_lines_or_a_flush() {
        let queue = Queue::default();
        assert!(queue.lie_down(Rest::Collect, || false).is_some());
        for line in 0..=UNHURRIED_LINES {
            assert!(queue.state().asleep, "woken before line {line}");
            queue.wake();
            queue.push(item(Kind::Urgent, 8));
        }
        assert!(!queue.state().asleep);
        // An order that came before it sleeps is seen too.
        queue.state().flushes_asked += 1;
        assert!(queue.lie_down(Rest::Collect, || false).is_none());
    }

    #[test]
    fn a_writer_that_watches_the_time_is_woken_for_many_lines_and_one_that_sleeps_for_any() {
        for (ticking, lines) in [(false, 1), (true, UNHURRIED_LINES + 1)] {
            let queue = Queue::default();
            assert!(queue.lie_down(Rest::Wait, || ticking).is_some());
            for line in 1..=lines {
                assert!(queue.state().asleep, "woken before line {line}");
                queue.push_unhurried(item(Kind::Urgent, 8));
            }
            assert!(!queue.state().asleep);
        }
    }
}
