//! Which program asked: looked up for fresh records of denials, within a budget.
//!
//! A look-up reads `/proc` and costs a tenth of a millisecond or two, more in a sandbox of many
//! processes or descriptors. Flows that are let through never pay for it, nor do decisions that join
//! an equal one. A program that makes denials on purpose soon gets records without it, and not a
//! slow gateway.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_policy::Verdict;

use crate::event::{Client, Event};

/// Look-ups in one [`PERIOD`].
pub(crate) const MAX_LOOKUPS: u32 = 100;
/// Time spent on look-ups in one [`PERIOD`]; the one that goes beyond it is the last.
pub(crate) const MAX_LOOKUP_TIME: Duration = Duration::from_millis(50);
/// How long a budget lasts.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// Finds the program behind a request.
pub type ProcessFinder = Arc<dyn Fn(Client) -> Option<FoundProcess> + Send + Sync>;

/// A program that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundProcess {
    /// Its process id, as the host sees it.
    pub pid: u32,
    /// Its command name.
    pub command: String,
}

/// A finder with its budget.
pub(crate) struct Finder {
    find: ProcessFinder,
    budget: Mutex<Budget>,
}

/// What is spent of one period.
struct Budget {
    began: Instant,
    lookups: u32,
    time: Duration,
}

impl Finder {
    pub(crate) fn new(find: ProcessFinder) -> Finder {
        Finder {
            find,
            budget: Mutex::new(Budget {
                began: Instant::now(),
                lookups: 0,
                time: Duration::ZERO,
            }),
        }
    }

    /// The client to look up for this event, if it is one that look-ups are for.
    pub(crate) fn client(event: &Event<'_>) -> Option<Client> {
        let wanted = event.verdict == Verdict::Deny && event.process.is_none();
        event.client.filter(|_| wanted)
    }

    /// Looks the client up unless the budget is spent.
    pub(crate) fn find(&self, client: Client, now: Instant) -> Option<FoundProcess> {
        if !self.budget(|budget| budget.take(now)) {
            return None;
        }
        let began = Instant::now();
        let found = (self.find)(client);
        let took = began.elapsed();
        self.budget(|budget| budget.time = budget.time.saturating_add(took));
        found
    }

    /// The lock is never held during a look-up.
    fn budget<T>(&self, change: impl FnOnce(&mut Budget) -> T) -> T {
        change(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.began) >= PERIOD {
            *self = Budget {
                began: now,
                lookups: 0,
                time: Duration::ZERO,
            };
        }
        let left = self.lookups < MAX_LOOKUPS && self.time < MAX_LOOKUP_TIME;
        self.lookups += u32::from(left);
        left
    }
}
