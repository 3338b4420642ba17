//! The one place where this crate reads the time.
//!
//! Expiry of answers and leases is decided against a [`Clock`], so that a scenario can move time by
//! hours without waiting. Timers that wait (retries, idle connections) use tokio's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A source of [`Instant`]s: the system's monotonic clock, or one that a test moves by hand.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Nanoseconds ahead of the system's clock, and whether the system's clock counts at all.
    manual: Option<Arc<Manual>>,
}

#[derive(Debug)]
struct Manual {
    start: Instant,
    ahead_nanos: AtomicU64,
}

impl Clock {
    /// The system's monotonic clock.
    pub fn system() -> Clock {
        Clock { manual: None }
    }

    /// A clock that stands still until [`Clock::advance`] is called; clones share its time.
    pub fn manual() -> Clock {
        Clock {
            manual: Some(Arc::new(Manual {
                start: Instant::now(),
                ahead_nanos: AtomicU64::new(0),
            })),
        }
    }

    /// The time now.
    pub fn now(&self) -> Instant {
        match &self.manual {
            None => Instant::now(),
            Some(manual) => {
                manual.start + Duration::from_nanos(manual.ahead_nanos.load(Ordering::Acquire))
            }
        }
    }

    /// Moves a manual clock forward; a system clock ignores it.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.manual {
            let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
            manual.ahead_nanos.fetch_add(nanos, Ordering::AcqRel);
        }
    }
}
