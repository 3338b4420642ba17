//! The way from a decision to the writer: a bounded queue that never makes anyone wait.
//!
//! Denials may fill it; everything else stops at three quarters, so that a flood of allowed flows
//! does not push a denial out. What finds no room is counted by kind, and the writer turns the
//! count into a record as soon as it can.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
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
    /// The writer waits on `work`.
    asleep: bool,
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

/// The queue.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    work: Condvar,
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
            state.asleep = false;
            self.work.notify_one();
        }
    }

    /// Wakes the writer so that it looks at the windows; one that collects looks by itself.
    pub(crate) fn wake(&self) {
        let mut state = self.state();
        if state.asleep && !state.collecting {
            state.asleep = false;
            self.work.notify_one();
        }
    }

    /// Writer: waits for lines or orders, and at most for `tick` while `watching` says that time
    /// matters. It is asked with the queue held, so that a [`Queue::wake`] cannot fall in between.
    pub(crate) fn wait(&self, tick: Duration, watching: impl FnOnce() -> bool) -> Orders {
        let mut state = self.state();
        let idle = state.lines.is_empty() && state.lost == Lost::default();
        if idle && state.flushes_asked == state.flushes_done && state.stop.is_none() {
            state.asleep = true;
            state.ticking = watching();
            state = if state.ticking {
                self.work
                    .wait_timeout(state, tick)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            } else {
                self.work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner)
            };
            state.asleep = false;
        }
        orders(&state)
    }

    /// Writer, when it has written: lets lines collect for a moment, unless there are orders.
    pub(crate) fn collect(&self) {
        let until = Instant::now() + COLLECT;
        let mut state = self.state();
        (state.asleep, state.collecting) = (true, true);
        // Whoever wakes it says so in `asleep`.
        while state.asleep
            && state.flushes_asked == state.flushes_done
            && state.stop.is_none()
            && let left = until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            state = self
                .work
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        (state.asleep, state.collecting) = (false, false);
    }

    /// Writer: sleeps for `pause` whatever comes in, unless told to stop; for retries.
    pub(crate) fn pause(&self, pause: Duration) -> Orders {
        let until = Instant::now() + pause;
        let mut state = self.state();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.stop.is_some() {
                return orders(&state);
            }
            state = self
                .work
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
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
        state.asleep = false;
        self.work.notify_one();
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
        self.work.notify_all();
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

fn orders(state: &State) -> Orders {
    let flush = (state.flushes_asked > state.flushes_done).then_some(state.flushes_asked);
    Orders {
        flush,
        stop: state.stop,
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
        // As `collect` leaves it while the writer sleeps.
        (queue.state().asleep, queue.state().collecting) = (true, true);
        for line in 0..=UNHURRIED_LINES {
            assert!(queue.state().asleep, "woken before line {line}");
            queue.wake();
            queue.push(item(Kind::Urgent, 8));
        }
        assert!(!queue.state().asleep);
        // An order that came before it sleeps is seen too.
        queue.state().flushes_asked += 1;
        let start = Instant::now();
        for _ in 0..1_000 {
            queue.collect();
        }
        assert!(start.elapsed() < COLLECT * 1_000 / 2, "did not wait");
    }

    #[test]
    fn a_writer_that_watches_the_time_is_woken_for_many_lines_and_one_that_sleeps_for_any() {
        for (ticking, lines) in [(false, 1), (true, UNHURRIED_LINES + 1)] {
            let queue = Queue::default();
            // As `wait` leaves it while the writer sleeps.
            queue.state().asleep = true;
            queue.state().ticking = ticking;
            for line in 1..=lines {
                assert!(queue.state().asleep, "woken before line {line}");
                queue.push_unhurried(item(Kind::Urgent, 8));
            }
            assert!(!queue.state().asleep);
        }
    }
}
