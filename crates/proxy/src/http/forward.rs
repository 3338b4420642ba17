//! Requests that were decided on, on their way upstream.
//!
//! Answers *decision and destination differ* (docs/threats.md): the upstream connection that
//! a request is written to was dialled by the permit of this very request, or of one that ends at the
//! same place.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_dial::{AbsoluteForm, Dialer, Stream};
use portcullis_names::Name;
use portcullis_policy::{ConnectPermit, MAX_PROXIES, PermitTarget, Reason};
use portcullis_record::CloseReason;
use portcullis_wire::http1::{BodyLength, RequestForm, RequestHead, Upgrade};
use tracing::debug;

use super::exchange::{Counts, Exchange, ExchangeEnd, UpstreamConn};
use super::request_head::{self, Plan};
use super::response::Answers;
use super::{Head, Idle, Next, Session, answer, place};
use crate::connector::{Connected, Peer};
use crate::flows::Carries;
use crate::open_error::OpenError;
use crate::records::Flow;
use crate::request::{Form, Permitted, Request};
use crate::socket;

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
    fn another_may_do(
        &mut self,
        dialer: &Dialer,
        upstream: &Upstream,
        ended: &ExchangeEnd,
    ) -> bool {
        use Reason::{UpstreamProxyClosed, UpstreamProxyProtocol};
        let by_proxy = upstream.absolute.is_some();
        let failed = match ended {
            ExchangeEnd::Silent => true,
            ExchangeEnd::Failed(reason, ..) => {
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

/// What a connection was dialled for.
#[derive(PartialEq, Eq)]
struct DialledFor {
    target: PermitTarget,
    port: u16,
    /// Where the rule sends it.
    to: Option<SocketAddr>,
}

impl DialledFor {
    fn new(permit: &ConnectPermit) -> DialledFor {
        DialledFor {
            target: permit.target().clone(),
            port: permit.port(),
            to: permit.to(),
        }
    }
}

/// One request on its way.
struct Sending<'r> {
    head: &'r Head,
    permitted: Permitted<'r>,
    websocket: bool,
}

impl Session<'_> {
    /// Has a request decided on, and forwards it.
    pub(super) async fn forward(&mut self, head: &Head) -> Next {
        // Shared, so that the request can look at it while the session is used.
        let destination = self.destination.clone();
        let request = request(&head.read);
        let place = place(destination.as_deref());
        let decided = request.decide(self.core, place, head.fields());
        match decided {
            Ok(permitted) => {
                let sending = Sending {
                    head,
                    permitted,
                    websocket: request.websocket,
                };
                self.send(&sending).await
            }
            Err(refused) => answer(&refused, Some(head)),
        }
    }

    /// Sends a permitted request, on the connection that stands or on a new one.
    async fn send(&mut self, sending: &Sending<'_>) -> Next {
        let permitted = &sending.permitted;
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
                match self
                    .connector
                    .connect_http(&permitted.ruling, already)
                    .await
                {
                    Ok(dialled) => self.upstream = Some(Upstream::dialled(dialled, sending)),
                    Err(error) => return self.undialled(sending, &error, open),
                }
            }
            let Some(upstream) = &mut self.upstream else {
                return Next::Reset;
            };
            if let Err(error) = self
                .connector
                .readmit(&mut upstream.peer, &permitted.ruling)
            {
                return self.undialled(sending, &error, open);
            }
            let mut meter = self.connector.meter(&upstream.peer);
            let mut flow = open.take().unwrap_or_else(|| {
                let Permitted {
                    at, target, ruling, ..
                } = permitted;
                self.core.records.open(*at, target, ruling, &upstream.peer)
            });
            self.core
                .records
                .carries(&flow.standing, Carries::Http, &permitted.ruling);
            upstream.peer.forget_timings();
            let explicit = self.destination.is_none();
            let mut counts = Counts::default();
            let exchange = sending.exchange(explicit, upstream.absolute.as_deref());
            let exchange = exchange.run(
                &mut self.client,
                &mut upstream.conn,
                &mut counts,
                meter.as_deref_mut(),
            );
            let ended = tokio::select! {
                biased;
                () = flow.standing.until_cut() => ExchangeEnd::Broken(CloseReason::PolicyChanged),
                ended = exchange => ended,
            };
            if ended == ExchangeEnd::Switched {
                self.core
                    .records
                    .carries(&flow.standing, Carries::Switched, &permitted.ruling);
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
            let kept = ended == ExchangeEnd::Silent && upstream.used;
            let again = kept || failed.another_may_do(&self.connector.dialer, upstream, &ended);
            if !again || !repeatable(&sending.head.read) {
                return self.after(ended, sending, flow);
            }
            self.upstream = None;
            open = Some(flow);
        }
    }

    /// What follows from an exchange.
    fn after(&mut self, ended: ExchangeEnd, sending: &Sending<'_>, mut flow: Flow) -> Next {
        debug!(id = %flow.id, end = ?ended, "request ended");
        let (reason, end, why) = match ended {
            ExchangeEnd::Done {
                client_goes_on,
                upstream_goes_on,
            } => {
                if client_goes_on && self.client.inbox.is_empty() {
                    self.rest(&sending.permitted);
                }
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
            ExchangeEnd::Switched => return Next::Switched(flow),
            ExchangeEnd::Broken(end) => {
                flow.finish(end);
                return Next::Reset;
            }
            ExchangeEnd::Cut(cut) => {
                flow.detail = Some(cut.detail);
                flow.finish(cut.end);
                return Next::Reset;
            }
            ExchangeEnd::Silent => {
                let by_proxy = (self.upstream.as_ref()).is_some_and(|up| up.absolute.is_some());
                let why = "upstream closed the connection without an answer";
                let reason = if by_proxy {
                    Reason::UpstreamProxyClosed
                } else {
                    Reason::ConnectionReset
                };
                (reason, CloseReason::UpstreamClosed, why)
            }
            ExchangeEnd::RefusedByProxy(status) => {
                self.upstream = None;
                let (reason, end) = (Reason::UpstreamProxyRefused, CloseReason::UpstreamClosed);
                let mut refused = sending.permitted.failed(reason, flow.id, end);
                refused.refusal.received_status = Some(status);
                flow.detail = Some("the upstream proxy refused the request");
                flow.finish(end);
                return answer(&refused, Some(sending.head));
            }
            ExchangeEnd::Failed(reason, end, why) => (reason, end, why),
            ExchangeEnd::BadBody(why) => {
                self.upstream = None;
                flow.detail = Some(why);
                flow.finish(CloseReason::ClientProtocol);
                return self.malformed(why, sending.head);
            }
        };
        self.upstream = None;
        let refused = sending.permitted.failed(reason, flow.id, end);
        flow.detail = Some(why);
        flow.finish(end);
        answer(&refused, Some(sending.head))
    }

    /// The connection is silent from now on: it stays among the flows that stand, by its destination.
    fn rest(&mut self, last: &Permitted<'_>) {
        let peer = self.upstream.as_ref().map(|upstream| &upstream.peer);
        self.idle = peer.map(|peer| {
            let standing = self.around.is_none().then(|| {
                let records = self.core.records;
                records.rest(&last.target, &last.ruling, peer)
            });
            let meter = self.connector.meter(peer);
            Idle { standing, meter }
        });
    }

    /// The upstream connection could not be opened.
    fn undialled(&self, sending: &Sending<'_>, error: &OpenError, flow: Option<Flow>) -> Next {
        let refused = sending.permitted.undialled(self.core.records, error);
        if let Some(flow) = flow {
            flow.finish(refused.end);
        }
        answer(&refused, Some(sending.head))
    }

    /// Whether the request may go on the connection that stands.
    fn reuses(&mut self, sending: &Sending<'_>) -> bool {
        let Some(upstream) = &mut self.upstream else {
            return false;
        };
        let ruling = &sending.permitted.ruling;
        let same = match &self.destination {
            None => upstream.dialled_for == ruling.permit.as_ref().map(DialledFor::new),
            Some(target) => {
                let same_name = upstream.name == ruling.name;
                !upstream.peer.may_be_elsewhere(target, same_name, ruling)
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
        let permit = sending.permitted.ruling.permit.as_ref();
        Upstream {
            conn: UpstreamConn {
                stream,
                inbox: Vec::new(),
            },
            peer,
            name: sending.permitted.ruling.name.clone(),
            dialled_for: permit.map(DialledFor::new),
            absolute,
            used: false,
        }
    }
}

impl Sending<'_> {
    /// The request as it goes upstream; `explicit` where we are a proxy to the client.
    fn exchange(&self, explicit: bool, absolute: Option<&AbsoluteForm>) -> Exchange {
        let head = &self.head.read;
        let plan = Plan {
            authority: &self.permitted.authority,
            path: &self.permitted.path,
            absolute,
            websocket: self.websocket,
            explicit,
        };
        Exchange {
            head: request_head::write(head, &self.head.raw, &plan),
            body: head.body,
            answers: Answers {
                head: &*head.method == "HEAD",
                old: head.minor_version == 0,
            },
            websocket: self.websocket,
            keep_alive: head.keep_alive && head.minor_version == 1,
            by_proxy: absolute.is_some(),
        }
    }
}

/// The request as the core takes it.
fn request(head: &RequestHead) -> Request<'_> {
    let (form, path) = match &head.form {
        RequestForm::Connect { .. } => (Form::Connect, "*"),
        RequestForm::Asterisk => (Form::Origin, "*"),
        RequestForm::Origin { path } => (Form::Origin, path.with_query()),
        RequestForm::Absolute {
            scheme,
            host,
            port,
            path,
        } => {
            let (scheme, port) = (*scheme, Some(*port));
            (Form::Absolute { scheme, host, port }, path.with_query())
        }
    };
    Request {
        method: &head.method,
        form,
        path,
        host: head.host.as_ref().map(|(host, port)| (host, *port)),
        websocket: wants_websocket(head),
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
