//! How many queries a sandbox may ask in a second.
//!
//! Answers *exhaustion* (docs/threats.md): what is above the limit costs a refusal and a share of
//! one record, and neither a decision nor a lookup. One atomic number holds the whole state, so
//! that threads that answer cached names do not wait for each other here.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much may be asked at once after a pause: a second's worth, so that a program that starts
/// with a burst of lookups is not held up by a limit that it keeps on the whole.
const BURST: Duration = Duration::from_secs(1);

/// Tries to count a query when other threads count theirs at the same moment; beyond them it is
/// refused, since so many at once are a flood.
const MAX_TRIES: usize = 64;

/// One sandbox's rate of queries: the time up to which its queries have used up what the limit gives
/// ("generic cell rate algorithm", the same as a bucket that fills with the limit's speed).
#[derive(Debug)]
pub(crate) struct QueryRate {
    start: Instant,
    used_until_nanos: AtomicU64,
}

impl QueryRate {
    /// Nothing used yet.
    pub(crate) fn new(start: Instant) -> QueryRate {
        QueryRate {
            start,
            used_until_nanos: AtomicU64::new(0),
        }
    }

    /// Whether one more query is within `per_second`; it is then counted.
    pub(crate) fn admits(&self, per_second: NonZeroU32, now: Instant) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let now = nanos(now.saturating_duration_since(self.start));
        let one = nanos(BURST) / u64::from(per_second.get());
        let mut used_until = self.used_until_nanos.load(Ordering::Relaxed);
        for _ in 0..MAX_TRIES {
            let next = used_until.max(now).saturating_add(one);
            if next > now.saturating_add(nanos(BURST)) {
                return false;
            }
            match self.used_until_nanos.compare_exchange_weak(
                used_until,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(other) => used_until = other,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_second: u32) -> NonZeroU32 {
        NonZeroU32::new(per_second).unwrap()
    }

    #[test]
    fn a_second_gives_as_many_as_the_limit_says() {
        let start = Instant::now();
        let rate = QueryRate::new(start);
        let count = |at| (0..1_000).filter(|_| rate.admits(limit(200), at)).count();
        assert_eq!(count(start), 200);
        assert_eq!(count(start), 0, "used up");
        assert_eq!(count(start + Duration::from_millis(500)), 100);
        assert_eq!(count(start + Duration::from_millis(505)), 1);
        assert_eq!(
            count(start + Duration::from_secs(3_600)),
            200,
            "an idle hour saves up no more than a second's worth"
        );
    }

    #[test]
    fn one_a_second_and_the_most_there_can_be_both_work() {
        let start = Instant::now();
        let slow = QueryRate::new(start);
        assert!(slow.admits(limit(1), start) && !slow.admits(limit(1), start));
        assert!(slow.admits(limit(1), start + Duration::from_secs(1)));
        let fast = QueryRate::new(start);
        assert!((0..100_000).all(|_| fast.admits(limit(u32::MAX), start)));
    }

    #[test]
    fn threads_together_get_no_more_than_one_would() {
        let start = Instant::now();
        let rate = QueryRate::new(start);
        let admitted: usize = std::thread::scope(|scope| {
            let count = || {
                (0..5_000)
                    .filter(|_| rate.admits(limit(500), start))
                    .count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert!((1..=500).contains(&admitted), "{admitted}");
    }
}
