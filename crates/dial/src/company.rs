//! Through the company's proxies: which ones, what they are asked for, and who takes over when one
//! fails.
//!
//! By name (the default) nobody here looks the destination up: what the proxy finds is reached from
//! where the proxy stands. By address the name is looked up here, the guard passes each address, and
//! the proxy is asked for that very address. An address that the sandbox chose is checked in both
//! cases, since the proxy stands inside the company.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portcullis_names::Name;
use portcullis_policy::{
    ConnectPermit, PermitTarget, Policy, ProxyGroup, ProxyHost, ProxyScheme, Reason, UpstreamProxy,
};
use portcullis_record::Stage;
use tokio::time::{Instant, timeout};

use crate::dialer::{DIAL_TIMEOUT, Dialed, Dialer, Found, is_host};
use crate::error::DialError;
use crate::eyeballs::interleave;
use crate::guard::ChosenBy;
use crate::health::Health;
use crate::secure::Secure;
use crate::stream::Stream;
use crate::tunnel::{Refused, Wanted, WantedHost};
use crate::{socks, tunnel};

/// What all proxies of a group may take together: less than [`DIAL_TIMEOUT`], so that it is said who
/// did not answer.
const GROUP_TIMEOUT: Duration = Duration::from_secs(DIAL_TIMEOUT.as_secs() - 1);
/// How long the way to one proxy may take, TLS included, while another is left to ask.
const REACH_TIMEOUT: Duration = Duration::from_secs(4);
/// Addresses of one name that a proxy is asked for, where it is asked by address.
const MAX_ADDRESSES: usize = 3;
/// How long the system's resolver may take for a proxy's name.
const SYSTEM_LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long its answer is used.
const SYSTEM_LOOKUP_TTL: Duration = Duration::from_secs(60);
/// Names whose answers are kept.
const MAX_SYSTEM_NAMES: usize = 16;

/// How a plain HTTP request is written to the company's proxy.
#[derive(PartialEq, Eq)]
pub struct AbsoluteForm {
    /// The value of `Proxy-Authorization`, where the proxy wants one. A secret.
    pub authorization: Option<String>,
    /// What stands in the request's target instead of the host, where the proxy is asked by address.
    pub address: Option<SocketAddr>,
}

impl fmt::Debug for AbsoluteForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbsoluteForm")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What is known of the company's proxies.
#[derive(Default)]
pub(crate) struct Company {
    pub(crate) health: Health,
    secure: Secure,
    /// What the system's resolver said about their names.
    system: Mutex<Vec<(Name, Vec<IpAddr>, Instant)>>,
}

impl Company {
    /// What the system's resolver said lately. Where it was the one that knew the name, it is asked
    /// again before anybody else.
    pub(crate) async fn known(&self, permit: &ConnectPermit) -> Option<Found> {
        let lookup = permit.lookup()?;
        let name = lookup.name();
        let last = {
            let known = self.system.lock().unwrap_or_else(PoisonError::into_inner);
            let found = known.iter().find(|(known, ..)| known == name);
            found.map(|(_, addresses, at)| (addresses.clone(), at.elapsed() < SYSTEM_LOOKUP_TTL))
        };
        match last {
            Some((addresses, true)) => Some(found(addresses)),
            Some((_, false)) => self.ask_system(permit).await,
            None => None,
        }
    }

    /// The system's own resolver, with `/etc/hosts`, for the company proxy's name and no other: the
    /// sandbox cannot choose what is asked here.
    pub(crate) async fn ask_system(&self, permit: &ConnectPermit) -> Option<Found> {
        let name = permit
            .lookup()
            .filter(|_| permit.is_operators())?
            .name()
            .clone();
        let addresses: Vec<IpAddr> = {
            let asking = tokio::net::lookup_host((name.as_str(), permit.port()));
            match timeout(SYSTEM_LOOKUP_TIMEOUT, asking).await {
                Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
                _ => Vec::new(),
            }
        };
        let mut known = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(known, ..)| *known != name);
        if addresses.is_empty() {
            return None;
        }
        if known.len() >= MAX_SYSTEM_NAMES {
            known.remove(0);
        }
        known.push((name, addresses.clone(), Instant::now()));
        Some(found(addresses))
    }
}

fn found(addresses: Vec<IpAddr>) -> Found {
    Found {
        addresses,
        canonical: None,
    }
}

/// The company's proxies for this destination. The host's own name never goes there.
pub(crate) fn proxies_for<'p>(
    policy: &'p Policy,
    permit: &ConnectPermit,
    tunnelled: bool,
) -> Option<&'p ProxyGroup> {
    let proxies = &policy.settings().upstream;
    let port = permit.port();
    match permit.target() {
        _ if permit.is_operators() => None,
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
struct Asked {
    wanted: Vec<Wanted>,
    addresses: Vec<IpAddr>,
    canonical: Option<Name>,
}

impl Dialer {
    /// Reports that a proxy failed after it was reached, by its URL as [`Dialed::via`] has it.
    pub fn proxy_failed(&self, via: &str) {
        self.company.health.failed(via);
    }

    /// Goes through the first proxy that answers.
    pub(crate) async fn through(
        &self,
        group: &ProxyGroup,
        permit: &ConnectPermit,
        tunnelled: bool,
    ) -> Result<Dialed, DialError> {
        let deadline = Instant::now() + GROUP_TIMEOUT;
        let asked = self.asked(group, permit).await?;
        let order = self.company.health.order(group.proxies());
        let mut failed: Option<DialError> = None;
        for (tried, proxy) in order.iter().enumerate() {
            let left = u32::try_from(order.len() - tried).unwrap_or(1);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let reach = if left > 1 { REACH_TIMEOUT } else { share };
            let asking = self.ask(proxy, &asked, tunnelled, reach);
            let answer = timeout(share, asking).await.unwrap_or_else(|_| {
                let detail = "did not answer in time";
                let error = DialError::new(Reason::UpstreamProxyTimeout, detail);
                Err(Refused::Down(error))
            });
            let refused = match answer {
                Ok(mut dialed) => {
                    self.company.health.answered(proxy);
                    dialed.via = Some(proxy.to_string());
                    return Ok(dialed);
                }
                Err(refused) => refused,
            };
            let verdict = matches!(refused, Refused::Verdict(_));
            let error = by(proxy, refused.error());
            let error = match failed.take() {
                Some(before) => after(before, error, verdict),
                None => error,
            };
            if verdict {
                self.company.health.answered(proxy);
                return Err(error);
            }
            self.company.health.failed(&proxy.to_string());
            failed = Some(error);
        }
        Err(failed.unwrap_or_else(|| DialError::new(Reason::Internal, "no proxy to ask")))
    }

    /// What proxies are to be asked for.
    async fn asked(&self, group: &ProxyGroup, permit: &ConnectPermit) -> Result<Asked, DialError> {
        let port = permit.port();
        let by_name = |name: &Name, addresses| Asked {
            wanted: vec![Wanted {
                host: WantedHost::Name(name.clone()),
                port,
            }],
            addresses,
            canonical: None,
        };
        let by_address = |addresses: Vec<IpAddr>, canonical| Asked {
            wanted: (interleave(&addresses, port).into_iter().take(MAX_ADDRESSES))
                .map(|to| Wanted {
                    host: WantedHost::Address(to.ip()),
                    port,
                })
                .collect(),
            addresses,
            canonical,
        };
        let asked = match permit.target() {
            PermitTarget::Name(name) if group.by_address() => {
                let found = self.look_up(permit).await?;
                let check = |address: &IpAddr| self.check(SocketAddr::new(*address, port));
                let mut refused = None;
                let mut passed = found.addresses;
                passed.retain(|address| check(address).map_err(|e| refused = Some(e)).is_ok());
                match refused {
                    Some(error) if passed.is_empty() => return Err(error),
                    _ if passed.is_empty() => {
                        let detail = format!("{name} has no address");
                        return Err(DialError::new(Reason::NoAddress, detail));
                    }
                    _ => return Ok(by_address(passed, found.canonical)),
                }
            }
            PermitTarget::Name(name) => by_name(name, Vec::new()),
            PermitTarget::NameAt(name, address) => {
                self.check(SocketAddr::new(*address, port))?;
                if group.by_address() {
                    by_address(vec![*address], None)
                } else {
                    by_name(name, vec![*address])
                }
            }
            PermitTarget::Address(address) => {
                self.check(SocketAddr::new(*address, port))?;
                by_address(vec![*address], None)
            }
        };
        if let Some(lookup) = permit.lookup()
            && !self.resolver.admits(&lookup)
        {
            let detail = "too many new names below one pattern within a minute";
            return Err(DialError::new(Reason::RateLimited, detail));
        }
        Ok(asked)
    }

    fn check(&self, to: SocketAddr) -> Result<(), DialError> {
        self.guard.check(to, ChosenBy::Sandbox).map_err(|reason| {
            let mut error =
                DialError::new(reason, format!("{to}: not asked of the proxy ({reason})"));
            error.addresses = vec![to.ip()];
            error
        })
    }

    /// Asks one proxy, for one address after the other where it could not reach the one before.
    async fn ask(
        &self,
        proxy: &UpstreamProxy,
        asked: &Asked,
        tunnelled: bool,
        reach: Duration,
    ) -> Result<Dialed, Refused> {
        let mut last = None;
        for wanted in &asked.wanted {
            let reaching = timeout(reach, self.reach(proxy)).await;
            let mut dialed = reaching.unwrap_or_else(|_| {
                let detail = "cannot be reached in time";
                let error = DialError::new(Reason::UpstreamProxyTimeout, detail);
                Err(Refused::Down(error))
            })?;
            dialed.addresses.clone_from(&asked.addresses);
            dialed.canonical.clone_from(&asked.canonical);
            if !tunnelled && proxy.scheme() != ProxyScheme::Socks5 {
                let address = match &wanted.host {
                    WantedHost::Address(address) => Some(SocketAddr::new(*address, wanted.port)),
                    WantedHost::Name(_) => None,
                };
                let authorization = proxy.credentials().map(tunnel::basic);
                let absolute = AbsoluteForm {
                    authorization,
                    address,
                };
                dialed.absolute = Some(absolute.into());
                return Ok(dialed);
            }
            let start = Instant::now();
            let opened = match proxy.scheme() {
                ProxyScheme::Socks5 => {
                    socks::open(&mut dialed.stream, wanted, proxy.credentials()).await
                }
                ProxyScheme::Http | ProxyScheme::Https => {
                    tunnel::open(&mut dialed.stream, wanted, proxy.credentials()).await
                }
            };
            dialed.timings.set(Stage::Proxy, start.elapsed());
            match opened {
                Ok(()) => return Ok(dialed),
                Err(Refused::Down(error)) => return Err(Refused::Down(timed(error, dialed))),
                Err(Refused::Verdict(error)) => {
                    let denied = error.reason == Reason::UpstreamProxyRefused;
                    let error = timed(error, dialed);
                    if denied {
                        return Err(Refused::Verdict(error));
                    }
                    last = Some(error);
                }
            }
        }
        let none = || DialError::new(Reason::NoAddress, "no address to ask for");
        Err(Refused::Verdict(last.unwrap_or_else(none)))
    }

    /// An open connection to the proxy itself, in TLS where it is spoken to so.
    async fn reach(&self, proxy: &UpstreamProxy) -> Result<Dialed, Refused> {
        let mut dialed = match self.directly_to_proxy(proxy).await {
            Ok(dialed) => dialed,
            Err(mut error) => {
                error.reason = match error.reason {
                    // A loop is the operator's mistake and has its own name.
                    Reason::GatewayLoop => Reason::GatewayLoop,
                    Reason::ConnectionTimeout => Reason::UpstreamProxyTimeout,
                    // Between the handshake and our first look at the socket.
                    Reason::ConnectionReset => Reason::UpstreamProxyClosed,
                    _ => Reason::UpstreamProxyFailed,
                };
                return Err(Refused::Down(error));
            }
        };
        if proxy.scheme() == ProxyScheme::Https
            && let Stream::Tcp(stream) = dialed.stream
        {
            let start = Instant::now();
            let secured = self.company.secure.connect(proxy, stream).await;
            dialed.timings.set(Stage::Proxy, start.elapsed());
            dialed.stream = secured.map_err(Refused::Down)?;
        }
        Ok(dialed)
    }

    /// Boxed to end the recursion of types: the proxy is reached as any direct destination is.
    fn directly_to_proxy<'a>(
        &'a self,
        proxy: &'a UpstreamProxy,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + 'a>> {
        Box::pin(async move { self.directly(&proxy.permit()).await })
    }
}

/// An error with what is known of the connection on which it came.
fn timed(error: DialError, dialed: Dialed) -> DialError {
    DialError {
        timings: dialed.timings,
        addresses: dialed.addresses,
        ..error
    }
}

/// The error with the proxy's name before its detail.
fn by(proxy: &UpstreamProxy, error: DialError) -> DialError {
    let detail = format!("proxy {proxy}: {}", error.detail);
    DialError {
        detail: DialError::new(error.reason, detail).detail,
        ..error
    }
}

/// One error for two proxies: a verdict says more than a failure, and of two failures the preferred
/// proxy's comes first.
fn after(before: DialError, error: DialError, verdict: bool) -> DialError {
    let detail = format!("{}; {}", before.detail, error.detail);
    let telling = if verdict { error } else { before };
    DialError {
        detail: DialError::new(telling.reason, detail).detail,
        ..telling
    }
}
