//! Published ports: connections from the host's loopback to a server inside the sandbox.
//!
//! The socket to the server is made inside by the sandbox's first process, so it can only reach
//! what the sandbox's own loopback has; nothing of the host becomes reachable from inside.

use portcullis_dns::{Accepted, Acceptor, Reserve};
use portcullis_gateway::{CancellationToken, Inside, LOOPBACK, TaskTracker, connect_inside};
use portcullis_names::AllowedClients;
use portcullis_policy::{Reason, Verdict};
use portcullis_proxy::relay_between;
use portcullis_record::{Close, Event, Layer, Protocol, Recorder};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tracing::debug;

/// Connections to one published port at a time.
const MAX_PUBLISHED_CONNECTIONS: usize = 256;

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
    inside: Arc<dyn Inside>,
    recorder: Recorder,
    token: CancellationToken,
) -> io::Result<()> {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_PUBLISHED_CONNECTIONS));
    let connections = TaskTracker::new();
    let mut acceptor = Acceptor::new(
        listener,
        AllowedClients::default(),
        Arc::new(Reserve::default()),
    );
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
        let (inside, recorder, token) = (inside.clone(), recorder.clone(), token.clone());
        connections.spawn(async move {
            let client = Client { stream, peer };
            relay(client, port, &inside, &recorder, &token).await;
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
    inside: &Arc<dyn Inside>,
    recorder: &Recorder,
    token: &CancellationToken,
) {
    let start = Instant::now();
    let from = format!("from {}", client.peer);
    let event =
        |verdict, reason| Event::new(Layer::Tcp, Protocol::Publish, verdict, reason).port(port);
    // The sandbox's first process answers once CMD runs, and before that waits for this gateway's
    // proof: a client that comes early must not hold the threads that give it.
    let connecting = token.run_until_cancelled(connect_inside(inside, &LOOPBACK, port));
    let Some(connected) = connecting.await else {
        return;
    };
    let (server, address) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            let detail = format!("{from}: {}", error.detail);
            let failed = event(Verdict::Error, error.reason).addresses(&LOOPBACK);
            recorder.decision(failed.detail(&detail));
            return;
        }
    };
    let addresses = [address.ip()];
    let allowed = event(Verdict::Allow, Reason::Allowed).addresses(&addresses);
    let id = recorder.decision(allowed.detail(&from));
    debug!(%id, port, peer = %client.peer, "published connection opened");
    let relayed = relay_between(server, client.stream, token).await;
    debug!(%id, up = relayed.up, down = relayed.down, "published connection closed");
    recorder.close(
        id,
        Close::new(relayed.end, relayed.up, relayed.down, start.elapsed()),
    );
}
