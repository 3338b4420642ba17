//! A connection that keeps account of what it carried.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much of what was received goes to the log.
const KEPT_BYTES: usize = 64 * 1024;
/// One read.
const READ_BYTES: usize = 32 * 1024;

/// What a connection carried, in plain.
#[derive(Clone, Default)]
pub(crate) struct Account {
    pub(crate) first: Vec<u8>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// A stream, the bytes read from it and not yet used, and its account.
pub(crate) struct Conn<S> {
    pub(crate) stream: S,
    pub(crate) buffer: Vec<u8>,
    account: Account,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    pub(crate) fn new(stream: S) -> Self {
        Conn {
            stream,
            buffer: Vec::new(),
            account: Account::default(),
        }
    }

    pub(crate) fn account(&self) -> Account {
        self.account.clone()
    }

    pub(crate) fn count(&mut self, bytes_in: u64, bytes_out: u64) {
        self.account.bytes_in += bytes_in;
        self.account.bytes_out += bytes_out;
    }

    /// Reads more into the buffer; `Ok(0)` is the other side's end.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        let start = self.buffer.len();
        self.buffer.resize(start + READ_BYTES, 0);
        let result = self.stream.read(&mut self.buffer[start..]).await;
        let count = *result.as_ref().unwrap_or(&0);
        self.buffer.truncate(start + count);
        self.account.bytes_in += count as u64;
        let room = KEPT_BYTES
            .saturating_sub(self.account.first.len())
            .min(count);
        self.account
            .first
            .extend_from_slice(&self.buffer[start..start + room]);
        result
    }

    /// Exactly so many bytes.
    pub(crate) async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// Up to and with the next line feed.
    pub(crate) async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                return self.take(end + 1).await.map(Some);
            }
            if self.buffer.len() > KEPT_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        self.account.bytes_out += bytes.len() as u64;
        Ok(())
    }

    pub(crate) async fn close(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

/// `count` bytes of the pattern that the servers send, from `offset` on.
pub fn pattern(offset: u64, count: usize) -> Vec<u8> {
    (offset..offset + count as u64)
        .map(|i| ((i * 31 + (i >> 8) * 7 + 11) % 251) as u8)
        .collect()
}
