//! `portcullis serve`: the same policy and code as `run`, on plain listeners of this host.

use crate::EXIT_USAGE;
use crate::args::ServeArgs;
use crate::launch::{open_log, resolvers};
use crate::talk::{self, Hinted};
use anyhow::Context;
use portcullis_gateway::{PlainConfig, serve_plain};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

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
    match serve(&args, loaded.policy) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            talk::failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &ServeArgs, policy: portcullis_policy::Policy) -> anyhow::Result<()> {
    let tcp = |address: SocketAddr| {
        TcpListener::bind(address).map_err(|error| no_listener(address, "TCP", error))
    };
    let dns = match args.dns {
        Some(address) => Some((
            UdpSocket::bind(address).map_err(|error| no_listener(address, "UDP", error))?,
            tcp(address)?,
        )),
        None => None,
    };
    let http = args.http.map(tcp).transpose()?;
    let socks5 = args.socks5.map(tcp).transpose()?;
    let resolvers = resolvers(&policy)?;
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
    talk::line(format_args!("portcullis: serving {}", where_to.join(", ")));
    let config = PlainConfig {
        policy,
        resolvers,
        log,
        dns,
        http,
        socks5,
    };
    serve_plain(config, asked_to_end()).context("cannot serve")
}

fn no_listener(address: SocketAddr, protocol: &str, error: std::io::Error) -> anyhow::Error {
    let what = format!("cannot listen on {address} ({protocol})");
    let hinted = Hinted::listening(what, &error);
    anyhow::Error::new(error).context(hinted)
}

/// SIGINT or SIGTERM.
async fn asked_to_end() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
