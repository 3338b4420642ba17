//! Datagrams, where a rule lets them through: from a program's socket to one of its own outside, and
//! back from the address that was asked.
//!
//! The kernel inside refuses every datagram whose destination is not leased for its UDP port, or named
//! by an address rule. Answers *QUIC, DoT and other resolvers* (docs/threats.md). What arrives here is decided on again by
//! lease and rule, once for each flow: a program's socket and one destination. Flows are bounded, end
//! when nothing passes, and leave one decision and one close.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
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

use crate::decider::Decider;
use crate::limits::Slot;
use crate::meter::{Cut, Meter, Way};
use crate::proxy::Proxy;
use crate::target::{Ruling, Target};

/// A flow ends when nothing has passed for this long, unless its rule says otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest datagram, in bytes.
const MAX_DATAGRAM_BYTES: usize = 65_535;
/// Datagrams of one flow that wait to be sent; more are lost, as on any full link.
const MAX_QUEUED: usize = 16;
/// Bytes of datagrams that wait to be sent behind one listed port, of all its flows; more are lost.
const MAX_QUEUED_BYTES: usize = 2 * 1024 * 1024;
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

/// A datagram that waits to be sent, and its share of the room for those.
struct Queued {
    bytes: Vec<u8>,
    _place: OwnedSemaphorePermit,
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
    let result = entrance.clone().read(&tracker).await;
    tracker.close();
    tracker.wait().await;
    result
}

impl WildcardSocket {
    async fn read(self: Arc<Self>, tracker: &TaskTracker) -> io::Result<()> {
        let mut flows: HashMap<Key, Sender<Queued>> = HashMap::new();
        let room = Arc::new(Semaphore::new(MAX_QUEUED_BYTES));
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
            let weight = u32::try_from(received.length).unwrap_or(u32::MAX);
            let Ok(place) = room.clone().try_acquire_many_owned(weight) else {
                continue;
            };
            let datagram = Queued {
                bytes: buffer.get(..received.length).unwrap_or_default().to_vec(),
                _place: place,
            };
            let datagram = match flows.get(&key) {
                None => datagram,
                Some(flow) => match flow.try_send(datagram) {
                    Err(TrySendError::Closed(datagram)) => datagram,
                    Ok(()) | Err(TrySendError::Full(_)) => continue,
                },
            };
            // Those that have ended make room.
            flows.retain(|_, flow| !flow.is_closed());
            let Some(slot) = self.proxy.admission.datagram_flow() else {
                self.too_many(key);
                continue;
            };
            let (send, receive) = mpsc::channel(MAX_QUEUED);
            let _ = send.try_send(datagram);
            flows.insert(key, send);
            tracker.spawn(self.clone().flow(key, received.to, receive, slot));
        }
    }

    /// One flow, from its decision to its end.
    async fn flow(
        self: Arc<Self>,
        key: Key,
        asked: LocalAddress,
        mut up: Receiver<Queued>,
        _slot: Slot,
    ) {
        let target = self
            .proxy
            .decider
            .target_at(SocketAddr::new(key.to, self.port));
        let mut ruling = self.proxy.decider.decide_datagrams(&target);
        let Some(permit) = ruling.permit.take() else {
            self.record_refusal(key, &target, &ruling, &[], None);
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
                self.record_refusal(key, &target, &ruling, &error.addresses, Some(&error.detail));
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
        let (mut sent, mut received) = (0, 0);
        let mut limit = None;
        let end = loop {
            tokio::select! {
                biased;
                () = self.token.cancelled() => break CloseReason::Shutdown,
                datagram = up.recv() => {
                    let Some(Queued { bytes: datagram, .. }) = datagram else {
                        break CloseReason::Shutdown;
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
                        Err(error) if is_fatal(&error) => break CloseReason::UpstreamReset,
                        Err(_) => {} // too long for the way, or no room: lost, as datagrams are
                    }
                }
                ready = out.socket.readable() => {
                    if ready.is_err() {
                        break CloseReason::Internal;
                    }
                    let mut answer = Vec::with_capacity(MAX_DATAGRAM_BYTES);
                    match out.socket.try_recv_buf(&mut answer) {
                        Ok(bytes) => received += bytes as u64,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(_) => break CloseReason::UpstreamReset,
                    }
                    if !stands(&mut ruling, &target, &self.proxy.decider, out.address) {
                        break CloseReason::PolicyChanged;
                    }
                    if let Some(cut) = self.await_permit(&mut meter, Way::Down, answer.len()).await {
                        limit = Some(cut.detail);
                        break cut.end;
                    }
                    // A program that is gone, or too slow, loses what it does not take.
                    let _ = pktinfo::reply(&self.socket, &Reply { to: key.client, from: asked, payload: answer });
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
        let mut close = Close::new(end, sent, received, started.elapsed());
        close.detail = limit;
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

    /// Records a refusal or a failure.
    fn record_refusal(
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

/// Whether an error says that nobody listens, rather than that one datagram was lost.
fn is_fatal(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkUnreachable
    )
}
