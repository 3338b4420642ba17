//! The service: what a sandbox's port 53 is served by, and what the dialler resolves with.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_names::{Name, NameRef};
use portcullis_policy::{ConnectPermit, LookupPermit, Reason};
use portcullis_record::Protocol;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::canonical_names::CanonicalNames;
use crate::config::DnsConfig;
use crate::forwarder::Forwarder;
use crate::grants::Grants;
use crate::host::Host;
use crate::hosts::{Hosts, HostsFile};
use crate::leases::Leases;
use crate::local::LocalNames;
use crate::lookup::Lookup;
use crate::new_names::NewNameBudget;
use crate::policy_in_force::PolicyInForce;
use crate::query_rate::QueryRate;
use crate::resolve::{ResolveError, Resolved, resolve};
use crate::resolver::Resolver;
use crate::reverse::ReverseLookups;
use crate::search::SearchList;
use crate::searches::Searches;
use crate::startup::{self, Round, StartupError, StartupName, StartupSchedule};
use crate::synthetic::SyntheticAnswers;
use crate::upstream::{Upstream, UpstreamConfig};
use crate::{tcp, udp};

/// One sandbox's resolver.
pub struct DnsService {
    forwarder: Arc<Forwarder>,
}

impl DnsService {
    /// Makes a service; nothing is sent or bound.
    pub fn new(config: DnsConfig) -> DnsService {
        let host = Host {
            ipv6_route: config.ipv6_route.clone(),
            owns: config.host_owns,
        };
        let clock = config.clock;
        let leases = config.leases;
        let canonical_names = Arc::new(CanonicalNames::default());
        let new_names = Arc::new(NewNameBudget::default());
        let hosts: Hosts = Arc::new(ArcSwap::new(config.hosts));
        let grants = Grants {
            leases: leases.clone(),
            canonical_names: canonical_names.clone(),
            clock: clock.clone(),
        };
        let upstream = Upstream::new(UpstreamConfig {
            policy: config.policy.clone(),
            host: config.upstreams,
            network: config.network,
            authorities: config.authorities,
            ipv6_route: config.ipv6_route,
        });
        let lookup = Lookup {
            upstream,
            hosts: hosts.clone(),
            leases: leases.clone(),
            cache: Cache::new(config.cache_bytes),
            host,
            clock: clock.clone(),
        };
        let searches = Searches::new(config.search, config.recorder.clone());
        let forwarder = Forwarder {
            policy: PolicyInForce::new(config.policy),
            searches: Arc::new(searches),
            recorder: config.recorder,
            query_rate: QueryRate::new(clock.now()),
            local: LocalNames {
                own: config.own.clone(),
                grants: grants.clone(),
            },
            reverse: ReverseLookups {
                leases: leases.clone(),
                canonical_names: canonical_names.clone(),
                hosts,
                own: config.own,
                clock: clock.clone(),
            },
            synthetic: SyntheticAnswers {
                leases: leases.clone(),
                grants: grants.clone(),
                new_names: new_names.clone(),
                clock: clock.clone(),
                transparent: config.transparent,
            },
            resolver: Arc::new(Resolver::new(lookup, new_names, config.max_lookups)),
            tcp_clients: Arc::new(Semaphore::new(config.max_tcp_clients)),
            allowed_clients: config.allowed_clients,
            reserve: Arc::default(),
            grants,
            leases,
            canonical_names,
            clock,
        };
        DnsService {
            forwarder: Arc::new(forwarder),
        }
    }

    /// The sandbox's leases.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.forwarder.leases
    }

    /// Whether a name may leave by another way than a lookup here (an upstream proxy looks names up
    /// itself): new names below a pattern share the lookups' budget.
    pub fn admits(&self, permit: &LookupPermit) -> bool {
        let forwarder = &self.forwarder;
        let (in_force, now) = (forwarder.policy.current(), forwarder.clock.now());
        let new_names = &forwarder.resolver.new_names;
        new_names.admit(permit, &in_force, now)
    }

    /// Lookups so far that the cache could not answer, or whose answer it had fetched anew. Equal questions
    /// at the same time are one.
    pub fn lookups_begun(&self) -> u64 {
        self.forwarder.resolver.begun()
    }

    /// Replaces the host's resolvers, which are asked where the policy names none (the host may have
    /// moved to another network). Resolvers that a policy names take effect with the policy. What the
    /// earlier ones answered is not given out any more. Equal ones change nothing: `false`.
    pub fn set_upstreams(&self, servers: Vec<SocketAddr>) -> bool {
        let are_others = self.forwarder.resolver.lookup.upstream.set_host(servers);
        if are_others {
            self.forwarder.policy.renew();
        }
        are_others
    }

    /// Replaces the host's hosts file; what was answered before is not given out any more. The very same
    /// one changes nothing.
    pub fn set_hosts(&self, hosts: Arc<HostsFile>) {
        let known = &self.forwarder.resolver.lookup.hosts;
        if !Arc::ptr_eq(&known.load(), &hosts) {
            known.store(hosts);
            self.forwarder.policy.renew();
        }
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
        udp::serve(self.forwarder.clone(), socket, token).await
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
        tcp::serve(self.forwarder.clone(), listener, token).await
    }

    /// Answers one query: `out` is cleared and holds the reply, or nothing where none is due
    /// (responses, datagrams too short to have a header).
    pub async fn answer(&self, query: &[u8], protocol: Protocol, out: &mut Vec<u8>) {
        self.forwarder.answer(query, protocol.into(), out).await;
    }

    /// Resolves a permitted name to its addresses of both families, for the dialler: from the same
    /// cache and the same lookups under way as the sandbox's own questions. Nothing is leased,
    /// since nothing is given out.
    ///
    /// # Errors
    /// [`ResolveError`] with the reason that the record and the program are told.
    pub async fn resolve(&self, permit: &LookupPermit) -> Result<Resolved, ResolveError> {
        self.look_up(permit, false).await
    }

    /// [`DnsService::resolve`] for a connection's name. Where the operator named the endpoint (the
    /// upstream proxy), guarded addresses are kept: the sandbox did not choose it. `None` where
    /// the permit has no name.
    ///
    /// # Errors
    /// [`ResolveError`], as for [`DnsService::resolve`].
    pub async fn resolve_for(
        &self,
        permit: &ConnectPermit,
    ) -> Option<Result<Resolved, ResolveError>> {
        let lookup = permit.lookup()?;
        Some(self.look_up(&lookup, permit.is_operators()).await)
    }

    /// The host's search list.
    pub fn search(&self) -> &SearchList {
        &self.forwarder.searches.list
    }

    /// What a name stands for that a program left to a proxy to look up, where that is another name: the
    /// first of its completions that may be looked up and exists, in the C library's order. Nobody is
    /// asked where the policy leaves no choice.
    pub async fn complete(&self, name: NameRef<'_>) -> Option<Name> {
        let forwarder = &self.forwarder;
        if self.search().is_empty() || forwarder.is_own(name) {
            return None;
        }
        let in_force = forwarder.policy.current();
        let candidates = self.search().candidates(name);
        let mut listed = candidates
            .filter_map(|full| in_force.address_permit(&full))
            .filter(|permit| {
                let full = permit.name().as_ref();
                let may_complete = || in_force.policy.may_complete(name, full);
                full == name || permit.audit() || may_complete()
            })
            .peekable();
        while let Some(permit) = listed.next() {
            let full = permit.name();
            let is_name = full.as_ref() == name;
            // Where the policy only watches, no name says by itself that it is the right one.
            if is_name && self.search().is_tried_first(name) && !permit.audit() {
                return None;
            }
            if listed.peek().is_some() {
                let found = resolve(&forwarder.resolver, in_force.clone(), &permit, false).await;
                let absent = |error: ResolveError| {
                    matches!(error.reason, Reason::NameNotFound | Reason::NoAddress)
                };
                if found.is_err_and(absent) {
                    continue;
                }
            }
            return (!is_name).then(|| full.clone());
        }
        None
    }

    /// Records the denials that wait for what a program asks next; for the end of a sandbox.
    pub fn record_held(&self) {
        self.forwarder.searches.record_held();
    }

    async fn look_up(
        &self,
        permit: &LookupPermit,
        unguarded: bool,
    ) -> Result<Resolved, ResolveError> {
        let in_force = self.forwarder.policy.current();
        resolve(&self.forwarder.resolver, in_force, permit, unguarded).await
    }

    /// Resolves every name that the policy lists without a wildcard, all at once: at most as long
    /// as [`StartupSchedule::longest`], whatever the number of names. What is found is cached and
    /// leased. Each name leaves one record, of the protocol `startup`.
    ///
    /// Cancelling `token` ends it at once; sockets under way are closed, and what was resolved by
    /// then stays cached.
    ///
    /// # Errors
    /// [`StartupError`]: the caller serves nothing then. Every failed name is in it.
    pub async fn resolve_all(
        &self,
        schedule: &StartupSchedule,
        token: &CancellationToken,
    ) -> Result<Vec<StartupName>, StartupError> {
        let forwarder = &self.forwarder;
        let round = Round::new(
            &forwarder.resolver,
            &forwarder.grants,
            &forwarder.recorder,
            forwarder.policy.current(),
            schedule,
        );
        startup::resolve_all(round, token).await
    }
}
