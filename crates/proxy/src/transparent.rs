//! The catch-all: programs that know no proxy. The local address of the accepted socket is the
//! destination.
//!
//! The kernel has refused most of what is not leased before it gets here; lease and port are
//! checked again all the same, since whoever can flush the kernel's rules reaches this listener
//! directly. A refusal is a reset, at once.

use portcullis_dial::Stream;
use portcullis_record::{Layer, Protocol};
use tokio::net::TcpStream;

use crate::ProxyContext;
use crate::context::Absolute;
use crate::note::{At, Peer, Via};
use crate::open_error::OpenError;
use crate::socket;
use crate::stop::Stop;
use crate::target::{Ruling, Target};
use crate::tunnel::{self, Opened, Tunnel};

/// The port on which plain HTTP is expected: a company's proxy may refuse to tunnel to it.
const HTTP_PORT: u16 = 80;

/// Dials at once, before it is known what the program will say.
async fn dial(
    ctx: &ProxyContext,
    ruling: &Ruling,
    port: u16,
) -> Result<(Stream, Peer, Absolute), OpenError> {
    if port == HTTP_PORT {
        return ctx.dial_http(ruling, None).await;
    }
    let (stream, peer) = ctx.dial(ruling, None).await?;
    Ok((stream, peer, None))
}

/// Takes one connection to the point where it only has to be relayed.
pub(crate) async fn open(ctx: &ProxyContext, client: TcpStream, stop: &Stop) -> Option<Tunnel> {
    let via = Via::new(Protocol::Transparent, &client);
    let at = At::new(Layer::Tcp, via);
    let Ok(destination) = client.local_addr() else {
        socket::reset(client);
        return None;
    };
    let target = Target::address(ctx, destination);
    let ruling = target.decide(ctx);
    if ruling.permit.is_none() {
        ctx.note_decision(at, &target, &ruling);
        socket::reset(client);
        return None;
    }
    let dialled = tokio::select! {
        biased;
        () = stop.wait() => {
            socket::reset(client);
            return None;
        }
        dialled = dial(ctx, &ruling, target.port) => dialled,
    };
    let (upstream, peer, absolute) = match dialled {
        Ok(dialled) => dialled,
        Err(error) => {
            ctx.note_failed(at, &target, &ruling, &error);
            socket::reset(client);
            return None;
        }
    };
    let relay = tunnel::relay(client, upstream);
    let opened = Opened {
        via,
        target,
        ruling,
        peer,
        absolute,
        flow: None,
    };
    opened.follow(ctx, stop, relay, Vec::new()).await
}
