//! What one sandbox, or one rule, has of everything that is limited: connections, new connections
//! a second, bytes a second, bytes altogether.
//!
//! All flows of the sandbox (or the rule) share it, up and down together. One short lock holds it;
//! flows that no limit concerns never come here.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_policy::{FlowLimits, Reason};
use portcullis_record::CloseReason;
use tokio::time::Instant;

use super::bucket::{Bucket, Place};

/// How much of a rate may pass at once after a pause, as a part of a second: small, so that the
/// rate is kept in every second, and much more than a timer's millisecond, so that late timers cost
/// nothing.
const BURSTS_PER_SECOND: u64 = 20;
/// What a flow gets in one turn at least (bytes), where the rate is not so low that this is longer
/// than a burst: a TCP segment.
const MIN_TURN_BYTES: u64 = 1_448;
/// The least that a turn ever is (bytes): what the lowest rates move at once.
const LEAST_TURN_BYTES: u64 = 64;
/// What a flow gets in one turn at most (bytes), unless there is more than anybody wants.
const MAX_TURN_BYTES: u64 = 64 * 1024;
/// What a client is told to wait that has used up a number of bytes, which only a changed policy
/// raises.
const USED_UP_RETRY: Duration = Duration::from_secs(60);
/// What a client is told to wait while there are too many connections: nobody knows when one ends.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// Whose limits they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Sandbox,
    Rule,
}

/// Why a connection is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    pub(crate) reason: Reason,
    pub(crate) retry_after: Duration,
    /// Which limit, in the words of the policy.
    pub(crate) detail: &'static str,
}

impl OverLimit {
    /// The sandbox has as many connections as it may.
    pub(crate) const TOO_MANY: OverLimit = OverLimit {
        reason: Reason::TooManyConnections,
        retry_after: FULL_RETRY,
        detail: "connections of the sandbox",
    };

    /// A request on a connection that counts as one of another rule.
    pub(crate) const OF_ANOTHER_RULE: OverLimit = OverLimit {
        reason: Reason::TooManyConnections,
        retry_after: FULL_RETRY,
        detail: "this host's rule has limits of its own, and so needs a connection of its own",
    };
}

/// What ends a flow that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) end: CloseReason,
    /// Which limit, in the words of the policy.
    pub(crate) detail: &'static str,
}

/// One sandbox's or one rule's share.
#[derive(Debug)]
pub(crate) struct Share {
    of: Of,
    open: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: FlowLimits,
    bytes: Option<Bucket>,
    arrivals: Option<Bucket>,
    /// Bytes that passed, or may pass now.
    used: u64,
    /// Turns that were promised and not yet taken.
    waiting: u64,
}

/// An open connection; dropping it makes room for another one.
#[derive(Debug)]
pub(crate) struct Open(Arc<Share>);

/// A turn that was promised to a flow.
#[derive(Debug)]
pub(crate) struct Turn {
    bytes: u64,
    place: Option<Place>,
}

impl Share {
    pub(crate) fn new(of: Of, limits: FlowLimits) -> Arc<Share> {
        let state = State {
            limits: FlowLimits::default(),
            bytes: None,
            arrivals: None,
            used: 0,
            waiting: 0,
        };
        let share = Share {
            of,
            open: AtomicUsize::new(0),
            state: Mutex::new(state),
        };
        share.change(limits);
        Arc::new(share)
    }

    /// Sets other limits. What was used, and what is promised, stays so.
    pub(crate) fn change(&self, limits: FlowLimits) {
        let now = Instant::now();
        let mut state = self.state();
        if state.limits == limits {
            return;
        }
        set(&mut state.bytes, limits.bytes_per_second, burst_bytes, now);
        let arrivals = limits.connections_per_second.map(NonZeroU64::from);
        set(&mut state.arrivals, arrivals, |a_second| a_second, now);
        state.limits = limits;
    }

    pub(crate) fn limits(&self) -> FlowLimits {
        self.state().limits
    }

    /// Takes in a connection.
    ///
    /// # Errors
    /// The limit that it is above, and when it may be tried again.
    pub(crate) fn open(self: &Arc<Self>) -> Result<Open, OverLimit> {
        let mut state = self.state();
        if state.left() == Some(0) {
            return Err(self.over_limit(Reason::TotalBytesUsed, USED_UP_RETRY));
        }
        let most = state.limits.connections.map_or(u32::MAX, NonZeroU32::get);
        // Counted under the lock, and only let go outside of it.
        if self.open.load(Ordering::Acquire) >= usize::try_from(most).unwrap_or(usize::MAX) {
            return Err(self.over_limit(Reason::TooManyConnections, FULL_RETRY));
        }
        if let Some(arrivals) = &mut state.arrivals {
            let taken = arrivals.take_one(Instant::now());
            taken.map_err(|wait| self.over_limit(Reason::RateLimited, wait))?;
        }
        self.open.fetch_add(1, Ordering::AcqRel);
        Ok(Open(self.clone()))
    }

    fn over_limit(&self, reason: Reason, retry_after: Duration) -> OverLimit {
        let detail = match (self.of, reason) {
            (Of::Sandbox, Reason::TotalBytesUsed) => "total_bytes of the sandbox",
            (Of::Rule, Reason::TotalBytesUsed) => "total_bytes of the rule",
            (Of::Sandbox, Reason::RateLimited) => "connections_per_second of the sandbox",
            (Of::Rule, Reason::RateLimited) => "connections_per_second of the rule",
            (Of::Sandbox, _) => "connections of the sandbox",
            (Of::Rule, _) => "connections of the rule",
        };
        OverLimit {
            reason,
            retry_after,
            detail,
        }
    }

    /// What ends the flows of a share that is used up.
    fn used_up(&self) -> Cut {
        Cut {
            end: CloseReason::Limit,
            detail: self
                .over_limit(Reason::TotalBytesUsed, USED_UP_RETRY)
                .detail,
        }
    }

    /// How much of `want` a flow gets in one turn: everything, where there is so much; else its
    /// part, such that the turns of all who wait come round within a burst. `ways` is how many
    /// turns the flow has at once.
    ///
    /// # Errors
    /// Nothing is left, and nothing will be.
    pub(crate) fn offer(&self, want: u64, ways: u64, now: Instant) -> Result<u64, Cut> {
        let mut state = self.state();
        let left = state.left().unwrap_or(u64::MAX);
        if left == 0 {
            return Err(self.used_up());
        }
        let waiting = state.waiting + 1;
        let turn = state.bytes.as_mut().map_or(u64::MAX, |bytes| {
            let all = burst_bytes(bytes.per_second());
            let part = (all / waiting).clamp(all.min(MIN_TURN_BYTES), MAX_TURN_BYTES);
            (part / ways.max(1)).max(bytes.available(now))
        });
        Ok(want.min(turn.max(1)).min(left))
    }

    /// Promises a turn of `bytes`, or of what is left altogether.
    ///
    /// # Errors
    /// Nothing is left, and nothing will be.
    pub(crate) fn promise(&self, bytes: u64, now: Instant) -> Result<Turn, Cut> {
        let mut state = self.state();
        let bytes = bytes.min(state.left().unwrap_or(u64::MAX));
        if bytes == 0 {
            return Err(self.used_up());
        }
        state.used = state.used.saturating_add(bytes);
        state.waiting += 1;
        let place = state
            .bytes
            .as_mut()
            .map(|bucket| bucket.promise(bytes, now));
        Ok(Turn { bytes, place })
    }

    /// How long it is until the turn comes.
    pub(crate) fn wait(&self, turn: &mut Turn, now: Instant) -> Duration {
        match (&mut self.state().bytes, &mut turn.place) {
            (Some(bucket), Some(place)) => bucket.wait(place, now),
            // The rate is limited no more.
            _ => Duration::ZERO,
        }
    }

    /// Takes back what was permitted to pass and never will.
    pub(crate) fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.state().give_back(bytes, true);
        }
    }

    /// Ends a turn, of which only `moved` bytes were needed.
    pub(crate) fn settle(&self, turn: &Turn, moved: u64) {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_sub(1);
        state.give_back(turn.bytes.saturating_sub(moved), turn.place.is_some());
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.state().used
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> u64 {
        self.state().waiting
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn left(&self) -> Option<u64> {
        let total = self.limits.total_bytes?;
        Some(total.get().saturating_sub(self.used))
    }

    fn give_back(&mut self, bytes: u64, timed: bool) {
        self.used = self.used.saturating_sub(bytes);
        if let Some(bucket) = self.bytes.as_mut().filter(|_| timed) {
            bucket.give_back(bytes);
        }
    }
}

impl Turn {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Open {
    pub(crate) fn share(&self) -> &Arc<Share> {
        &self.0
    }
}

/// Changes a bucket's rate, keeping its level.
fn set(
    bucket: &mut Option<Bucket>,
    per_second: Option<NonZeroU64>,
    burst: fn(u64) -> u64,
    now: Instant,
) {
    match (bucket.as_mut(), per_second) {
        (Some(bucket), Some(rate)) => bucket.change(rate, burst(rate.get()), now),
        (None, Some(rate)) => *bucket = Some(Bucket::new(rate, burst(rate.get()), now)),
        (_, None) => *bucket = None,
    }
}

fn burst_bytes(per_second: u64) -> u64 {
    (per_second / BURSTS_PER_SECOND).max(LEAST_TURN_BYTES)
}
