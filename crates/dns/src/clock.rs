//! The one place where this crate reads the time.
//!
//! Expiry of answers and leases is decided against a [`Clock`], so that a scenario can move time by
//! hours without waiting. Timers that wait (retries, idle connections) use tokio's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A source of [`Instant`]s: the system's monotonic clock, tokio's, or one that a test moves by hand.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    /// The same as the timers', so that both stand still together where a test pauses them.
    Tokio,
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    start: Instant,
    ahead_nanos: AtomicU64,
}

impl Clock {
    /// The system's monotonic clock.
    pub fn system() -> Clock {
        Clock {
            source: Source::System,
        }
    }

    /// Tokio's clock: the system's, unless the runtime's time is paused. What expires and what waits
    /// then share one virtual time.
    pub fn tokio() -> Clock {
        Clock {
            source: Source::Tokio,
        }
    }

    /// A clock that stands still until [`Clock::advance`] is called; clones share its time.
    pub fn manual() -> Clock {
        Clock {
            source: Source::Manual(Arc::new(Manual {
                start: Instant::now(),
                ahead_nanos: AtomicU64::new(0),
            })),
        }
    }

    /// The time now.
    pub fn now(&self) -> Instant {
        match &self.source {
            Source::System => Instant::now(),
            Source::Tokio => tokio::time::Instant::now().into_std(),
            Source::Manual(manual) => {
                manual.start + Duration::from_nanos(manual.ahead_nanos.load(Ordering::Acquire))
            }
        }
    }

    /// Moves a manual clock forward; the others ignore it.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.source {
            let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
            manual.ahead_nanos.fetch_add(nanos, Ordering::AcqRel);
        }
    }
}
