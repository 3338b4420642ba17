//! From a dialled connection to what runs on it: what the client's first bytes show is decided on
//! before any of them goes upstream.
//!
//! Answers *CONNECT to A with SNI B*, *connect to the attacker's address with the SNI of a listed
//! name*, *two names on one CDN address* and *no SNI, two SNIs* (docs/threats.md).

use portcullis_policy::{Reason, Shown};
use portcullis_record::{CloseReason, Layer};
use portcullis_wire::tls::{Alert, ClientHello};
use tokio::time::sleep;
use tracing::debug;

use crate::flows::{Carries, until_cut};
use crate::ftp;
use crate::http_only::{self, OnTls};
#[cfg(feature = "inspect")]
use crate::inspect::{self, ToInspect};
use crate::limits::{self, RECORD_DELAY};
use crate::opened::{self, Opened, Unread};
use crate::records::At;
use crate::relay::Relay;
use crate::request;
use crate::services::Services;
use crate::sniff::{Sniffed, Sniffer};
use crate::socket;
use crate::stop::Stop;
use crate::tunnel::Tunnel;

/// What runs on a connection.
#[allow(clippy::large_enum_variant)] // moved once, into the task
pub(crate) enum Identified {
    /// Nothing that has a decision to come.
    Tunnel(Tunnel),
    /// Plain HTTP, to be decided on request by request.
    Http(Box<Unread>),
    /// The same in HTTP/2.
    #[cfg(feature = "inspect")]
    Http2(Box<Unread>),
    /// TLS whose requests are to be decided on.
    #[cfg(feature = "inspect")]
    Inspect(Box<ToInspect>),
}

/// Waits for the client's first bytes and decides on what they show. `None` when the
/// connection came to its end on the way.
pub(crate) async fn identify(
    services: Services<'_>,
    unread: Box<Unread>,
    stop: &Stop,
) -> Option<Identified> {
    let Unread {
        mut opened,
        mut relay,
        pending,
    } = *unread;
    let conn = opened.inbound.conn;
    debug!(conn, upstream = %opened.peer.address, proxy = opened.peer.upstream_proxy, "dialled");
    let look = http_only::look(&opened.ruling);
    let patience = limits::handshake_timeout(&services.decider.limits());
    let mut sniffer = Sniffer::new(look, pending).within(patience);
    if opened.target.ftp_control.is_some() {
        // What a file begins with says nothing of its connection.
        return pass(services, opened, relay, sniffer, Carries::Other);
    }
    relay.set_meter(services.connector.meter(&opened.peer));
    let first = loop {
        tokio::select! {
            biased;
            () = stop.wait() => break Sniffed::Over(CloseReason::Shutdown),
            () = until_cut(opened.flow.as_ref().map(|flow| &**flow.standing)) => {
                break Sniffed::Over(CloseReason::PolicyChanged);
            }
            first = sniffer.sniff(&mut relay) => match first {
                Sniffed::Undecided => {}
                first => break first,
            },
            () = sleep(RECORD_DELAY), if opened.flow.is_none() => {
                opened.record(services.records);
                continue;
            }
        }
        if opened.absolute.is_some() {
            relay = Box::pin(leave_absolute(services, &mut opened, relay)).await?;
        }
        opened.record(services.records);
        relay.push_up(sniffer.release());
    };
    debug!(conn, kind = first.kind(), "first bytes");
    match first {
        // Boxed, as whatever is large: most of the time a silent client is waited for.
        Sniffed::Tls(hello) => Box::pin(tls(services, opened, relay, sniffer, hello)).await,
        Sniffed::BadTls(why) => {
            let asked = request::asked(sniffer.pending());
            let at = At::new(Layer::Tls, opened.inbound).detail(Some(why));
            let at = at.asked(asked.as_deref());
            services.records.malformed(at, Some(&opened.target));
            let end = CloseReason::ClientProtocol;
            Box::pin(opened.refuse_tls(relay, Alert::AccessDenied, end)).await;
            None
        }
        Sniffed::Http | Sniffed::Http2 if sniffer.has_released() => {
            let why = "a request whose first bytes passed as something else";
            let asked = request::asked(sniffer.pending());
            let at = At::new(Layer::Http, opened.inbound).detail(Some(why));
            let at = at.asked(asked.as_deref());
            services.records.malformed(at, Some(&opened.target));
            opened.cut(relay, CloseReason::ClientProtocol);
            None
        }
        Sniffed::Http | Sniffed::Http2 if relay.upstream_spoke() => {
            // The answers on such a connection could not be told from what came before.
            opened.over(services.records, relay, CloseReason::UpstreamProtocol);
            None
        }
        Sniffed::Http => {
            if let Some(flow) = &opened.flow {
                (services.records).carries(&flow.standing, Carries::Http, &opened.ruling);
            }
            Some(Identified::Http(Box::new(Unread {
                opened,
                relay,
                pending: sniffer.into_pending(),
            })))
        }
        #[cfg(feature = "inspect")]
        Sniffed::Http2 => {
            if opened.absolute.is_some() {
                relay = Box::pin(leave_absolute(services, &mut opened, relay)).await?;
            }
            Some(Identified::Http2(Box::new(Unread {
                opened,
                relay,
                pending: sniffer.into_pending(),
            })))
        }
        #[cfg(not(feature = "inspect"))]
        Sniffed::Http2 => {
            let ruling = services.decider.refuse(Reason::ProtocolNotAllowed);
            let why = "HTTP/2 without TLS: its requests' hosts cannot be seen";
            let at = At::new(Layer::Http, opened.inbound).detail(Some(why));
            services.records.decision(at, &opened.target, &ruling);
            opened.cut(relay, CloseReason::Denied);
            None
        }
        Sniffed::Other if !sniffer.is_empty() && !may_be_other(services, &opened) => {
            opened.cut(relay, CloseReason::Denied);
            None
        }
        Sniffed::Other => {
            if opened.absolute.is_some() {
                relay = Box::pin(leave_absolute(services, &mut opened, relay)).await?;
            }
            pass(services, opened, relay, sniffer, Carries::Other)
        }
        Sniffed::Undecided | Sniffed::Slow => {
            let why = "the first bytes did not tell in time what they are";
            let asked = request::asked(sniffer.pending());
            let at = At::new(Layer::Tcp, opened.inbound).detail(Some(why));
            let at = at.asked(asked.as_deref());
            services.records.malformed(at, Some(&opened.target));
            opened.cut(relay, CloseReason::ClientProtocol);
            None
        }
        Sniffed::Over(end) => {
            // What the client said in part was for somebody, whoever ended the connection.
            let held = Some(sniffer.pending()).filter(|_| !sniffer.has_released());
            if let Some(asked) = held.and_then(request::asked) {
                let why = "the connection ended inside its first bytes";
                let at = At::new(Layer::Tcp, opened.inbound).detail(Some(why));
                let at = at.asked(Some(&asked));
                services.records.malformed(at, Some(&opened.target));
            }
            opened.over(services.records, relay, end);
            None
        }
    }
}

/// What is not HTTP cannot go to a proxy that expects a request: such a connection is replaced
/// by a tunnel. `None` when that failed, and the connection ended with it.
async fn leave_absolute(
    services: Services<'_>,
    opened: &mut Opened,
    relay: Relay,
) -> Option<Relay> {
    let already = opened.peer.admitted.as_ref();
    match services.connector.connect(&opened.ruling, already).await {
        Ok(connected) => {
            opened.peer = connected.peer;
            opened.absolute = None;
            let mut relay = Relay::new(relay.into_sockets().0, connected.stream);
            relay.set_meter(services.connector.meter(&opened.peer));
            Some(relay)
        }
        Err(error) => {
            let at = At::new(Layer::Tcp, opened.inbound);
            services
                .records
                .failed(at, &opened.target, &opened.ruling, &error);
            let (up, down) = relay.bytes();
            relay.reset();
            opened::close(opened.flow.take(), up, down, CloseReason::UpstreamClosed);
            None
        }
    }
}

async fn tls(
    services: Services<'_>,
    mut opened: Opened,
    mut relay: Relay,
    sniffer: Sniffer,
    hello: Box<ClientHello>,
) -> Option<Identified> {
    let shown = match &hello.sni {
        Some(sni) => Shown::sni(sni.as_ref()),
        None => Shown::Hidden,
    };
    let ruling = services.decider.decide_shown(&opened.target, shown);
    let ech = hello
        .ech
        .then_some("an encrypted ClientHello beside the server name");
    let sni = hello.sni.as_ref().map(|name| name.as_str());
    let at = At::new(Layer::Tls, opened.inbound).shown(sni).detail(ech);
    if ruling.permit.is_none() {
        services.records.decision(at, &opened.target, &ruling);
        let alert = match ruling.reason {
            Reason::SniMissing => Alert::AccessDenied,
            _ => Alert::UnrecognizedName,
        };
        opened.refuse_tls(relay, alert, CloseReason::Denied).await;
        return None;
    }
    if let Err(error) = services.connector.readmit(&mut opened.peer, &ruling) {
        services.records.failed(at, &opened.target, &ruling, &error);
        opened.cut(relay, CloseReason::Limit);
        return None;
    }
    #[cfg(feature = "inspect")]
    if let Some(name) = inspect::by_name(&ruling) {
        // The program and the server know the name that was written.
        let written = hello.sni.as_ref().map(|sni| sni.as_ref().to_name());
        let name = written.or(opened.target.written.clone()).unwrap_or(name);
        return Some(Identified::Inspect(Box::new(ToInspect {
            opened,
            relay,
            hello,
            pending: sniffer.into_pending(),
            ruling,
            name,
        })));
    }
    match http_only::on_tls(&ruling) {
        // Inspection takes the connection here, with what `peek` holds of it.
        OnTls::Inspect | OnTls::Refuse => {
            let at = At::new(Layer::Tls, opened.inbound).shown(sni);
            services.records.not_http(at, &opened.target, &ruling);
            opened
                .refuse_tls(relay, Alert::AccessDenied, CloseReason::Denied)
                .await;
            return None;
        }
        OnTls::Relay => {
            let at = At::new(Layer::Tls, opened.inbound).shown(sni);
            services
                .records
                .not_http_if_meant_for_http(at, &opened.target, &ruling);
        }
    }
    if opened.must_redial(&ruling) {
        if relay.upstream_spoke() {
            opened.over(services.records, relay, CloseReason::UpstreamProtocol);
            return None;
        }
        let (client, _) = relay.into_sockets();
        let already = opened.peer.admitted.as_ref();
        match services.connector.connect(&ruling, already).await {
            Ok(connected) => {
                relay = Relay::new(client, connected.stream);
                opened.peer = connected.peer;
            }
            Err(error) => {
                services.records.failed(at, &opened.target, &ruling, &error);
                socket::reset(client);
                return None;
            }
        }
    }
    if let Some(flow) = &mut opened.flow {
        flow.detail = flow.detail.or(ech);
    }
    opened.settle(services.records, at, ruling);
    pass(services, opened, relay, sniffer, Carries::Tls)
}

/// Whether a protocol that is neither TLS nor HTTP may pass; records it where it is worth it.
fn may_be_other(services: Services<'_>, opened: &Opened) -> bool {
    let at = At::new(Layer::Tcp, opened.inbound);
    services
        .records
        .not_http_if_meant_for_http(at, &opened.target, &opened.ruling)
}

fn pass(
    services: Services<'_>,
    mut opened: Opened,
    mut relay: Relay,
    sniffer: Sniffer,
    carries: Carries,
) -> Option<Identified> {
    opened.record(services.records);
    let control = ftp::Control::of(&services.decider.ftp, &opened);
    let flow = opened.flow?;
    services
        .records
        .carries(&flow.standing, carries, &opened.ruling);
    if let Some(control) = control {
        relay.watch(control);
    }
    relay.push_up(sniffer.into_pending());
    relay.set_meter(services.connector.meter(&opened.peer));
    debug!(conn = opened.inbound.conn, id = %flow.id, "relaying");
    Some(Identified::Tunnel(Tunnel { relay, flow }))
}
