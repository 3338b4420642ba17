//! DNS over UDP.
//!
//! One loop reads the socket, in batches. What can be answered at once is answered in the loop; only
//! a query that has to ask somebody becomes a task, and those are bounded, so that a flood of new
//! names costs refusals and not memory.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{SockaddrIn, SockaddrIn6};
use portcullis_policy::Reason;
use portcullis_record::Protocol;
use portcullis_wire::dns::guard_query;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::answer::{Pending, Step};
use crate::batch::{BATCH, Datagram, Desk, Family, Outbox};
use crate::memo::{Memo, Moment};
use crate::pktinfo::{self, Asked, Reply};
use crate::reply::rcode;
use crate::service::Inner;
use crate::turn::{Judged, Refusal, Turn, Via};

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
    inner: Arc<Inner>,
    socket: UdpSocket,
    token: CancellationToken,
) -> io::Result<()> {
    let address = socket.local_addr()?;
    // A socket that is bound to one address replies from it.
    let told = address.ip().is_unspecified();
    if told {
        pktinfo::enable(&socket, address.is_ipv4())?;
    }
    let door = Door {
        inner,
        socket: Arc::new(socket),
        told,
        waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        token,
    };
    if address.is_ipv4() {
        door.serve::<SockaddrIn>().await
    } else {
        door.serve::<SockaddrIn6>().await
    }
}

/// One socket and what its queries need.
struct Door {
    inner: Arc<Inner>,
    socket: Arc<UdpSocket>,
    /// Whether the socket tells the address that was asked.
    told: bool,
    waiting: Arc<Semaphore>,
    token: CancellationToken,
}

impl Door {
    async fn serve<S: Family>(self) -> io::Result<()> {
        let mut memo = Memo::default();
        let mut later = Vec::new();
        let mut errors = 0;
        loop {
            tokio::select! {
                biased;
                () = self.token.cancelled() => return Ok(()),
                ready = self.socket.readable() => ready?,
            }
            let batch = |desk: &mut Desk<S>| self.batch(desk, &mut memo, &mut later);
            match S::with_desk(batch) {
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
            for reply in later.drain(..) {
                send(&self.socket, &reply).await;
            }
        }
    }

    /// Takes what waits and answers it. Replies for which the socket has no room go to `later`.
    fn batch<S: Family>(
        &self,
        desk: &mut Desk<S>,
        memo: &mut Memo,
        later: &mut Vec<Reply>,
    ) -> io::Result<()> {
        let Desk { inbox, outbox } = desk;
        let received = self.socket.try_io(Interest::READABLE, || {
            match inbox.receive(&*self.socket, self.told)? {
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
        let (policy, epoch) = self.inner.policy();
        // A policy with a limit has every query counted on its way through `begin`.
        let repeat = policy.settings().dns.queries_per_second.is_none();
        let moment = Moment {
            epoch,
            now: self.inner.clock.now(),
            stamp: since,
        };
        for (datagram, query) in inbox.iter() {
            let Some(out) = outbox.next() else { break };
            if repeat && !datagram.cut && memo.answer(&self.inner, query, &moment, out) {
                outbox.put(datagram);
                continue;
            }
            self.one(datagram, query, &moment, memo, outbox);
            if since.elapsed() >= GATHER_TIME {
                outbox.send(&*self.socket, |reply| later.push(reply));
                since = Instant::now();
            }
        }
        outbox.send(&*self.socket, |reply| later.push(reply));
        Ok(())
    }

    /// Answers a query that was not answered just now.
    fn one<S: Family>(
        &self,
        datagram: &Datagram<S>,
        query: &[u8],
        moment: &Moment,
        memo: &mut Memo,
        outbox: &mut Outbox<S>,
    ) {
        let Some(out) = outbox.next() else { return };
        let via = Via {
            protocol: Protocol::DnsUdp,
            from: Some(datagram.from.address()),
            server: None,
        };
        match self.inner.begin(query, via, out) {
            Step::Done(keep) => {
                if let Some(keep) = keep {
                    memo.learn(query, out, moment, keep);
                }
            }
            Step::Wait(pending) => match self.waiting.clone().try_acquire_owned() {
                Ok(slot) => {
                    out.clear();
                    let asked = (!datagram.cut).then_some(datagram.asked);
                    self.wait(query.to_vec(), pending, via, asked, slot);
                }
                Err(_) => too_many(&self.inner, query, via, out),
            },
        }
        // A datagram that did not fit is no query of ours; what was read of it says so.
        if !out.is_empty() && !datagram.cut {
            outbox.put(datagram);
        }
    }
    /// Lets a query wait for its answer, and replies from the address that was asked.
    fn wait(
        &self,
        query: Vec<u8>,
        pending: Box<Pending>,
        via: Via,
        asked: Option<Asked>,
        slot: OwnedSemaphorePermit,
    ) {
        let (inner, socket, token) = (self.inner.clone(), self.socket.clone(), self.token.clone());
        tokio::spawn(async move {
            let mut payload = Vec::new();
            let answered = inner.conclude(&query, pending, via, &mut payload);
            let answered = token.run_until_cancelled(answered).await.is_some();
            if let (true, Some(to), Some(asked)) = (answered, via.from, asked) {
                let reply = Reply { to, asked, payload };
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
