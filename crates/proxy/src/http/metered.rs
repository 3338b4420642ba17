//! Writing what is counted, and limited where a limit concerns it.
//!
//! The forwarder writes heads and bodies through this and nothing else, so that a byte is metered
//! once, whatever it is a part of.

use std::future::pending;
use std::io;

use portcullis_dial as dial;
use tokio::io::AsyncWriteExt;

use crate::meter::{Cut, Tap, Watch};

/// One direction of an exchange.
pub(super) struct Metered<'a, 'm, W> {
    to: W,
    /// Who permits the bytes, where anybody has to.
    tap: &'a mut Option<Tap<'m>>,
    count: &'a mut u64,
}

/// The writing side of a connection, the program's or the one upstream.
pub(super) trait Write {
    /// Writes all of it.
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Write for tokio::net::tcp::WriteHalf<'_> {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        AsyncWriteExt::write_all(self, bytes).await
    }
}

impl Write for dial::WriteHalf<'_> {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        dial::WriteHalf::write_all(self, bytes).await
    }
}

impl Metered<'_, '_, dial::WriteHalf<'_>> {
    /// Passes the client's end on: nothing more is written to upstream.
    pub(super) async fn end(&mut self) {
        // A connection that is broken says so when it is read.
        let _ = self.to.shutdown().await;
    }
}

/// Why something did not pass.
pub(super) enum WriteError {
    /// The reader is gone.
    Write,
    /// A limit says that nothing more may.
    Limit(Cut),
}

impl<'a, 'm, W: Write> Metered<'a, 'm, W> {
    pub(super) fn new(to: W, tap: &'a mut Option<Tap<'m>>, count: &'a mut u64) -> Self {
        Metered { to, tap, count }
    }

    /// Writes all of it, as fast as it may.
    pub(super) async fn pass(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let may = match &mut self.tap {
                Some(tap) => tap.grant(bytes.len()).await.map_err(WriteError::Limit)?,
                None => bytes.len(),
            };
            let (now, later) = bytes.split_at(may);
            let written = self.to.write_all(now).await;
            written.map_err(|_| WriteError::Write)?;
            *self.count += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}

/// Waits until nothing passed for too long; for ever where that does not matter.
pub(super) async fn idle(watch: &mut Option<Watch<'_>>) -> Cut {
    match watch {
        Some(watch) => watch.idle().await,
        None => pending().await,
    }
}
