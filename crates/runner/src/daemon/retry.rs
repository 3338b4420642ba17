//! When a sandbox that is cut off is tried again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The first pause before another attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// The pauses of one sandbox.
#[derive(Default)]
pub(crate) struct Retry(Mutex<Pause>);

#[derive(Clone, Copy, Default)]
enum Pause {
    /// Nothing has failed.
    #[default]
    None,
    /// Until then, and how long that was.
    Until(Instant, Duration),
    /// What it was cannot come back.
    ForGood,
}

impl Retry {
    fn set(&self, next: impl FnOnce(Pause) -> Pause) {
        let mut pause = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *pause = next(*pause);
    }

    /// Another attempt after a pause, longer than the one before.
    pub(crate) fn failed(&self) {
        self.set(|pause| {
            let next = match pause {
                Pause::None => FIRST_PAUSE,
                Pause::Until(_, pause) => (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE),
                Pause::ForGood => return Pause::ForGood,
            };
            Pause::Until(Instant::now() + next, next)
        });
    }

    /// The next attempt at once.
    pub(crate) fn soon(&self) {
        self.set(|_| Pause::Until(Instant::now(), Duration::ZERO));
    }

    /// No further attempt.
    pub(crate) fn never(&self) {
        self.set(|_| Pause::ForGood);
    }

    /// It is served.
    pub(crate) fn succeeded(&self) {
        self.set(|_| Pause::None);
    }

    /// Whether it is tried again at all.
    pub(crate) fn is_over(&self) -> bool {
        let pause = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*pause, Pause::ForGood)
    }

    /// Whether the pause is over.
    pub(crate) fn is_due(&self) -> bool {
        let pause = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*pause, Pause::Until(at, _) if at <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(retry: &Retry) -> Option<Duration> {
        match *retry.0.lock().unwrap() {
            Pause::Until(_, pause) => Some(pause),
            Pause::None | Pause::ForGood => None,
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_a_success() {
        let retry = Retry::default();
        assert!(!retry.is_due());
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            retry.failed();
            assert_eq!(pause(&retry), Some(Duration::from_secs(seconds)));
            assert!(!retry.is_due());
        }
        retry.succeeded();
        retry.failed();
        assert_eq!(pause(&retry), Some(FIRST_PAUSE));
        retry.never();
        retry.failed();
        assert_eq!(pause(&retry), None);
        assert!(!retry.is_due());
    }
}
