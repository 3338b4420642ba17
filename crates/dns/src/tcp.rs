//! DNS over TCP (RFC 7766): frames of two length bytes and a message, many on one connection,
//! answered as they become ready.
//!
//! Answers *exhaustion* (docs/threats.md): clients, queries under way, waiting and writing are
//! bounded, and a length that no query has ends the connection, since reading on would mean
//! guessing where the next frame begins.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portcullis_policy::Reason;
use portcullis_record::{Protocol, Recorder};
use portcullis_wire::dns::MAX_FRAME_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::acceptor::{Accepted, Acceptor};
use crate::forwarder::{Forwarder, Step, asked_in};
use crate::query::Source;
use crate::reply::HEADER_BYTES;

/// Queries of one connection under way at a time; beyond them the connection is not read.
const MAX_PIPELINED: usize = 64;

/// How long a connection may take to send its next query (all of it); longer than any answer takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to read one reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves `listener` until `token` is cancelled.
pub(crate) async fn serve(
    forwarder: Arc<Forwarder>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    let mut acceptor = Acceptor::new(
        listener,
        forwarder.allowed_clients.clone(),
        forwarder.reserve.clone(),
    );
    loop {
        let accepted = tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            accepted = acceptor.accept() => accepted?,
        };
        let source = |client, server| Source {
            protocol: Protocol::DnsTcp,
            client,
            server,
        };
        let (stream, client) = match accepted {
            Accepted::Connection(stream, client) => (stream, client),
            Accepted::Stranger(client) => {
                forwarder.record_stranger(client, source(Some(client), None));
                continue;
            }
            Accepted::Exhausted(error) => {
                let nobody = source(None, None);
                deny(
                    &forwarder.recorder,
                    nobody,
                    Reason::TooManyConnections,
                    &error.to_string(),
                );
                continue;
            }
        };
        let source = source(Some(client), stream.local_addr().ok());
        let Ok(slot) = forwarder.tcp_clients.clone().try_acquire_owned() else {
            // Closed with RST: nothing was read, and nothing will be.
            let _ = stream.set_zero_linger();
            deny(
                &forwarder.recorder,
                source,
                Reason::TooManyConnections,
                "too many DNS connections are open",
            );
            continue;
        };
        let (forwarder, token) = (forwarder.clone(), token.clone());
        tokio::spawn(async move {
            token
                .run_until_cancelled(serve_client(forwarder, stream, source))
                .await;
            drop(slot);
        });
    }
}

fn deny(recorder: &Recorder, source: Source, reason: Reason, detail: &str) {
    let event = source.event(reason.verdict(), reason);
    recorder.decision(event.detail(detail));
}

/// One connection, from its first query to its last reply.
async fn serve_client(forwarder: Arc<Forwarder>, stream: TcpStream, source: Source) {
    // Replies are written whole; waiting to join them would only delay them.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let (replies, outbox) = mpsc::channel(MAX_PIPELINED);
    let write = write_replies(writer, outbox);
    tokio::pin!(write);
    tokio::select! {
        () = &mut write => return,
        () = read_queries(forwarder, reader, replies, source) => {}
    }
    // The client sends no more; what it asked for is still answered.
    write.await;
}

async fn read_queries(
    forwarder: Arc<Forwarder>,
    mut reader: OwnedReadHalf,
    replies: mpsc::Sender<Vec<u8>>,
    source: Source,
) {
    let slots = Arc::new(Semaphore::new(MAX_PIPELINED));
    let mut query = Vec::new();
    loop {
        match timeout(IDLE_TIMEOUT, read_frame(&mut reader, &mut query)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                // As much of it as is there.
                let mut start = [0; MAX_STRANGE_BYTES];
                let length = reader.try_read(&mut start).unwrap_or(0);
                let asked = asked_in(&start[..length]);
                let why = "a DNS frame of a length no query has";
                let mut event = source.event(Reason::Malformed.verdict(), Reason::Malformed);
                event.asked = Some(asked.as_slice()).filter(|asked| !asked.is_empty());
                forwarder.recorder.decision(event.detail(why));
                return;
            }
            Ok(Err(_)) | Err(_) => return,
        }
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let mut out = Vec::new();
        match forwarder.begin(&query, source, &mut out) {
            Step::Done(_) if out.is_empty() => {}
            Step::Done(_) => {
                if replies.send(out).await.is_err() {
                    return;
                }
            }
            Step::Wait(pending) => {
                let (forwarder, replies, query) =
                    (forwarder.clone(), replies.clone(), query.clone());
                tokio::spawn(async move {
                    forwarder.conclude(&query, pending, source, &mut out).await;
                    let _ = replies.send(out).await;
                    drop(slot);
                });
            }
        }
    }
}

/// Most that is looked at of a frame whose length no query has, in bytes.
const MAX_STRANGE_BYTES: usize = 512;

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
