//! The accept loops: one task for each connection, as many as the sandbox may have.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use portcullis_dns::{Accepted, Acceptor};
use portcullis_policy::Reason;
use portcullis_record::{DecisionId, Protocol};
use portcullis_wire::socks5;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Place;
use crate::early_timer::EarlyTimer;
use crate::identify::{Identified, identify};
use crate::inbound::Inbound;
#[cfg(feature = "inspect")]
use crate::inspect;
use crate::limits::DRAIN_TIMEOUT;
use crate::meter::OverLimit;
use crate::opened::Entered;
use crate::proxy::Proxy;
use crate::request::{Format, Refusal};
use crate::services::Services;
use crate::stop::{Stop, StopGuard};
use crate::tunnel::Tunnel;
use crate::{http, socket, socks, transparent};

/// The kinds of listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    Http,
    Socks5,
    Transparent,
}

/// Serves the HTTP proxy (CONNECT and absolute form) until `token` is cancelled.
///
/// # Errors
/// Only an error that makes the listener useless.
pub async fn serve_http(
    proxy: Arc<Proxy>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    serve(proxy, listener, token, Entrance::Http).await
}

/// Serves SOCKS5 until `token` is cancelled.
///
/// # Errors
/// Only an error that makes the listener useless.
pub async fn serve_socks5(
    proxy: Arc<Proxy>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    serve(proxy, listener, token, Entrance::Socks5).await
}

/// Serves the transparent catch-all until `token` is cancelled. The local address of an accepted
/// socket is the destination that the program asked for.
///
/// # Errors
/// Only an error that makes the listener useless.
pub async fn serve_transparent(
    proxy: Arc<Proxy>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    serve(proxy, listener, token, Entrance::Transparent).await
}

async fn serve(
    proxy: Arc<Proxy>,
    listener: TcpListener,
    token: CancellationToken,
    entrance: Entrance,
) -> io::Result<()> {
    socket::prepare_listener(&listener);
    // The end that connections reach is the listener's, and nobody needs to ask for it each time;
    // but where it is bound to any address, or takes in connections to all of them.
    let own = listener.local_addr().ok();
    let own = own.filter(|own| entrance != Entrance::Transparent && !own.ip().is_unspecified());
    let stop = Arc::new(Stop::default());
    let stop_guard = StopGuard(stop.clone());
    let tracker = TaskTracker::new();
    let mut cancelled = pin!(token.cancelled());
    let mut early_timer = EarlyTimer::default();
    let mut acceptor = Acceptor::new(
        listener,
        proxy.admission.allowed_clients.clone(),
        proxy.admission.reserve.clone(),
    );
    let served = loop {
        let accepted = tokio::select! {
            biased;
            () = &mut cancelled => break Ok(()),
            accepted = acceptor.accept() => accepted,
            () = early_timer.fires() => continue,
        };
        early_timer.touch();
        let refused = match accepted {
            Ok(Accepted::Connection(stream, from)) => {
                let to = own.or_else(|| stream.local_addr().ok());
                let inbound = Inbound::new(entrance.protocol(), from, to);
                admit(&proxy, &tracker, &stop, entrance, stream, inbound);
                continue;
            }
            Ok(Accepted::Stranger(from)) => (
                Inbound::new(entrance.protocol(), from, own),
                Reason::ClientNotAllowed,
                format!("from {}", from.ip().to_canonical()),
            ),
            Ok(Accepted::Exhausted(error)) => (
                Inbound::nobody(entrance.protocol()),
                Reason::TooManyConnections,
                error.to_string(),
            ),
            Err(error) => break Err(error),
        };
        let (inbound, reason, detail) = refused;
        (proxy.records).turned_away(inbound, reason, &detail);
    };
    drop(stop_guard);
    tracker.close();
    // What does not end in time is dropped with the runtime; its close is recorded all the same.
    let _ = timeout(DRAIN_TIMEOUT, tracker.wait()).await;
    served
}

fn admit(
    proxy: &Arc<Proxy>,
    tracker: &TaskTracker,
    stop: &Arc<Stop>,
    entrance: Entrance,
    stream: TcpStream,
    inbound: Inbound,
) {
    let refused = match proxy.admission.connection(entrance as usize) {
        Ok(place) => {
            tracker.spawn(connection(
                entrance,
                proxy.clone(),
                stream,
                inbound,
                place,
                stop.clone(),
            ));
            return;
        }
        Err(refused) => refused,
    };
    let id = (proxy.records).turned_away(inbound, refused.reason, refused.detail);
    let words = entrance.last_words(refused, id);
    match proxy.admission.refusal() {
        _ if words.is_empty() => socket::reset(stream),
        Some(slot) => {
            tracker.spawn(async move {
                socket::last_words(stream, &words).await;
                drop(slot);
            });
        }
        // No descriptor to wait with. The words fit what the kernel holds for a new connection; a client
        // that has spoken already may see a reset behind them.
        None => drop(stream.try_write(&words)),
    }
}

/// One connection. Setting up is boxed before the task is made: a task keeps room for all that it
/// was given to its end, and what stays while a tunnel is idle is to be the relay and little else.
fn connection(
    entrance: Entrance,
    proxy: Arc<Proxy>,
    stream: TcpStream,
    inbound: Inbound,
    place: Place,
    stop: Arc<Stop>,
) -> impl Future<Output = ()> + Send {
    let setting_up = Box::pin(set_up(entrance, proxy, stream, inbound, stop.clone()));
    async move {
        let mut tunnel = setting_up.await;
        // By reference, then by value: a tunnel that is moved while it waits is there twice.
        if let Some(tunnel) = &mut tunnel {
            tunnel.run(&stop).await;
        }
        if let Some(tunnel) = tunnel {
            tunnel.finish();
        }
        drop(place);
    }
}

/// The way of a connection to the point where it only has to be relayed: destination, decision,
/// dial; then what runs on it. `None` when it came to its end on the way.
async fn set_up(
    entrance: Entrance,
    proxy: Arc<Proxy>,
    stream: TcpStream,
    inbound: Inbound,
    stop: Arc<Stop>,
) -> Option<Tunnel> {
    let stop = &*stop;
    let services = Services {
        decider: &proxy.decider,
        connector: &proxy.connector,
        records: &proxy.records,
        inspector: proxy.inspector.as_deref(),
    };
    let entered = match entrance {
        Entrance::Http => Box::pin(http::open(services, stream, inbound, stop)).await,
        Entrance::Socks5 => Box::pin(socks::open(services, stream, inbound, stop)).await,
        Entrance::Transparent => Box::pin(transparent::open(services, stream, inbound, stop)).await,
    };
    // Boxed, and passed on so: what a silent client keeps waiting is small.
    let unread = match entered? {
        Entered::Tunnel(tunnel) => return Some(tunnel),
        Entered::Opened(unread) => unread,
    };
    match Box::pin(identify(services, unread, stop)).await? {
        Identified::Tunnel(tunnel) => Some(tunnel),
        Identified::Http(unread) => Box::pin(http::behind(services, unread, stop)).await,
        #[cfg(feature = "inspect")]
        Identified::Http2(unread) => {
            Box::pin(inspect::cleartext(services, unread, stop)).await;
            None
        }
        #[cfg(feature = "inspect")]
        Identified::Inspect(to_inspect) => {
            Box::pin(inspect::inspect(services, to_inspect, stop)).await;
            None
        }
    }
}

impl Entrance {
    /// What a client is told whose connection is one too many; nothing where its protocol is not known.
    fn last_words(self, over: OverLimit, id: DecisionId) -> Vec<u8> {
        match self {
            Entrance::Http => {
                let mut refusal = Refusal::new(over.reason, id);
                refusal.retry_after = over.retry_after;
                refusal.answer(Format::Text).http1(true)
            }
            Entrance::Socks5 => {
                let mut words = socks5::METHOD_NONE.to_vec();
                words.extend(socks::reply(over.reason));
                words
            }
            Entrance::Transparent => Vec::new(),
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Entrance::Http => Protocol::Http,
            Entrance::Socks5 => Protocol::Socks5,
            Entrance::Transparent => Protocol::Transparent,
        }
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use portcullis_dial::{DialConfig, Dialer};
    use portcullis_dns::{Clock, DnsConfig, DnsService, Leases, NoGate, PolicyHandle};
    use portcullis_policy::Policy;
    use portcullis_record::Recorder;

    use super::*;
    use crate::limits::{MAX_CONNECTION_FUTURE_BYTES, MAX_SILENT_FUTURE_BYTES};

    fn proxy() -> Arc<Proxy> {
        let policy: PolicyHandle = Arc::new(ArcSwap::from_pointee(Policy::deny_all()));
        let leases = Arc::new(Leases::new(Box::new(NoGate), Clock::system()));
        let recorder = Recorder::null();
        let dns = DnsConfig::new(policy.clone(), Vec::new(), leases.clone(), recorder.clone());
        let dns = Arc::new(DnsService::new(dns));
        let dialer = Arc::new(Dialer::new(DialConfig::new(policy.clone(), dns)));
        Arc::new(Proxy::new(policy, dialer, leases, recorder))
    }

    #[tokio::test]
    async fn ten_thousand_idle_connections_have_small_tasks() {
        let proxy = proxy();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (stream, _) = tokio::join!(TcpStream::connect(at), listener.accept());
        let place = proxy.admission.connection(0).unwrap();
        let inbound = Inbound::nobody(Protocol::Http);
        let task = connection(
            Entrance::Http,
            proxy,
            stream.unwrap(),
            inbound,
            place,
            Arc::default(),
        );
        let size = size_of_val(&task);
        eprintln!("{size} bytes for each connection");
        assert!(size <= MAX_CONNECTION_FUTURE_BYTES, "{size} bytes");
    }

    #[test]
    fn tunnels_with_silent_clients_are_small_too() {
        fn of_three<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        fn of_five<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        // What an entrance needed is gone by then.
        let size = of_three(identify) + of_five(set_up);
        eprintln!("{size} bytes");
        assert!(size <= MAX_SILENT_FUTURE_BYTES, "{size} bytes");
    }
}
