//! The accept loops: one task for each connection, as many as the sandbox may have.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use portcullis_policy::Reason;
use portcullis_record::Protocol;
use portcullis_wire::socks5;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::early_timer::EarlyTimer;
use crate::identify::{Identified, identify};
use crate::inbound::Inbound;
#[cfg(feature = "inspect")]
use crate::inspect;
use crate::limits::{ACCEPT_PAUSE, DRAIN_TIMEOUT, Slot};
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
    let served = loop {
        let accepted = tokio::select! {
            biased;
            () = &mut cancelled => break Ok(()),
            accepted = listener.accept() => accepted,
            () = early_timer.fires() => continue,
        };
        early_timer.touch();
        match accepted {
            Ok((stream, from)) => {
                let to = own.or_else(|| stream.local_addr().ok());
                let inbound = Inbound::new(entrance.protocol(), from, to);
                admit(&proxy, &tracker, &stop, entrance, stream, inbound);
            }
            Err(error) => match accept_error(&error) {
                AcceptError::OneConnection => {}
                AcceptError::Exhausted => {
                    let nobody = Inbound::nobody(entrance.protocol());
                    let reason = Reason::TooManyConnections;
                    (proxy.records).too_many(nobody, reason, &error.to_string());
                    tokio::select! {
                        () = &mut cancelled => break Ok(()),
                        () = sleep(ACCEPT_PAUSE) => {}
                    }
                }
                AcceptError::Listener => break Err(error),
            },
        }
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
    let refused = match proxy.admission.connection() {
        Ok(slot) => {
            tracker.spawn(connection(
                entrance,
                proxy.clone(),
                stream,
                inbound,
                slot,
                stop.clone(),
            ));
            return;
        }
        Err(refused) => refused,
    };
    match proxy.admission.refusal() {
        Some(slot) if entrance != Entrance::Transparent => {
            tracker.spawn(refuse(
                entrance,
                proxy.clone(),
                stream,
                inbound,
                (refused, slot),
            ));
        }
        _ => {
            (proxy.records).too_many(inbound, refused.reason, refused.detail);
            socket::reset(stream);
        }
    }
}

/// One connection. Setting up is boxed, so that what stays while a tunnel is idle is the relay and
/// little else.
async fn connection(
    entrance: Entrance,
    proxy: Arc<Proxy>,
    stream: TcpStream,
    inbound: Inbound,
    slot: Slot,
    stop: Arc<Stop>,
) {
    let mut tunnel = Box::pin(set_up(entrance, &proxy, stream, inbound, &stop)).await;
    drop(proxy);
    // By reference, then by value: a tunnel that is moved while it waits is there twice.
    if let Some(tunnel) = &mut tunnel {
        tunnel.run(&stop).await;
    }
    if let Some(tunnel) = tunnel {
        tunnel.finish();
    }
    drop(slot);
}

/// The way of a connection to the point where it only has to be relayed: destination, decision,
/// dial; then what runs on it. `None` when it came to its end on the way.
async fn set_up(
    entrance: Entrance,
    proxy: &Proxy,
    stream: TcpStream,
    inbound: Inbound,
    stop: &Stop,
) -> Option<Tunnel> {
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
        Identified::Inspect(to_inspect) => {
            Box::pin(inspect::inspect(services, to_inspect, stop)).await;
            None
        }
    }
}

/// Tells a client that its connection is one too many.
async fn refuse(
    entrance: Entrance,
    proxy: Arc<Proxy>,
    stream: TcpStream,
    inbound: Inbound,
    (over, slot): (OverLimit, Slot),
) {
    let id = (proxy.records).too_many(inbound, over.reason, over.detail);
    let words = match entrance {
        Entrance::Socks5 => {
            let mut words = socks5::METHOD_NONE.to_vec();
            words.extend(socks::reply(over.reason));
            words
        }
        _ => {
            let mut refusal = Refusal::new(over.reason, id);
            refusal.retry_after = over.retry_after;
            refusal.answer(Format::Text).http1(true)
        }
    };
    socket::last_words(stream, &words).await;
    drop(slot);
}

impl Entrance {
    fn protocol(self) -> Protocol {
        match self {
            Entrance::Http => Protocol::Http,
            Entrance::Socks5 => Protocol::Socks5,
            Entrance::Transparent => Protocol::Transparent,
        }
    }
}

/// What a failed accept means.
enum AcceptError {
    /// That connection is gone; others are not.
    OneConnection,
    /// No descriptors or memory now, or something unknown: try again after a pause.
    Exhausted,
    /// The listener is of no more use.
    Listener,
}

fn accept_error(error: &io::Error) -> AcceptError {
    use io::ErrorKind as Kind;
    /// The descriptor is not open: no kind of its own.
    const EBADF: i32 = 9;
    if error.raw_os_error() == Some(EBADF) {
        return AcceptError::Listener;
    }
    match error.kind() {
        Kind::InvalidInput | Kind::NotConnected | Kind::Unsupported => AcceptError::Listener,
        // accept(2): errors already pending on the new socket, and a firewall's EPERM
        Kind::ConnectionAborted
        | Kind::ConnectionReset
        | Kind::ConnectionRefused
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        | Kind::TimedOut
        | Kind::PermissionDenied => AcceptError::OneConnection,
        _ => AcceptError::Exhausted,
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
        let slot = proxy.admission.connection().unwrap();
        let inbound = Inbound::nobody(Protocol::Http);
        let task = connection(
            Entrance::Http,
            proxy,
            stream.unwrap(),
            inbound,
            slot,
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

    #[test]
    fn no_free_descriptors_is_not_the_end_of_the_listener() {
        let of = |errno| accept_error(&io::Error::from_raw_os_error(errno));
        for errno in [24, 23, 105, 12] {
            assert!(matches!(of(errno), AcceptError::Exhausted), "{errno}");
        }
        for errno in [103, 104, 1, 113] {
            assert!(matches!(of(errno), AcceptError::OneConnection), "{errno}");
        }
        assert!(matches!(of(9), AcceptError::Listener) && matches!(of(22), AcceptError::Listener));
    }
}
