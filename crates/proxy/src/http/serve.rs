//! The loop of a connection: request after request, each decided on by itself.

use std::sync::Arc;

use portcullis_names::Host;
use portcullis_record::CloseReason;
use portcullis_wire::http1::RequestForm;
use tokio::net::TcpStream;

use super::exchange::Conn;
use super::head::{Head, Patience};
use super::session::{Connected, Idle, Next, Session};
use super::upstream::Upstream;
use super::{connect, forward, status};
use crate::flows::until_cut;
use crate::inbound::Inbound;
use crate::opened::{Entered, Unread};
use crate::relay::Relay;
use crate::request::Core;
use crate::services::Services;
use crate::stop::Stop;
use crate::target::Target;
use crate::tunnel::Tunnel;
use crate::{limits, socket};

/// Serves one connection to the proxy port.
pub(crate) async fn open(
    services: Services<'_>,
    client: TcpStream,
    inbound: Inbound,
    stop: &Stop,
) -> Option<Entered> {
    let session = Session {
        core: Core::new(services, inbound),
        services,
        destination: None,
        address: None,
        client: Conn {
            stream: client,
            inbox: Vec::new(),
        },
        upstream: None,
        idle: None,
        around: None,
        in_head: false,
    };
    serve(session, stop).await
}

/// Serves a connection to an address that turned out to speak plain HTTP.
pub(crate) async fn behind(
    services: Services<'_>,
    unread: Box<Unread>,
    stop: &Stop,
) -> Option<Tunnel> {
    let Unread {
        opened,
        relay,
        pending,
    } = *unread;
    let (client, stream) = relay.into_sockets();
    let address = match opened.peer.upstream_proxy {
        Some(_) => None,
        None => Some(opened.peer.address),
    };
    let upstream = match opened.peer.upstream_proxy {
        // An upstream proxy for plain HTTP is spoken to in absolute form, not through a tunnel.
        Some(_) if opened.absolute.is_none() => None,
        _ => Some(Upstream::standing(
            stream,
            opened.peer,
            opened.ruling.name,
            opened.absolute,
        )),
    };
    let session = Session {
        core: Core::new(services, opened.inbound),
        services,
        destination: Some(Arc::new(opened.target)),
        address,
        client: Conn {
            stream: client,
            inbox: pending,
        },
        upstream,
        idle: None,
        around: opened.flow,
        in_head: false,
    };
    match serve(session, stop).await? {
        Entered::Tunnel(tunnel) => Some(tunnel),
        // Only CONNECT leads there, and it is refused on a direct connection.
        Entered::Opened(_) => None,
    }
}

/// Serves a connection that leads to the gateway's own page, and ends it.
pub(crate) async fn at_page(
    services: Services<'_>,
    stream: TcpStream,
    inbox: Vec<u8>,
    inbound: Inbound,
    target: Target,
    stop: &Stop,
) {
    let session = Session {
        core: Core::new(services, inbound),
        services,
        destination: Some(Arc::new(target)),
        address: None,
        client: Conn { stream, inbox },
        upstream: None,
        idle: None,
        around: None,
        in_head: false,
    };
    // Nothing can be changed to or tunnelled there.
    let _ = serve(session, stop).await;
}

async fn serve(mut session: Session<'_>, stop: &Stop) -> Option<Entered> {
    let around = session.around.as_ref().map(|flow| (*flow.standing).clone());
    let next = tokio::select! {
        biased;
        () = stop.wait() => {
            session.record_cut_head("the gateway ended inside a request head");
            session.end_around(CloseReason::Shutdown);
            Next::Reset
        }
        () = until_cut(around.as_deref()) => {
            session.record_cut_head("the policy changed inside a request head");
            session.end_around(CloseReason::PolicyChanged);
            Next::Reset
        }
        next = requests(&mut session) => next,
    };
    match next {
        Next::Continue | Next::Close => {
            session.end_around(CloseReason::Finished);
            socket::last_words(session.client.stream, b"").await;
            None
        }
        Next::Answer(answer, end) => {
            session.end_around(end);
            socket::last_words(session.client.stream, &answer).await;
            None
        }
        Next::Reset => {
            socket::reset(session.client.stream);
            if let Some(upstream) = session.upstream {
                socket::reset_upstream(upstream.conn.stream);
            }
            None
        }
        Next::Switched(flow) => {
            session.end_around(CloseReason::Finished);
            let Upstream {
                conn: upstream,
                peer,
                ..
            } = session.upstream?;
            let mut relay = Relay::new(session.client.stream, upstream.stream);
            relay.push_up(session.client.inbox);
            relay.push_down(upstream.inbox);
            relay.set_meter(session.services.connector.meter(&peer));
            Some(Entered::Tunnel(Tunnel { relay, flow }))
        }
        Next::Connected(connected) => {
            let Connected { opened, upstream } = *connected;
            if opened.is_cut() {
                opened.cut_short(session.client.stream, upstream);
                return None;
            }
            if !socket::answer(&mut session.client.stream, connect::ESTABLISHED).await {
                opened.gone();
                return None;
            }
            Some(Entered::Opened(Box::new(Unread {
                opened,
                relay: Relay::new(session.client.stream, upstream),
                pending: session.client.inbox,
            })))
        }
    }
}

/// Request after request. Each is boxed: what waits between two is small.
async fn requests(session: &mut Session<'_>) -> Next {
    let mut first = session.client.inbox.is_empty();
    loop {
        let set = session.core.decider.limits();
        let head = limits::header_timeout(&set);
        let patience = Patience {
            silence: if first {
                head
            } else {
                limits::keep_alive_timeout(&set)
            },
            head,
        };
        session.in_head = true;
        let read = tokio::select! {
            biased;
            over = Idle::over(&mut session.idle) => {
                session.record_cut_head("the connection was ended inside a request head");
                return over;
            }
            read = session.client.head(patience) => read,
        };
        session.in_head = false;
        session.idle = None;
        let head = match read {
            Ok(Some(read)) => read,
            Ok(None) => return Next::Close,
            Err(error) => return session.malformed_head(error),
        };
        first = false;
        match Box::pin(request(session, head)).await {
            Next::Continue => {}
            next => return next,
        }
    }
}

async fn request(session: &mut Session<'_>, head: Head) -> Next {
    if let Some(page) = status::page(session, &head.read) {
        return status::answer(page, &head);
    }
    match &head.read.form {
        RequestForm::Connect { host, port } if session.destination.is_none() => {
            let decider = session.core.decider;
            // What it says of a tunnel goes nowhere.
            let agrees = |(field, field_port): &(Host, Option<u16>)| {
                field_port.is_none_or(|field_port| field_port == *port)
                    && decider.is_same(field, host)
                    || decider.is_gateway(field, *field_port)
            };
            if !head.read.names_host_port(host, *port)
                && !head.read.host.as_ref().is_some_and(agrees)
            {
                return session.malformed("Host differs from the target", &head);
            }
            let dialer = &session.services.connector.dialer;
            let target = decider.target_in_full(dialer, host, *port).await;
            match decider.leads_to_page(&target) {
                true => status::tunnel(session, target).await,
                false => connect::connect(session, target, &head).await,
            }
        }
        _ => forward::forward(session, &head).await,
    }
}
