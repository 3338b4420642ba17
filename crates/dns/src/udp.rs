//! DNS over UDP.
//!
//! One loop reads the socket. What can be answered at once is answered in the loop; only a query
//! that has to ask somebody becomes a task, and those are bounded, so that a flood of new names
//! costs refusals and not memory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portcullis_policy::Reason;
use portcullis_record::Protocol;
use portcullis_wire::dns::guard_query;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::answer::Step;
use crate::pktinfo::{self, Control, Datagram};
use crate::reply::rcode;
use crate::service::Inner;
use crate::turn::{Judged, Refusal, Turn, Via};

/// Longest query read, bytes. A query is one name and a few options.
const MAX_QUERY_BYTES: usize = 4096;

/// Queries of one socket that wait for an upstream at a time.
const MAX_WAITING: usize = 1_024;

/// Datagrams read before the loop lets others run.
const BATCH: usize = 64;

/// Errors in a row after which the socket is taken to be useless.
const MAX_ERRORS: usize = 100;

/// The pause after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// How long a reply waits for room in the socket's buffer.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves `socket` until `token` is cancelled.
pub(crate) async fn serve(
    inner: Arc<Inner>,
    socket: UdpSocket,
    token: CancellationToken,
) -> io::Result<()> {
    pktinfo::enable(&socket);
    let socket = Arc::new(socket);
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let mut buffer = vec![0; MAX_QUERY_BYTES];
    let mut out = Vec::with_capacity(MAX_QUERY_BYTES);
    let mut control = Control::new();
    let mut errors = 0;
    loop {
        tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            ready = socket.readable() => ready?,
        }
        for _ in 0..BATCH {
            let received = socket.try_io(Interest::READABLE, || {
                pktinfo::receive(&*socket, &mut buffer, &mut control)
            });
            let datagram = match received {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    // ECONNREFUSED and the like are about an earlier reply, not about the socket.
                    errors += 1;
                    if errors > MAX_ERRORS {
                        return Err(error);
                    }
                    tokio::time::sleep(ERROR_PAUSE).await;
                    break;
                }
            };
            errors = 0;
            // A datagram that did not fit is no query of ours; what was read of it says so.
            let query = &buffer[..datagram.length.min(MAX_QUERY_BYTES)];
            let via = Via {
                protocol: Protocol::DnsUdp,
                from: pktinfo::address(&datagram.from),
                server: None,
            };
            let Step::Wait(pending) = inner.begin(query, via, &mut out) else {
                send(&socket, &datagram, &out).await;
                continue;
            };
            let Ok(slot) = waiting.clone().try_acquire_owned() else {
                too_many(&inner, query, via, &mut out);
                send(&socket, &datagram, &out).await;
                continue;
            };
            let (inner, socket, query) = (inner.clone(), socket.clone(), query.to_vec());
            let token = token.clone();
            tokio::spawn(async move {
                let mut out = Vec::new();
                let answered = inner.conclude(&query, pending, via, &mut out);
                if token.run_until_cancelled(answered).await.is_some() {
                    send(&socket, &datagram, &out).await;
                }
                drop(slot);
            });
        }
    }
}

/// Sends a reply. One that cannot be sent is lost, as datagrams may be: the client asks again.
async fn send(socket: &UdpSocket, to: &Datagram, payload: &[u8]) {
    if payload.is_empty() || to.cut {
        return;
    }
    let sending = async {
        loop {
            let sent = socket.try_io(Interest::WRITABLE, || pktinfo::reply(socket, to, payload));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if socket.writable().await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(SEND_TIMEOUT, sending).await;
}

/// Refuses a query because too many wait: SERVFAIL, so that nobody caches it as an absent name.
fn too_many(inner: &Inner, query: &[u8], via: Via, out: &mut Vec<u8>) {
    out.clear();
    let Ok(parsed) = guard_query(query) else {
        return;
    };
    let turn = Turn::new(query, &parsed, via);
    let (policy, _) = inner.policy();
    let judged = Judged::of(Reason::RateLimited, None);
    inner.refuse(&turn, &policy, judged, Refusal::Code(rcode::SERV_FAIL), out);
}
