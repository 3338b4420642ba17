//! The record of a gateway, as a part that it cannot go on without.
//!
//! Answers *the record* (docs/threats.md): what is decided while nothing can be recorded
//! would never be known.

use portcullis_record::{Labels, Origin, Recorder};
use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What the part is called where its end is told.
pub(crate) const PART: &str = "the decision records";

/// Where decision records go, how many, and what they say of where they come from.
#[derive(Debug, Default)]
pub struct RecordConfig {
    /// The file; without one, decisions are only counted.
    pub log: Option<File>,
    /// Lines a minute for each class of denials, where the default is not meant.
    pub denial_lines: Option<NonZeroU32>,
    /// The host's name in records; not in them if it is empty.
    pub host: String,
    /// The operator's labels.
    pub labels: Labels,
}

/// Why nothing is recorded any more, once that is so.
pub(crate) struct Ending(oneshot::Receiver<String>);

/// Opens the record of a sandbox with this name. A file that is as long as `ulimit -f` allows does not end this process.
pub(crate) fn open(config: RecordConfig, sandbox: &str) -> (Recorder, Ending) {
    portcullis_sandbox::ignore_file_size_limit();
    let origin = Origin {
        sandbox: sandbox.to_owned(),
        host: config.host,
        labels: config.labels,
    };
    let mut recorder = match config.log {
        Some(file) => Recorder::from_file(file, origin),
        None => Recorder::null(),
    };
    if let Some(lines) = config.denial_lines {
        recorder = recorder.with_denial_lines(lines);
    }
    let ending = Ending::of(&recorder);
    (recorder, ending)
}

/// Writes the last records, waiting at most `at_most`; why some are missing, if some are.
pub(crate) fn finish(recorder: &Recorder, at_most: Duration) -> Option<String> {
    let flushed = recorder.flush(at_most);
    let incomplete = !flushed.complete || flushed.lost > 0;
    flushed.error.or_else(|| {
        incomplete.then(|| match flushed.lost {
            0 => "the file did not take them in time".to_owned(),
            lost => format!("{lost} records lost"),
        })
    })
}

impl Ending {
    fn of(recorder: &Recorder) -> Ending {
        let (sender, ending) = oneshot::channel();
        let sender = Mutex::new(Some(sender));
        recorder.on_death(move |why| {
            let sender = sender.lock().ok().and_then(|mut sender| sender.take());
            // Nobody listens any more where the gateway ends as well.
            let _ = sender.map(|sender| sender.send(why.to_owned()));
        });
        Ending(ending)
    }

    /// Runs until nothing is recorded any more, which is an error, or until the gateway ends.
    pub(crate) async fn wait(self, token: CancellationToken) -> io::Result<()> {
        tokio::select! {
            biased;
            () = token.cancelled() => Ok(()),
            Ok(why) = self.0 => Err(io::Error::other(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_policy::Reason;
    use portcullis_record::{Event, Layer, Protocol};
    use std::io::Write;

    /// Takes one line and breaks.
    struct Breaks(bool);

    impl Write for Breaks {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            assert!(!self.0, "no more");
            self.0 = true;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_writer_that_panics_ends_the_part_and_one_that_is_stopped_does_not() {
        let reason = Reason::NotListed;
        let event = || Event::new(Layer::Dns, Protocol::DnsUdp, reason.verdict(), reason);
        let recorder = Recorder::to_writer(Box::new(Breaks(false)), "test");
        let ending = Ending::of(&recorder);
        recorder.decision(event().name("one.example"));
        assert!(recorder.flush(Duration::from_secs(5)).complete);
        recorder.decision(event().name("two.example"));
        let ended = ending.wait(CancellationToken::new()).await;
        let why = ended.unwrap_err().to_string();
        assert_eq!(why, "their writer panicked: no more");
        // Whoever waits for what is not written is told at once.
        assert_eq!(finish(&recorder, Duration::from_secs(3_600)), Some(why));

        let (recorder, _memory) = Recorder::to_memory("test");
        let ending = Ending::of(&recorder);
        recorder.decision(event());
        drop(recorder);
        let token = CancellationToken::new();
        let waiting = tokio::time::timeout(Duration::from_millis(100), ending.wait(token.clone()));
        assert!(waiting.await.is_err());
    }
}
