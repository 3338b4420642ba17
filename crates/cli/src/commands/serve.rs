//! `portcullis serve`: the same policy and code as `run`, on plain listeners of this host.

use super::serve_daemon::{self, DaemonOptions};
use crate::command::Command;
use crate::debug_log;
use crate::exit::USAGE;
use crate::launch::{free_range, host_resolvers};
use crate::output::{self, Hinted};
use crate::policy_options::{self, Followed, PolicyOptions};
use crate::record_options::RecordOptions;
use crate::signals::signals;
use anyhow::Context;
use ipnet::IpNet;
use portcullis_names::{AllowedClients, client_network};
use portcullis_policy::{Answers, Mode, Policy};
use portcullis_runner::{
    DnsSockets, Listeners, PlainConfig, Reload, ReloadResult, ServeError, serve_plain,
};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

/// The exit codes, as `--help` tells them.
const EXITS: &str = "\
Exit codes: 0 when stopped by Ctrl-C or SIGTERM; 1 if it cannot serve, or if names did not resolve at
start-up; 2 for bad flags and policies.";

/// Serve a policy on listeners of this host (DNS, HTTP proxy, SOCKS5 proxy), or many sandboxes at once
///
/// With --config or --control it is a daemon: it holds many sandboxes, each with a policy of its own, and is
/// controlled over a Unix socket.
///
/// Changes to the policy files apply at once; SIGHUP reloads the files. PORTCULLIS_LOG=debug writes
/// what happens, step by step, to stderr.
#[derive(clap::Args)]
#[command(after_help = EXITS)]
pub struct Serve {
    #[command(flatten)]
    daemon: DaemonOptions,
    #[command(flatten)]
    policy: PolicyOptions,
    /// Answer DNS on ADDR:PORT (UDP and TCP)
    #[arg(long, value_name = "ADDR:PORT")]
    dns: Option<SocketAddr>,
    /// Serve an HTTP proxy on ADDR:PORT
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<SocketAddr>,
    /// Serve a SOCKS5 proxy on ADDR:PORT
    #[arg(long, value_name = "ADDR:PORT")]
    socks5: Option<SocketAddr>,
    /// Serve only clients from this network, or this address (repeatable); without it, everybody who can
    /// reach the listeners
    #[arg(long, value_name = "CIDR", value_parser = client_network)]
    allow_from: Vec<IpNet>,
    /// Write the certificate (PEM) that programs must trust for inspected names to FILE
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    #[command(flatten)]
    records: RecordOptions,
}

impl Command for Serve {
    fn upstream_proxy(&self) -> Option<&str> {
        self.policy.upstream_proxy.as_deref()
    }

    fn run(self) -> ExitCode {
        run(self)
    }
}

/// Serves until SIGINT or SIGTERM; exits 0 then, 1 when it cannot serve, 2 for bad flags.
fn run(args: Serve) -> ExitCode {
    if args.daemon.is_wanted() {
        return serve_daemon::run(&args.daemon);
    }
    if args.dns.is_none() && args.http.is_none() && args.socks5.is_none() {
        output::error(
            "nothing to serve",
            Some(
                "use at least one of --dns ADDR:PORT, --http ADDR:PORT and --socks5 ADDR:PORT; for many \
                 sandboxes, --config FILE or --control SOCKET",
            ),
        );
        return ExitCode::from(USAGE);
    }
    if args.records.check().is_err() {
        return ExitCode::from(USAGE);
    }
    if let Err(error) = debug_log::start_on_stderr() {
        output::failure(&error);
        return ExitCode::from(USAGE);
    }
    let Ok(Followed { loaded, reload }) =
        policy_options::follow(args.policy.clone(), Mode::Enforce)
    else {
        return ExitCode::from(USAGE);
    };
    policy_options::show(&loaded.warnings);
    if loaded.policy.settings().dns.answers == Answers::Synthetic {
        if args.http.is_none() && args.socks5.is_none() {
            output::error(
                "synthetic addresses need a proxy for the connections to them",
                Some("add --http or --socks5, or remove `answers = \"synthetic\"`"),
            );
            return ExitCode::from(USAGE);
        }
        if let Err(error) = free_range(&loaded.policy) {
            output::failure(&error);
            return ExitCode::from(USAGE);
        }
    }
    if let Err((what, fix)) = ca_cert(&args, &loaded.policy) {
        output::error(what, Some(fix));
        return ExitCode::from(USAGE);
    }
    match serve(&args, loaded.policy, reload) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<ServeError>() {
                Some(ServeError::Unresolved(unresolved)) => output::unresolved(unresolved),
                _ => output::failure(&error),
            }
            ExitCode::FAILURE
        }
    }
}

/// Programs have to trust the gateway's authority, which nobody can mount over anything here.
fn ca_cert(args: &Serve, policy: &Policy) -> Result<(), (&'static str, &'static str)> {
    let connections = args.http.is_some() || args.socks5.is_some();
    let inspects = connections && policy.inspected().next().is_some();
    match (&args.ca_cert, inspects) {
        (None, true) => Err((
            "programs cannot trust what the policy inspects",
            "add --ca-cert FILE, to receive the certificate that they must trust",
        )),
        (Some(_), false) => Err((
            "there is no certificate to write: no rule served here says `inspect = true`",
            "remove --ca-cert",
        )),
        _ => Ok(()),
    }
}

fn serve(args: &Serve, policy: Policy, mut reload: Reload) -> anyhow::Result<()> {
    let (end, requests) = signals()?;
    reload.requests = Some(requests);
    reload.tell = Some(Box::new(tell));
    let tcp = |address: SocketAddr| {
        TcpListener::bind(address).map_err(|error| no_listener(address, "TCP", error))
    };
    let dns = args.dns.map(DnsSockets::bind).transpose();
    let dns =
        dns.map_err(|refused| no_listener(refused.address, refused.protocol, refused.error))?;
    let http = args.http.map(tcp).transpose()?;
    let socks5 = args.socks5.map(tcp).transpose()?;
    let resolvers = host_resolvers(&policy)?;
    let records = args.records.config(args.records.open()?)?;
    let mut listeners = Vec::new();
    if let Some(DnsSockets { udp, .. }) = &dns {
        listeners.push(("dns", udp.local_addr()?));
    }
    for (what, listener) in [("http", &http), ("socks5", &socks5)] {
        if let Some(listener) = listener {
            listeners.push((what, listener.local_addr()?));
        }
    }
    let shown = |listeners: &[(&str, SocketAddr)]| {
        let all = listeners.iter().map(|(what, at)| format!("{what} {at}"));
        all.collect::<Vec<_>>().join(", ")
    };
    let where_to = shown(&listeners);
    listeners.retain(|(_, at)| open_to_anybody(at.ip(), &args.allow_from));
    if !listeners.is_empty() {
        output::line(format_args!(
            "portcullis: warning: anyone who can reach {} may use it; to limit clients, add \
             --allow-from CIDR",
            shown(&listeners)
        ));
    }
    let config = PlainConfig {
        policy,
        resolvers,
        records,
        ca_cert: args.ca_cert.clone(),
        build: crate::version::BUILD,
        listeners: Listeners { dns, http, socks5 },
        allowed_clients: AllowedClients::from_networks(&args.allow_from),
        reload: Some(reload),
    };
    // Only then: whoever waits for this line may ask at once.
    let ready = || output::line(format_args!("portcullis: serving {where_to}"));
    serve_plain(config, ready, end).context("cannot serve")
}

/// Whether others than this host's own programs reach a listener, and nobody of them is refused.
fn open_to_anybody(listener: IpAddr, allowed: &[IpNet]) -> bool {
    let everybody = |network: &IpNet| network.prefix_len() == 0;
    !listener.to_canonical().is_loopback() && (allowed.is_empty() || allowed.iter().any(everybody))
}

fn no_listener(address: SocketAddr, protocol: &str, error: io::Error) -> anyhow::Error {
    let what = format!("cannot listen on {address} ({protocol})");
    let hinted = Hinted::listening(what, &error);
    anyhow::Error::new(error).context(hinted)
}

/// Says what came of a reload.
pub(super) fn tell(result: &ReloadResult) {
    match result {
        ReloadResult::Applied { replaced, warnings } => {
            policy_options::show(warnings);
            output::line(format_args!("portcullis: policy applied: {replaced}"));
        }
        ReloadResult::Invalid(diagnostics) => {
            policy_options::show(diagnostics);
            output::line("portcullis: policy rejected; the previous one stays in force");
        }
        ReloadResult::Unread(why) | ReloadResult::Refused(why) => output::line(format_args!(
            "portcullis: policy rejected: {why}; the previous one stays in force"
        )),
    }
}
