//! The few long-lived connections to one encrypted server, and the queues in front of them.
//!
//! Answers *exhaustion* (docs/threats.md): a sandbox that asks for names without end opens two
//! connections to a server, not one for each name, and what does not fit a queue is refused. Each
//! connection is a task that connects, serves its queue and ends when it is idle or broken; the
//! next question starts another. A question that loses its connection is asked once more on a new
//! one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::connector::Connector;
use super::endpoint::Protocol;
use super::error::ExchangeError;
use super::exchange::{Job, Raw};
#[cfg(feature = "doh")]
use super::https;
use super::tls;

/// Connections to one server. The second is for retries: the first may be dead without a word.
const CONNECTIONS: usize = 2;

/// Questions that wait for one connection.
const MAX_WAITING: usize = 64;

/// How long it may take to find the server's address, connect and shake hands.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The connections to one server.
#[derive(Debug, Default)]
pub(super) struct Connections {
    queues: [Mutex<Option<mpsc::Sender<Job>>>; CONNECTIONS],
    /// The connection that answered last.
    preferred: AtomicUsize,
}

impl Connections {
    /// Asks over a connection; the `retry`-th time over the next one.
    pub(super) async fn ask(
        &self,
        connector: &Arc<Connector>,
        query: Vec<u8>,
        retry: usize,
    ) -> Result<Raw, ExchangeError> {
        let index = (self.preferred.load(Ordering::Relaxed) + retry) % CONNECTIONS;
        let mut result = self.once(index, connector, query.clone()).await;
        if matches!(result, Err(ExchangeError::Closed)) {
            // Servers close idle connections; a question may cross that on the way.
            result = self.once(index, connector, query).await;
        }
        if result.is_ok() {
            self.preferred.store(index, Ordering::Relaxed);
        }
        result
    }

    async fn once(
        &self,
        index: usize,
        connector: &Arc<Connector>,
        query: Vec<u8>,
    ) -> Result<Raw, ExchangeError> {
        let (reply, answer) = oneshot::channel();
        self.queue(index, connector)
            .try_send(Job { query, reply })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => ExchangeError::Crowded,
                mpsc::error::TrySendError::Closed(_) => ExchangeError::Closed,
            })?;
        answer.await.unwrap_or(Err(ExchangeError::Closed))
    }

    /// The queue of a connection that lives or is being made.
    fn queue(&self, index: usize, connector: &Arc<Connector>) -> mpsc::Sender<Job> {
        let mut slot = self.queues[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = slot.as_ref().filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (queue, jobs) = mpsc::channel(MAX_WAITING);
        *slot = Some(queue.clone());
        tokio::spawn(run(connector.clone(), jobs));
        queue
    }
}

/// One connection, from the first question to its end.
async fn run(connector: Arc<Connector>, mut jobs: mpsc::Receiver<Job>) {
    let failed = match timeout(CONNECT_LIMIT, connector.connect()).await {
        Ok(Ok(stream)) => match &connector.endpoint.protocol {
            Protocol::Tls => tls::serve(stream, &mut jobs).await,
            #[cfg(feature = "doh")]
            Protocol::Https(url) => https::serve(stream, url, &mut jobs).await,
            // The gateway takes no policy that names such a resolver.
            #[cfg(not(feature = "doh"))]
            Protocol::Https(_) => ExchangeError::refused("this build leaves out DNS over HTTPS"),
        },
        Ok(Err(error)) => error,
        Err(_) => ExchangeError::unreachable("no connection in time"),
    };
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        let _ = job.reply.send(Err(failed.clone()));
    }
}
