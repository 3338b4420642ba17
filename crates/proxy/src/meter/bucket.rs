//! A bucket that fills with time: what it gives, and when.
//!
//! Who wants more than there is gets a place in the queue of time, not in a list: a place is the
//! point that the bucket's own clock (what flowed in so far) has to reach. So a queue of any length
//! costs no memory, nobody wakes anybody, and a place is given out and looked at in a few
//! instructions. Answers *exhaustion* (docs/threats.md).
//!
//! Invariant: of all places that are still held, those up to a point of the clock are worth no more
//! than that point. It holds since a place is never earlier than everything that was given out
//! before it, less what was given back.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// What flows in, and how much of it waits for somebody.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: u64,
    /// The most that waits for somebody.
    burst: u64,
    /// What may be taken at once; below zero, what was promised.
    level: i64,
    /// All that ever flowed in: the clock that places are points of.
    flowed: u64,
    at: Instant,
    /// What flowed in since, too little to be one: billionths of one.
    rest: u64,
}

/// A point of a bucket's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(per_second: NonZeroU64, burst: u64, now: Instant) -> Bucket {
        let burst = burst.max(1);
        Bucket {
            per_second: per_second.get(),
            burst,
            level: signed(burst),
            flowed: 0,
            at: now,
            rest: 0,
        }
    }

    /// Changes how fast it fills from now on. What was promised stays promised.
    pub(crate) fn change(&mut self, per_second: NonZeroU64, burst: u64, now: Instant) {
        self.fill(now);
        self.per_second = per_second.get();
        self.burst = burst.max(1);
        self.level = self.level.min(signed(self.burst));
        self.rest = 0;
    }

    pub(crate) fn per_second(&self) -> u64 {
        self.per_second
    }

    fn fill(&mut self, now: Instant) {
        let nanos = now.saturating_duration_since(self.at).as_nanos();
        self.at = self.at.max(now);
        let gained = nanos
            .saturating_mul(self.per_second.into())
            .saturating_add(self.rest.into());
        let whole = u64::try_from(gained / NANOS_PER_SECOND).unwrap_or(u64::MAX);
        self.rest = u64::try_from(gained % NANOS_PER_SECOND).unwrap_or(0);
        self.flowed = self.flowed.saturating_add(whole);
        self.level = self
            .level
            .saturating_add(signed(whole))
            .min(signed(self.burst));
    }

    /// What there is for the asking.
    pub(crate) fn available(&mut self, now: Instant) -> u64 {
        self.fill(now);
        u64::try_from(self.level).unwrap_or(0)
    }

    /// Takes one if there is one.
    ///
    /// # Errors
    /// How long it is until there is one.
    pub(crate) fn take_one(&mut self, now: Instant) -> Result<(), Duration> {
        let wait = self.time_to_one(now);
        if wait.is_zero() {
            self.level -= 1;
            return Ok(());
        }
        Err(wait)
    }

    /// How long it is until there is one.
    pub(crate) fn time_to_one(&mut self, now: Instant) -> Duration {
        self.fill(now);
        match u64::try_from(1 - self.level) {
            Err(_) | Ok(0) => Duration::ZERO,
            Ok(missing) => self.time_for(missing),
        }
    }

    /// Promises `amount`: it is there when [`Bucket::wait`] says so.
    pub(crate) fn promise(&mut self, amount: u64, now: Instant) -> Place {
        self.fill(now);
        self.level = self.level.saturating_sub(signed(amount));
        self.last()
    }

    /// Takes a promise back, or a part of it.
    pub(crate) fn give_back(&mut self, amount: u64) {
        self.level = self
            .level
            .saturating_add(signed(amount))
            .min(signed(self.burst));
    }

    /// How long it is until what was promised is there. The place moves up where others in front
    /// of it have gone.
    pub(crate) fn wait(&mut self, place: &mut Place, now: Instant) -> Duration {
        self.fill(now);
        place.0 = place.0.min(self.last().0);
        match place.0.checked_sub(self.flowed) {
            None | Some(0) => Duration::ZERO,
            Some(missing) => self.time_for(missing),
        }
    }

    /// Where everything that was promised is there.
    fn last(&self) -> Place {
        let owed = self.level.min(0).unsigned_abs();
        Place(self.flowed.saturating_add(owed))
    }

    /// Until so much more has flowed in, rounded up.
    fn time_for(&self, amount: u64) -> Duration {
        let nanos = (u128::from(amount) * NANOS_PER_SECOND)
            .saturating_sub(self.rest.into())
            .div_ceil(self.per_second.into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u64) -> NonZeroU64 {
        NonZeroU64::new(per_second).unwrap()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn what_is_promised_comes_with_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(1_000), 100, start);
        let mut first = bucket.promise(100, start);
        assert_eq!(
            bucket.wait(&mut first, start),
            Duration::ZERO,
            "it was full"
        );
        let mut second = bucket.promise(50, start);
        let mut third = bucket.promise(50, start);
        assert_eq!(bucket.wait(&mut second, start), millis(50));
        assert_eq!(bucket.wait(&mut third, start), millis(100));
        assert_eq!(bucket.wait(&mut third, start + millis(99)), millis(1));
        assert_eq!(bucket.wait(&mut third, start + millis(100)), Duration::ZERO);
        let hour = start + Duration::from_secs(3_600);
        assert_eq!(bucket.available(hour), 100, "an idle hour saves up a burst");
    }

    #[test]
    fn who_leaves_the_queue_lets_the_others_move_up() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(1_000), 1, start);
        bucket.promise(1, start);
        bucket.promise(10_000, start);
        let mut behind = bucket.promise(10, start);
        assert_eq!(bucket.wait(&mut behind, start), millis(10_010));
        bucket.give_back(10_000);
        assert_eq!(bucket.wait(&mut behind, start), millis(10));
    }

    #[test]
    fn a_changed_rate_holds_for_what_is_owed() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(10), 1, start);
        let mut place = bucket.promise(1_001, start);
        assert_eq!(bucket.wait(&mut place, start), Duration::from_secs(100));
        bucket.change(rate(1_000), 1, start + Duration::from_secs(10));
        assert_eq!(
            bucket.wait(&mut place, start + Duration::from_secs(10)),
            millis(900)
        );
    }

    #[test]
    fn counting_one_by_one_says_how_long_to_wait() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(2), 2, start);
        assert!(bucket.take_one(start).is_ok() && bucket.take_one(start).is_ok());
        assert_eq!(bucket.take_one(start), Err(millis(500)));
        assert_eq!(bucket.take_one(start + millis(499)), Err(millis(1)));
        assert!(bucket.take_one(start + millis(500)).is_ok());
    }

    #[test]
    fn nothing_is_lost_between_two_looks() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(3), 1_000_000, start);
        bucket.promise(1_000_000, start);
        for step in 1..=10_000 {
            bucket.available(start + Duration::from_micros(100 * step));
        }
        assert_eq!(bucket.available(start + Duration::from_secs(1)), 3);
    }

    proptest! {
        /// Whatever is asked for, given back and waited for: no stretch of time gives more than
        /// what flowed in during it and a burst.
        #[test]
        fn no_more_than_flows_in(
            per_second in 1u64..100_000,
            burst in 1u64..10_000,
            steps in proptest::collection::vec((0u64..200, 1u64..5_000, any::<bool>()), 1..100),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(rate(per_second), burst, start);
            let mut held: Vec<(Place, u64)> = Vec::new();
            let mut given = 0u64;
            for (wait, amount, leaves) in steps {
                now += millis(wait);
                held.push((bucket.promise(amount, now), amount));
                if leaves && held.len() > 1 {
                    bucket.give_back(held.swap_remove(held.len() / 2).1);
                }
                held.retain_mut(|(place, amount)| {
                    let due = bucket.wait(place, now).is_zero();
                    given += if due { *amount } else { 0 };
                    !due
                });
                let flowed = u64::try_from((now - start).as_millis()).unwrap() * per_second / 1_000;
                prop_assert!(given <= flowed + burst + 1, "{given} of {flowed} and {burst}");
            }
            // And everybody is served in the time that all of it takes.
            let owed: u64 = held.iter().map(|(_, amount)| amount).sum();
            let end = now + Duration::from_nanos(owed * 1_000_000_000 / per_second + 1);
            for (place, _) in &mut held {
                prop_assert!(bucket.wait(place, end).is_zero());
            }
        }
    }
}
