//! What the fuzz targets (`fuzz/`) reach that nobody else does; only built with `--cfg fuzzing`.
//!
//! Answers *HTTP framing* (docs/threats.md) for what an upstream server says, and for what a program says
//! inside TLS.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::http::{Answers, Parsed, read_response};
use crate::inspect::checked;
use crate::request;

/// Room in the connection in memory, in bytes.
const ROOM_BYTES: usize = 64 * 1024;
/// How long nothing may pass before nothing will. The clock stands still in a fuzz target.
const SILENCE: Duration = Duration::from_secs(1);

/// The head of an upstream's response as it goes on to the program, with its length as it came; none where
/// it is refused or has not ended.
#[must_use]
pub fn response_head(stream: &[u8], to_head: bool, to_old: bool) -> Option<(Vec<u8>, usize)> {
    let answers = Answers {
        head: to_head,
        old: to_old,
    };
    match read_response(stream, answers) {
        Parsed::Head(head) => Some((head.rewritten, head.len)),
        Parsed::NeedMore | Parsed::Malformed(_) => None,
    }
}

/// What a malformed request is said to have asked for.
#[must_use]
pub fn asked(stream: &[u8]) -> Option<Box<[u8]>> {
    request::asked(stream)
}

/// What hyper gets to read of a program's bytes that come in these pieces, over HTTP/1.1 or HTTP/2.
///
/// # Panics
/// The connection in memory fails.
pub async fn passed_to_hyper(pieces: &[&[u8]], http2: bool) -> Vec<u8> {
    let (mut program, ours) = tokio::io::duplex(ROOM_BYTES);
    let say = async {
        for piece in pieces {
            if program.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(program);
    };
    let hear = async {
        let mut checked = checked(ours, http2);
        let mut passed = Vec::new();
        // Nobody answers: behind a request for a WebSocket, or one that is refused, nothing comes.
        while let Ok(Ok(1..)) = timeout(SILENCE, checked.read_buf(&mut passed)).await {}
        passed
    };
    let (passed, ()) = tokio::join!(hear, say);
    passed
}
