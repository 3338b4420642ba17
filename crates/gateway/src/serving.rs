//! A gateway that serves, and why it ended.
//!
//! Answers *failing open* (docs/threats.md): a gateway that has lost a part, by an error or by a panic,
//! ends as a whole, leaves a record, and tells its embedder which part it was and what happened.

use portcullis_dns::StartupName;
use portcullis_policy::Reason;
use portcullis_record::{Event, Layer, Protocol, Recorder};
use std::io;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

/// A part that a gateway cannot go on without, such as an entrance, failed.
#[derive(Debug, thiserror::Error)]
#[error("{part} failed: {error}")]
pub struct PartError {
    /// Which part, in words: "the HTTP proxy entrance at 127.0.0.1:3128".
    pub part: String,
    /// What failed. A panic is an error of kind [`io::ErrorKind::Other`] with its message.
    #[source]
    pub error: io::Error,
}

/// A gateway that serves.
#[derive(Clone)]
pub struct Serving {
    names: Arc<[StartupName]>,
    recorder: Recorder,
    pub(crate) token: CancellationToken,
    failure: Arc<OnceLock<PartError>>,
}

impl Serving {
    pub(crate) fn new(
        names: Vec<StartupName>,
        recorder: Recorder,
        token: CancellationToken,
    ) -> Serving {
        Serving {
            names: names.into(),
            recorder,
            token,
            failure: Arc::default(),
        }
    }

    /// The names that were resolved before anything was served, sorted; none unless the policy says
    /// `resolve = "startup"`.
    pub fn names(&self) -> &[StartupName] {
        &self.names
    }

    /// Waits until the gateway's token is cancelled.
    ///
    /// # Errors
    /// The part that failed first, where one did: that is why the token is cancelled.
    pub async fn ended(&self) -> Result<(), &PartError> {
        self.token.cancelled().await;
        match self.failure.get() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Runs a part that the gateway cannot go on without, on tasks of `tracker`. If it fails, panics or
    /// ends before the gateway's token is cancelled, the whole gateway ends, and says why. `part` says
    /// in words which part it is, as in [`PartError::part`].
    pub fn keep(
        &self,
        part: impl Into<String>,
        tracker: &TaskTracker,
        running: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        let (part, serving) = (part.into(), self.clone());
        debug!(part, "started");
        let running = tracker.spawn(running);
        tracker.spawn(async move {
            let error = match running.await {
                Ok(Ok(())) if serving.token.is_cancelled() => return,
                Ok(Ok(())) => io::Error::other("it ended by itself"),
                Ok(Err(error)) => error,
                // The runtime is shutting down, or it panicked.
                Err(lost) if lost.is_cancelled() => return,
                Err(lost) => io::Error::other(lost),
            };
            serving.fail(PartError { part, error });
        });
    }

    fn fail(&self, failure: PartError) {
        error!(part = %failure.part, error = %failure.error, "the gateway ends");
        let reason = Reason::Internal;
        let event = Event::new(Layer::Gateway, Protocol::Startup, reason.verdict(), reason);
        let detail = failure.to_string();
        self.recorder.decision(event.detail(&detail));
        // The first is the cause; the others end with it.
        let _ = self.failure.set(failure);
        self.token.cancel();
    }
}
