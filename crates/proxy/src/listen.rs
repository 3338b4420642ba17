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

use crate::ProxyContext;
use crate::limits::{ACCEPT_PAUSE, DRAIN_TIMEOUT, Slot};
use crate::meter::OverLimit;
use crate::note::Via;
use crate::pulse::Pulse;
use crate::refuse::{Format, Refusal};
use crate::stop::Stop;
use crate::{http, socket, socks, transparent};

/// The kinds of listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Http,
    Socks5,
    Transparent,
}

/// Serves the HTTP proxy (CONNECT and absolute form) until `token` is cancelled.
///
/// # Errors
/// Only an error that makes the listener useless.
pub async fn serve_http(
    ctx: Arc<ProxyContext>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    serve(ctx, listener, token, Door::Http).await
}

/// Serves SOCKS5 until `token` is cancelled.
///
/// # Errors
/// Only an error that makes the listener useless.
pub async fn serve_socks5(
    ctx: Arc<ProxyContext>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    serve(ctx, listener, token, Door::Socks5).await
}

/// Serves the transparent catch-all until `token` is cancelled. The local address of an accepted
/// socket is the destination that the program asked for.
///
/// # Errors
/// Only an error that makes the listener useless.
pub async fn serve_transparent(
    ctx: Arc<ProxyContext>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    serve(ctx, listener, token, Door::Transparent).await
}

async fn serve(
    ctx: Arc<ProxyContext>,
    listener: TcpListener,
    token: CancellationToken,
    door: Door,
) -> io::Result<()> {
    socket::prepare_listener(&listener);
    let stop = Arc::new(Stop::default());
    let tracker = TaskTracker::new();
    let mut cancelled = pin!(token.cancelled());
    let mut pulse = Pulse::default();
    let outcome = loop {
        let accepted = tokio::select! {
            biased;
            () = &mut cancelled => break Ok(()),
            accepted = listener.accept() => accepted,
            () = pulse.beat() => continue,
        };
        pulse.touch();
        match accepted {
            Ok((stream, _)) => admit(&ctx, &tracker, &stop, door, stream),
            Err(error) => match fault(&error) {
                Fault::OneConnection => {}
                Fault::Exhausted => {
                    let (via, reason) = (Via::nobody(door.protocol()), Reason::TooManyConnections);
                    ctx.note_too_many(via, reason, &error.to_string());
                    tokio::select! {
                        () = &mut cancelled => break Ok(()),
                        () = sleep(ACCEPT_PAUSE) => {}
                    }
                }
                Fault::Listener => break Err(error),
            },
        }
    };
    stop.trip();
    tracker.close();
    // What does not end in time is dropped with the runtime; its close is recorded all the same.
    let _ = timeout(DRAIN_TIMEOUT, tracker.wait()).await;
    outcome
}

fn admit(
    ctx: &Arc<ProxyContext>,
    tracker: &TaskTracker,
    stop: &Arc<Stop>,
    door: Door,
    stream: TcpStream,
) {
    let refused = match ctx.take_in() {
        Ok(slot) => {
            tracker.spawn(connection(door, ctx.clone(), stream, slot, stop.clone()));
            return;
        }
        Err(refused) => refused,
    };
    match ctx.refusals.take() {
        Some(slot) if door != Door::Transparent => {
            tracker.spawn(refuse(door, ctx.clone(), stream, (refused, slot)));
        }
        _ => {
            let via = Via::new(door.protocol(), &stream);
            ctx.note_too_many(via, refused.reason, refused.detail);
            socket::reset(stream);
        }
    }
}

/// One connection. Setting up is boxed, so that what stays while a tunnel is idle is the relay and
/// little else.
async fn connection(
    door: Door,
    ctx: Arc<ProxyContext>,
    stream: TcpStream,
    slot: Slot,
    stop: Arc<Stop>,
) {
    let mut tunnel = match door {
        Door::Http => Box::pin(http::open(&ctx, stream, &stop)).await,
        Door::Socks5 => Box::pin(socks::open(&ctx, stream, &stop)).await,
        Door::Transparent => Box::pin(transparent::open(&ctx, stream, &stop)).await,
    };
    drop(ctx);
    // By reference, then by value: a tunnel that is moved while it waits is there twice.
    if let Some(tunnel) = &mut tunnel {
        tunnel.run(&stop).await;
    }
    if let Some(tunnel) = tunnel {
        tunnel.finish();
    }
    drop(slot);
}

/// Tells a client that its connection is one too many.
async fn refuse(
    door: Door,
    ctx: Arc<ProxyContext>,
    stream: TcpStream,
    (over, slot): (OverLimit, Slot),
) {
    let via = Via::new(door.protocol(), &stream);
    let id = ctx.note_too_many(via, over.reason, over.detail);
    let words = match door {
        Door::Socks5 => {
            let mut words = socks5::METHOD_NONE.to_vec();
            words.extend(socks::reply(over.reason));
            words
        }
        _ => {
            let mut refusal = Refusal::new(over.reason, id);
            refusal.retry_after = over.retry_after;
            refusal.response(Format::Text, true)
        }
    };
    socket::last_words(stream, &words).await;
    drop(slot);
}

impl Door {
    fn protocol(self) -> Protocol {
        match self {
            Door::Http => Protocol::Http,
            Door::Socks5 => Protocol::Socks5,
            Door::Transparent => Protocol::Transparent,
        }
    }
}

/// What a failed accept means.
enum Fault {
    /// That connection is gone; others are not.
    OneConnection,
    /// No descriptors or memory now, or something unknown: try again after a pause.
    Exhausted,
    /// The listener is of no more use.
    Listener,
}

fn fault(error: &io::Error) -> Fault {
    use io::ErrorKind as Kind;
    /// The descriptor is not open: no kind of its own.
    const EBADF: i32 = 9;
    if error.raw_os_error() == Some(EBADF) {
        return Fault::Listener;
    }
    match error.kind() {
        Kind::InvalidInput | Kind::NotConnected | Kind::Unsupported => Fault::Listener,
        // accept(2): errors already pending on the new socket, and a firewall's EPERM
        Kind::ConnectionAborted
        | Kind::ConnectionReset
        | Kind::ConnectionRefused
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        | Kind::TimedOut
        | Kind::PermissionDenied => Fault::OneConnection,
        _ => Fault::Exhausted,
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

    fn context() -> Arc<ProxyContext> {
        let policy: PolicyHandle = Arc::new(ArcSwap::from_pointee(Policy::deny_all()));
        let leases = Arc::new(Leases::new(Box::new(NoGate), Clock::system()));
        let recorder = Recorder::null();
        let dns = DnsConfig::new(policy.clone(), Vec::new(), leases.clone(), recorder.clone());
        let dns = Arc::new(DnsService::new(dns));
        let dialer = Arc::new(Dialer::new(DialConfig::new(policy.clone(), dns)));
        Arc::new(ProxyContext::new(policy, dialer, leases, recorder))
    }

    #[tokio::test]
    async fn ten_thousand_idle_connections_have_small_tasks() {
        let ctx = context();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (stream, _) = tokio::join!(TcpStream::connect(at), listener.accept());
        let slot = ctx.take_in().unwrap();
        let task = connection(Door::Http, ctx, stream.unwrap(), slot, Arc::default());
        let size = size_of_val(&task);
        eprintln!("{size} bytes for each connection");
        assert!(size <= MAX_CONNECTION_FUTURE_BYTES, "{size} bytes");
    }

    #[test]
    fn tunnels_with_silent_clients_are_small_too() {
        fn of_five<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        fn of_three<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let follow = of_five(crate::tunnel::Opened::follow);
        let doors = [
            ("http", of_three(http::open) + follow),
            ("socks5", of_three(socks::open)),
            ("transparent", of_three(transparent::open)),
        ];
        for (door, size) in doors {
            eprintln!("{door}: {size} bytes");
            assert!(size <= MAX_SILENT_FUTURE_BYTES, "{door}: {size} bytes");
        }
    }

    #[test]
    fn no_free_descriptors_is_not_the_end_of_the_listener() {
        let of = |errno| fault(&io::Error::from_raw_os_error(errno));
        for errno in [24, 23, 105, 12] {
            assert!(matches!(of(errno), Fault::Exhausted), "{errno}");
        }
        for errno in [103, 104, 1, 113] {
            assert!(matches!(of(errno), Fault::OneConnection), "{errno}");
        }
        assert!(matches!(of(9), Fault::Listener) && matches!(of(22), Fault::Listener));
    }
}
