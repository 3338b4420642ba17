//! Decision records of the entrances: one for each denial, one and a close for each flow.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use portcullis_dial::{Dialed, Stream};
use portcullis_dns::Hold;
use portcullis_names::Name;
use portcullis_policy::{Reason, Verdict};
use portcullis_record::{
    Client, Close, CloseReason, DecisionId, Event, Layer, Protocol, Recorder, Timings,
};
use tokio::net::TcpStream;

use crate::ProxyContext;
use crate::flows::Entered;
use crate::meter::Admitted;
use crate::open_error::OpenError;
use crate::socket;
use crate::target::{Asks, Ruling, Target};

/// The way that a connection came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Via {
    pub(crate) protocol: Protocol,
    /// The program's end, where the socket still tells.
    from: Option<SocketAddr>,
    /// The end that it reached.
    to: Option<SocketAddr>,
}

impl Via {
    pub(crate) fn new(protocol: Protocol, client: &TcpStream) -> Via {
        let from = client.peer_addr().ok().map(socket::plain);
        let to = client.local_addr().ok().map(socket::plain);
        Via { protocol, from, to }
    }

    /// A connection that could not be taken.
    pub(crate) fn nobody(protocol: Protocol) -> Via {
        Via {
            protocol,
            from: None,
            to: None,
        }
    }

    /// The same connection, where what is said on it is another protocol.
    pub(crate) fn speaking(self, protocol: Protocol) -> Via {
        Via { protocol, ..self }
    }
}

/// Where a decision was made, and what else a record of it says.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) layer: Layer,
    pub(crate) via: Via,
    pub(crate) method: Option<&'a str>,
    pub(crate) path: Option<&'a str>,
    /// The name that was shown (SNI, Host), where it is the subject.
    pub(crate) shown: Option<&'a str>,
    pub(crate) detail: Option<&'a str>,
}

impl<'a> At<'a> {
    pub(crate) fn new(layer: Layer, via: Via) -> At<'a> {
        At {
            layer,
            via,
            method: None,
            path: None,
            shown: None,
            detail: None,
        }
    }

    pub(crate) fn http(mut self, method: &'a str, path: Option<&'a str>) -> At<'a> {
        self.method = Some(method);
        self.path = path;
        self
    }

    pub(crate) fn shown(mut self, name: Option<&'a str>) -> At<'a> {
        self.shown = name;
        self
    }

    pub(crate) fn detail(mut self, detail: Option<&'a str>) -> At<'a> {
        self.detail = detail;
        self
    }

    fn event(&self, verdict: Verdict, reason: Reason) -> Event<'a> {
        let protocol = self.via.protocol;
        let transport = protocol.transport();
        let mut event = Event::new(self.layer, protocol, verdict, reason);
        event.client = self.via.from.map(|address| Client {
            transport,
            address,
            server: self.via.to,
        });
        event.method = self.method;
        event.path = self.path;
        event.detail = self.detail;
        event
    }
}

/// An opened flow. Its close is recorded when it is dropped, so that no way out of a flow, not
/// even a panic, leaves an open end in the record.
pub(crate) struct Flow {
    recorder: Recorder,
    pub(crate) id: DecisionId,
    started: Instant,
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Why it ended. What ends a flow without saying so is the end of the gateway.
    pub(crate) end: CloseReason,
    pub(crate) detail: Option<&'static str>,
    /// Its share in the lease of the address that the program connected to.
    pub(crate) lease: Option<Hold>,
    /// Its place among the connections of its rule.
    pub(crate) admitted: Admitted,
    /// Its place among the flows that stand.
    pub(crate) standing: Entered,
}

impl Flow {
    /// Ends the flow.
    pub(crate) fn finish(mut self, end: CloseReason) {
        self.end = end;
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let mut close = Close::new(self.end, self.up, self.down, duration);
        close.detail = self.detail;
        self.recorder.close(self.id, close);
    }
}

impl ProxyContext {
    /// Records a decision that opens no flow: a refusal, or news about a flow that stands.
    pub(crate) fn note_decision(&self, at: At<'_>, target: &Target, ruling: &Ruling) -> DecisionId {
        let address = target.ip();
        let mut event = at.event(ruling.verdict, ruling.reason);
        fill(&mut event, &at, target, ruling);
        event.name = event.name.or(target.owner());
        event.addresses = address.as_slice();
        event.suggestion = ruling.suggestion.as_deref();
        self.recorder.decision(event)
    }

    /// Records a flow that stands.
    pub(crate) fn note_open(
        &self,
        at: At<'_>,
        target: &Target,
        ruling: &Ruling,
        upstream: &Peer,
    ) -> Flow {
        let mut event = at.event(ruling.verdict, ruling.reason);
        fill(&mut event, &at, target, ruling);
        let address = upstream.address.to_string();
        event.addresses = &upstream.addresses;
        event.upstream = Some(upstream.via.as_deref().unwrap_or(&address));
        event.canonical_name = upstream.canonical.as_ref().map(|name| name.as_str());
        event.timings = upstream.timings;
        let id = self.recorder.decision(event);
        // CONNECT has no path: what it opens is no request.
        let asks = at.method.zip(at.path);
        let asks = asks.map(|(method, path)| Asks { method, path });
        Flow {
            recorder: self.recorder.clone(),
            id,
            started: Instant::now(),
            up: 0,
            down: 0,
            end: CloseReason::Shutdown,
            detail: None,
            lease: self.hold(target, ruling),
            admitted: upstream.admitted.clone(),
            standing: self.enter(target, asks, ruling, upstream),
        }
    }

    /// Keeps the lease by which a direct connection was let through for as long as it lives.
    pub(crate) fn hold(&self, target: &Target, ruling: &Ruling) -> Option<Hold> {
        self.leases.hold(target.ip()?, ruling.name.as_ref()?)
    }

    /// Records that something which was allowed failed, or that the guard refused its address.
    pub(crate) fn note_failed(
        &self,
        at: At<'_>,
        target: &Target,
        ruling: &Ruling,
        error: &OpenError,
    ) -> DecisionId {
        let at = at.detail(Some(error.detail()));
        let mut event = at.event(error.reason().verdict(), error.reason());
        fill(&mut event, &at, target, ruling);
        event.addresses = error.addresses();
        event.timings = error.timings();
        self.recorder.decision(event)
    }

    /// Records bytes that are not what the protocol says.
    pub(crate) fn note_malformed(&self, at: At<'_>, target: Option<&Target>) -> DecisionId {
        let mut event = at.event(Verdict::Deny, Reason::Malformed);
        let address = target.and_then(Target::ip);
        if let Some(target) = target {
            let asked = target.name().map(|name| name.as_str());
            event.name = asked.or(target.owner());
            event.port = Some(target.port);
            event.addresses = address.as_slice();
        }
        self.recorder.decision(event)
    }

    /// Records that a connection was one too many.
    pub(crate) fn note_too_many(&self, via: Via, reason: Reason, detail: &str) -> DecisionId {
        let at = At::new(Layer::Tcp, via).detail(Some(detail));
        self.recorder.decision(at.event(Verdict::Deny, reason))
    }
}

fn fill<'a>(event: &mut Event<'a>, at: &At<'a>, target: &'a Target, ruling: &'a Ruling) {
    let by_lease = ruling.name.as_ref().map(|name| name.as_str());
    let asked = target.name().map(|name| name.as_str());
    event.name = at.shown.or(asked).or(by_lease);
    event.port = Some(target.port);
    if let Some(rule) = ruling.rule {
        let rule = ruling.policy.rule(rule);
        event.rule = Some((rule.text, rule.source));
    }
}

/// What a record says about the other end of a flow, and what the flow's further decisions need.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The address that was connected: the destination's, or the company proxy's.
    pub(crate) address: SocketAddr,
    /// The company's proxy, where the flow goes through one.
    pub(crate) via: Option<String>,
    /// Addresses of the destination, as far as they are known.
    addresses: Vec<IpAddr>,
    canonical: Option<Name>,
    timings: Timings,
    /// Its place among the connections of its rule.
    pub(crate) admitted: Admitted,
}

impl Peer {
    /// Takes a dialled connection apart.
    pub(crate) fn of(dialed: Dialed) -> (Stream, Peer) {
        let peer = Peer {
            address: dialed.address,
            via: dialed.via,
            addresses: dialed.addresses,
            canonical: dialed.canonical,
            timings: dialed.timings,
            admitted: None,
        };
        (dialed.stream, peer)
    }

    /// No stage is timed twice: what follows on this connection was not dialled again.
    pub(crate) fn forget_timings(&mut self) {
        self.timings = Timings::default();
    }
}

#[cfg(test)]
impl Peer {
    /// A connection that stands to this address.
    pub(crate) fn standing(address: SocketAddr) -> Peer {
        Peer {
            address,
            via: None,
            addresses: vec![address.ip()],
            canonical: None,
            timings: Timings::default(),
            admitted: None,
        }
    }
}
