//! How often a guest is answered.

use std::time::{Duration, Instant};

/// Answers in a row.
const BURST: u32 = 32;
/// How long it takes until one more is due.
const INTERVAL: Duration = Duration::from_millis(50);

/// Answers that a guest may still have: a burst of 32, then 20 a second. Questions beyond are dropped, and
/// the usual guests ask again.
#[derive(Debug)]
pub struct Rate {
    left: u32,
    since: Instant,
}

impl Rate {
    /// A full burst at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Rate {
        Rate {
            left: BURST,
            since: now,
        }
    }

    /// Takes one answer at `now`; false where there is none left.
    pub fn take(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.since).as_nanos() / INTERVAL.as_nanos();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if due > 0 {
            self.left = self.left.saturating_add(due).min(BURST);
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_a_burst_and_then_a_trickle() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let taken = |rate: &mut Rate, at| (0..1_000).filter(|_| rate.take(at)).count();
        assert_eq!(taken(&mut rate, start), 32);
        assert_eq!(taken(&mut rate, start + Duration::from_millis(49)), 0);
        assert_eq!(taken(&mut rate, start + Duration::from_millis(150)), 3);
        assert_eq!(taken(&mut rate, start + Duration::from_secs(3600)), 32);
    }
}
