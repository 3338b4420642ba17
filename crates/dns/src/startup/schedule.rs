//! How often, how long and how many at once names are asked for at start-up.

use std::time::Duration;

/// Names asked about at the same moment, two sockets each: beyond these the kernel's ephemeral
/// ports (28,232) and the resolver's receive buffer are what is lost first.
pub const MAX_NAMES_AT_ONCE: usize = 4_096;

/// Attempts that a schedule may have.
pub const MAX_STARTUP_ATTEMPTS: usize = 16;

/// Pauses between attempts; after the last of these it stays the same.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(900),
    Duration::from_millis(2_700),
];

/// How often, how long and how many at once; with sensible defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartupSchedule {
    pub(super) attempts: usize,
    pub(super) limit: Duration,
    pub(super) at_once: usize,
}

impl Default for StartupSchedule {
    /// 4 attempts of at most 2 s, pauses of 100, 300 and 900 ms between them.
    fn default() -> StartupSchedule {
        StartupSchedule {
            attempts: 4,
            limit: Duration::from_secs(2),
            at_once: MAX_NAMES_AT_ONCE,
        }
    }
}

impl StartupSchedule {
    /// Another number of attempts, 1 to [`MAX_STARTUP_ATTEMPTS`]. The pauses go on with 2,700 ms.
    #[must_use]
    pub fn attempts(mut self, attempts: usize) -> StartupSchedule {
        self.attempts = attempts.clamp(1, MAX_STARTUP_ATTEMPTS);
        self
    }

    /// Another limit of one attempt; never more than 2 s.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> StartupSchedule {
        self.limit = limit.min(StartupSchedule::default().limit);
        self
    }

    /// How many names may be asked about at the same moment, 1 to [`MAX_NAMES_AT_ONCE`]; each holds
    /// two descriptors. Where more are waiting, an attempt is given that much less time, so that
    /// the whole takes no longer.
    #[must_use]
    pub fn at_once(mut self, names: usize) -> StartupSchedule {
        self.at_once = names.clamp(1, MAX_NAMES_AT_ONCE);
        self
    }

    /// The time that one dead name takes, and so the longest that all of them take together.
    pub fn longest(&self) -> Duration {
        let pauses: Duration = (1..self.attempts).map(pause_after).sum();
        self.limit * self.attempts as u32 + pauses
    }

    /// How long an attempt may keep its sockets while this many names are not resolved.
    pub(super) fn patience(&self, unresolved: usize) -> Duration {
        let turns = unresolved.div_ceil(self.at_once).max(1);
        self.limit / turns as u32
    }
}

/// The pause after the attempt of this number, counted from 1.
pub(super) fn pause_after(attempt: usize) -> Duration {
    PAUSES[attempt.clamp(1, PAUSES.len()) - 1]
}
