//! What the queue of a connection carries to the protocol that serves it: questions, and answers as
//! they arrived.

use std::time::Duration;

use tokio::sync::oneshot;

use super::error::ExchangeError;

/// How long a connection without questions is kept (RFC 7858 section 3.4: connections are reused,
/// and servers are not burdened with idle ones).
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// How long a connection with questions under way may be silent before it counts as dead.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// One question on its way through a connection.
pub(super) struct Job {
    /// The message, as it was written.
    pub query: Vec<u8>,
    /// Where its answer goes; closed once nobody waits for it. Dropped, it says that the connection
    /// ended: only after the queue is closed, so that asking again makes another one.
    pub reply: oneshot::Sender<Result<Raw, ExchangeError>>,
}

/// An answer as it arrived.
#[derive(Debug)]
pub(super) struct Raw {
    /// The message: it answers the question, and may be unreadable.
    pub bytes: Vec<u8>,
    /// How long it lay in a cache on the way, seconds.
    pub age: u32,
}
