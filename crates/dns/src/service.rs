//! The service: what a sandbox's port 53 is served by, and what the dialler resolves with.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis_names::Name;
use portcullis_policy::{ConnectPermit, LookupPermit, Policy, Reason};
use portcullis_record::{Protocol, Recorder};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::aliases::Aliases;
use crate::cache::Cache;
use crate::config::PolicyHandle;
use crate::flight::Flights;
use crate::new_names::NewNames;
use crate::pace::Pace;
use crate::{Clock, DnsConfig, Leases, OwnNames, Upstream, UpstreamConfig, tcp, udp};

/// One sandbox's resolver.
pub struct DnsService {
    pub(crate) inner: Arc<Inner>,
}

/// What the parts of the service share.
pub(crate) struct Inner {
    policy: PolicyHandle,
    seen: ArcSwap<Seen>,
    seen_next: Mutex<()>,
    pub(crate) upstream: Upstream,
    pub(crate) leases: Arc<Leases>,
    pub(crate) recorder: Recorder,
    pub(crate) own: OwnNames,
    pub(crate) transparent: bool,
    pub(crate) ipv6_route: Arc<dyn Fn() -> bool + Send + Sync>,
    pub(crate) host_owns: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    pub(crate) clock: Clock,
    pub(crate) cache: Cache,
    pub(crate) flights: Flights,
    pub(crate) aliases: Aliases,
    pub(crate) new_names: NewNames,
    pub(crate) pace: Pace,
}

/// The policy that was last seen in force, and how many came before it. Holding it keeps its
/// address from being used again, so that comparing pointers tells policies apart.
struct Seen {
    policy: Arc<Policy>,
    epoch: u64,
}

impl Inner {
    /// The policy in force and its epoch. Answers of another epoch are not given out.
    pub(crate) fn policy(&self) -> (Arc<Policy>, u64) {
        let policy = self.policy.load_full();
        let seen = self.seen.load();
        if Arc::ptr_eq(&seen.policy, &policy) {
            let epoch = seen.epoch;
            return (policy, epoch);
        }
        drop(seen);
        let _one_at_a_time = self
            .seen_next
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Read again: another thread may have been here, and an older policy must not come back.
        let policy = self.policy.load_full();
        let seen = self.seen.load();
        if Arc::ptr_eq(&seen.policy, &policy) {
            let epoch = seen.epoch;
            return (policy, epoch);
        }
        let epoch = seen.epoch + 1;
        self.seen.store(Arc::new(Seen {
            policy: policy.clone(),
            epoch,
        }));
        (policy, epoch)
    }
}

/// What a name resolved to, for the dialler.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name that was asked for.
    pub name: Name,
    /// The end of its CNAME chain; `name` itself where there is none.
    pub canonical: Name,
    /// Its addresses of both families that the guard lets through; never empty.
    pub addresses: Vec<IpAddr>,
    /// Addresses that the guard took out.
    pub refused: Vec<IpAddr>,
    /// How long the answer holds.
    pub ttl: Duration,
    /// The resolver that answered, where it was asked.
    pub upstream: Option<Arc<str>>,
}

/// Why a name did not resolve.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{name}: {detail}")]
pub struct ResolveError {
    /// The name that was asked for.
    pub name: Name,
    /// `name-not-found`, `no-address`, `private-address`, `dns-timeout`, `dns-unreachable`,
    /// `dns-failed` or `rate-limited`.
    pub reason: Reason,
    /// A sentence for the operator's record.
    pub detail: String,
    /// Addresses that the guard took out.
    pub refused: Vec<IpAddr>,
}

impl DnsService {
    /// Makes a service; nothing is sent or bound.
    pub fn new(config: DnsConfig) -> DnsService {
        let seen = Seen {
            policy: config.policy.load_full(),
            epoch: 0,
        };
        DnsService {
            inner: Arc::new(Inner {
                upstream: Upstream::new(UpstreamConfig {
                    policy: config.policy.clone(),
                    host: config.upstreams,
                    network: config.network,
                    authorities: config.authorities,
                    ipv6_route: config.ipv6_route.clone(),
                }),
                policy: config.policy,
                seen: ArcSwap::from_pointee(seen),
                seen_next: Mutex::default(),
                leases: config.leases,
                recorder: config.recorder,
                own: config.own,
                transparent: config.transparent,
                ipv6_route: config.ipv6_route,
                host_owns: config.host_owns,
                pace: Pace::new(config.clock.now()),
                clock: config.clock,
                cache: Cache::new(config.cache_bytes),
                flights: Flights::default(),
                aliases: Aliases::default(),
                new_names: NewNames::default(),
            }),
        }
    }

    /// The sandbox's leases.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.inner.leases
    }

    /// Whether a name may leave by another way than a lookup here (a company's proxy looks names up
    /// itself): new names below a pattern share the lookups' budget.
    pub fn admits(&self, permit: &LookupPermit) -> bool {
        let (policy, epoch) = self.inner.policy();
        let budget = policy.settings().dns.new_names_per_minute;
        let now = self.inner.clock.now();
        self.inner.new_names.admit(permit, (epoch, budget), now)
    }

    /// Replaces the host's resolvers, which are asked where the policy names none (the host may have
    /// moved to another network). Resolvers that a policy names take effect with the policy.
    pub fn set_upstreams(&self, servers: Vec<SocketAddr>) {
        self.inner.upstream.set_host(servers);
    }

    /// Serves DNS over UDP until `token` is cancelled. On a socket bound to a wildcard address,
    /// each reply leaves from the address that was asked.
    ///
    /// # Errors
    /// Only an error that makes the socket useless.
    pub async fn serve_udp(
        self: Arc<Self>,
        socket: UdpSocket,
        token: CancellationToken,
    ) -> std::io::Result<()> {
        udp::serve(self.inner.clone(), socket, token).await
    }

    /// Serves DNS over TCP (RFC 7766) until `token` is cancelled.
    ///
    /// # Errors
    /// Only an error that makes the listener useless.
    pub async fn serve_tcp(
        self: Arc<Self>,
        listener: TcpListener,
        token: CancellationToken,
    ) -> std::io::Result<()> {
        tcp::serve(self.inner.clone(), listener, token).await
    }

    /// Answers one query: `out` is cleared and holds the reply, or nothing where none is due
    /// (responses, datagrams too short to have a header).
    pub async fn answer(&self, query: &[u8], via: Protocol, out: &mut Vec<u8>) {
        self.inner.answer(query, via.into(), out).await;
    }

    /// Resolves a permitted name to its addresses of both families, for the dialler: from the same
    /// cache and the same lookups under way as the sandbox's own questions. Nothing is leased,
    /// since nothing is given out.
    ///
    /// # Errors
    /// [`ResolveError`] with the reason that the record and the program are told.
    pub async fn resolve(&self, permit: &LookupPermit) -> Result<Resolved, ResolveError> {
        self.inner.resolve(permit, false).await
    }

    /// [`DnsService::resolve`] for a connection's name. Where the operator named the endpoint (the
    /// company's proxy), guarded addresses are kept: the sandbox did not choose it. `None` where
    /// the permit has no name.
    ///
    /// # Errors
    /// [`ResolveError`], as for [`DnsService::resolve`].
    pub async fn resolve_for(
        &self,
        permit: &ConnectPermit,
    ) -> Option<Result<Resolved, ResolveError>> {
        let lookup = permit.lookup()?;
        Some(self.inner.resolve(&lookup, permit.is_operators()).await)
    }
}
