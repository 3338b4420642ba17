//! How the recorders that one thread writes for wake it.
//!
//! A member rings with its number; the thread takes all that rang, and whoever is new, and looks after
//! them without holding anything here.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What waits for the thread.
pub(crate) struct Rung<M> {
    /// Members that it has not seen yet, with their numbers.
    pub(crate) new: Vec<(u64, Arc<M>)>,
    /// Those that rang; some may be gone.
    pub(crate) rang: Vec<u64>,
    /// Nobody new can come.
    pub(crate) closed: bool,
}

struct State<M> {
    rung: Rung<M>,
    last: u64,
}

/// The bell of one thread.
pub(crate) struct Bell<M> {
    state: Mutex<State<M>>,
    wake: Condvar,
}

impl<M> Bell<M> {
    pub(crate) fn new() -> Bell<M> {
        let rung = Rung {
            new: Vec::new(),
            rang: Vec::new(),
            closed: false,
        };
        Bell {
            state: Mutex::new(State { rung, last: 0 }),
            wake: Condvar::new(),
        }
    }

    /// A number to ring with.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.state();
        state.last += 1;
        state.last
    }

    /// Gives a member to the thread.
    pub(crate) fn enter(&self, number: u64, member: Arc<M>) {
        self.state().rung.new.push((number, member));
        self.wake.notify_one();
    }

    /// Wakes the thread for a member. Takes no other lock.
    pub(crate) fn ring(&self, number: u64) {
        self.state().rung.rang.push(number);
        self.wake.notify_one();
    }

    /// Nobody new will come.
    pub(crate) fn close(&self) {
        self.state().rung.closed = true;
        self.wake.notify_one();
    }

    /// Thread: waits until somebody rings, and at most until `due`. `closed` stays.
    pub(crate) fn wait(&self, due: Option<Instant>, alone: bool) -> Rung<M> {
        let mut state = self.state();
        while state.rung.new.is_empty()
            && state.rung.rang.is_empty()
            && !(state.rung.closed && alone)
        {
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            state = match left {
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    let waited = self.wake.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.wake.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        Rung {
            new: std::mem::take(&mut state.rung.new),
            rang: std::mem::take(&mut state.rung.rang),
            closed: state.rung.closed,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
