//! The same gateway on plain listeners of the host: a restrictive resolver, an HTTP proxy, a SOCKS5
//! proxy. There is no namespace here, so programs that ignore the listeners are not held in.

use crate::host_files::HostFiles;
use crate::reload::{Rejected, Reload};
use crate::tickets::CallersTickets;
use crate::unresolved::Unresolved;
use portcullis_dial::{Host, HostAddresses, reaches};
use portcullis_gateway::{
    Acceptable, AllowedClients, BuildError, CancellationToken, Entrances, Gateway, OwnNames,
    Policy, Recorder, Resolve, Serving, StartError, TaskTracker,
};
use portcullis_policy::{Answers, Resolver};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where DNS is served: one address, both transports.
#[derive(Debug)]
pub struct DnsSockets {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For streams.
    pub tcp: TcpListener,
}

/// Ports tried for port 0: one that is free for UDP may be taken for TCP.
const PORT_TRIES: usize = 64;

/// A socket that cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({protocol}): {error}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// Why.
    #[source]
    pub error: io::Error,
}

impl DnsSockets {
    /// UDP and TCP on one port; with port 0, on one that is free for both.
    ///
    /// # Errors
    /// The address is taken or not the host's, or no port is free.
    pub fn bind(address: SocketAddr) -> Result<DnsSockets, ListenError> {
        let refused = |address, protocol| {
            move |error| ListenError {
                address,
                protocol,
                error,
            }
        };
        for last in (0..PORT_TRIES).rev() {
            let udp = UdpSocket::bind(address).map_err(refused(address, "UDP"))?;
            let bound = udp.local_addr().map_err(refused(address, "UDP"))?;
            match TcpListener::bind(bound) {
                Ok(tcp) => return Ok(DnsSockets { udp, tcp }),
                Err(_) if address.port() == 0 && last > 0 => {}
                Err(error) => return Err(refused(bound, "TCP")(error)),
            }
        }
        Err(refused(address, "UDP")(io::ErrorKind::AddrInUse.into()))
    }
}

/// The sockets that are served, each optional.
#[derive(Debug, Default)]
pub struct Listeners {
    /// DNS.
    pub dns: Option<DnsSockets>,
    /// HTTP proxy.
    pub http: Option<TcpListener>,
    /// SOCKS5 proxy.
    pub socks5: Option<TcpListener>,
}

impl Listeners {
    /// The addresses that connections are accepted on.
    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let dns = self.dns.iter().map(|dns| &dns.tcp);
        let all = dns.chain(&self.http).chain(&self.socks5);
        all.map(TcpListener::local_addr).collect()
    }

    fn dns_at(&self) -> io::Result<Option<SocketAddr>> {
        let dns = self.dns.as_ref();
        dns.map(|dns| dns.udp.local_addr()).transpose()
    }

    /// What a policy must fulfil to be served here, besides what every gateway needs.
    fn acceptable(&self, host_resolvers: Arc<Mutex<Vec<SocketAddr>>>) -> io::Result<Acceptable> {
        let dns_at = self.dns_at()?;
        let takes_connections = self.http.is_some() || self.socks5.is_some();
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

    fn entrances(self) -> Entrances {
        let (dns_udp, dns_tcp) = self.dns.map(|dns| (dns.udp, dns.tcp)).unzip();
        Entrances {
            dns_udp: dns_udp.into_iter().collect(),
            dns_tcp: dns_tcp.into_iter().collect(),
            http: self.http.into_iter().collect(),
            socks5: self.socks5.into_iter().collect(),
            transparent: Vec::new(),
            datagrams: Vec::new(),
        }
    }
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

/// How plain listeners are served.
pub(crate) struct PlainGatewayConfig {
    /// The policy in force.
    pub(crate) policy: Policy,
    /// The host's resolvers, asked where the policy names none.
    pub(crate) resolvers: Vec<SocketAddr>,
    /// What is served.
    pub(crate) listeners: Listeners,
    /// Which clients may use these listeners.
    pub(crate) allowed_clients: AllowedClients,
    /// How the policy's files are followed, where they are.
    pub(crate) reload: Option<Reload>,
    /// Whether the tickets of this process's user may be used for upstream proxies: not for a policy that is somebody
    /// else's.
    pub(crate) own_tickets: bool,
    /// How many descriptors it may hold, where other sandboxes share the process; all that are free otherwise.
    pub(crate) descriptors: Option<usize>,
    /// When exact names are resolved, where the policy's own word does not count.
    pub(crate) resolve: Option<Resolve>,
    /// The host's files about names. Somebody else runs the watch over them.
    pub(crate) host_files: HostFiles,
}

/// The gateway of plain listeners, on the runtime that it was started on.
pub(crate) struct PlainGateway {
    gateway: Arc<Gateway>,
    serving: Serving,
    tracker: TaskTracker,
    token: CancellationToken,
}

/// Nothing of it runs on by itself.
impl Drop for PlainGateway {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl PlainGateway {
    /// Serves listeners; `before` has the gateway before it serves anybody.
    ///
    /// # Errors
    /// They cannot be served. Then nothing of it runs on.
    pub(crate) async fn start(
        config: PlainGatewayConfig,
        recorder: &Recorder,
        before: impl FnOnce(&Gateway) -> io::Result<()>,
    ) -> Result<PlainGateway, ServeError> {
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        // Whatever keeps it from starting ends what has started.
        let unfinished = token.clone().drop_guard();
        let host_resolvers = Arc::new(Mutex::new(config.resolvers.clone()));
        // The programs that ask stand on the host itself.
        let own = OwnNames {
            host: Ipv4Addr::LOCALHOST,
            addresses: Vec::new(),
            hostname: None,
            status: Vec::new(),
        };
        let listeners = config.listeners;
        let dns_at = listeners.dns_at()?;
        let mut builder = Gateway::builder();
        if config.own_tickets {
            builder = builder.tickets(Arc::new(CallersTickets));
        }
        if let Some(resolve) = config.resolve {
            builder = builder.resolve(resolve);
        }
        if let Some(descriptors) = config.descriptors {
            builder = builder.descriptors(descriptors);
        }
        let gateway = builder
            .policy(config.policy)
            .resolvers(config.resolvers)
            .hosts(config.host_files.hosts())
            .host_network(config.host_files.network())
            .search(config.host_files.search())
            .recorder(recorder.clone())
            .own(own)
            .host_listeners(listeners.addresses()?)
            .acceptable(listeners.acceptable(host_resolvers.clone())?)
            .transparent(false)
            .allowed_clients(config.allowed_clients)
            .build()?;
        before(&gateway)?;
        let serving = gateway
            .start(listeners.entrances(), &tracker, &token)
            .await?;
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
        let following = config
            .host_files
            .follow(gateway.clone(), usable, token.clone());
        serving.keep("the host's files about names", &tracker, following);
        if let Some(reload) = config.reload {
            let rejected = Rejected::default();
            reload.follow(gateway.clone(), &serving, rejected, &tracker, &token)?;
        }
        unfinished.disarm();
        Ok(PlainGateway {
            gateway,
            serving,
            tracker,
            token,
        })
    }

    /// The gateway.
    pub(crate) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Ends the gateway when it is cancelled.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs a part that this gateway cannot go on without, as [`Serving::keep`] does.
    pub(crate) fn keep(
        &self,
        part: &str,
        running: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        self.serving.keep(part, &self.tracker, running);
    }

    /// Waits until it has ended; then why, if a part failed.
    pub(crate) async fn ended(&self) -> Option<String> {
        self.serving.ended().await.err().map(|e| e.to_string())
    }

    /// Ends all flows, and waits at most `at_most` until they are on record.
    pub(crate) async fn stop(&self, at_most: Duration) {
        self.token.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(at_most, self.tracker.wait()).await;
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
