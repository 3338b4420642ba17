//! What the rest of the house asks for connections: directly, or through upstream proxies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_dns::{DnsService, PolicyHandle, SearchList};
use portcullis_names::{Name, NameRef};
use portcullis_policy::{ConnectPermit, DatagramPermit, PermitTarget, Reason};
use tokio::time::timeout;
use tracing::debug;

use crate::datagrams::{self, Datagrams};
use crate::dialed::Dialed;
use crate::direct::Direct;
use crate::error::DialError;
use crate::guard::Guard;
use crate::host::HostAddresses;
use crate::inside::{self, Inside};
use crate::upstream_proxy::{GROUP_TIMEOUT, Tickets, UpstreamProxies, proxies_for};

/// How long opening a connection may take, lookup and upstream proxies included: a second more than
/// those have, so that it is said which of them did not answer.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(GROUP_TIMEOUT.as_secs() + 1);

/// Sockets for addresses that are tried beside a first one, of all dials together.
pub const MAX_EXTRA_ATTEMPTS: usize = 256;

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
    /// Sockets for addresses that are tried while earlier ones of the same name are still silent, of all
    /// dials together ([`MAX_EXTRA_ATTEMPTS`] by default). Each dial has one more of its own.
    pub extra_attempts: usize,
    /// Makes the sockets for servers of the sandbox's own, where there is a sandbox.
    pub inside: Option<Arc<dyn Inside>>,
    /// Makes tokens for upstream proxies that take the caller's Kerberos ticket.
    pub tickets: Option<Arc<dyn Tickets>>,
    /// A mark for every socket outwards (`SO_MARK`), where rules of the namespace let out no others. It needs
    /// CAP_NET_ADMIN.
    pub mark: Option<u32>,
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
            extra_attempts: MAX_EXTRA_ATTEMPTS,
            inside: None,
            tickets: None,
            mark: None,
        }
    }
}

/// Opens connections for one sandbox.
pub struct Dialer {
    direct: Direct,
    upstream_proxies: UpstreamProxies,
    inside: Option<Arc<dyn Inside>>,
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
            extra_attempts,
            inside,
            tickets,
            mark,
        } = config;
        let guard = Guard::new(policy, host, listeners, resolver.leases().clone());
        let guard = guard.with_mark(mark);
        Dialer {
            direct: Direct::new(guard, resolver, extra_attempts),
            upstream_proxies: UpstreamProxies::new(tickets),
            inside,
        }
    }

    /// How short names are completed.
    #[must_use]
    pub fn search(&self) -> &SearchList {
        self.direct.resolver.search()
    }

    /// The name that a program means by one that it left to a proxy to look up, where that is another one:
    /// see [`DnsService::complete`].
    pub async fn complete(&self, name: NameRef<'_>) -> Option<Name> {
        if self.search().is_empty() {
            return None;
        }
        // Boxed: a lookup's state is large, and few connections need one here.
        Box::pin(self.direct.resolver.complete(name)).await
    }

    /// Opens the connection that `permit` allows: directly, or through an upstream proxy by CONNECT
    /// or SOCKS5. The stream carries the program's bytes as they are.
    ///
    /// # Errors
    /// [`DialError`], after [`DIAL_TIMEOUT`] at the latest.
    pub async fn connect(&self, permit: &ConnectPermit) -> Result<Dialed, DialError> {
        self.within_time(permit, true).await
    }

    /// The same for a plain HTTP request that the caller will write: where there is an upstream proxy
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
        let opening = Box::pin(self.open(permit, tunnelled));
        let opened = timeout(DIAL_TIMEOUT, opening).await.unwrap_or_else(|_| {
            let detail = format!("no connection within {} s", DIAL_TIMEOUT.as_secs());
            Err(DialError::new(Reason::ConnectionTimeout, detail))
        });
        match &opened {
            Ok(dialed) => debug!(
                address = %dialed.address,
                upstream_proxy = dialed.upstream_proxy.as_deref(),
                "dialled"
            ),
            Err(error) => debug!(reason = %error.reason, error = %error.detail, "not dialled"),
        }
        opened
    }

    async fn open(&self, permit: &ConnectPermit, tunnelled: bool) -> Result<Dialed, DialError> {
        if let PermitTarget::Inside(addresses) = permit.target() {
            return inside::connect(self.inside.as_ref(), addresses, permit.port()).await;
        }
        let policy = self.direct.guard.policy();
        match proxies_for(&policy, permit, tunnelled) {
            Some(group) => {
                let proxies = &self.upstream_proxies;
                proxies
                    .connect(&self.direct, group, permit, tunnelled)
                    .await
            }
            None => self.direct.connect(permit).await,
        }
    }

    /// Opens a socket for the datagrams that `permit` allows.
    ///
    /// # Errors
    /// [`DialError`]: the name has no address, the guard keeps it, or the host has no way there.
    pub async fn connect_datagrams(&self, permit: &DatagramPermit) -> Result<Datagrams, DialError> {
        datagrams::connect(&self.direct, permit).await
    }

    /// Whether a connection that stands to `address`, without an upstream proxy between, could be
    /// opened by this permit under the policy in force now: the last check, made once more.
    pub fn would_open(&self, permit: &ConnectPermit, address: SocketAddr) -> bool {
        !permit.is_inside() && self.direct.would_open(permit, address)
    }

    /// Whether `address`, outside, is one of those that a direct connection by this permit could end at.
    pub async fn leads_to(&self, permit: &ConnectPermit, address: SocketAddr) -> bool {
        // It ends in the sandbox: the same address outside is another place.
        if permit.is_inside() {
            return false;
        }
        let known = match permit.to() {
            Some(to) => return to == address,
            None => self.direct.look_up(permit),
        };
        let found = timeout(DIAL_TIMEOUT, Box::pin(known)).await;
        let ip = address.ip().to_canonical();
        matches!(found, Ok(Ok(found)) if found.addresses.contains(&ip))
            && self.would_open(permit, address)
    }

    /// Reports that an upstream proxy failed after it was reached, by its URL as
    /// [`Dialed::upstream_proxy`] has it.
    pub fn upstream_proxy_failed(&self, url: &str) {
        self.upstream_proxies.health.failed(url);
    }
}
