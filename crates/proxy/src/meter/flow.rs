//! What meters one flow.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use portcullis_policy::FlowLimits;
use portcullis_record::CloseReason;
use tokio::time::{Instant, Sleep, sleep_until};

use super::share::{Cut, Share, Turn};

/// The longest that a flow waits without looking: the rate may have changed, and flows in front of
/// it may have gone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The most that is asked for at once, and so what a direction holds while it waits (bytes).
pub(crate) const MAX_CHUNK_BYTES: usize = 16 * 1024;

/// The shares that concern a flow: the sandbox's and the rule's.
type Shares = [Option<Arc<Share>>; 2];

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To upstream.
    Up = 0,
    /// To the program.
    Down = 1,
}

/// A flow's share in everything that is limited.
#[derive(Debug)]
pub(crate) struct Meter {
    common: Common,
    lanes: [Lane; 2],
    idle: Option<Idle>,
    /// Whether bytes need a permit; where only the idle time is limited they do not.
    counts: bool,
    /// Bytes that had passed when the idle time was looked at.
    seen: u64,
    /// What ended the flow.
    cut: Option<Cut>,
}

/// What both directions use.
#[derive(Debug)]
struct Common {
    shares: Shares,
    /// Which directions wait for a turn: one that waits beside the other gets half a turn, so that
    /// a flow gets no more for using both.
    waits: [AtomicBool; 2],
    start: Instant,
    /// When something passed last (milliseconds since `start`).
    passed: AtomicU64,
}

/// One direction: the turns that it waits for in both shares, and until when.
#[derive(Debug, Default)]
struct Lane {
    turns: [Option<Turn>; 2],
    sleep: Option<Pin<Box<Sleep>>>,
    /// Bytes that are permitted to pass and did not yet.
    permitted: usize,
}

/// How long the flow may be silent.
#[derive(Debug)]
struct Idle {
    after: Duration,
    sleep: Pin<Box<Sleep>>,
}

/// One direction of a meter.
#[derive(Debug)]
pub(crate) struct Tap<'m> {
    common: &'m Common,
    lane: &'m mut Lane,
    way: Way,
}

/// The clock of a meter.
#[derive(Debug)]
pub(crate) struct Watch<'m> {
    common: &'m Common,
    idle: &'m mut Option<Idle>,
}

impl Meter {
    /// A meter for one more flow of these shares, where there is anything to be metered.
    pub(crate) fn new(shares: Shares) -> Option<Box<Meter>> {
        let limits = shares.each_ref().map(|share| {
            let limits = share.as_ref().map(|share| share.limits());
            limits.unwrap_or_default()
        });
        let counts = limits.iter().any(FlowLimits::limits_bytes);
        let start = Instant::now();
        // Both hold, so the shorter one does.
        let after = limits.iter().filter_map(|limits| limits.idle_timeout).min();
        if !counts && after.is_none() {
            return None;
        }
        let idle = after.map(|after| {
            let sleep = Box::pin(sleep_until(start + after));
            Idle { after, sleep }
        });
        let common = Common {
            shares,
            waits: Default::default(),
            start,
            passed: AtomicU64::new(0),
        };
        Some(Box::new(Meter {
            common,
            lanes: Default::default(),
            idle,
            counts,
            seen: 0,
            cut: None,
        }))
    }

    /// How many of `want` bytes are permitted to pass in one direction, at least one; asks for it where
    /// none has. Say with [`Meter::passed`] how many did.
    ///
    /// # Errors
    /// The limit that ends the flow; [`Meter::cut`] tells it as well.
    pub(crate) fn poll_permit(
        &mut self,
        cx: &mut Context<'_>,
        way: Way,
        want: usize,
    ) -> Poll<Result<usize, CloseReason>> {
        if self.lanes[way as usize].permitted == 0 {
            match ready!(self.tap(way).poll_grant(cx, want)) {
                Ok(granted) => self.lanes[way as usize].permitted = granted,
                Err(cut) => {
                    self.cut = Some(cut);
                    return Poll::Ready(Err(cut.end));
                }
            }
        }
        Poll::Ready(Ok(want.min(self.lanes[way as usize].permitted)))
    }

    /// Notes that so many bytes passed that were permitted to.
    pub(crate) fn passed(&mut self, way: Way, bytes: usize) {
        let permitted = &mut self.lanes[way as usize].permitted;
        *permitted = permitted.saturating_sub(bytes);
    }

    /// Whether bytes need a permit to pass.
    pub(crate) fn counts(&self) -> bool {
        self.counts
    }

    /// Which limit ended the flow, if one did.
    pub(crate) fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// One direction.
    pub(crate) fn tap(&mut self, way: Way) -> Tap<'_> {
        Tap {
            common: &self.common,
            lane: &mut self.lanes[way as usize],
            way,
        }
    }

    /// Both directions and the clock, for loops that run side by side in one task.
    pub(crate) fn split(&mut self) -> (Tap<'_>, Tap<'_>, Watch<'_>) {
        let Meter {
            common,
            lanes: [up, down],
            idle,
            ..
        } = self;
        let common = &*common;
        let tap = |lane, way| Tap { common, lane, way };
        (
            tap(up, Way::Up),
            tap(down, Way::Down),
            Watch { common, idle },
        )
    }

    /// Ready when nothing passed for too long; `passed` are the bytes that have so far.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>, passed: u64) -> Poll<CloseReason> {
        let Meter {
            common, idle, seen, ..
        } = self;
        if idle.is_none() {
            return Poll::Pending;
        }
        if *seen != passed {
            *seen = passed;
            common.moved(Instant::now());
        }
        let cut = ready!(Watch { common, idle }.poll(cx));
        self.cut = Some(cut);
        Poll::Ready(cut.end)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        for way in [Way::Up, Way::Down] {
            self.tap(way).settle(0);
            let unused = std::mem::take(&mut self.lanes[way as usize].permitted);
            for share in self.common.shares.iter().flatten() {
                share.give_back(unused as u64);
            }
        }
    }
}

impl Common {
    fn moved(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.start).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.passed.store(millis, Ordering::Relaxed);
    }

    fn passed(&self) -> Instant {
        self.start + Duration::from_millis(self.passed.load(Ordering::Relaxed))
    }

    fn waits(&self, way: Way) -> bool {
        self.waits[way as usize].load(Ordering::Relaxed)
    }
}

impl Tap<'_> {
    /// Asks for a permit to pass on `want` bytes; ready with how many of them may pass now, at least one
    /// where one is wanted. They count as passed. What is asked for again after a wait must not be
    /// less.
    pub(crate) fn poll_grant(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<Result<usize, Cut>> {
        let want = want.min(MAX_CHUNK_BYTES) as u64;
        if want == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut now = Instant::now();
        if !self.common.waits(self.way)
            && let Err(cut) = self.reserve(want, now)
        {
            return Poll::Ready(Err(cut));
        }
        loop {
            let wait = self.wait(now);
            if wait.is_zero() {
                self.common.moved(now);
                return Poll::Ready(Ok(self.settle(want)));
            }
            let end = now + wait.min(LOOK_AGAIN);
            let sleep = &mut self.lane.sleep;
            let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(end)));
            if sleep.is_elapsed() || sleep.deadline() > end {
                sleep.as_mut().reset(end);
            }
            ready!(sleep.as_mut().poll(cx));
            now = Instant::now();
        }
    }

    /// Waits for a permit to pass on some of `want` bytes.
    ///
    /// # Errors
    /// The limit that ends the flow.
    pub(crate) async fn grant(&mut self, want: usize) -> Result<usize, Cut> {
        poll_fn(|cx| self.poll_grant(cx, want)).await
    }

    /// Waits for a permit to pass on all of `want` bytes: a frame or a datagram that cannot be split.
    ///
    /// # Errors
    /// The limit that ends the flow.
    pub(crate) async fn take(&mut self, want: usize) -> Result<(), Cut> {
        let mut left = want;
        while left > 0 {
            left -= self.grant(left).await?;
        }
        Ok(())
    }

    fn reserve(&mut self, want: u64, now: Instant) -> Result<(), Cut> {
        let other = match self.way {
            Way::Up => Way::Down,
            Way::Down => Way::Up,
        };
        let ways = 1 + u64::from(self.common.waits(other));
        let mut bytes = want;
        for share in self.common.shares.iter().flatten() {
            bytes = share.offer(bytes, ways, now)?;
        }
        self.common.waits[self.way as usize].store(true, Ordering::Relaxed);
        for (share, turn) in self.common.shares.iter().zip(&mut self.lane.turns) {
            let Some(share) = share else { continue };
            match share.promise(bytes, now) {
                Ok(promised) => {
                    bytes = promised.bytes();
                    *turn = Some(promised);
                }
                Err(cut) => {
                    self.settle(0);
                    return Err(cut);
                }
            }
        }
        Ok(())
    }

    fn wait(&mut self, now: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        for (share, turn) in self.common.shares.iter().zip(&mut self.lane.turns) {
            if let (Some(share), Some(turn)) = (share, turn) {
                longest = longest.max(share.wait(turn, now));
            }
        }
        longest
    }

    /// Ends the turns, of which at most `want` bytes are needed; says how many that are.
    fn settle(&mut self, want: u64) -> usize {
        let turns = self.lane.turns.iter().flatten();
        let moved = turns.map(Turn::bytes).fold(want, u64::min);
        for (share, turn) in self.common.shares.iter().zip(&mut self.lane.turns) {
            if let (Some(share), Some(turn)) = (share, turn.take()) {
                share.settle(&turn, moved);
            }
        }
        self.common.waits[self.way as usize].store(false, Ordering::Relaxed);
        usize::try_from(moved).unwrap_or(usize::MAX)
    }
}

impl Watch<'_> {
    /// Ready when nothing passed for too long. To wait for a permit is not to be idle.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Cut> {
        let Some(idle) = &mut self.idle else {
            return Poll::Pending;
        };
        while idle.sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.common.waits(Way::Up) || self.common.waits(Way::Down) {
                self.common.moved(now);
            }
            let end = self.common.passed() + idle.after;
            if end <= now {
                return Poll::Ready(Cut {
                    end: CloseReason::IdleTimeout,
                    detail: "idle_timeout",
                });
            }
            idle.sleep.as_mut().reset(end);
        }
        Poll::Pending
    }

    /// Waits until nothing passed for too long.
    pub(crate) async fn idle(&mut self) -> Cut {
        poll_fn(|cx| self.poll(cx)).await
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
