//! Through upstream proxies: which ones, what they are asked for, and who takes over when one fails.
//!
//! By name (the default) nobody here looks the destination up: what the proxy finds is reached from
//! where the proxy stands. By address the name is looked up here, the guard passes each address, and
//! the proxy is asked for that very address. An address that the sandbox chose is checked in both
//! cases, since the proxy stands inside a private network.

mod connect;
#[cfg(test)]
mod connect_tests;
mod health;
mod negotiate;
mod socks5;
mod target;
#[cfg(test)]
mod tests;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portcullis_names::Name;
use portcullis_policy::{
    ConnectPermit, PermitTarget, Policy, ProxyGroup, ProxyHost, ProxyScheme, Reason, UpstreamProxy,
};
use portcullis_record::Stage;
use portcullis_tls::ClientConfigs;
use tokio::time::{Instant, timeout};
use tracing::debug;

use self::health::Health;
pub use self::negotiate::Tickets;
use self::negotiate::Tokens;
use self::target::{ConnectTarget, ProxyFailure, TargetHost};
use crate::dialed::{AbsoluteForm, Dialed};
use crate::direct::Direct;
use crate::error::DialError;
use crate::eyeballs::interleave;
use crate::guard::{ChosenBy, Guard};
use crate::host::is_host;
use crate::inside::not_outside;
use crate::stream::Stream;

/// What all proxies of a group may take together.
pub(crate) const GROUP_TIMEOUT: Duration = Duration::from_secs(19);
/// How long reaching one proxy may take, TLS included, while another is left to ask.
const REACH_TIMEOUT: Duration = Duration::from_secs(4);
/// Addresses of one name that a proxy is asked for, where it is asked by address.
const MAX_ADDRESSES: usize = 3;

/// What is known of the upstream proxies.
pub(crate) struct UpstreamProxies {
    pub(crate) health: Health,
    configs: ClientConfigs,
    /// What makes tokens for those that take Kerberos tickets.
    tokens: Option<Tokens>,
}

/// The proxies for this destination. The host's own name never goes there, nor what a rule sends to
/// an address (`to`).
pub(crate) fn proxies_for<'p>(
    policy: &'p Policy,
    permit: &ConnectPermit,
    tunnelled: bool,
) -> Option<&'p ProxyGroup> {
    let proxies = &policy.settings().upstream;
    let port = permit.port();
    match permit.target() {
        _ if permit.is_operators() || permit.to().is_some() => None,
        PermitTarget::Inside(_) => None,
        PermitTarget::Name(name) | PermitTarget::NameAt(name, _) if is_host(name) => None,
        // The proxy's own name: through itself it would never be reached.
        PermitTarget::Name(name) | PermitTarget::NameAt(name, _) => proxies
            .for_name(name.as_ref(), port, tunnelled)
            .filter(|group| {
                let own = |host: &ProxyHost| matches!(host, ProxyHost::Name(own) if own == name);
                let mut proxies = group.proxies().iter();
                !proxies.any(|proxy| own(proxy.host()) && proxy.port() == port)
            }),
        PermitTarget::Address(address) => proxies.for_address(*address, port, tunnelled),
    }
}

/// A destination as proxies are asked for it: one name, or some addresses in order.
struct Destination {
    targets: Vec<ConnectTarget>,
    addresses: Vec<IpAddr>,
    canonical: Option<Name>,
}

impl Destination {
    fn by_name(name: &Name, addresses: Vec<IpAddr>, port: u16) -> Destination {
        let host = TargetHost::Name(name.clone());
        Destination {
            targets: vec![ConnectTarget { host, port }],
            addresses,
            canonical: None,
        }
    }

    fn by_address(addresses: Vec<IpAddr>, canonical: Option<Name>, port: u16) -> Destination {
        let order = interleave(&addresses, port).into_iter();
        let target = |to: SocketAddr| ConnectTarget {
            host: TargetHost::Address(to.ip()),
            port,
        };
        Destination {
            targets: order.take(MAX_ADDRESSES).map(target).collect(),
            addresses,
            canonical,
        }
    }

    /// What proxies of the group are to be asked for.
    async fn of(
        permit: &ConnectPermit,
        group: &ProxyGroup,
        direct: &Direct,
    ) -> Result<Destination, DialError> {
        let port = permit.port();
        let check = |address: &IpAddr| check(&direct.guard, SocketAddr::new(*address, port));
        let destination = match permit.target() {
            PermitTarget::Inside(_) => return Err(not_outside()),
            PermitTarget::Name(name) if group.by_address() => {
                let found = direct.look_up(permit).await?;
                let mut refused = None;
                let mut passed = found.addresses;
                passed.retain(|address| check(address).map_err(|e| refused = Some(e)).is_ok());
                if passed.is_empty() {
                    let detail = || format!("{name} has no address");
                    let none = || DialError::new(Reason::NoAddress, detail());
                    return Err(refused.unwrap_or_else(none));
                }
                // The lookup has counted the name already.
                return Ok(Destination::by_address(passed, found.canonical, port));
            }
            PermitTarget::Name(name) => Destination::by_name(name, Vec::new(), port),
            PermitTarget::NameAt(name, address) => {
                check(address)?;
                if group.by_address() {
                    Destination::by_address(vec![*address], None, port)
                } else {
                    Destination::by_name(name, vec![*address], port)
                }
            }
            PermitTarget::Address(address) => {
                check(address)?;
                Destination::by_address(vec![*address], None, port)
            }
        };
        if let Some(lookup) = permit.lookup()
            && !direct.resolver.admits(&lookup)
        {
            let detail = "too many new names below one pattern within a minute";
            return Err(DialError::new(Reason::RateLimited, detail));
        }
        Ok(destination)
    }
}

fn check(guard: &Guard, to: SocketAddr) -> Result<(), DialError> {
    let passed = guard.check(to, ChosenBy::Sandbox).map(drop);
    passed.map_err(|reason| {
        let mut error = DialError::new(reason, format!("{to}: not asked of the proxy ({reason})"));
        error.addresses = vec![to.ip()];
        error
    })
}

impl UpstreamProxies {
    /// Nothing is known of them yet.
    pub(crate) fn new(tickets: Option<Arc<dyn Tickets>>) -> UpstreamProxies {
        UpstreamProxies {
            health: Health::default(),
            configs: ClientConfigs::default(),
            tokens: tickets.map(Tokens::new),
        }
    }

    /// Opens the connection through the first proxy of the group that answers.
    ///
    /// # Errors
    /// The answer of a proxy, or how each of them failed.
    pub(crate) async fn connect(
        &self,
        direct: &Direct,
        group: &ProxyGroup,
        permit: &ConnectPermit,
        tunnelled: bool,
    ) -> Result<Dialed, DialError> {
        let deadline = Instant::now() + GROUP_TIMEOUT;
        let destination = Destination::of(permit, group, direct).await?;
        let order = self.health.order(group.proxies());
        let mut failed: Option<DialError> = None;
        for (tried, proxy) in order.iter().enumerate() {
            let left = u32::try_from(order.len() - tried).unwrap_or(1);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let asking = Asking {
                proxy,
                direct,
                configs: &self.configs,
                tokens: self.tokens.as_ref(),
                tunnelled,
                reach_timeout: if left > 1 { REACH_TIMEOUT } else { share },
            };
            debug!(upstream_proxy = %proxy, "asking an upstream proxy");
            let answer = timeout(share, asking.ask(&destination)).await;
            let failure = match answer.unwrap_or_else(|_| Err(late("did not answer in time"))) {
                Ok(mut dialed) => {
                    self.health.answered(proxy);
                    dialed.upstream_proxy = Some(proxy.to_string());
                    return Ok(dialed);
                }
                Err(failure) => failure,
            };
            let answered = matches!(failure, ProxyFailure::Answered(_));
            let error = named(proxy, failure.error());
            debug!(upstream_proxy = %proxy, reason = %error.reason, answered, "no connection");
            let error = match failed.take() {
                Some(before) => joined(before, error, answered),
                None => error,
            };
            if answered {
                self.health.answered(proxy);
                return Err(error);
            }
            self.health.failed(&proxy.to_string());
            failed = Some(error);
        }
        Err(failed.unwrap_or_else(|| DialError::new(Reason::Internal, "no proxy to ask")))
    }
}

/// One proxy, as it is asked for one connection.
struct Asking<'a> {
    proxy: &'a UpstreamProxy,
    direct: &'a Direct,
    configs: &'a ClientConfigs,
    tokens: Option<&'a Tokens>,
    tunnelled: bool,
    reach_timeout: Duration,
}

impl Asking<'_> {
    /// Asks for one address after the other, where the proxy could not reach the one before.
    async fn ask(&self, destination: &Destination) -> Result<Dialed, ProxyFailure> {
        let mut last = None;
        for target in &destination.targets {
            let reaching = timeout(self.reach_timeout, self.reach()).await;
            let mut dialed = reaching.unwrap_or_else(|_| Err(late("cannot be reached in time")))?;
            dialed.addresses.clone_from(&destination.addresses);
            dialed.canonical.clone_from(&destination.canonical);
            match self.ask_for(target, &mut dialed).await {
                Ok(()) => return Ok(dialed),
                Err(failure) => {
                    let failure = failure.map(|error| DialError {
                        timings: dialed.timings,
                        addresses: dialed.addresses,
                        ..error
                    });
                    match failure {
                        ProxyFailure::Answered(error)
                            if error.reason != Reason::UpstreamProxyRefused =>
                        {
                            last = Some(error);
                        }
                        failure => return Err(failure),
                    }
                }
            }
        }
        let none = || DialError::new(Reason::NoAddress, "no address to ask for");
        Err(ProxyFailure::Answered(last.unwrap_or_else(none)))
    }

    /// Asks for one destination on a connection to the proxy.
    async fn ask_for(
        &self,
        target: &ConnectTarget,
        dialed: &mut Dialed,
    ) -> Result<(), ProxyFailure> {
        let scheme = self.proxy.scheme();
        if !self.tunnelled && scheme != ProxyScheme::Socks5 {
            let absolute = AbsoluteForm {
                authorization: negotiate::authorization(self.proxy, self.tokens).await?,
                address: target.address(),
            };
            dialed.absolute = Some(absolute.into());
            return Ok(());
        }
        let start = Instant::now();
        let stream = &mut dialed.stream;
        let opened = match scheme {
            ProxyScheme::Socks5 => socks5::open(stream, target, self.proxy.credentials()).await,
            ProxyScheme::Http | ProxyScheme::Https => {
                let told = negotiate::authorization(self.proxy, self.tokens).await?;
                connect::open(stream, target, told.as_deref()).await
            }
        };
        dialed.timings.set(Stage::Proxy, start.elapsed());
        opened
    }

    /// An open connection to the proxy itself, in TLS where it is spoken to so.
    async fn reach(&self) -> Result<Dialed, ProxyFailure> {
        let reached = self.direct.connect(&self.proxy.permit()).await;
        let mut dialed = reached.map_err(|mut error| {
            error.reason = match error.reason {
                // A loop is the operator's mistake and has its own name.
                Reason::GatewayLoop => Reason::GatewayLoop,
                Reason::ConnectionTimeout => Reason::UpstreamProxyTimeout,
                // Between the handshake and our first look at the socket.
                Reason::ConnectionReset => Reason::UpstreamProxyClosed,
                _ => Reason::UpstreamProxyFailed,
            };
            ProxyFailure::Down(error)
        })?;
        if self.proxy.scheme() == ProxyScheme::Https
            && let Stream::Tcp(stream) = dialed.stream
        {
            let start = Instant::now();
            let secured = tls::connect(self.configs, self.proxy, stream).await;
            dialed.timings.set(Stage::Proxy, start.elapsed());
            dialed.stream = secured.map_err(ProxyFailure::Down)?;
        }
        Ok(dialed)
    }
}

fn late(detail: &str) -> ProxyFailure {
    ProxyFailure::Down(DialError::new(Reason::UpstreamProxyTimeout, detail))
}

/// The error with the proxy's name before its detail.
fn named(proxy: &UpstreamProxy, error: DialError) -> DialError {
    let detail = format!("proxy {proxy}: {}", error.detail);
    error.with_detail(detail)
}

/// One error for two proxies: an answer says more than a failure, and of two failures the preferred
/// proxy's comes first.
fn joined(before: DialError, error: DialError, answered: bool) -> DialError {
    let detail = format!("{}; {}", before.detail, error.detail);
    let telling = if answered { error } else { before };
    telling.with_detail(detail)
}

/// Asks for a tunnel on a stream to a proxy; whether there is one.
#[cfg(fuzzing)]
pub(crate) async fn ask(
    stream: &mut Stream,
    name: Name,
    credentials: Option<&portcullis_policy::Credentials>,
    by_socks: bool,
) -> bool {
    let (host, port) = (TargetHost::Name(name), 443);
    let target = ConnectTarget { host, port };
    match by_socks {
        true => socks5::open(stream, &target, credentials).await.is_ok(),
        false => {
            let authorization = credentials.map(connect::basic);
            connect::open(stream, &target, authorization.as_deref())
                .await
                .is_ok()
        }
    }
}
