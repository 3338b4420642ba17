//! The same gateway on plain listeners of the host: a restrictive resolver, an HTTP proxy, a SOCKS5
//! proxy. There is no namespace here, so programs that ignore the listeners are not held in.

use crate::descriptors::raise_limit;
use crate::host_files::HostFiles;
use crate::records::{self, RecordConfig};
use crate::reload::{Rejected, Reload};
use crate::report::record_start;
use crate::tickets::CallersTickets;
use crate::unresolved::Unresolved;
use portcullis_dial::{Host, HostAddresses, reaches};
use portcullis_gateway::{
    Acceptable, AllowedClients, BuildError, CancellationToken, Entrances, Gateway, OwnNames,
    Policy, Recorder, StartError, TaskTracker,
};
use portcullis_policy::{Answers, Resolver};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long flows may take to close at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long records may take to reach their file at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What is served where.
#[derive(Debug)]
pub struct PlainConfig {
    /// The policy in force.
    pub policy: Policy,
    /// The host's resolvers, asked where the policy names none.
    pub resolvers: Vec<SocketAddr>,
    /// What is recorded, and where.
    pub records: RecordConfig,
    /// The build that serves, for the first record.
    pub build: &'static str,
    /// Where the certificate of the gateway's authority is written, for programs to trust.
    pub ca_cert: Option<PathBuf>,
    /// DNS.
    pub dns: Option<DnsSockets>,
    /// HTTP proxy.
    pub http: Option<TcpListener>,
    /// SOCKS5 proxy.
    pub socks5: Option<TcpListener>,
    /// Which clients may use these listeners.
    pub allowed_clients: AllowedClients,
    /// How the policy is followed, where it is.
    pub reload: Option<Reload>,
}

/// Where DNS is served: one address, both transports.
#[derive(Debug)]
pub struct DnsSockets {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For streams.
    pub tcp: TcpListener,
}

/// Why plain listeners are not served, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Names that were to be resolved before, and were not.
    #[error(transparent)]
    Unresolved(Unresolved),
    /// The policy cannot be served here.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A socket that cannot be served, or names that could not even be tried.
    #[error(transparent)]
    Start(StartError),
    /// An entrance failed, all together ended; or records did not reach their file, `end` failed, or
    /// there is no runtime.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<StartError> for ServeError {
    fn from(error: StartError) -> ServeError {
        match &error {
            StartError::Names(names) => match Unresolved::of(names) {
                Some(unresolved) => ServeError::Unresolved(unresolved),
                None => ServeError::Start(error),
            },
            _ => ServeError::Start(error),
        }
    }
}

/// Serves until `end` is ready (the command line's signals, for instance), on a runtime of its own:
/// embedders have one, and use [`Gateway::start`]. `ready` is called once everything is served.
///
/// # Errors
/// See [`ServeError`].
pub fn serve_plain(
    config: PlainConfig,
    ready: impl FnOnce(),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), ServeError> {
    raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(config, ready, end));
    runtime.shutdown_background();
    result
}

/// What a policy must fulfil to be served here, besides what every gateway needs.
fn acceptable(
    config: &PlainConfig,
    host_resolvers: Arc<Mutex<Vec<SocketAddr>>>,
) -> io::Result<Acceptable> {
    let dns = config.dns.as_ref();
    let dns_at = dns.map(|dns| dns.udp.local_addr()).transpose()?;
    let takes_connections = config.http.is_some() || config.socks5.is_some();
    Ok(Box::new(move |policy| {
        if let Some(listener) = dns_at {
            let host = host_resolvers.lock();
            refuse_circle(
                listener,
                policy,
                &host.unwrap_or_else(PoisonError::into_inner),
            )?;
        }
        if policy.settings().dns.answers == Answers::Synthetic && !takes_connections {
            let why = "nothing here accepts connections to synthetic addresses";
            return Err(io::Error::other(why));
        }
        Ok(())
    }))
}

/// The addresses that connections are accepted on.
fn listeners(config: &PlainConfig) -> io::Result<Vec<SocketAddr>> {
    let dns = config.dns.iter().map(|dns| &dns.tcp);
    let all = dns.chain(&config.http).chain(&config.socks5);
    all.map(TcpListener::local_addr).collect()
}

async fn serve(
    config: PlainConfig,
    ready: impl FnOnce(),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), ServeError> {
    let host_resolvers = Arc::new(Mutex::new(config.resolvers.clone()));
    let acceptable = acceptable(&config, host_resolvers.clone())?;
    let (host_files, host_files_watch) = HostFiles::open();
    let listeners = listeners(&config)?;
    let (recorder, ending) = records::open(config.records, "serve");
    record_start(&recorder, config.build);
    // The programs that ask stand on the host itself.
    let own = OwnNames {
        host: Ipv4Addr::LOCALHOST,
        addresses: Vec::new(),
        hostname: None,
    };
    let gateway = Gateway::builder()
        .policy(config.policy)
        .resolvers(config.resolvers)
        .hosts(host_files.hosts())
        .search(host_files.search())
        .recorder(recorder.clone())
        .own(own)
        .tickets(Arc::new(CallersTickets))
        .host_listeners(listeners)
        .acceptable(acceptable)
        .transparent(false)
        .allowed_clients(config.allowed_clients)
        .build()?;
    if let (Some(path), Some(pem)) = (&config.ca_cert, gateway.ca_pem()) {
        // Before anything is served: whoever waits for that may read the file.
        std::fs::write(path, pem).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
    }
    let dns_at = config
        .dns
        .as_ref()
        .and_then(|dns| dns.udp.local_addr().ok());
    let (dns_udp, dns_tcp) = config.dns.map(|dns| (dns.udp, dns.tcp)).unzip();
    let entrances = Entrances {
        dns_udp: dns_udp.into_iter().collect(),
        dns_tcp: dns_tcp.into_iter().collect(),
        http: config.http.into_iter().collect(),
        socks5: config.socks5.into_iter().collect(),
        transparent: Vec::new(),
        datagrams: Vec::new(),
    };
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let mut end = pin!(end);
    let started = tokio::select! {
        // First, so that whoever is told that it serves can also end it in order.
        biased;
        // Nobody waits for names any more.
        ended = &mut end => return Ok(finish(&recorder, ended)?),
        started = gateway.start(entrances, &tracker, &token) => started,
    };
    let serving = match started {
        Ok(serving) => serving,
        Err(error) => {
            // Why is in the records too.
            recorder.flush(FLUSH_TIMEOUT);
            return Err(error.into());
        }
    };
    serving.keep(records::PART, &tracker, ending.wait(token.clone()));
    let gateway = Arc::new(gateway);
    let policy = gateway.policy().clone();
    let usable = Box::new(move |resolvers: &[SocketAddr]| {
        if let Some(listener) = dns_at {
            refuse_circle(listener, &policy.load(), resolvers)?;
        }
        let mut known = host_resolvers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = resolvers.to_vec();
        Ok(())
    });
    let watching = host_files_watch.run(token.clone());
    serving.keep("the watch over the host's files", &tracker, watching);
    let following = host_files.follow(gateway.clone(), usable, token.clone());
    serving.keep("the host's files about names", &tracker, following);
    if let Some(reload) = config.reload {
        reload.follow(gateway, &serving, Rejected::default(), &tracker, &token)?;
    }
    ready();
    let ended = tokio::select! {
        ended = &mut end => ended,
        ended = serving.ended() => ended.map_err(|error| io::Error::other(error.to_string())),
    };
    token.cancel();
    tracker.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, tracker.wait()).await;
    Ok(finish(&recorder, ended)?)
}

/// Writes the last records; their loss is told where nothing else went wrong.
fn finish(recorder: &Recorder, ended: io::Result<()>) -> io::Result<()> {
    match records::finish(recorder, FLUSH_TIMEOUT) {
        Some(error) if ended.is_ok() => Err(io::Error::other(format!("decision records: {error}"))),
        _ => ended,
    }
}

/// A resolver that asks itself would send each question round until somebody gives up.
fn refuse_circle(
    listener: SocketAddr,
    policy: &Policy,
    host_resolvers: &[SocketAddr],
) -> io::Result<()> {
    let settings = policy.settings();
    let zones = settings.dns.zones.iter().flat_map(|zone| &zone.resolvers);
    let named = settings.resolvers.iter().chain(zones);
    let mut asked: Vec<SocketAddr> = named.filter_map(Resolver::plain).collect();
    asked.extend(settings.dns.bootstrap.iter().filter_map(Resolver::plain));
    if settings.resolvers.is_empty() || settings.dns.bootstrap.is_empty() {
        asked.extend(host_resolvers);
    }
    let host = Host::new(HostAddresses::Interfaces);
    for resolver in asked {
        if reaches(resolver, listener, host.owns(resolver.ip())?) {
            return Err(io::Error::other(format!(
                "the upstream resolver {resolver} is this resolver itself; name the one behind it \
                 as `resolvers` in [network.dns]"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_policy::Input;

    fn config(resolvers: &[&str], host: &[&str]) -> (Policy, Vec<SocketAddr>) {
        let named = resolvers
            .iter()
            .map(|text| Input::Resolver((*text).to_owned()));
        let inputs: Vec<Input> = named.collect();
        let mut no_files = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
        let loaded = Policy::load(&inputs, &mut no_files).expect("it loads");
        let host = host.iter().map(|text| text.parse().unwrap());
        (loaded.policy, host.collect())
    }

    #[test]
    fn a_resolver_that_would_ask_itself_is_refused() {
        let listener: SocketAddr = "127.0.0.1:5353".parse().unwrap();
        let check = |resolvers: &[&str], host: &[&str]| {
            let (policy, host) = config(resolvers, host);
            refuse_circle(listener, &policy, &host).map_err(|error| error.to_string())
        };
        assert!(check(&[], &["192.0.2.53:53"]).is_ok());
        assert!(check(&["127.0.0.1:53"], &[]).is_ok());
        assert!(
            check(&["127.0.0.1:53"], &["127.0.0.1:5353"]).is_ok(),
            "the host's is not asked"
        );
        let error = check(&["127.0.0.1:5353"], &[]).unwrap_err();
        assert!(
            error.contains("127.0.0.1:5353 is this resolver itself"),
            "{error}"
        );
        assert!(check(&[], &["127.0.0.1:5353"]).is_err());
        assert!(
            check(&["tls://dns.example"], &["127.0.0.1:5353"]).is_err(),
            "for its name"
        );
        let everywhere = "0.0.0.0:5353".parse().unwrap();
        let (policy, host) = config(&["127.0.0.1:5353"], &[]);
        assert!(refuse_circle(everywhere, &policy, &host).is_err());
    }
}
