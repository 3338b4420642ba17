//! Which servers answer: the order in which they are asked.
//!
//! Servers are asked in the order that the operator gave. One that was silent or broken lately comes
//! last for a while that doubles; then one real lookup asks it again, beside the next server, so that
//! finding out costs no program any time. When all are down they are all asked as ever.
//!
//! Everything is a few atomics: lookups of all threads share them without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long a server that failed once comes last.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);

/// How long a server that keeps failing comes last.
const LAST_BACK_OFF: Duration = Duration::from_secs(30);

/// How long one lookup has to find out about a failed server before another tries.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// SERVFAIL, REFUSED and the like, one after another, that count as a failure: one or two may be the
/// name's fault.
const ERRORS_UNTIL_FAILED: u32 = 3;

/// The new round-trip time counts for one part in so many.
const SMOOTHING: u32 = 8;

/// Whether a server is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerStatus {
    /// To be asked in its turn.
    Good,
    /// It failed, and this lookup is to find out whether it is back.
    Probe,
    /// It failed lately.
    Failing,
}

/// One server's health.
#[derive(Debug)]
pub(super) struct Health {
    born: Instant,
    /// Failures since the last answer.
    failures: AtomicU32,
    /// Errors since the last good answer.
    errors: AtomicU32,
    /// When the back-off ends, milliseconds after `born`.
    back_at: AtomicU64,
    /// Until when a probe is under way, milliseconds after `born`.
    probed_until: AtomicU64,
    /// Smoothed round-trip time, microseconds; 0 before the first answer.
    rtt_micros: AtomicU32,
}

impl Health {
    pub(super) fn new(now: Instant) -> Health {
        Health {
            born: now,
            failures: AtomicU32::new(0),
            errors: AtomicU32::new(0),
            back_at: AtomicU64::new(0),
            probed_until: AtomicU64::new(0),
            rtt_micros: AtomicU32::new(0),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.born).as_millis() as u64
    }

    /// Whether it answered when it was asked last.
    pub(super) fn is_good(&self) -> bool {
        self.failures.load(Ordering::Relaxed) == 0
    }

    /// Its status; says [`ServerStatus::Probe`] to one caller at a time, who must then ask it.
    pub(super) fn status(&self, now: Instant) -> ServerStatus {
        if self.is_good() {
            return ServerStatus::Good;
        }
        let at = self.millis(now);
        let probed_until = self.probed_until.load(Ordering::Relaxed);
        if at < self.back_at.load(Ordering::Relaxed) || at < probed_until {
            return ServerStatus::Failing;
        }
        let until = at + PROBE_TIME.as_millis() as u64;
        let ours = self.probed_until.compare_exchange(
            probed_until,
            until,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        match ours {
            Ok(_) => ServerStatus::Probe,
            Err(_) => ServerStatus::Failing,
        }
    }

    /// It answered (NXDOMAIN is an answer) after `took`. `true`: it had failed before.
    pub(super) fn answered(&self, took: Duration) -> bool {
        let was_failing = !self.is_good();
        self.failures.store(0, Ordering::Relaxed);
        self.errors.store(0, Ordering::Relaxed);
        let sample = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let old = self.rtt_micros.load(Ordering::Relaxed);
        let new = match old {
            0 => sample,
            old => old - old / SMOOTHING + sample / SMOOTHING,
        };
        // Two threads at once lose one sample of many.
        self.rtt_micros.store(new.max(1), Ordering::Relaxed);
        was_failing
    }

    /// It answered with an error that may be the name's. `true`: it comes last now.
    pub(super) fn gave_error(&self, now: Instant) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed) + 1 >= ERRORS_UNTIL_FAILED && self.failed(now)
    }

    /// It was silent, unreachable or made no sense. `true`: it comes last now, for another while.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let at = self.millis(now);
        let failures = self.failures.load(Ordering::Relaxed);
        // Lookups that were under way together tell of one failure.
        if failures > 0 && at < self.back_at.load(Ordering::Relaxed) {
            return false;
        }
        let back_off = back_off(failures).as_millis() as u64;
        self.back_at
            .store(at + jittered(back_off), Ordering::Relaxed);
        self.failures
            .store(failures.saturating_add(1), Ordering::Relaxed);
        true
    }

    /// Smoothed round-trip time, once there is one.
    pub(super) fn rtt(&self) -> Option<Duration> {
        match self.rtt_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros.into())),
        }
    }
}

fn back_off(failures_before: u32) -> Duration {
    FIRST_BACK_OFF
        .saturating_mul(1 << failures_before.min(16))
        .min(LAST_BACK_OFF)
}

/// Up to an eighth more or less: gateways that lost a server together do not return together.
fn jittered(millis: u64) -> u64 {
    let mut random = [0u8; 1];
    // Without randomness the jitter is what is missing, nothing else.
    let _ = getrandom::fill(&mut random);
    millis - millis / 8 + millis * u64::from(random[0]) / (4 * 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_server_comes_last_and_one_lookup_probes_it() {
        let start = Instant::now();
        let health = Health::new(start);
        assert_eq!(health.status(start), ServerStatus::Good);
        health.failed(start);
        assert_eq!(health.status(start), ServerStatus::Failing);
        let soon = start + Duration::from_millis(800);
        assert_eq!(health.status(soon), ServerStatus::Failing);
        let later = start + Duration::from_millis(1_200);
        assert_eq!(health.status(later), ServerStatus::Probe);
        assert_eq!(health.status(later), ServerStatus::Failing, "one at a time");
        let next = later + PROBE_TIME;
        assert_eq!(health.status(next), ServerStatus::Probe);
        health.answered(Duration::from_millis(20));
        assert_eq!(health.status(next), ServerStatus::Good);
        assert_eq!(health.rtt(), Some(Duration::from_millis(20)));
    }

    #[test]
    fn the_back_off_doubles_up_to_30_s() {
        let seconds: Vec<u64> = (0..8).map(|n| back_off(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(back_off(u32::MAX), LAST_BACK_OFF);
        for _ in 0..100 {
            let millis = jittered(1_000);
            assert!((875..=1_125).contains(&millis), "{millis}");
        }
    }

    #[test]
    fn lookups_that_fail_together_are_one_failure() {
        let start = Instant::now();
        let health = Health::new(start);
        for _ in 0..50 {
            health.failed(start);
        }
        let later = start + Duration::from_millis(1_200);
        assert_eq!(health.status(later), ServerStatus::Probe);
    }

    #[test]
    fn two_errors_are_the_names_and_three_the_servers() {
        let start = Instant::now();
        let health = Health::new(start);
        health.gave_error(start);
        health.gave_error(start);
        assert_eq!(health.status(start), ServerStatus::Good);
        health.answered(Duration::from_millis(1));
        health.gave_error(start);
        health.gave_error(start);
        assert_eq!(health.status(start), ServerStatus::Good);
        health.gave_error(start);
        assert_eq!(health.status(start), ServerStatus::Failing);
    }
}
