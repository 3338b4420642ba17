//! Requests that were decided on, on their way upstream.
//!
//! Answers *decision and destination differ* (docs/threats.md): the upstream connection that
//! a request is written to was dialled by the permit of this very request, or of one that ends at the
//! same place.

use std::sync::Arc;

use portcullis_dial::AbsoluteForm;
use portcullis_policy::Reason;
use portcullis_record::CloseReason;
use portcullis_wire::http1::{BodyLength, RequestForm, RequestHead};
use tracing::debug;

use super::exchange::{Counts, Exchange, ExchangeEnd};
use super::head::Head;
use super::request_head::{self, Plan};
use super::response::Answers;
use super::session::{Idle, Next, Session, answer, place};
use super::upstream::{FailedUpstreamProxies, Upstream};
use crate::flows::Carries;
use crate::open_error::OpenError;
use crate::records::Flow;
use crate::request::{
    Change, Form, PROXY_WANTS_CREDENTIALS, Permitted, Request, WRONG_CREDENTIALS, other_name,
};

/// One request on its way.
struct Sending<'r> {
    head: &'r Head,
    permitted: Permitted<'r>,
    change: Change,
    /// The protocols that it wants to change to.
    upgrade: Option<Vec<u8>>,
}

/// Has a request decided on, and forwards it.
pub(super) async fn forward(session: &mut Session<'_>, head: &Head) -> Next {
    let own = match &head.read.form {
        RequestForm::Absolute { host, port, .. } if session.destination.is_none() => {
            let dialer = &session.services.connector.dialer;
            let decider = session.core.decider;
            Some(decider.target_in_full(dialer, host, *port).await)
        }
        _ => None,
    };
    let request = Request {
        own: own.as_ref(),
        ..request(&head.read)
    };
    // Shared, so that the request can look at it while the session is used.
    let other = match &session.destination {
        Some(tunnel) => other_name(session.services, tunnel, session.address, &request).await,
        None => None,
    };
    let destination = other.map(Arc::new).or(session.destination.clone());
    let place = place(destination.as_deref());
    let decided = request.decide(session.core, place, head.fields());
    match decided {
        Ok(permitted) => {
            let sending = Sending {
                head,
                permitted,
                change: request.change,
                upgrade: upgrade(request.change, head),
            };
            send(session, &sending).await
        }
        Err(refused) => answer(&refused, Some(head)),
    }
}

/// Sends a permitted request, on the connection that stands or on a new one.
async fn send(session: &mut Session<'_>, sending: &Sending<'_>) -> Next {
    let permitted = &sending.permitted;
    let mut open = None;
    let mut failed = FailedUpstreamProxies::default();
    loop {
        let destination = session.destination.as_deref();
        let stands = session.upstream.as_mut();
        let ruling = &permitted.ruling;
        if !stands.is_some_and(|up| {
            up.serves(destination, ruling) && session.services.connector.may_reuse(ruling, &up.peer)
        }) {
            session.upstream = None;
            let around = session.around.as_ref();
            let already = open
                .as_ref()
                .or(around)
                .and_then(|flow: &Flow| flow.admitted.as_ref());
            match session
                .services
                .connector
                .connect_http(&permitted.ruling, already)
                .await
            {
                Ok(dialled) => {
                    session.upstream = Some(Upstream::dialled(dialled, &permitted.ruling))
                }
                Err(error) => return undialled(session, sending, &error, open),
            }
        }
        let Some(upstream) = &mut session.upstream else {
            return Next::Reset;
        };
        if let Err(error) = session
            .services
            .connector
            .readmit(&mut upstream.peer, &permitted.ruling)
        {
            return undialled(session, sending, &error, open);
        }
        let mut meter = session.services.connector.meter(&upstream.peer);
        let mut flow = open.take().unwrap_or_else(|| {
            let Permitted {
                at, target, ruling, ..
            } = permitted;
            session
                .core
                .records
                .open(*at, target, ruling, &upstream.peer)
        });
        session
            .core
            .records
            .carries(&flow.standing, Carries::Http, &permitted.ruling);
        upstream.peer.forget_timings();
        flow.within = session.around.is_some();
        let explicit = session.destination.is_none();
        let Flow {
            up, down, standing, ..
        } = &mut flow;
        let around = (session.around.as_mut()).map(|flow| (&mut flow.up, &mut flow.down));
        let mut passing = Passing {
            counts: Counts::default(),
            flows: [Some((up, down)), around],
        };
        let exchange = sending.exchange(explicit, upstream.absolute.as_deref());
        let exchange = exchange.run(
            &mut session.client,
            &mut upstream.conn,
            &mut passing.counts,
            meter.as_deref_mut(),
        );
        let ended = tokio::select! {
            biased;
            () = standing.until_cut() => ExchangeEnd::Broken(CloseReason::PolicyChanged),
            ended = exchange => ended,
        };
        drop(passing);
        if ended == ExchangeEnd::Switched {
            session.core.records.carries(
                &flow.standing,
                Carries::Changed(sending.change),
                &permitted.ruling,
            );
        }
        // A kept connection was closed just before the request came: once more, on a new one,
        // which is not `used`.
        let kept = ended == ExchangeEnd::Silent && upstream.used;
        let retry =
            kept || failed.another_may_do(&session.services.connector.dialer, upstream, &ended);
        if !retry || !repeatable(&sending.head.read) {
            return after(session, ended, sending, flow);
        }
        session.upstream = None;
        open = Some(flow);
    }
}

/// The bytes of an exchange under way. They count for its flow, and for the one around it, also where
/// nobody waits for its end: at the end of the run, for instance.
struct Passing<'a> {
    counts: Counts,
    /// Bytes up and down of each flow.
    flows: [Option<(&'a mut u64, &'a mut u64)>; 2],
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        for (up, down) in self.flows.iter_mut().flatten() {
            **up += self.counts.up;
            **down += self.counts.down;
        }
    }
}

/// What follows from an exchange.
fn after(
    session: &mut Session<'_>,
    ended: ExchangeEnd,
    sending: &Sending<'_>,
    mut flow: Flow,
) -> Next {
    debug!(id = %flow.id, end = ?ended, "request ended");
    let (reason, end, why) = match ended {
        ExchangeEnd::Done {
            client_goes_on,
            upstream_goes_on,
        } => {
            if client_goes_on {
                rest(session, &sending.permitted);
            }
            match &mut session.upstream {
                Some(upstream) if upstream_goes_on => upstream.used = true,
                _ => session.upstream = None,
            }
            flow.finish(CloseReason::Finished);
            return if client_goes_on {
                Next::Continue
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
            let through_upstream_proxy =
                (session.upstream.as_ref()).is_some_and(|up| up.absolute.is_some());
            let why = "upstream closed the connection without an answer";
            let reason = if through_upstream_proxy {
                Reason::UpstreamProxyClosed
            } else {
                Reason::ConnectionReset
            };
            (reason, CloseReason::UpstreamClosed, why)
        }
        ExchangeEnd::RefusedByUpstreamProxy(status) => {
            session.upstream = None;
            let (reason, end) = (Reason::UpstreamProxyRefused, CloseReason::UpstreamClosed);
            let mut refused = sending.permitted.failed(reason, flow.id, end);
            refused.refusal.received_status = Some(status);
            flow.detail = Some(match status {
                PROXY_WANTS_CREDENTIALS => WRONG_CREDENTIALS,
                _ => "the upstream proxy refused the request",
            });
            flow.finish(end);
            return answer(&refused, Some(sending.head));
        }
        ExchangeEnd::Failed(reason, end, why) => (reason, end, why),
        ExchangeEnd::BadBody(why) => {
            session.upstream = None;
            flow.detail = Some(why);
            flow.finish(CloseReason::ClientProtocol);
            return session.malformed(why, sending.head);
        }
    };
    session.upstream = None;
    let mut refused = sending.permitted.failed(reason, flow.id, end);
    refused.refusal.cause = Some(why);
    flow.detail = Some(why);
    flow.finish(end);
    answer(&refused, Some(sending.head))
}

/// The connection is silent from now on: it stays among the flows that stand, by its destination.
fn rest(session: &mut Session<'_>, last: &Permitted<'_>) {
    let peer = session.upstream.as_ref().map(|upstream| &upstream.peer);
    session.idle = peer.map(|peer| {
        let standing = session.around.is_none().then(|| {
            let records = session.core.records;
            records.rest(last.target, &last.ruling, peer)
        });
        let meter = session.services.connector.meter(peer);
        Idle { standing, meter }
    });
}

/// The upstream connection could not be opened.
fn undialled(
    session: &Session<'_>,
    sending: &Sending<'_>,
    error: &OpenError,
    flow: Option<Flow>,
) -> Next {
    let refused = sending.permitted.undialled(session.core.records, error);
    if let Some(flow) = flow {
        flow.finish(refused.end);
    }
    answer(&refused, Some(sending.head))
}

impl Sending<'_> {
    /// The request as it goes upstream; `explicit` where we are a proxy to the client.
    fn exchange(&self, explicit: bool, absolute: Option<&AbsoluteForm>) -> Exchange<'_> {
        let head = &self.head.read;
        let plan = Plan {
            authority: &self.permitted.authority,
            path: &self.permitted.path,
            absolute,
            upgrade: self.upgrade.as_deref(),
            explicit,
        };
        Exchange {
            head: request_head::write(head, &self.head.raw, &plan),
            body: head.body,
            answers: Answers {
                head: &*head.method == "HEAD",
                old: head.minor_version == 0,
            },
            upgrade: self.upgrade.as_deref(),
            keep_alive: head.keep_alive && head.minor_version == 1,
            through_upstream_proxy: absolute.is_some(),
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
        change: Change::of(head),
        own: None,
    }
}

/// The protocols that a request wants to change to, as it names them.
fn upgrade(change: Change, head: &Head) -> Option<Vec<u8>> {
    let is_upgrade = |(name, _): &(&str, &[u8])| name.eq_ignore_ascii_case("upgrade");
    (change != Change::None).then(|| {
        let named = head.fields().filter(is_upgrade).map(|(_, value)| value);
        named.collect::<Vec<_>>().join(&b", "[..])
    })
}

/// Whether the request may be sent twice without harm (RFC 9110 section 9.2.2), and can be.
fn repeatable(head: &RequestHead) -> bool {
    matches!(&*head.method, "GET" | "HEAD" | "OPTIONS")
        && matches!(head.body, BodyLength::None | BodyLength::Length(0))
}
