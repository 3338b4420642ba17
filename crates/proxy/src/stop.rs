//! The end of all flows of one entrance.
//!
//! Thousands of idle flows wait for it; asking a `CancellationToken` takes its lock, so a flow
//! registers once and from then on looks at a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Tells every flow to end.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    tripped: AtomicBool,
    token: CancellationToken,
}

impl Stop {
    /// Ends all flows.
    pub(crate) fn trip(&self) {
        self.tripped.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Whether flows must end; no lock.
    pub(crate) fn is_tripped(&self) -> bool {
        self.tripped.load(Ordering::Acquire)
    }

    /// Ends when flows must.
    pub(crate) fn wait(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }
}

/// Ends all flows of an entrance when its accept loop ends, also by a panic.
pub(crate) struct StopGuard(pub(crate) Arc<Stop>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.trip();
    }
}
