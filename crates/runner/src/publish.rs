//! Published ports: connections from the host's loopback to a server inside the sandbox.
//!
//! The socket to the server is made inside by the sandbox's first process, so it can only reach
//! what the sandbox's own loopback has; nothing of the host becomes reachable from inside.

use crate::inside::InsideSockets;
use portcullis_dns::{Accepted, Acceptor};
use portcullis_gateway::{CancellationToken, Inside, TaskTracker};
use portcullis_names::AllowedClients;
use portcullis_policy::{Reason, Verdict};
use portcullis_proxy::relay_between;
use portcullis_record::{Close, Event, Layer, Protocol, Recorder};
use portcullis_sandbox::Control;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tracing::debug;

/// Connections to one published port at a time.
const MAX_PUBLISHED_CONNECTIONS: usize = 256;

/// Where a server inside may listen.
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// A port of the host that leads to a port of the sandbox.
#[derive(Debug)]
pub struct Publish {
    /// The listener on the host.
    pub listener: std::net::TcpListener,
    /// The port on the sandbox's loopback.
    pub port: u16,
}

/// Serves one published port until `token` is cancelled and the close of each connection is on
/// record.
///
/// # Errors
/// The listener is of no more use.
pub(crate) async fn serve(
    listener: TcpListener,
    port: u16,
    control: Arc<Control>,
    recorder: Recorder,
    token: CancellationToken,
) -> io::Result<()> {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_PUBLISHED_CONNECTIONS));
    let connections = TaskTracker::new();
    let mut acceptor = Acceptor::new(listener, AllowedClients::default());
    loop {
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted?,
            () = token.cancelled() => break,
        };
        let Accepted::Connection(stream, peer) = accepted else {
            continue;
        };
        // Beyond the limit the connection is closed: the dev server's user sees it at once.
        let Ok(permit) = places.clone().try_acquire_owned() else {
            continue;
        };
        let (control, recorder, token) = (control.clone(), recorder.clone(), token.clone());
        connections.spawn(async move {
            let client = Client { stream, peer };
            relay(client, port, &control, &recorder, &token).await;
            drop(permit);
        });
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Who came to a published port.
struct Client {
    stream: TcpStream,
    peer: SocketAddr,
}

async fn relay(
    client: Client,
    port: u16,
    control: &Arc<Control>,
    recorder: &Recorder,
    token: &CancellationToken,
) {
    let start = Instant::now();
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let from = format!("from {}", client.peer);
    let event = |verdict, reason| {
        Event::new(Layer::Tcp, Protocol::Publish, verdict, reason)
            .port(port)
            .addresses(&addresses)
    };
    let connecting = token.run_until_cancelled(connect_inside(port, control.clone()));
    let Some(connected) = connecting.await else {
        return;
    };
    let inside = match connected {
        Ok(inside) => inside,
        Err(error) => {
            let detail = format!("{from}: {error}");
            recorder.decision(event(Verdict::Error, Reason::ConnectionRefused).detail(&detail));
            return;
        }
    };
    let id = recorder.decision(event(Verdict::Allow, Reason::Allowed).detail(&from));
    debug!(%id, port, peer = %client.peer, "published connection opened");
    let relayed = relay_between(inside, client.stream, token).await;
    debug!(%id, up = relayed.up, down = relayed.down, "published connection closed");
    recorder.close(
        id,
        Close::new(relayed.end, relayed.up, relayed.down, start.elapsed()),
    );
}

/// The sandbox's first process answers once CMD runs, and before that waits for this gateway's
/// proof: a client that comes early must not hold the threads that give it.
async fn connect_inside(port: u16, control: Arc<Control>) -> io::Result<TcpStream> {
    let mut first = None;
    for address in LOOPBACK {
        match connect_to(SocketAddr::new(address, port), control.clone()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| ErrorKind::NotFound.into()))
}

async fn connect_to(to: SocketAddr, control: Arc<Control>) -> io::Result<TcpStream> {
    let sockets = InsideSockets(control);
    let made = tokio::task::spawn_blocking(move || sockets.tcp_socket(to.is_ipv6())).await;
    let socket = made.map_err(io::Error::other)??;
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    socket.connect(to).await
}
