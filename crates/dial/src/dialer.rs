//! From a permit to a connected stream: which way, to which addresses, in which order.

use std::future::{Future, ready};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_dns::{DnsService, PolicyHandle, Resolved};
use portcullis_names::Name;
use portcullis_policy::{
    ConnectPermit, Destination, HOST_NAME, PermitTarget, Policy, Reason, Request,
};
use portcullis_record::{Stage, Timings};
use tokio::time::timeout;

use crate::company::{self, AbsoluteForm, Company};
use crate::error::{DialError, all_failed};
use crate::eyeballs::{interleave, race};
use crate::guard::{ChosenBy, Guard};
use crate::host::HostAddresses;
use crate::socket;
use crate::stream::Stream;

/// How long opening a connection may take, lookup and the company's proxy included.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

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
    /// form, written so. Only from [`Dialer::connect_http`].
    pub absolute: Option<Arc<AbsoluteForm>>,
    /// The end of the name's CNAME chain, where the name was looked up and has one.
    pub canonical: Option<Name>,
    /// The addresses that the name has, where it was looked up; the address dialled otherwise.
    pub addresses: Vec<IpAddr>,
    /// How long the stages took.
    pub timings: Timings,
}

/// Opens connections for one sandbox.
pub struct Dialer {
    pub(crate) guard: Guard,
    pub(crate) resolver: Arc<DnsService>,
    /// What is known of the company's proxies.
    pub(crate) company: Company,
}

/// What a lookup for a dial brought.
pub(crate) struct Found {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) canonical: Option<Name>,
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
            company: Company::default(),
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
    /// for plain HTTP, the stream ends there and [`Dialed::absolute`] is set.
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
        match company::proxies_for(&policy, permit, tunnelled) {
            Some(group) => self.through(group, permit, tunnelled).await,
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

    pub(crate) async fn directly(&self, permit: &ConnectPermit) -> Result<Dialed, DialError> {
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
                absolute: None,
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

    /// The addresses of a permit's name.
    pub(crate) async fn look_up(&self, permit: &ConnectPermit) -> Result<Found, DialError> {
        if permit.is_operators()
            && let Some(found) = self.company.known(permit).await
        {
            return Ok(found);
        }
        let error = match self.resolver.resolve_for(permit).await {
            Some(Ok(resolved)) => return Ok(resolved.into()),
            Some(Err(error)) => error,
            None => return Err(DialError::new(Reason::Internal, "a permit without a name")),
        };
        if permit.is_operators()
            && let Some(found) = self.company.ask_system(permit).await
        {
            return Ok(found);
        }
        let mut failed = DialError::new(error.reason, error.to_string());
        failed.addresses = error.refused;
        Err(failed)
    }
}

pub(crate) fn is_host(name: &Name) -> bool {
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
    let named = Destination::name(name.as_ref());
    let request = Request::connect(&named, permit.port());
    let now = policy.decide(&request).connect_permit();
    match now.and_then(|permit| permit.to()) {
        Some(still) if still == to => ChosenBy::Rule,
        _ => ChosenBy::Sandbox,
    }
}
