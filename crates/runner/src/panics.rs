//! Panics as records.
//!
//! The gateway's standard error leads nowhere while the command runs, so the record is where a panic
//! is told. What the panic ends besides is somebody else's business: a part of the gateway takes the
//! gateway with it, a connection only itself.

use portcullis_policy::Reason;
use portcullis_record::{Event, Layer, Protocol, Recorder};
use tokio::sync::mpsc;
use tracing::error;

/// Panics that wait to be recorded; the first are the cause of the rest.
const MAX_WAITING: usize = 16;

/// The panics of this process from now on.
pub(crate) struct Panics(mpsc::Receiver<String>);

impl Panics {
    /// Takes over what this process does when it panics. Call it in a process of one's own.
    pub(crate) fn take_over() -> Panics {
        let (sender, waiting) = mpsc::channel(MAX_WAITING);
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.to_string();
            error!(text, "panic");
            // Not recorded here: whoever panicked may hold a lock of the recorder.
            let _ = sender.try_send(text);
        }));
        Panics(waiting)
    }

    /// Records them, for as long as this process lives.
    pub(crate) async fn record(mut self, recorder: Recorder) {
        while let Some(text) = self.0.recv().await {
            let reason = Reason::Internal;
            let event = Event::new(Layer::Gateway, Protocol::Startup, reason.verdict(), reason);
            recorder.decision(event.detail(&text));
        }
    }
}
