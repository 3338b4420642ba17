//! Datagrams, where a rule lets them through: from a program's socket to one of its own outside, and
//! back from the address that was asked.
//!
//! The kernel inside refuses every datagram whose destination is not leased for its UDP port, or named
//! by an address rule. Answers *QUIC, DoT and other resolvers* (docs/threats.md). What arrives here is decided on again by
//! lease and rule, once for each flow: a program's socket and one destination. Flows are bounded, end
//! when nothing passes or the program's socket is gone, and leave one decision and one close, which
//! counts what was dropped. What is not taken is told to the program, as a network does.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis_dns::pktinfo::{self, LocalAddress, Reply};
use portcullis_names::PortSet;
use portcullis_policy::{DatagramPermit, Mode, Reason, Verdict};
use portcullis_record::{
    Client, Close, CloseReason, DecisionId, Event, Layer, Protocol, Transport,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::datagram_flows::{DatagramEnds, DatagramPlace, Untaken};
use crate::decider::Decider;
use crate::limits::Slot;
use crate::meter::{Cut, Meter, Way};
use crate::proxy::Proxy;
use crate::target::{Ruling, Target};

/// A flow ends when nothing has passed for this long, unless its rule says otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest datagram, in bytes.
const MAX_DATAGRAM_BYTES: usize = 65_535;
/// Datagrams of one flow that wait to be sent, above all while it is opened; more are dropped.
const MAX_QUEUED: usize = 1024;
/// Their bytes: a usual first burst (64 KiB) and the longest datagram beside it.
const MAX_FLOW_BYTES: usize = 128 * 1024;
/// How often an active flow has its way through the kernel kept open.
const REOPEN_PAUSE: Duration = Duration::from_secs(60);
/// After a failed read.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// Failed reads in a row after which the socket is taken to be useless.
const MAX_ERRORS: usize = 100;

/// A program's socket, and the address that it sends to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    client: SocketAddr,
    to: IpAddr,
}

/// A datagram that waits to be sent, and its share of the room for those: its flow's and the
/// sandbox's.
struct Queued {
    bytes: Vec<u8>,
    _places: [OwnedSemaphorePermit; 2],
}

/// The end of a flow that takes what the program sends. Dropping it ends the flow, after what waits.
struct Inlet {
    queue: Sender<Queued>,
    room: Arc<Semaphore>,
    dropped: Arc<AtomicU64>,
}

/// What becomes of a datagram that is offered to a flow.
enum Offered {
    Taken,
    /// The flow has ended.
    Over,
}

impl Inlet {
    fn new() -> (Inlet, Outlet) {
        let (queue, receive) = mpsc::channel(MAX_QUEUED);
        let dropped = Arc::<AtomicU64>::default();
        let inlet = Inlet {
            queue,
            room: Arc::new(Semaphore::new(MAX_FLOW_BYTES)),
            dropped: dropped.clone(),
        };
        let outlet = Outlet {
            queue: receive,
            dropped,
        };
        (inlet, outlet)
    }

    /// Takes a datagram, or drops and counts it where there is no room.
    fn offer(&self, bytes: &[u8], of_sandbox: &Arc<Semaphore>) -> Offered {
        if self.queue.is_closed() {
            return Offered::Over;
        }
        let weight = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let place = |room: &Arc<Semaphore>| room.clone().try_acquire_many_owned(weight).ok();
        let queued = place(&self.room)
            .zip(place(of_sandbox))
            .map(|(own, shared)| Queued {
                bytes: bytes.to_vec(),
                _places: [own, shared],
            });
        match queued.map(|queued| self.queue.try_send(queued)) {
            Some(Ok(())) => Offered::Taken,
            Some(Err(TrySendError::Closed(_))) => Offered::Over,
            Some(Err(TrySendError::Full(_))) | None => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                Offered::Taken
            }
        }
    }
}

/// The other end of an [`Inlet`].
struct Outlet {
    queue: Receiver<Queued>,
    dropped: Arc<AtomicU64>,
}

/// Whether there is room for a flow.
enum Room {
    Now(DatagramPlace),
    /// There may be, once flows have ended whose program's socket is gone.
    Later(Slot),
}

/// One wildcard socket inside: every address on one port.
struct WildcardSocket {
    proxy: Arc<Proxy>,
    socket: UdpSocket,
    port: u16,
    token: CancellationToken,
}

/// Serves a wildcard socket of the sandbox until `token` is cancelled.
///
/// # Errors
/// The socket cannot be read any more.
pub async fn serve_datagrams(
    proxy: Arc<Proxy>,
    socket: UdpSocket,
    token: CancellationToken,
) -> io::Result<()> {
    let port = socket.local_addr()?.port();
    let entrance = Arc::new(WildcardSocket {
        proxy,
        socket,
        port,
        token,
    });
    let tracker = TaskTracker::new();
    let flows = entrance.proxy.admission.datagrams.clone();
    tracker.spawn(flows.watch(entrance.token.clone()));
    let result = entrance.clone().read(&tracker).await;
    tracker.close();
    tracker.wait().await;
    result
}

impl WildcardSocket {
    async fn read(self: Arc<Self>, tracker: &TaskTracker) -> io::Result<()> {
        let mut inlets: HashMap<Key, Inlet> = HashMap::new();
        let flows = &self.proxy.admission.datagrams;
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        let mut errors = 0;
        loop {
            tokio::select! {
                biased;
                () = self.token.cancelled() => return Ok(()),
                ready = self.socket.readable() => ready?,
            }
            let receive = || pktinfo::receive(&self.socket, &mut buffer);
            let received = match self.socket.try_io(Interest::READABLE, receive) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => {
                    // ECONNREFUSED and the like are about an earlier answer, not about the socket.
                    errors += 1;
                    if errors > MAX_ERRORS {
                        return Err(error);
                    }
                    sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            errors = 0;
            let client = received.from;
            let to = match received.to {
                LocalAddress::V4(address) => address.into(),
                LocalAddress::V6(address, _) => address.into(),
                LocalAddress::Bound => continue,
            };
            let key = Key { client, to };
            let datagram = buffer.get(..received.length).unwrap_or_default();
            if let Some(flow) = inlets.get(&key)
                && let Offered::Taken = flow.offer(datagram, &flows.bytes)
            {
                continue;
            }
            inlets.retain(|_, flow| !flow.queue.is_closed());
            let entered = flows.enter(self.ends(key)).map(Room::Now);
            let Some(place) = entered.or_else(|| flows.queue().map(Room::Later)) else {
                self.too_many(key);
                continue;
            };
            let (inlet, outlet) = Inlet::new();
            inlet.offer(datagram, &flows.bytes);
            inlets.insert(key, inlet);
            tracker.spawn(self.clone().begin(key, received.to, outlet, place));
        }
    }

    /// Begins a flow as soon as there is room for it.
    async fn begin(self: Arc<Self>, key: Key, asked: LocalAddress, outlet: Outlet, room: Room) {
        let place = match room {
            Room::Now(place) => Some(place),
            Room::Later(queued) => {
                let flows = &self.proxy.admission.datagrams;
                flows.enter_later(self.ends(key), queued).await
            }
        };
        match place {
            Some(place) => self.flow(key, asked, outlet, place).await,
            None => self.too_many(key),
        }
    }

    /// One flow, from its decision to its end.
    async fn flow(
        self: Arc<Self>,
        key: Key,
        asked: LocalAddress,
        mut outlet: Outlet,
        place: DatagramPlace,
    ) {
        let target = self
            .proxy
            .decider
            .target_at(SocketAddr::new(key.to, self.port));
        let mut ruling = self.proxy.decider.decide_datagrams(&target);
        let Some(permit) = ruling.permit.take() else {
            self.refuse(key, &target, &ruling, &[], None);
            return;
        };
        let opened = tokio::select! {
            () = self.token.cancelled() => return,
            opened = self.proxy.connector.dialer.connect_datagrams(&permit) => opened,
        };
        let out = match opened {
            Ok(out) => out,
            Err(error) => {
                ruling.reason = error.reason;
                ruling.verdict = error.reason.verdict();
                self.refuse(key, &target, &ruling, &error.addresses, Some(&error.detail));
                return;
            }
        };
        let started = Instant::now();
        let id = self.record_open(key, &target, &ruling, out.address);
        let _hold = self.proxy.records.hold(&target, ruling.name.as_ref());
        let of_rule = permit.terms().and_then(|terms| terms.limits.idle_timeout);
        let of_sandbox = ruling.policy.settings().limits.flows.idle_timeout;
        let idle = match ruling.policy.mode() {
            Mode::Audit => None,
            Mode::Enforce => [of_rule, of_sandbox].into_iter().flatten().min(),
        };
        let idle = idle.unwrap_or(IDLE_TIMEOUT);
        let mut meter = self.proxy.connector.limiter.meter(None);
        let mut quiet = pin!(sleep(idle));
        let mut opened = started;
        let (mut sent, mut received, mut dropped) = (0, 0, 0_u64);
        let mut limit = None;
        let end = loop {
            tokio::select! {
                biased;
                () = self.token.cancelled() => break CloseReason::Shutdown,
                () = place.client_gone.cancelled(), if !outlet.queue.is_closed() => {
                    // What it sent before is sent still.
                    outlet.queue.close();
                    continue;
                }
                datagram = outlet.queue.recv() => {
                    let Some(Queued { bytes: datagram, .. }) = datagram else {
                        break CloseReason::ClientClosed;
                    };
                    if !stands(&mut ruling, &target, &self.proxy.decider, out.address) {
                        break CloseReason::PolicyChanged;
                    }
                    if let Some(cut) = self.await_permit(&mut meter, Way::Up, datagram.len()).await {
                        limit = Some(cut.detail);
                        break cut.end;
                    }
                    match out.socket.send(&datagram).await {
                        Ok(bytes) => sent += bytes as u64,
                        Err(error) if is_fatal(&error) => {
                            self.tell(key, untaken(&error));
                            break CloseReason::UpstreamReset;
                        }
                        // Too long for the way, or no room.
                        Err(_) => dropped += 1,
                    }
                }
                ready = out.socket.ready(Interest::READABLE | Interest::ERROR) => {
                    let Ok(ready) = ready else { break CloseReason::Internal };
                    // What the network said of a datagram, which makes the socket readable by itself only
                    // where there is a datagram too.
                    if ready.is_error() {
                        match error_of(&out.socket) {
                            Some(error) if is_fatal(&error) => {
                                self.tell(key, untaken(&error));
                                break CloseReason::UpstreamReset;
                            }
                            _ => continue,
                        }
                    }
                    let mut answer = Vec::with_capacity(MAX_DATAGRAM_BYTES);
                    match out.socket.try_recv_buf(&mut answer) {
                        Ok(bytes) => received += bytes as u64,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => {
                            self.tell(key, untaken(&error));
                            break CloseReason::UpstreamReset;
                        }
                    }
                    if !stands(&mut ruling, &target, &self.proxy.decider, out.address) {
                        break CloseReason::PolicyChanged;
                    }
                    if let Some(cut) = self.await_permit(&mut meter, Way::Down, answer.len()).await {
                        limit = Some(cut.detail);
                        break cut.end;
                    }
                    // A program that is gone, or too slow, loses what it does not take.
                    let reply = Reply { to: key.client, from: asked, payload: answer };
                    if pktinfo::reply(&self.socket, &reply).is_err() {
                        dropped += 1;
                    }
                }
                () = &mut quiet => break CloseReason::IdleTimeout,
            }
            quiet.as_mut().reset(tokio::time::Instant::now() + idle);
            if ruling.name.is_some() && opened.elapsed() >= REOPEN_PAUSE {
                opened = Instant::now();
                let port = PortSet::single(self.port);
                // Refused, the next datagram is refused at once, and its flow begins anew.
                let leases = self.proxy.records.leases();
                let _ = leases.open_datagrams(key.to, &port, Duration::ZERO);
            }
        };
        // What still waits is dropped with the flow.
        outlet.queue.close();
        while outlet.queue.try_recv().is_ok() {
            dropped += 1;
        }
        dropped += outlet.dropped.load(Ordering::Relaxed);
        let detail = match (limit, dropped) {
            (limit, 0) => limit.map(str::to_owned),
            (None, dropped) => Some(format!("{dropped} datagrams were dropped")),
            (Some(limit), dropped) => Some(format!("{limit}; {dropped} datagrams were dropped")),
        };
        let mut close = Close::new(end, sent, received, started.elapsed());
        close.detail = detail.as_deref();
        self.proxy.records.recorder().close(id, close);
    }

    /// Waits until the sandbox's limits let a datagram pass, which counts whole; what comes meanwhile
    /// waits too, or is lost as on any full link. What ends the flow instead, if something does.
    async fn await_permit(
        &self,
        meter: &mut Option<Box<Meter>>,
        way: Way,
        bytes: usize,
    ) -> Option<Cut> {
        let meter = meter.as_mut().filter(|meter| meter.counts())?;
        tokio::select! {
            () = self.token.cancelled() => Some(Cut {
                end: CloseReason::Shutdown,
                detail: "the gateway ended",
            }),
            taken = async { meter.tap(way).take(bytes).await } => taken.err(),
        }
    }

    fn event<'a>(&self, key: Key, verdict: Verdict, reason: Reason) -> Event<'a> {
        let mut event = Event::new(Layer::Udp, Protocol::Transparent, verdict, reason);
        event.port = Some(self.port);
        event.client = Some(Client {
            transport: Transport::Udp,
            address: key.client,
            server: None,
        });
        event
    }

    fn ends(&self, key: Key) -> DatagramEnds {
        DatagramEnds {
            client: key.client,
            server: SocketAddr::new(key.to, self.port),
        }
    }

    fn tell(&self, key: Key, why: Untaken) {
        let flows = &self.proxy.admission.datagrams;
        flows.tell(self.ends(key), why);
    }

    /// Records a refusal or a failure, and tells the program.
    fn refuse(
        &self,
        key: Key,
        target: &Target,
        ruling: &Ruling<DatagramPermit>,
        addresses: &[IpAddr],
        detail: Option<&str>,
    ) {
        let asked = [key.to];
        let mut event = self.event(key, ruling.verdict, ruling.reason);
        fill(&mut event, target, ruling);
        event.addresses = if addresses.is_empty() {
            &asked
        } else {
            addresses
        };
        event.detail = detail;
        self.proxy.records.recorder().decision(event);
        self.tell(
            key,
            match ruling.verdict {
                Verdict::Error => Untaken::Unreachable,
                _ => Untaken::Prohibited,
            },
        );
    }

    /// Records a flow that stands.
    fn record_open(
        &self,
        key: Key,
        target: &Target,
        ruling: &Ruling<DatagramPermit>,
        upstream: SocketAddr,
    ) -> DecisionId {
        let (addresses, upstream) = ([upstream.ip()], upstream.to_string());
        let mut event = self.event(key, ruling.verdict, ruling.reason);
        fill(&mut event, target, ruling);
        event.addresses = &addresses;
        event.upstream = Some(&upstream);
        self.proxy.records.recorder().decision(event)
    }

    fn too_many(&self, key: Key) {
        let addresses = [key.to];
        let mut event = self.event(key, Verdict::Deny, Reason::TooManyConnections);
        event.addresses = &addresses;
        event.detail = Some("flows of datagrams");
        self.proxy.records.recorder().decision(event);
        self.tell(key, Untaken::Refused);
    }
}

/// Whether the policy in force now lets the flow through as it stands.
fn stands(
    ruling: &mut Ruling<DatagramPermit>,
    target: &Target,
    decider: &Decider,
    at: SocketAddr,
) -> bool {
    if Arc::ptr_eq(&decider.policy(), &ruling.policy) {
        return true;
    }
    let now = decider.decide_datagrams(target);
    let host =
        (now.name.as_ref()).is_some_and(|name| name.as_str() == portcullis_policy::HOST_NAME);
    let guarded = !host && now.policy.guard_datagrams(at.ip(), at.port()).is_err();
    ruling.policy = now.policy;
    now.permit.is_some() && now.name == ruling.name && !guarded
}

/// What the ruling says of the flow.
fn fill<'a>(event: &mut Event<'a>, target: &'a Target, ruling: &'a Ruling<DatagramPermit>) {
    let known = ruling.name.as_ref().map(|name| name.as_str());
    event.name = known.or(target.owner());
    event.suggestion = ruling.suggestion.as_deref();
    if let Some(rule) = ruling.rule {
        let rule = ruling.policy.rule(rule);
        event.rule = Some((rule.text, rule.source));
    }
}

/// Takes the error of a socket that has one.
fn error_of(socket: &UdpSocket) -> Option<io::Error> {
    let none = || io::ErrorKind::WouldBlock.into();
    let taken = socket.try_io(Interest::ERROR, || socket.take_error()?.ok_or_else(none));
    taken.ok()
}

/// What a program is told of an error of the socket outside.
fn untaken(error: &io::Error) -> Untaken {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Untaken::Refused,
        _ => Untaken::Unreachable,
    }
}

/// Whether an error says that nobody listens, rather than that one datagram was lost.
fn is_fatal(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkUnreachable
    )
}
