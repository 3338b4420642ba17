//! What every upstream server has, however it is reached: its name in records, its health, its
//! quirks, and the way to ask it one question.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::time::Instant;
use tracing::debug;

use super::error::ExchangeError;
use super::health::Health;
use super::question::Question;
use super::quirks::Quirks;

/// Servers in order of preference.
pub(super) type Group<S> = Arc<[Arc<S>]>;

/// What is known of one server.
#[derive(Debug)]
pub(super) struct ServerState {
    /// The server as the policy writes it, for records.
    pub text: Arc<str>,
    pub health: Health,
    pub quirks: Quirks,
}

/// An upstream server.
pub(super) trait Server: Send + Sync {
    /// What is known of it.
    fn state(&self) -> &ServerState;

    /// Asks one question, for the `retry`-th time in a lookup. The caller limits the time by dropping
    /// the future.
    fn ask(
        &self,
        question: Question<'_>,
        retry: usize,
    ) -> impl Future<Output = Result<Message, ExchangeError>> + Send;
}

impl ServerState {
    pub(super) fn new(text: impl Into<Arc<str>>) -> ServerState {
        ServerState {
            text: text.into(),
            health: Health::new(Instant::now()),
            quirks: Quirks::default(),
        }
    }

    /// It answered after `took`.
    pub(super) fn answered(&self, took: Duration) {
        if self.health.answered(took) {
            debug!(server = %self.text, "the upstream server is back");
        }
    }

    /// It answered with an error that may be the name's.
    pub(super) fn gave_error(&self, now: Instant) {
        if self.health.gave_error(now) {
            debug!(server = %self.text, "the upstream server gives errors and is asked last");
        }
    }

    /// It was silent, unreachable or made no sense.
    pub(super) fn failed(&self, now: Instant) {
        if self.health.failed(now) {
            debug!(server = %self.text, "the upstream server failed and is asked last");
        }
    }

    /// Asks with EDNS, and once more without where the server does not know it (RFC 6891 section 7).
    /// `exchange` is told whether to send EDNS.
    pub(super) async fn with_edns_fallback<F>(
        &self,
        exchange: impl Fn(bool) -> F,
    ) -> Result<Message, ExchangeError>
    where
        F: Future<Output = Result<Message, ExchangeError>>,
    {
        let edns = self.quirks.accepts_edns();
        let message = exchange(edns).await?;
        let code = message.metadata.response_code;
        if !(edns && matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)) {
            return usable(message);
        }
        let message = usable(exchange(false).await?)?;
        self.quirks.edns_refused();
        Ok(message)
    }
}

fn usable(message: Message) -> Result<Message, ExchangeError> {
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(message),
        code => Err(ExchangeError::Code(code)),
    }
}
