//! DNS over UDP.
//!
//! One loop reads the socket, in batches. What can be answered at once is answered in the loop; only
//! a query that has to ask somebody becomes a task, and those are bounded, so that a flood of new
//! names costs refusals and not memory.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{SockaddrIn, SockaddrIn6};
use portcullis_record::Protocol;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::batch::{BATCH, BatchBuffers, Datagram, Family, Outbox};
use crate::forwarder::{Forwarder, Pending, Step};
use crate::pktinfo::{self, Reply};
use crate::query::Source;
use crate::response_cache::ResponseCache;

/// Queries of one socket that wait for an upstream at a time.
const MAX_WAITING: usize = 1_024;

/// Errors in a row after which the socket is taken to be useless.
const MAX_ERRORS: usize = 100;

/// The pause after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// How long a reply waits for room in the socket's buffer.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long replies wait for those of the same batch. What is known is answered in a fraction of
/// it; a refusal that looks for its program, or opens an address, takes longer.
const GATHER_TIME: Duration = Duration::from_micros(100);

/// Serves `socket` until `token` is cancelled.
pub(crate) async fn serve(
    forwarder: Arc<Forwarder>,
    socket: UdpSocket,
    token: CancellationToken,
) -> io::Result<()> {
    let address = socket.local_addr()?;
    // A socket that is bound to one address replies from it.
    let tells_address = address.ip().is_unspecified();
    if tells_address {
        pktinfo::enable(&socket, address.is_ipv4())?;
    }
    let server = Server {
        forwarder,
        socket: Arc::new(socket),
        tells_address,
        waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        token,
    };
    if address.is_ipv4() {
        server.serve::<SockaddrIn>().await
    } else {
        server.serve::<SockaddrIn6>().await
    }
}

/// One socket and what its queries need.
struct Server {
    forwarder: Arc<Forwarder>,
    socket: Arc<UdpSocket>,
    /// Whether the socket tells the address that was asked.
    tells_address: bool,
    waiting: Arc<Semaphore>,
    token: CancellationToken,
}

impl Server {
    async fn serve<S: Family>(self) -> io::Result<()> {
        let mut responses = ResponseCache::default();
        let mut unsent = Vec::new();
        let mut errors = 0;
        loop {
            tokio::select! {
                biased;
                () = self.token.cancelled() => return Ok(()),
                ready = self.socket.readable() => ready?,
            }
            let batch =
                |buffers: &mut BatchBuffers<S>| self.batch(buffers, &mut responses, &mut unsent);
            match S::with_buffers(batch) {
                Ok(()) => errors = 0,
                Err(error) => {
                    // ECONNREFUSED and the like are about an earlier reply, not about the socket.
                    errors += 1;
                    if errors > MAX_ERRORS {
                        return Err(error);
                    }
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
            for reply in unsent.drain(..) {
                send(&self.socket, &reply).await;
            }
        }
    }

    /// Takes what waits and answers it. Replies for which the socket has no room go to `unsent`.
    fn batch<S: Family>(
        &self,
        buffers: &mut BatchBuffers<S>,
        responses: &mut ResponseCache,
        unsent: &mut Vec<Reply>,
    ) -> io::Result<()> {
        let BatchBuffers { inbox, outbox } = buffers;
        let received = self.socket.try_io(Interest::READABLE, || {
            match inbox.receive(&*self.socket, self.tells_address)? {
                BATCH => Ok(()),
                // Less than there was room for: nothing more waits, and asking would only say so.
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        if let Err(error) = received
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
        let mut since = Instant::now();
        let in_force = self.forwarder.policy.current();
        // A policy with a limit has every query counted on its way through `begin`; and where not
        // everybody may ask, every client is looked at.
        let repeat = in_force.policy.settings().dns.queries_per_second.is_none()
            && self.forwarder.allowed_clients.is_everybody();
        let batch = self.forwarder.batch(in_force.epoch, since);
        for (datagram, query) in inbox.iter() {
            let Some(out) = outbox.next() else { break };
            if repeat && !datagram.cut && responses.answer(&batch, query, out) {
                outbox.put(datagram);
                continue;
            }
            self.one(datagram, query, responses, outbox, in_force.epoch);
            if since.elapsed() >= GATHER_TIME {
                outbox.send(&*self.socket, |reply| unsent.push(reply));
                since = Instant::now();
            }
        }
        outbox.send(&*self.socket, |reply| unsent.push(reply));
        Ok(())
    }

    /// Answers a query that was not answered just now. `epoch` is the batch's.
    fn one<S: Family>(
        &self,
        datagram: &Datagram<S>,
        query: &[u8],
        responses: &mut ResponseCache,
        outbox: &mut Outbox<S>,
        epoch: u64,
    ) {
        let Some(out) = outbox.next() else { return };
        let client = datagram.from.address();
        let source = Source {
            protocol: Protocol::DnsUdp,
            client: Some(client),
            server: None,
        };
        if !self.forwarder.allowed_clients.contains(client.ip()) {
            self.forwarder.refuse_stranger(query, client, source, out);
            if !out.is_empty() && !datagram.cut {
                outbox.put(datagram);
            }
            return;
        }
        match self.forwarder.begin(query, source, out) {
            Step::Done(reusable) => {
                if let Some(reusable) = reusable {
                    responses.learn(query, out, epoch, reusable);
                }
            }
            // A datagram that did not fit is no query of ours: nobody is asked for it.
            Step::Wait(_) if datagram.cut => out.clear(),
            Step::Wait(pending) => match self.waiting.clone().try_acquire_owned() {
                Ok(slot) => {
                    out.clear();
                    let reply = Reply {
                        to: client,
                        from: datagram.local,
                        payload: Vec::new(),
                    };
                    self.wait(query.to_vec(), pending, source, reply, slot);
                }
                Err(_) => self.forwarder.refuse_too_many(query, source, out),
            },
        }
        // What was read of a datagram that did not fit is recorded, and not replied to.
        if !out.is_empty() && !datagram.cut {
            outbox.put(datagram);
        }
    }

    /// Lets a query wait for its answer, and replies from the address that was asked.
    fn wait(
        &self,
        query: Vec<u8>,
        pending: Box<Pending>,
        source: Source,
        mut reply: Reply,
        slot: OwnedSemaphorePermit,
    ) {
        let forwarder = self.forwarder.clone();
        let (socket, token) = (self.socket.clone(), self.token.clone());
        tokio::spawn(async move {
            let answered = forwarder.conclude(&query, pending, source, &mut reply.payload);
            if token.run_until_cancelled(answered).await.is_some() {
                send(&socket, &reply).await;
            }
            drop(slot);
        });
    }
}

/// Sends a reply. One that cannot be sent is lost, as datagrams may be: the client asks again.
async fn send(socket: &UdpSocket, reply: &Reply) {
    if reply.payload.is_empty() {
        return;
    }
    let sending = async {
        loop {
            let sent = socket.try_io(Interest::WRITABLE, || pktinfo::reply(socket, reply));
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
