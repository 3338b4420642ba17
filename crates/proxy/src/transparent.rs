//! The catch-all: programs that know no proxy. The local address of the accepted socket is the
//! destination.
//!
//! The kernel has refused most of what is not leased before it gets here; lease and port are
//! checked again all the same, since whoever can flush the kernel's rules reaches this listener
//! directly. A refusal is a reset, at once.

use portcullis_record::Layer;
use tokio::net::TcpStream;

use crate::http;
use crate::inbound::Inbound;
use crate::opened::{Entered, Opened, Unread};
use crate::records::At;
use crate::relay::Relay;
use crate::services::Services;
use crate::socket;
use crate::stop::Stop;

/// The port on which plain HTTP is expected: an upstream proxy may refuse to tunnel to it.
const HTTP_PORT: u16 = 80;

/// Takes one connection to the point where its first bytes are to be looked at: it is dialled before
/// it is known what the program will say.
pub(crate) async fn open(
    services: Services<'_>,
    mut client: TcpStream,
    inbound: Inbound,
    stop: &Stop,
) -> Option<Entered> {
    let Services {
        decider,
        connector,
        records,
        ..
    } = services;
    let at = At::new(Layer::Tcp, inbound);
    let Some(destination) = inbound.to else {
        socket::reset(client);
        return None;
    };
    let (target, ruling) = decider.enter(decider.target_at(destination));
    let mut pending = Vec::new();
    if decider.status_page_at(destination).is_some() {
        // A policy may list the host's own server at this address.
        let is_other =
            ruling.permit.is_some() && !Box::pin(http::means_page(&mut client, &mut pending)).await;
        if !is_other {
            let serving = http::at_page(services, client, pending, inbound, target, stop);
            Box::pin(serving).await;
            return None;
        }
    }
    if ruling.permit.is_none() {
        let hint = decider.ftp_hint(&target, &ruling);
        records.decision(at.detail(hint), &target, &ruling);
        socket::reset(client);
        return None;
    }
    let dial = async {
        match target.port {
            HTTP_PORT => connector.connect_http(&ruling, None).await,
            _ => connector.connect(&ruling, None).await,
        }
    };
    let dialled = tokio::select! {
        biased;
        () = stop.wait() => {
            socket::reset(client);
            return None;
        }
        dialled = dial => dialled,
    };
    let connected = match dialled {
        Ok(connected) => connected,
        Err(error) => {
            records.failed(at, &target, &ruling, &error);
            socket::reset(client);
            return None;
        }
    };
    let opened = Opened {
        inbound,
        target,
        ruling,
        peer: connected.peer,
        absolute: connected.absolute,
        flow: None,
    };
    Some(Entered::Opened(Box::new(Unread {
        opened,
        relay: Relay::new(client, connected.stream),
        pending,
    })))
}
