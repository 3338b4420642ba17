//! The few long-lived connections to one encrypted server, and the queues in front of them.
//!
//! Answers "DNS floods": a sandbox that asks for names without end opens two connections to a
//! server, not one for each name, and what does not fit a queue is refused. Each connection is a task
//! that connects, serves its queue and ends when it is idle or broken; the next question starts
//! another. A question that loses its connection is asked once more on a new one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::endpoint::{Endpoint, Protocol};
use super::error::ExchangeError;
use super::lookup::Core;
use super::{https, tls};

/// Connections to one server. The second is for retries: the first may be dead without a word.
const LINES: usize = 2;

/// Questions that wait for one connection.
const MAX_WAITING: usize = 64;

/// How long it may take to find the server's address, connect and shake hands.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

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

/// The connections to one server.
#[derive(Debug, Default)]
pub(super) struct Lines {
    queues: [Mutex<Option<mpsc::Sender<Job>>>; LINES],
    /// The connection that answered last.
    preferred: AtomicUsize,
}

impl Lines {
    /// Asks over a connection; the `retry`-th time over the next one.
    pub(super) async fn ask(
        &self,
        core: &Arc<Core>,
        endpoint: &Arc<Endpoint>,
        query: Vec<u8>,
        retry: usize,
    ) -> Result<Raw, ExchangeError> {
        let line = (self.preferred.load(Ordering::Relaxed) + retry) % LINES;
        let mut result = self.once(line, core, endpoint, query.clone()).await;
        if matches!(result, Err(ExchangeError::Closed)) {
            // Servers close idle connections; a question may cross that on the way.
            result = self.once(line, core, endpoint, query).await;
        }
        if result.is_ok() {
            self.preferred.store(line, Ordering::Relaxed);
        }
        result
    }

    async fn once(
        &self,
        line: usize,
        core: &Arc<Core>,
        endpoint: &Arc<Endpoint>,
        query: Vec<u8>,
    ) -> Result<Raw, ExchangeError> {
        let (reply, answer) = oneshot::channel();
        self.queue(line, core, endpoint)
            .try_send(Job { query, reply })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => ExchangeError::Crowded,
                mpsc::error::TrySendError::Closed(_) => ExchangeError::Closed,
            })?;
        answer.await.unwrap_or(Err(ExchangeError::Closed))
    }

    /// The queue of a connection that lives or is being made.
    fn queue(&self, line: usize, core: &Arc<Core>, endpoint: &Arc<Endpoint>) -> mpsc::Sender<Job> {
        let mut slot = self.queues[line]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = slot.as_ref().filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (queue, jobs) = mpsc::channel(MAX_WAITING);
        *slot = Some(queue.clone());
        tokio::spawn(run(Arc::downgrade(core), endpoint.clone(), jobs));
        queue
    }
}

/// One connection, from the first question to its end.
async fn run(core: Weak<Core>, endpoint: Arc<Endpoint>, mut jobs: mpsc::Receiver<Job>) {
    let connected = match core.upgrade() {
        Some(core) => timeout(CONNECT_LIMIT, endpoint.secured(&core)).await,
        None => return,
    };
    let failed = match connected {
        Ok(Ok(stream)) => match endpoint.protocol() {
            Protocol::Tls => tls::serve(stream, &mut jobs).await,
            Protocol::Https(url) => https::serve(stream, url, &mut jobs).await,
        },
        Ok(Err(error)) => error,
        Err(_) => ExchangeError::unreachable("no connection in time"),
    };
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        let _ = job.reply.send(Err(failed.clone()));
    }
}
