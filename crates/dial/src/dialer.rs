//! From a permit to a connected stream: which way, to which addresses, in which order.

use std::future::{Future, ready};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_dns::{DnsService, PolicyHandle, Resolved};
use portcullis_names::Name;
use portcullis_policy::{
    ConnectPermit, HOST_NAME, PermitTarget, Policy, ProxyHost, ProxyUrl, Reason, Request,
};
use portcullis_record::{Stage, Timings};
use tokio::time::timeout;

use crate::error::{DialError, all_failed};
use crate::eyeballs::{interleave, race};
use crate::guard::{ChosenBy, Guard};
use crate::host::HostAddresses;
use crate::stream::Stream;
use crate::{socket, tunnel};

/// How long opening a connection may take, lookup and the company's proxy included.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the system's resolver may take for the company proxy's name.
const SYSTEM_LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long its answer is used.
const SYSTEM_LOOKUP_TTL: Duration = Duration::from_secs(60);

/// What a [`Dialer`] needs. Start from [`DialConfig::new`].
pub struct DialConfig {
    /// The policy in force: asked on every dial.
    pub policy: PolicyHandle,
    /// Resolves permitted names.
    pub resolver: Arc<DnsService>,
    /// Where the gateway itself listens on the host: never dialled, by whatever name.
    pub listeners: Vec<SocketAddr>,
    /// The host's own addresses.
    pub host: HostAddresses,
}

impl DialConfig {
    /// No listeners on the host, and the interfaces of this namespace as the host's.
    #[must_use]
    pub fn new(policy: PolicyHandle, resolver: Arc<DnsService>) -> DialConfig {
        DialConfig {
            policy,
            resolver,
            listeners: Vec::new(),
            host: HostAddresses::Interfaces,
        }
    }
}

/// An open connection, and how it came about.
#[derive(Debug)]
pub struct Dialed {
    /// The stream: to the destination, or through the company's proxy as if it were.
    pub stream: Stream,
    /// The address that was connected: the destination's, or the company proxy's.
    pub address: SocketAddr,
    /// The company's proxy, if it goes through one: `http://host:port`, without credentials.
    pub via: Option<String>,
    /// The stream ends at the company's proxy itself, which expects plain HTTP requests in absolute
    /// form. Only from [`Dialer::connect_http`].
    pub absolute_form: bool,
    /// The end of the name's CNAME chain, where the name was looked up and has one.
    pub canonical: Option<Name>,
    /// The addresses that the name has, where it was looked up; the address dialled otherwise.
    pub addresses: Vec<IpAddr>,
    /// How long the stages took.
    pub timings: Timings,
}

/// Opens connections for one sandbox.
pub struct Dialer {
    guard: Guard,
    resolver: Arc<DnsService>,
    /// The last answer of the system's resolver for a company proxy's name.
    system: Mutex<Option<(Name, Vec<IpAddr>, Instant)>>,
}

/// What a lookup for a dial brought.
struct Found {
    addresses: Vec<IpAddr>,
    canonical: Option<Name>,
}

impl From<Resolved> for Found {
    fn from(resolved: Resolved) -> Found {
        let canonical = (resolved.canonical != resolved.name).then_some(resolved.canonical);
        Found {
            addresses: resolved.addresses,
            canonical,
        }
    }
}

impl Dialer {
    /// Makes a dialler; nothing is opened.
    #[must_use]
    pub fn new(config: DialConfig) -> Dialer {
        let DialConfig {
            policy,
            resolver,
            listeners,
            host,
        } = config;
        Dialer {
            guard: Guard::new(policy, host, listeners, resolver.leases().clone()),
            resolver,
            system: Mutex::new(None),
        }
    }

    /// Opens the connection that `permit` allows: directly, or through the company's proxy by
    /// CONNECT. The stream carries the program's bytes as they are.
    ///
    /// # Errors
    /// [`DialError`], after [`DIAL_TIMEOUT`] at the latest.
    pub async fn connect(&self, permit: &ConnectPermit) -> Result<Dialed, DialError> {
        self.within_time(permit, true).await
    }

    /// The same for a plain HTTP request that the caller will write: where the company has a proxy
    /// for plain HTTP, the stream ends there and [`Dialed::absolute_form`] is set.
    ///
    /// # Errors
    /// As for [`Dialer::connect`].
    pub async fn connect_http(&self, permit: &ConnectPermit) -> Result<Dialed, DialError> {
        self.within_time(permit, false).await
    }

    async fn within_time(
        &self,
        permit: &ConnectPermit,
        tunnelled: bool,
    ) -> Result<Dialed, DialError> {
        // Boxed: the state of a dial is large, and lives a hundred times shorter than the flow
        // whose task waits for it.
        let way = Box::pin(self.by_its_way(permit, tunnelled));
        timeout(DIAL_TIMEOUT, way).await.unwrap_or_else(|_| {
            let detail = format!("no connection within {} s", DIAL_TIMEOUT.as_secs());
            Err(DialError::new(Reason::ConnectionTimeout, detail))
        })
    }

    async fn by_its_way(
        &self,
        permit: &ConnectPermit,
        tunnelled: bool,
    ) -> Result<Dialed, DialError> {
        let policy = self.guard.policy();
        if let Some(to) = permit.to() {
            // Where the operator's rule sends it: no lookup, and no company proxy on the way.
            return self
                .dial(vec![to], ready(vec![]), sent_by(&policy, permit, to))
                .await;
        }
        match proxy_for(&policy, permit, tunnelled) {
            Some(proxy) => self.through(proxy, permit, tunnelled).await,
            None => self.directly(permit).await,
        }
    }

    /// Whether a connection that stands to `address`, without a company's proxy between, could be
    /// opened by this permit under the policy in force now: the last check, made once more.
    pub fn would_open(&self, permit: &ConnectPermit, address: SocketAddr) -> bool {
        let chosen_by = match (permit.to(), permit.target()) {
            (Some(to), _) if to != address => return false,
            (Some(to), _) => sent_by(&self.guard.policy(), permit, to),
            (None, PermitTarget::Name(name) | PermitTarget::NameAt(name, _)) if is_host(name) => {
                ChosenBy::HostName
            }
            (None, _) => chosen_by(permit),
        };
        self.guard.check(address, chosen_by).is_ok()
    }

    async fn directly(&self, permit: &ConnectPermit) -> Result<Dialed, DialError> {
        let port = permit.port();
        match permit.target() {
            PermitTarget::Name(name) | PermitTarget::NameAt(name, _) if is_host(name) => {
                let loopback = [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ];
                let order = loopback
                    .map(|address| SocketAddr::new(address, port))
                    .to_vec();
                self.dial(order, ready(vec![]), ChosenBy::HostName).await
            }
            PermitTarget::Address(address) => {
                let to = vec![SocketAddr::new(*address, port)];
                self.dial(to, ready(vec![]), chosen_by(permit)).await
            }
            PermitTarget::NameAt(_, address) => {
                let to = vec![SocketAddr::new(*address, port)];
                // The program chose this address of the name; its siblings serve as well.
                let siblings = async {
                    let found = self.look_up(permit).await;
                    found.map_or_else(|_| vec![], |found| interleave(&found.addresses, port))
                };
                self.dial(to, siblings, chosen_by(permit)).await
            }
            PermitTarget::Name(_) => {
                let start = Instant::now();
                let found = self.look_up(permit).await;
                let took = start.elapsed();
                let resolved = |mut timings: Timings| {
                    timings.set(Stage::Resolve, took);
                    timings
                };
                let found = found.map_err(|mut error| {
                    error.timings = resolved(error.timings);
                    error
                })?;
                let order = interleave(&found.addresses, port);
                match self.dial(order, ready(vec![]), chosen_by(permit)).await {
                    Ok(dialed) => Ok(Dialed {
                        canonical: found.canonical,
                        addresses: found.addresses,
                        timings: resolved(dialed.timings),
                        ..dialed
                    }),
                    Err(error) => Err(DialError {
                        timings: resolved(error.timings),
                        ..error
                    }),
                }
            }
        }
    }

    async fn dial(
        &self,
        order: Vec<SocketAddr>,
        more: impl Future<Output = Vec<SocketAddr>>,
        chosen_by: ChosenBy,
    ) -> Result<Dialed, DialError> {
        let start = Instant::now();
        let result = race(order, more, |to| {
            socket::connect(&self.guard, to, chosen_by)
        })
        .await;
        let timings = Timings::default().with(Stage::Connect, start.elapsed());
        match result {
            Ok((stream, address)) => Ok(Dialed {
                stream: Stream::Tcp(stream),
                address,
                via: None,
                absolute_form: false,
                canonical: None,
                addresses: vec![address.ip()],
                timings,
            }),
            Err(failures) => Err(DialError {
                timings,
                ..all_failed(&failures)
            }),
        }
    }

    /// Goes through the company's proxy, which looks names up itself. An address that the sandbox
    /// chose is checked here, since the proxy stands inside the company.
    async fn through(
        &self,
        proxy: &ProxyUrl,
        permit: &ConnectPermit,
        tunnelled: bool,
    ) -> Result<Dialed, DialError> {
        let port = permit.port();
        let authority = match permit.target() {
            PermitTarget::Name(name) => format!("{name}:{port}"),
            PermitTarget::NameAt(name, address) => {
                self.check_for_proxy(SocketAddr::new(*address, port))?;
                format!("{name}:{port}")
            }
            PermitTarget::Address(address) => {
                let to = SocketAddr::new(*address, port);
                self.check_for_proxy(to)?;
                to.to_string()
            }
        };
        if let Some(lookup) = permit.lookup()
            && !self.resolver.admits(&lookup)
        {
            let detail = "too many new names below one pattern within a minute";
            return Err(DialError::new(Reason::RateLimited, detail));
        }
        let failed = |error: DialError| {
            // A loop is the operator's mistake and has its own name.
            let reason = match error.reason {
                Reason::GatewayLoop => Reason::GatewayLoop,
                _ => Reason::UpstreamProxyFailed,
            };
            let detail = format!("proxy {proxy}: {}", error.detail);
            let mut mapped = DialError::new(reason, detail);
            (mapped.addresses, mapped.timings) = (error.addresses, error.timings);
            mapped
        };
        let mut dialed = self.directly_to_proxy(proxy).await.map_err(failed)?;
        dialed.via = Some(proxy.to_string());
        dialed.canonical = None;
        dialed.addresses = match permit.target() {
            PermitTarget::Name(_) => Vec::new(),
            PermitTarget::NameAt(_, address) | PermitTarget::Address(address) => vec![*address],
        };
        if !tunnelled {
            dialed.absolute_form = true;
            return Ok(dialed);
        }
        let start = Instant::now();
        let opened = tunnel::open(&mut dialed.stream, &authority).await;
        dialed.timings.set(Stage::Proxy, start.elapsed());
        match opened {
            Ok(()) => Ok(dialed),
            Err(error) => Err(failed(DialError {
                timings: dialed.timings,
                addresses: dialed.addresses,
                ..error
            })),
        }
    }

    /// Boxed to end the recursion of types: the proxy is reached as any direct destination is.
    fn directly_to_proxy<'a>(
        &'a self,
        proxy: &'a ProxyUrl,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + 'a>> {
        Box::pin(async move { self.directly(&proxy.permit()).await })
    }

    fn check_for_proxy(&self, to: SocketAddr) -> Result<(), DialError> {
        self.guard.check(to, ChosenBy::Sandbox).map_err(|reason| {
            let mut error =
                DialError::new(reason, format!("{to}: not asked of the proxy ({reason})"));
            error.addresses = vec![to.ip()];
            error
        })
    }

    /// The addresses of a permit's name.
    async fn look_up(&self, permit: &ConnectPermit) -> Result<Found, DialError> {
        if permit.is_operators()
            && let Some(addresses) = self.system_answer(permit)
        {
            return Ok(Found {
                addresses,
                canonical: None,
            });
        }
        let error = match self.resolver.resolve_for(permit).await {
            Some(Ok(resolved)) => return Ok(resolved.into()),
            Some(Err(error)) => error,
            None => return Err(DialError::new(Reason::Internal, "a permit without a name")),
        };
        if permit.is_operators()
            && let Some(addresses) = self.ask_system(permit).await
        {
            return Ok(Found {
                addresses,
                canonical: None,
            });
        }
        let mut failed = DialError::new(error.reason, error.to_string());
        failed.addresses = error.refused;
        Err(failed)
    }

    fn system_answer(&self, permit: &ConnectPermit) -> Option<Vec<IpAddr>> {
        let last = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, addresses, at) = last.as_ref()?;
        let wanted = permit.lookup()?;
        (name == wanted.name() && at.elapsed() < SYSTEM_LOOKUP_TTL).then(|| addresses.clone())
    }

    /// The system's own resolver, with `/etc/hosts`, for the company proxy's name and no other: the
    /// sandbox cannot choose what is asked here.
    async fn ask_system(&self, permit: &ConnectPermit) -> Option<Vec<IpAddr>> {
        let name = permit
            .lookup()
            .filter(|_| permit.is_operators())?
            .name()
            .clone();
        let asking = tokio::net::lookup_host((name.as_str(), permit.port()));
        let found = timeout(SYSTEM_LOOKUP_TIMEOUT, asking).await.ok()?.ok()?;
        let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
        if addresses.is_empty() {
            return None;
        }
        let mut last = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((name, addresses.clone(), Instant::now()));
        Some(addresses)
    }
}

fn is_host(name: &Name) -> bool {
    name.as_str() == HOST_NAME
}

fn chosen_by(permit: &ConnectPermit) -> ChosenBy {
    if permit.is_operators() {
        ChosenBy::Operator
    } else {
        ChosenBy::Sandbox
    }
}

/// Who chose the target of a rule: the rule, unless the policy in force has it no longer.
fn sent_by(policy: &Policy, permit: &ConnectPermit, to: SocketAddr) -> ChosenBy {
    let (PermitTarget::Name(name) | PermitTarget::NameAt(name, _)) = permit.target() else {
        return ChosenBy::Sandbox;
    };
    let now = policy
        .decide(&Request::to_name(name.as_ref(), permit.port()))
        .connect_permit();
    match now.and_then(|permit| permit.to()) {
        Some(still) if still == to => ChosenBy::Rule,
        _ => ChosenBy::Sandbox,
    }
}

/// The company's proxy for this destination. The host's own name never goes there.
fn proxy_for<'p>(
    policy: &'p Policy,
    permit: &ConnectPermit,
    tunnelled: bool,
) -> Option<&'p ProxyUrl> {
    let proxies = &policy.settings().upstream;
    let port = permit.port();
    match permit.target() {
        _ if permit.is_operators() => None,
        PermitTarget::Name(name) | PermitTarget::NameAt(name, _) if is_host(name) => None,
        // The proxy's own name: through itself it would never be reached.
        PermitTarget::Name(name) | PermitTarget::NameAt(name, _) => proxies
            .for_name(name.as_ref(), port, tunnelled)
            .filter(|proxy| !matches!(proxy.host(), ProxyHost::Name(own) if own == name && proxy.port() == port)),
        PermitTarget::Address(address) => proxies.for_address(*address, port, tunnelled),
    }
}
