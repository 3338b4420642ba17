//! `portcullis serve`: the same policy and code as `run`, on plain listeners of this host.

use crate::EXIT_USAGE;
use crate::args::ServeArgs;
use crate::launch::{free_range, host_resolvers, open_log};
use crate::talk::{self, Hinted};
use portcullis_gateway::{PlainConfig, StartError, Unresolved, serve_plain};
use portcullis_policy::Answers;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Ports tried for `--dns ADDR:0`: one that is free for UDP may be taken for TCP.
const PORT_TRIES: usize = 64;

/// Serves until SIGINT or SIGTERM; exits 0 then, 1 when it cannot serve, 2 for bad flags.
pub fn main(args: ServeArgs) -> ExitCode {
    if args.dns.is_none() && args.http.is_none() && args.socks5.is_none() {
        talk::error(
            "nothing to serve",
            Some("give at least one of --dns ADDR:PORT, --http ADDR:PORT, --socks5 ADDR:PORT"),
        );
        return ExitCode::from(EXIT_USAGE);
    }
    let Ok(loaded) = crate::policy::load(&args.policy) else {
        return ExitCode::from(EXIT_USAGE);
    };
    crate::policy::show(&loaded.warnings);
    if loaded.policy.settings().dns.answers == Answers::Synthetic {
        if args.http.is_none() && args.socks5.is_none() {
            talk::error(
                "nobody here would take connections to synthetic addresses",
                Some("leave `answers = \"synthetic\"` out, or serve --http or --socks5 as well"),
            );
            return ExitCode::from(EXIT_USAGE);
        }
        if let Err(error) = free_range(&loaded.policy) {
            talk::failure(&error);
            return ExitCode::from(EXIT_USAGE);
        }
    }
    if let Err(fix) = ca_cert(&args, &loaded.policy) {
        talk::error("inspection and --ca-cert belong together", Some(fix));
        return ExitCode::from(EXIT_USAGE);
    }
    match serve(&args, loaded.policy) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<Unresolved>() {
                Some(unresolved) => talk::unresolved(unresolved),
                None => talk::failure(&error),
            }
            ExitCode::FAILURE
        }
    }
}

/// Programs have to trust the gateway's authority, which nobody can mount over anything here.
fn ca_cert(args: &ServeArgs, policy: &portcullis_policy::Policy) -> Result<(), &'static str> {
    let connections = args.http.is_some() || args.socks5.is_some();
    let inspects = connections && policy.inspected().next().is_some();
    match (&args.ca_cert, inspects) {
        (None, true) => Err(
            "the policy inspects names: say with --ca-cert FILE where to write the certificate that \
             programs have to trust for them",
        ),
        (Some(_), false) => {
            Err("no rule that is served here says `inspect = true`: leave --ca-cert out")
        }
        _ => Ok(()),
    }
}

fn serve(args: &ServeArgs, policy: portcullis_policy::Policy) -> anyhow::Result<()> {
    let end = asked_to_end()?;
    let tcp = |address: SocketAddr| {
        TcpListener::bind(address).map_err(|error| no_listener(address, "TCP", error))
    };
    let dns = args.dns.map(bind_dns).transpose()?;
    let http = args.http.map(tcp).transpose()?;
    let socks5 = args.socks5.map(tcp).transpose()?;
    let resolvers = host_resolvers(&policy)?;
    let log = args.log.as_deref().map(open_log).transpose()?;
    let mut where_to = Vec::new();
    if let Some((udp, _)) = &dns {
        where_to.push(format!("dns {}", udp.local_addr()?));
    }
    for (what, listener) in [("http", &http), ("socks5", &socks5)] {
        if let Some(listener) = listener {
            where_to.push(format!("{what} {}", listener.local_addr()?));
        }
    }
    let config = PlainConfig {
        policy,
        resolvers,
        log,
        ca_cert: args.ca_cert.clone(),
        build: crate::BUILD,
        dns,
        http,
        socks5,
    };
    // Only then: whoever waits for this line may ask at once.
    let ready = || talk::line(format_args!("portcullis: serving {}", where_to.join(", ")));
    serve_plain(config, ready, end).map_err(|error| {
        if let StartError::Names(names) = &error
            && let Some(unresolved) = Unresolved::of(names)
        {
            return unresolved.into();
        }
        anyhow::Error::new(error).context("cannot serve")
    })
}

/// UDP and TCP on one port; with port 0, on one that is free for both.
fn bind_dns(address: SocketAddr) -> anyhow::Result<(UdpSocket, TcpListener)> {
    for last in (0..PORT_TRIES).rev() {
        let udp = UdpSocket::bind(address).map_err(|error| no_listener(address, "UDP", error))?;
        let bound = udp.local_addr()?;
        match TcpListener::bind(bound) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if address.port() == 0 && last > 0 => {}
            Err(error) => return Err(no_listener(bound, "TCP", error)),
        }
    }
    anyhow::bail!("no port of {} is free for both UDP and TCP", address.ip())
}

fn no_listener(address: SocketAddr, protocol: &str, error: std::io::Error) -> anyhow::Error {
    let what = format!("cannot listen on {address} ({protocol})");
    let hinted = Hinted::listening(what, &error);
    anyhow::Error::new(error).context(hinted)
}

/// Waits for SIGINT or SIGTERM, which are heard from now on: whoever sees a listener may end it in
/// order. They have a thread of their own, since the gateway's runtime begins later.
fn asked_to_end() -> std::io::Result<impl Future<Output = std::io::Result<()>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let (asked, end) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // Nobody listens any more: it ends already.
        let _ = asked.send(());
    })?;
    Ok(async move { end.await.map_err(std::io::Error::other) })
}
