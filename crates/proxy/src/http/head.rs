//! Reading the next request's head from a client, within its time.

use std::time::Duration;

use portcullis_wire::http1::{
    HeadParse, HeadScanner, MAX_EMPTY_LINES, RequestHead, Scan, read_head, with_ascii_target,
};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::exchange::Conn;
use crate::limits::HEAD_BUFFER_BYTES;
use crate::request::HeadError;

/// How long a client may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// Until it says something.
    pub(super) silence: Duration,
    /// From then on, until its request's head is there.
    pub(super) head: Duration,
}

/// A request's head, and the bytes that it was read from.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) read: RequestHead,
    pub(super) raw: Vec<u8>,
}

impl Head {
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.read.headers(&self.raw)
    }
}

impl Conn {
    /// The next head; `None` when the client is done, or silent for too long.
    ///
    /// # Errors
    /// What is wrong with the head.
    pub(super) async fn head(&mut self, patience: Patience) -> Result<Option<Head>, HeadError> {
        if self.inbox.is_empty() {
            self.inbox = Vec::new(); // an idle connection holds no buffer
            match timeout(patience.silence, self.stream.readable()).await {
                Ok(Ok(())) => {}
                _ => return Ok(None),
            }
        }
        match timeout(patience.head, self.rest_of_head()).await {
            Ok(read) => read.map_err(|why| HeadError::malformed(why, &self.inbox)),
            Err(_) if self.inbox.is_empty() => Ok(None),
            Err(_) => Err(HeadError::too_slow(&self.inbox)),
        }
    }

    /// Reads a whole head; one that is malformed stays, for the record.
    fn read(&mut self, raw: Vec<u8>) -> Result<Head, &'static str> {
        let why = match read_head(&raw) {
            HeadParse::Head(read) => return Ok(Head { read, raw }),
            HeadParse::Malformed(why) => why,
            HeadParse::NeedMore => "the request head does not end where its lines do",
        };
        self.inbox = raw;
        Err(why)
    }

    async fn rest_of_head(&mut self) -> Result<Option<Head>, &'static str> {
        let mut scanner = HeadScanner::new();
        let mut empty_lines = 0;
        loop {
            // Some clients send one behind a body (RFC 9112 section 2.2).
            while self.inbox.starts_with(b"\r\n") && empty_lines < MAX_EMPTY_LINES {
                self.inbox.drain(..2);
                empty_lines += 1;
            }
            let may_be_empty = self.inbox == b"\r" && empty_lines < MAX_EMPTY_LINES;
            if !self.inbox.is_empty() && !may_be_empty {
                match scanner.scan(&self.inbox) {
                    Scan::End(len) => {
                        let rest = self.inbox.split_off(len);
                        let raw = std::mem::replace(&mut self.inbox, rest);
                        return self.read(with_ascii_target(raw)).map(Some);
                    }
                    Scan::Malformed(why) => return Err(why),
                    Scan::NeedMore => {}
                }
            }
            self.inbox.reserve(HEAD_BUFFER_BYTES);
            // Knows that the socket is empty after a short read, and does not ask it again.
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) if self.inbox.is_empty() => return Ok(None),
                Err(_) if self.inbox.is_empty() => return Ok(None),
                Ok(0) | Err(_) => return Err("the connection ended inside a request head"),
                Ok(_) => {}
            }
        }
    }
}
