//! DNS over TCP (RFC 7766): frames of two length bytes and a message, many on one connection,
//! answered as they become ready.
//!
//! Answers "half-open and idle connections", "a byte a second" and frames of bad length: clients,
//! queries under way, waiting and writing are bounded, and a length that no query has ends the
//! connection, since reading on would mean guessing where the next frame begins.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portcullis_policy::Reason;
use portcullis_record::Protocol;
use portcullis_wire::dns::MAX_FRAME_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::Step;
use crate::reply::HEADER_BYTES;
use crate::service::Inner;
use crate::turn::Via;

/// Connections of one listener at a time.
const MAX_TCP_CLIENTS: usize = 128;

/// Queries of one connection under way at a time; beyond them the connection is not read.
const MAX_PIPELINED: usize = 64;

/// How long a connection may take to send its next query (all of it); longer than any answer takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to read one reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after a failed accept: no free descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `listener` until `token` is cancelled.
pub(crate) async fn serve(
    inner: Arc<Inner>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    let clients = Arc::new(Semaphore::new(MAX_TCP_CLIENTS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok((stream, from)) => (stream, from),
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let via = Via {
            protocol: Protocol::DnsTcp,
            from: Some(from),
            server: stream.local_addr().ok(),
        };
        let Ok(slot) = clients.clone().try_acquire_owned() else {
            deny(
                &inner,
                via,
                Reason::TooManyConnections,
                "too many DNS connections are open",
            );
            continue;
        };
        let (inner, token) = (inner.clone(), token.clone());
        tokio::spawn(async move {
            token.run_until_cancelled(client(inner, stream, via)).await;
            drop(slot);
        });
    }
}

fn deny(inner: &Inner, via: Via, reason: Reason, detail: &str) {
    let event = via.event(reason.verdict(), reason);
    inner.recorder.decision(event.detail(detail));
}

/// One connection, from its first query to its last reply.
async fn client(inner: Arc<Inner>, stream: TcpStream, via: Via) {
    // Replies are written whole; waiting to join them would only delay them.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let (replies, outbox) = mpsc::channel(MAX_PIPELINED);
    let write = write_replies(writer, outbox);
    tokio::pin!(write);
    tokio::select! {
        () = &mut write => return,
        () = read_queries(inner, reader, replies, via) => {}
    }
    // The client sends no more; what it asked for is still answered.
    write.await;
}

async fn read_queries(
    inner: Arc<Inner>,
    mut reader: OwnedReadHalf,
    replies: mpsc::Sender<Vec<u8>>,
    via: Via,
) {
    let slots = Arc::new(Semaphore::new(MAX_PIPELINED));
    let mut query = Vec::new();
    loop {
        match timeout(IDLE_TIMEOUT, read_frame(&mut reader, &mut query)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                return deny(
                    &inner,
                    via,
                    Reason::Malformed,
                    "a DNS frame of a length no query has",
                );
            }
            Ok(Err(_)) | Err(_) => return,
        }
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let mut out = Vec::new();
        match inner.begin(&query, via, &mut out) {
            Step::Done(_) if out.is_empty() => {}
            Step::Done(_) => {
                if replies.send(out).await.is_err() {
                    return;
                }
            }
            Step::Wait(pending) => {
                let (inner, replies, query) = (inner.clone(), replies.clone(), query.clone());
                tokio::spawn(async move {
                    inner.conclude(&query, pending, via, &mut out).await;
                    let _ = replies.send(out).await;
                    drop(slot);
                });
            }
        }
    }
}

/// Reads one frame into `query`; `false` for a length that no query has.
async fn read_frame(reader: &mut OwnedReadHalf, query: &mut Vec<u8>) -> io::Result<bool> {
    let length = usize::from(reader.read_u16().await?);
    if !(HEADER_BYTES..=MAX_FRAME_BYTES).contains(&length) {
        return Ok(false);
    }
    query.resize(length, 0);
    reader.read_exact(query).await?;
    Ok(true)
}

async fn write_replies(mut writer: OwnedWriteHalf, mut outbox: mpsc::Receiver<Vec<u8>>) {
    let mut frame = Vec::new();
    while let Some(reply) = outbox.recv().await {
        let Ok(length) = u16::try_from(reply.len()) else {
            return;
        };
        frame.clear();
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&reply);
        match timeout(WRITE_TIMEOUT, writer.write_all(&frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
