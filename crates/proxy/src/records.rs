//! Decision records of the entrances: one for each denial, one and a close for each flow.

use std::sync::Arc;
use std::time::Instant;

use portcullis_dns::{Hold, Leases};
use portcullis_names::Name;
use portcullis_policy::{Reason, Shown, Verdict};
use portcullis_record::{Client, Close, CloseReason, DecisionId, Event, Layer, Recorder};
use tracing::debug;

use crate::connector::Peer;
use crate::flows::{Carries, Entered, Flows, Standing};
use crate::hint;
use crate::http_only;
use crate::inbound::Inbound;
use crate::meter::Admitted;
use crate::open_error::OpenError;
use crate::target::{Asks, Ruling, Target};

/// Where a decision was made, and what else a record of it says.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) layer: Layer,
    pub(crate) inbound: Inbound,
    pub(crate) method: Option<&'a str>,
    pub(crate) path: Option<&'a str>,
    /// The name that was shown (SNI, Host), where it is the subject.
    pub(crate) shown: Option<&'a str>,
    pub(crate) detail: Option<&'a str>,
    /// What a malformed request asked for, as it came.
    pub(crate) asked: Option<&'a [u8]>,
}

impl<'a> At<'a> {
    pub(crate) fn new(layer: Layer, inbound: Inbound) -> At<'a> {
        At {
            layer,
            inbound,
            method: None,
            path: None,
            shown: None,
            detail: None,
            asked: None,
        }
    }

    pub(crate) fn asked(mut self, asked: Option<&'a [u8]>) -> At<'a> {
        self.asked = asked;
        self
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
        let protocol = self.inbound.protocol;
        let transport = protocol.transport();
        let mut event = Event::new(self.layer, protocol, verdict, reason);
        event.client = self.inbound.from.map(|address| Client {
            transport,
            address,
            server: self.inbound.to,
        });
        event.method = self.method;
        event.path = self.path;
        event.detail = self.detail;
        event.asked = self.asked;
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
    /// Its bytes are those of another flow too: see [`Close::within`].
    pub(crate) within: bool,
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
        close.within = self.within;
        let (id, up, down) = (self.id, self.up, self.down);
        debug!(%id, end = ?self.end, detail = self.detail, up, down, "closed");
        self.recorder.close(id, close);
    }
}

/// Writes the records of one sandbox's connections.
pub(crate) struct Records {
    recorder: Recorder,
    leases: Arc<Leases>,
    flows: Arc<Flows>,
}

impl Records {
    pub(crate) fn new(recorder: Recorder, leases: Arc<Leases>, flows: Arc<Flows>) -> Records {
        Records {
            recorder,
            leases,
            flows,
        }
    }

    /// The leases by which flows are let through.
    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Where records go.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Records a decision that opens no flow: a refusal, or news about a flow that stands.
    pub(crate) fn decision<P>(
        &self,
        at: At<'_>,
        target: &Target,
        ruling: &Ruling<P>,
    ) -> DecisionId {
        let address = target.ip();
        let mut event = at.event(ruling.verdict, ruling.reason);
        fill(&mut event, &at, target, ruling);
        event.name = event.name.or(target.owner());
        event.addresses = address.as_slice();
        event.suggestion = ruling.suggestion.as_deref();
        self.write(&at, event)
    }

    fn write(&self, at: &At<'_>, event: Event<'_>) -> DecisionId {
        let (name, port, reason) = (event.name, event.port, event.reason.code());
        let id = self.recorder.decision(event);
        debug!(conn = at.inbound.conn, %id, name, port, reason, "decided");
        id
    }

    /// Records a flow that stands.
    pub(crate) fn open(
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
        event.upstream = Some(upstream.upstream_proxy.as_deref().unwrap_or(&address));
        event.canonical_name = upstream.canonical.as_ref().map(|name| name.as_str());
        event.timings = upstream.timings;
        let id = self.write(&at, event);
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
            within: false,
            lease: self.hold(target, ruling.name.as_ref()),
            admitted: upstream.admitted.clone(),
            standing: self.flows.enter(target, asks, ruling, upstream),
        }
    }

    /// A flow goes on by another decision, perhaps on another connection.
    pub(crate) fn goes_on(&self, flow: &mut Flow, target: &Target, ruling: &Ruling, peer: &Peer) {
        flow.admitted.clone_from(&peer.admitted);
        self.flows.goes_on(&flow.standing, ruling, peer);
        flow.lease = self
            .hold(target, ruling.name.as_ref())
            .or(flow.lease.take());
    }

    /// Takes in a connection whose request was answered: it stays while its destination is allowed,
    /// whatever the next request asks for.
    pub(crate) fn rest(&self, target: &Target, ruling: &Ruling, peer: &Peer) -> Entered {
        let entered = self.flows.enter(target, None, ruling, peer);
        self.flows.carries(&entered, Carries::Http, ruling);
        entered
    }

    /// What a flow carries is known now. `ruling` is what it was decided by.
    pub(crate) fn carries(&self, standing: &Standing, carries: Carries, ruling: &Ruling) {
        self.flows.carries(standing, carries, ruling);
    }

    /// Records that something other than HTTP was said where the rule lets nothing else through.
    /// Whether it passes all the same, because the policy only watches.
    pub(crate) fn not_http(&self, at: At<'_>, target: &Target, ruling: &Ruling) -> bool {
        let passes = !http_only::only_http(ruling);
        let reason = Reason::ProtocolNotAllowed;
        let why = match at.layer {
            Layer::Tls => "TLS that is not inspected, where the rule lets nothing but HTTP through",
            _ => "not HTTP, where the rule lets nothing else through",
        };
        let refusal: Ruling = Ruling {
            policy: ruling.policy.clone(),
            verdict: if passes {
                Verdict::Audit
            } else {
                reason.verdict()
            },
            reason,
            rule: ruling.rule,
            name: ruling.name.clone(),
            shown: Shown::Nothing,
            permit: None,
            suggestion: None,
        };
        self.decision(at.detail(Some(why)), target, &refusal);
        passes
    }

    /// The same where only what is narrow is worth a word.
    pub(crate) fn not_http_if_meant_for_http(
        &self,
        at: At<'_>,
        target: &Target,
        ruling: &Ruling,
    ) -> bool {
        !http_only::is_meant_for_http(ruling) || self.not_http(at, target, ruling)
    }

    /// Keeps the lease by which a direct connection was let through for as long as it lives.
    pub(crate) fn hold(&self, target: &Target, name: Option<&Name>) -> Option<Hold> {
        self.leases.hold(target.ip()?, name?)
    }

    /// Records that something which was allowed failed, or that the guard refused its address.
    pub(crate) fn failed(
        &self,
        at: At<'_>,
        target: &Target,
        ruling: &Ruling,
        error: &OpenError,
    ) -> DecisionId {
        let hint = hint::unused_proxy(ruling, error);
        let detail = hint.map(|hint| format!("{}; {hint}", error.detail()));
        let detail = detail.as_deref().unwrap_or(error.detail());
        let at = at.detail(Some(detail));
        let mut event = at.event(error.reason().verdict(), error.reason());
        fill(&mut event, &at, target, ruling);
        event.addresses = error.addresses();
        event.timings = error.timings();
        debug!(conn = at.inbound.conn, error = error.detail(), "not opened");
        self.write(&at, event)
    }

    /// Records bytes that are not what the protocol says.
    pub(crate) fn malformed(&self, at: At<'_>, target: Option<&Target>) -> DecisionId {
        let mut event = at.event(Verdict::Deny, Reason::Malformed);
        let address = target.and_then(Target::ip);
        if let Some(target) = target {
            let asked = target.name().map(|name| name.as_str());
            event.name = asked.or(target.owner());
            event.port = Some(target.port);
            event.addresses = address.as_slice();
        }
        self.write(&at, event)
    }

    /// Records that a connection was refused as it came.
    pub(crate) fn turned_away(&self, inbound: Inbound, reason: Reason, detail: &str) -> DecisionId {
        let at = At::new(Layer::Tcp, inbound).detail(Some(detail));
        self.write(&at, at.event(Verdict::Deny, reason))
    }
}

/// Whether the search list makes the one name of the other, as far as the names tell.
fn is_short_of(short: &str, full: &str) -> bool {
    let domain = full.strip_prefix(short);
    domain.is_some_and(|domain| domain.starts_with('.'))
}

fn fill<'a, P>(event: &mut Event<'a>, at: &At<'a>, target: &'a Target, ruling: &'a Ruling<P>) {
    let by_lease = ruling.name.as_ref().map(|name| name.as_str());
    let asked = target.name().map(|name| name.as_str());
    let owner = target.ftp_control.and(target.owner());
    // A short name that was decided on in full is recorded so.
    let full = by_lease.filter(|full| at.shown.is_some_and(|shown| is_short_of(shown, full)));
    let shown = full.or(at.shown);
    event.name = shown.or(asked).or(by_lease).or(owner);
    event.port = Some(target.port);
    if let Some(rule) = ruling.rule {
        let rule = ruling.policy.rule(rule);
        event.rule = Some((rule.text, rule.source));
    }
}
