//! Plain HTTP requests: decided one by one, sent on in our own words.
//!
//! Answers "second request on a kept-alive connection" and "Host unlike the request target": the
//! upstream connection that a request is written to was dialled by the permit of this very
//! request, or of one that ends at the same place.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_dial::{AbsoluteForm, Dialer, Stream};
use portcullis_names::{Host, Name, NameBuf};
use portcullis_policy::{
    Asked as AskedFor, ConnectPermit, MAX_PROXIES, PermitTarget, Reason, Shown,
};
use portcullis_record::{CloseReason, Layer};
use portcullis_wire::http1::{BodyLength, RequestForm, RequestHead, Upgrade};

use super::exchange::{Conn, Counts, Exchange, Outcome, UpstreamConn};
use super::request::{self, Plan};
use super::response::Asked;
use super::{Door, Next, Session, path, say};
use crate::connector::{Connected, Peer};
use crate::decider::Decider;
use crate::flows::Carries;
use crate::meter::Meter;
use crate::open_error::OpenError;
use crate::records::{At, Flow};
use crate::refuse::{Refusal, authority};
use crate::target::{Asks, Ruling, Target};
use crate::{http_only, socket};

/// The port that a Host field without one means.
const HTTP_PORT: u16 = 80;

/// The upstream connection of a client's connection. It is never used for another client.
pub(super) struct Upstream {
    pub(super) conn: UpstreamConn,
    pub(super) peer: Peer,
    /// The name that it was dialled by.
    name: Option<Name>,
    /// What it was dialled for, where that was a request.
    dialled_for: Option<DialledFor>,
    /// It ends at the upstream proxy.
    absolute: Option<Arc<AbsoluteForm>>,
    /// A request was answered on it: it may have been closed meanwhile.
    used: bool,
}

impl Upstream {
    /// A connection that was dialled before the first request was seen.
    pub(super) fn standing(
        stream: Stream,
        peer: Peer,
        name: Option<Name>,
        absolute: Option<Arc<AbsoluteForm>>,
    ) -> Upstream {
        socket::prepare(stream.tcp());
        let conn = UpstreamConn {
            stream,
            inbox: Vec::new(),
        };
        Upstream {
            conn,
            peer,
            name,
            dialled_for: None,
            absolute,
            used: true,
        }
    }

    /// Whether it is open, and upstream has not said anything unasked.
    fn is_quiet(&mut self) -> bool {
        let mut byte = Vec::with_capacity(1);
        let would_block = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        self.conn.inbox.is_empty()
            && self
                .conn
                .stream
                .try_read_buf(&mut byte)
                .is_err_and(|error| would_block(&error))
    }
}

/// The upstream proxies that failed one request, after they were reached.
#[derive(Default)]
struct FailedProxies(Vec<String>);

impl FailedProxies {
    /// Whether the request failed because of a proxy that did not fail it before: the dialler asks
    /// another one next, where there is one.
    fn another_may_do(&mut self, dialer: &Dialer, upstream: &Upstream, outcome: &Outcome) -> bool {
        use Reason::{UpstreamProxyClosed, UpstreamProxyProtocol};
        let by_proxy = upstream.absolute.is_some();
        let failed = match outcome {
            Outcome::Silent => true,
            Outcome::Failed(reason, ..) => {
                matches!(reason, UpstreamProxyClosed | UpstreamProxyProtocol)
            }
            _ => false,
        };
        let Some(via) = upstream
            .peer
            .upstream_proxy
            .as_ref()
            .filter(|_| by_proxy && failed)
        else {
            return false;
        };
        dialer.upstream_proxy_failed(via);
        if self.0.len() >= MAX_PROXIES || self.0.contains(via) {
            return false;
        }
        self.0.push(via.clone());
        true
    }
}

/// The destination of a permit, its port, and where its rule sends it.
type DialledFor = (PermitTarget, u16, Option<SocketAddr>);

fn dialled_for(permit: &ConnectPermit) -> DialledFor {
    (permit.target().clone(), permit.port(), permit.to())
}

/// One request on its way.
struct Sending<'r> {
    head: &'r RequestHead,
    /// The path with its query, as it goes upstream.
    path: Cow<'r, str>,
    raw: &'r [u8],
    target: &'r Target,
    ruling: &'r Ruling,
    at: At<'r>,
}

impl Session<'_> {
    /// Decides on a request and forwards it.
    pub(super) async fn forward(
        &mut self,
        target: Arc<Target>,
        head: &RequestHead,
        raw: &[u8],
    ) -> Next {
        let asks = Asks {
            method: &head.method,
            path: path(head).unwrap_or("*"),
        };
        let (mut ruling, host) = match &self.door {
            // An address in absolute form is its own Host.
            Door::Proxy => {
                let ruling = self.decider.decide_request(&target, Shown::Bare, asks);
                (ruling, None)
            }
            Door::Behind { .. } => {
                let host = shown_host(head);
                (decide_behind(self.decider, &target, host, asks), host)
            }
        };
        let shown = host.and_then(|(host, _)| host.name()).map(NameBuf::as_str);
        let at = At::new(Layer::Http, self.inbound);
        let mut at = at.http(&head.method, path(head)).shown(shown);
        at.detail = http_only::why_no_path(&ruling, path(head));
        if wants_websocket(head) && !http_only::allows_upgrade(&ruling) {
            ruling.refuse(Reason::MethodNotAllowed);
            at.detail = Some("a change to WebSocket, where the rule has methods");
        }
        if let Some((reason, why)) = http_only::steered(&ruling, head.headers(raw)) {
            ruling.refuse(reason);
            at.detail = Some(why);
        }
        if ruling.permit.is_none() {
            return self.denied(at, &target, &ruling, (head, raw));
        }
        let authority = host_field(&target, host.map(|(host, _)| host));
        let sending = Sending {
            head,
            path: http_only::sent_path(&ruling, request_path(head)),
            raw,
            target: &target,
            ruling: &ruling,
            at,
        };
        self.send(&sending, &authority).await
    }

    /// Sends a permitted request, on the connection that stands or on a new one.
    async fn send(&mut self, sending: &Sending<'_>, authority: &str) -> Next {
        let mut open = None;
        let mut failed = FailedProxies::default();
        loop {
            if !self.reuses(sending) {
                self.upstream = None;
                let around = self.around.as_ref();
                let already = open
                    .as_ref()
                    .or(around)
                    .and_then(|flow: &Flow| flow.admitted.as_ref());
                match self.connector.connect_http(sending.ruling, already).await {
                    Ok(dialled) => self.upstream = Some(Upstream::dialled(dialled, sending)),
                    Err(error) => return self.undialled(sending, &error, open),
                }
            }
            let Some(upstream) = &mut self.upstream else {
                return Next::Reset;
            };
            if let Err(error) = self.connector.readmit(&mut upstream.peer, sending.ruling) {
                return self.undialled(sending, &error, open);
            }
            let mut meter = self.connector.meter(&upstream.peer);
            let mut flow = open.take().unwrap_or_else(|| {
                self.records
                    .open(sending.at, sending.target, sending.ruling, &upstream.peer)
            });
            self.records
                .carries(&flow.standing, Carries::Http, sending.ruling);
            upstream.peer.forget_timings();
            let explicit = matches!(self.door, Door::Proxy);
            let mut counts = Counts::default();
            let told = (authority, explicit);
            let metered = (&mut counts, meter.as_deref_mut());
            let exchange = upstream.exchange(&mut self.client, sending, told, metered);
            let outcome = tokio::select! {
                biased;
                () = flow.standing.until_cut() => Outcome::Broken(CloseReason::PolicyChanged),
                outcome = exchange => outcome,
            };
            if outcome == Outcome::Switched {
                self.records
                    .carries(&flow.standing, Carries::Switched, sending.ruling);
            }
            for flow in [Some(&mut flow), self.around.as_mut()]
                .into_iter()
                .flatten()
            {
                flow.up += counts.up;
                flow.down += counts.down;
            }
            // A kept connection was closed just before the request came: once more, on a new one,
            // which is not `used`.
            let kept = outcome == Outcome::Silent && upstream.used;
            let again = kept || failed.another_may_do(&self.connector.dialer, upstream, &outcome);
            if !again || !repeatable(sending.head) {
                return self.after(outcome, sending, flow);
            }
            self.upstream = None;
            open = Some(flow);
        }
    }

    /// What follows from an exchange.
    fn after(&mut self, outcome: Outcome, sending: &Sending<'_>, mut flow: Flow) -> Next {
        let (reason, end, why) = match outcome {
            Outcome::Done {
                client_goes_on,
                upstream_goes_on,
            } => {
                match &mut self.upstream {
                    Some(upstream) if upstream_goes_on => upstream.used = true,
                    _ => self.upstream = None,
                }
                flow.finish(CloseReason::Finished);
                return if client_goes_on {
                    Next::Again
                } else {
                    Next::Close
                };
            }
            Outcome::Switched => return Next::Switched(flow),
            Outcome::Broken(end) => {
                flow.finish(end);
                return Next::Reset;
            }
            Outcome::Cut(cut) => {
                flow.detail = Some(cut.detail);
                flow.finish(cut.end);
                return Next::Reset;
            }
            Outcome::Silent => {
                let by_proxy = (self.upstream.as_ref()).is_some_and(|up| up.absolute.is_some());
                let why = "upstream closed the connection without an answer";
                let reason = if by_proxy {
                    Reason::UpstreamProxyClosed
                } else {
                    Reason::ConnectionReset
                };
                (reason, CloseReason::UpstreamClosed, why)
            }
            Outcome::RefusedByProxy(status) => {
                self.upstream = None;
                let mut refusal = Refusal::new(Reason::UpstreamProxyRefused, flow.id);
                refusal.received_status = Some(status);
                let words = say_to(refusal, sending);
                flow.detail = Some("the upstream proxy refused the request");
                flow.finish(CloseReason::UpstreamClosed);
                return Next::Words(words, CloseReason::UpstreamClosed);
            }
            Outcome::Failed(reason, end, why) => (reason, end, why),
            Outcome::BadBody(why) => {
                self.upstream = None;
                flow.detail = Some(why);
                flow.finish(CloseReason::ClientProtocol);
                return self.malformed(Some((sending.head, sending.raw)), why, None);
            }
        };
        self.upstream = None;
        let refusal = Refusal::new(reason, flow.id);
        let words = say_to(refusal, sending);
        flow.detail = Some(why);
        flow.finish(end);
        Next::Words(words, end)
    }

    /// The upstream connection could not be opened.
    fn undialled(&self, sending: &Sending<'_>, error: &OpenError, flow: Option<Flow>) -> Next {
        let id = self
            .records
            .failed(sending.at, sending.target, sending.ruling, error);
        let end = error.close_reason();
        if let Some(flow) = flow {
            flow.finish(end);
        }
        Next::Words(say_to(Refusal::failed(error, id), sending), end)
    }

    /// Whether the request may go on the connection that stands.
    fn reuses(&mut self, sending: &Sending<'_>) -> bool {
        let Some(upstream) = &mut self.upstream else {
            return false;
        };
        let same = match &self.door {
            Door::Proxy => {
                let permit = sending.ruling.permit.as_ref();
                upstream.dialled_for == permit.map(dialled_for)
            }
            Door::Behind { target, .. } => {
                let same_name = upstream.name == sending.ruling.name;
                !(upstream.peer).may_be_elsewhere(target, same_name, sending.ruling)
            }
        };
        same && upstream.is_quiet()
    }
}

impl Upstream {
    fn dialled(dialled: Connected, sending: &Sending<'_>) -> Upstream {
        let Connected {
            stream,
            peer,
            absolute,
        } = dialled;
        socket::prepare(stream.tcp());
        let permit = sending.ruling.permit.as_ref();
        Upstream {
            conn: UpstreamConn {
                stream,
                inbox: Vec::new(),
            },
            peer,
            name: sending.ruling.name.clone(),
            dialled_for: permit.map(dialled_for),
            absolute,
            used: false,
        }
    }

    async fn exchange(
        &mut self,
        client: &mut Conn,
        sending: &Sending<'_>,
        (authority, explicit): (&str, bool),
        (counts, meter): (&mut Counts, Option<&mut Meter>),
    ) -> Outcome {
        let head = sending.head;
        let websocket = wants_websocket(head);
        let path = &*sending.path;
        let plan = Plan {
            authority,
            path,
            absolute: self.absolute.as_deref(),
            websocket,
            explicit,
        };
        let exchange = Exchange {
            head: &request::head(head, sending.raw, &plan),
            body: head.body,
            asked: Asked {
                head: &*head.method == "HEAD",
                old: head.minor_version == 0,
            },
            websocket,
            keep_alive: head.keep_alive && head.minor_version == 1,
            by_proxy: self.absolute.is_some(),
        };
        exchange.run(client, &mut self.conn, counts, meter).await
    }
}

fn say_to(refusal: Refusal<'_>, sending: &Sending<'_>) -> Vec<u8> {
    let authority = authority(sending.target);
    let refusal = Refusal {
        target: Some(&authority),
        ..refusal
    };
    say(&refusal, Some((sending.head, sending.raw)))
}

/// Decides on one request of a connection to an address.
fn decide_behind(
    decider: &Decider,
    target: &Target,
    host: Option<(&Host, Option<u16>)>,
    asks: Asks<'_>,
) -> Ruling {
    match host {
        // HTTP/1.0 without Host: what is behind the address is all there is to go by.
        None => decider.decide_request(target, Shown::Nothing, asks),
        Some((_, Some(port))) if port != target.port => decider.refuse(Reason::HostMismatch),
        Some((Host::Name(name), _)) => {
            decider.decide_request(target, Shown::host(name.as_ref()), asks)
        }
        Some((host, _)) if target.is(host) => decider.decide_request(target, Shown::Bare, asks),
        Some(_) => decider.refuse(Reason::HostMismatch),
    }
}

/// The host that a request on a direct connection names; a target in absolute form wins, and the
/// two have been found to agree.
fn shown_host(head: &RequestHead) -> Option<(&Host, Option<u16>)> {
    match &head.form {
        RequestForm::Absolute { host, port, .. } => Some((host, Some(*port))),
        _ => head.host.as_ref().map(|(host, port)| (host, *port)),
    }
}

/// The Host field for upstream: what was decided on, in one spelling.
fn host_field(target: &Target, shown: Option<&Host>) -> String {
    let host = match (shown, &target.asked) {
        // A synthetic address means nothing outside.
        (
            None | Some(Host::Address(_)),
            AskedFor::Synthetic {
                name: Some(name), ..
            },
        ) => name.to_string(),
        (Some(host), _) => host.to_string(),
        (None, AskedFor::Name(name)) => name.to_string(),
        (None, AskedFor::Address { address, .. } | AskedFor::Synthetic { address, .. }) => {
            Host::Address(*address).to_string()
        }
    };
    match target.port {
        HTTP_PORT => host,
        port => format!("{host}:{port}"),
    }
}

fn request_path(head: &RequestHead) -> &str {
    match &head.form {
        RequestForm::Absolute { path, .. } | RequestForm::Origin { path } => path.with_query(),
        RequestForm::Asterisk | RequestForm::Connect { .. } => "*",
    }
}

/// WebSocket is the one change of protocol that is passed on: behind h2c, requests for other hosts
/// would go unseen.
fn wants_websocket(head: &RequestHead) -> bool {
    head.upgrade == Upgrade::WebSocket
        && &*head.method == "GET"
        && head.minor_version == 1
        && matches!(head.body, BodyLength::None | BodyLength::Length(0))
}

/// Whether the request may be sent twice without harm (RFC 9110 section 9.2.2), and can be.
fn repeatable(head: &RequestHead) -> bool {
    matches!(&*head.method, "GET" | "HEAD" | "OPTIONS")
        && matches!(head.body, BodyLength::None | BodyLength::Length(0))
}
