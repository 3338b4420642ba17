//! The gateway itself: one policy, one resolver, one dialler and the entrances in front of them.

use crate::descriptors::{self, Shares};
use crate::entrances::Entrances;
use crate::host::HostNetwork;
use crate::metrics::Metrics;
use crate::replace::{Networks, PolicySlot, ReplaceError, Replaced};
use crate::serving::Serving;
use crate::startup::{Acceptable, BuildError, StartError, check};
use crate::synthetic;
use arc_swap::ArcSwap;
use portcullis_dial::{DialConfig, Dialer, Inside, Tickets};
use portcullis_dns::{
    AddressGate, Clock, DnsConfig, DnsService, HostsFile, LEASE_GRACE, Leases, NoGate, OwnNames,
    PolicyHandle, SearchList, StartupSchedule, SystemNetwork,
};
use portcullis_guest::StatusPage;
use portcullis_names::AllowedClients;
use portcullis_policy::{Policy, Resolve};
use portcullis_proxy::{DatagramClients, Inspector, Own, Proxy};
use portcullis_record::Recorder;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

/// Collects what a [`Gateway`] is made of; start from [`Gateway::builder`].
#[must_use]
pub struct Builder {
    policy: Policy,
    resolvers: Vec<SocketAddr>,
    hosts: Arc<HostsFile>,
    host_network: Option<HostNetwork>,
    search: SearchList,
    recorder: Recorder,
    gate: Box<dyn AddressGate>,
    own: OwnNames,
    status_page: Option<StatusPage>,
    inside: Option<InsideServers>,
    tickets: Option<Arc<dyn Tickets>>,
    listeners: Vec<SocketAddr>,
    host_listeners: Vec<SocketAddr>,
    resolve: Option<Resolve>,
    schedule: Option<StartupSchedule>,
    transparent: bool,
    lease_grace: Duration,
    descriptors: Option<usize>,
    allowed_clients: AllowedClients,
    datagram_clients: Option<Arc<dyn DatagramClients>>,
    inspector: Option<Arc<Inspector>>,
    networks: Option<Networks>,
    acceptable: Option<Acceptable>,
    mark: Option<u32>,
}

/// How servers of the sandbox's own are reached.
struct InsideServers {
    own: Own,
    sockets: Arc<dyn Inside>,
}

impl Builder {
    /// The policy in force; deny all without one.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The host's resolvers in order of preference, asked where the policy names none and for the
    /// names of encrypted resolvers; without either, no name resolves.
    pub fn resolvers(mut self, resolvers: Vec<SocketAddr>) -> Self {
        self.resolvers = resolvers;
        self
    }

    /// The host's hosts file: its names are answered from it, decided on like all others. Without it
    /// they are asked of the resolvers.
    pub fn hosts(mut self, hosts: Arc<HostsFile>) -> Self {
        self.hosts = hosts;
        self
    }

    /// What the host's kernel is asked by, where other gateways of this process share it; one of its own otherwise.
    pub fn host_network(mut self, network: HostNetwork) -> Self {
        self.host_network = Some(network);
        self
    }

    /// How short names are completed that programs leave to the proxies; programs inside should have the
    /// same list. Without it they stand for themselves.
    pub fn search(mut self, search: SearchList) -> Self {
        self.search = search;
        self
    }

    /// Where decisions are recorded; counted only, without one.
    pub fn recorder(mut self, recorder: Recorder) -> Self {
        self.recorder = recorder;
        self
    }

    /// What opens a leased address to the sandbox, before the answer that names it is sent.
    pub fn gate(mut self, gate: Box<dyn AddressGate>) -> Self {
        self.gate = gate;
        self
    }

    /// How servers of the sandbox's own are reached from the proxies, and what means one. Otherwise a
    /// request for `localhost` or a loopback address is the policy's business like any other.
    pub fn inside(mut self, own: Own, sockets: Arc<dyn Inside>) -> Self {
        self.inside = Some(InsideServers { own, sockets });
        self
    }

    /// What makes tokens for upstream proxies that take Kerberos tickets (`auth = "negotiate"`).
    pub fn tickets(mut self, tickets: Arc<dyn Tickets>) -> Self {
        self.tickets = Some(tickets);
        self
    }

    /// A mark for every socket outwards (`SO_MARK`), where rules of the namespace let out no others. It needs
    /// CAP_NET_ADMIN.
    pub fn mark(mut self, mark: Option<u32>) -> Self {
        self.mark = mark;
        self
    }

    /// The address that stands for the host inside, and the addresses that are the sandbox's own.
    pub fn own(mut self, own: OwnNames) -> Self {
        self.own = own;
        self
    }

    /// The page that programs inside find at `http://portcullis.internal/`. Its addresses must lead to the
    /// transparent listeners. The gateway adds the authority that inspected names are shown by.
    pub fn status_page(mut self, page: StatusPage) -> Self {
        self.status_page = Some(page);
        self
    }

    /// The gateway's listeners as programs inside reach them: no program is connected to one.
    pub fn listeners(mut self, listeners: Vec<SocketAddr>) -> Self {
        self.listeners = listeners;
        self
    }

    /// The gateway's listeners in the namespace that it dials from.
    pub fn host_listeners(mut self, listeners: Vec<SocketAddr>) -> Self {
        self.host_listeners = listeners;
        self
    }

    /// When exact names are resolved, whatever the policy says.
    pub fn resolve(mut self, resolve: Resolve) -> Self {
        self.resolve = Some(resolve);
        self
    }

    /// Another schedule for names that are resolved at start-up. Without one it is that of
    /// [`StartupSchedule::default`], for as many names at once as the process has descriptors.
    pub fn startup_schedule(mut self, schedule: StartupSchedule) -> Self {
        self.schedule = Some(schedule);
        self
    }

    /// Whether every connection of a program comes here by itself, as in a namespace whose catch-all
    /// this gateway serves; true unless it is told. Where it is false (plain listeners of a host), a
    /// mocked name is answered with its target's own address.
    pub fn transparent(mut self, transparent: bool) -> Self {
        self.transparent = transparent;
        self
    }

    /// How long a lease outlives its TTL; [`LEASE_GRACE`] otherwise. Programs that keep addresses
    /// for longer than DNS says are refused after it.
    pub fn lease_grace(mut self, grace: Duration) -> Self {
        self.lease_grace = grace;
        self
    }

    /// How many descriptors this gateway may hold: where one process serves many sandboxes, each needs a
    /// share. Without it, all that the process's limit leaves when the gateway is made.
    pub fn descriptors(mut self, descriptors: usize) -> Self {
        self.descriptors = Some(descriptors);
        self
    }

    /// Which clients the listeners serve; everybody otherwise. The connections of others are reset, and
    /// their DNS queries are answered REFUSED.
    pub fn allowed_clients(mut self, clients: AllowedClients) -> Self {
        self.allowed_clients = clients;
        self
    }

    /// What knows the sockets inside from which datagrams come. Without it, flows of datagrams end when
    /// nothing passes for a while, and what is refused of them is refused silently.
    pub fn datagram_clients(mut self, clients: Arc<dyn DatagramClients>) -> Self {
        self.datagram_clients = Some(clients);
        self
    }

    /// What HTTPS is inspected with, where its certificate had to be known before. Without one the
    /// gateway makes its own if the policy inspects anything: see [`Gateway::ca_pem`].
    pub fn inspector(mut self, inspector: Option<Arc<Inspector>>) -> Self {
        self.inspector = inspector;
        self
    }

    /// What puts the networks of another policy's address rules into the kernel, before that policy is
    /// in force. Those of the first policy are there already.
    pub fn networks(mut self, networks: Networks) -> Self {
        self.networks = Some(networks);
        self
    }

    /// What says in a few words why a policy cannot be served here, or with the operating system's
    /// error that it could not find out. Asked of the first policy and of each that is to replace it.
    pub fn acceptable(mut self, acceptable: Acceptable) -> Self {
        self.acceptable = Some(acceptable);
        self
    }

    /// Makes the gateway; nothing is served yet.
    ///
    /// # Errors
    /// What this gateway could not do under its policy: see [`BuildError`].
    pub fn build(self) -> Result<Gateway, BuildError> {
        check(&self.policy, self.transparent, self.acceptable.as_ref())?;
        let inspector = match self.inspector {
            Some(inspector) => Some(inspector),
            None => Inspector::new(&self.policy)?.map(Arc::new),
        };
        portcullis_proxy::covers(inspector.as_deref(), &self.policy)?;
        let resolve = self.resolve.unwrap_or(self.policy.settings().dns.resolve);
        let policy: PolicyHandle = Arc::new(ArcSwap::from_pointee(self.policy));
        let clock = Clock::system();
        let leases = Leases::new(self.gate, clock.clone()).with_grace(self.lease_grace);
        let leases = Arc::new(leases);
        synthetic::give_range(&leases, &policy.load(), self.transparent);
        let mut dns = DnsConfig::new(
            policy.clone(),
            self.resolvers,
            leases.clone(),
            self.recorder.clone(),
        );
        dns.network = Arc::new(SystemNetwork { mark: self.mark });
        dns.hosts = self.hosts;
        dns.search = self.search;
        let descriptors = self.descriptors.unwrap_or_else(descriptors::free);
        let shares = Shares::of(descriptors);
        debug!(descriptors, ?shares, "descriptors are shared out");
        dns.max_lookups = shares.lookups;
        dns.max_tcp_clients = shares.dns_clients;
        dns.allowed_clients = self.allowed_clients.clone();
        dns.clock = clock;
        let ca_pem = inspector.as_ref().map(|inspector| inspector.ca_pem());
        let status_page = self.status_page.map(|page| StatusPage { ca_pem, ..page });
        dns.own = OwnNames {
            status: (status_page.as_ref()).map_or_else(Vec::new, |page| page.addresses.clone()),
            ..self.own
        };
        dns.transparent = self.transparent;
        let network = self.host_network.unwrap_or_else(HostNetwork::open);
        let routes = network.clone();
        dns.ipv6_route = Arc::new(move || routes.has_ipv6());
        dns.host_owns = Arc::new(move |address| network.owns(address));
        let dns = Arc::new(DnsService::new(dns));
        let mut dial = DialConfig::new(policy.clone(), dns.clone());
        dial.listeners = self.host_listeners.clone();
        dial.extra_attempts = shares.extra_attempts;
        let inside = self.inside;
        dial.inside = inside.as_ref().map(|inside| inside.sockets.clone());
        dial.tickets = self.tickets;
        dial.mark = self.mark;
        let dialer = Arc::new(Dialer::new(dial));
        let proxy = Proxy::new(
            policy.clone(),
            dialer,
            leases.clone(),
            self.recorder.clone(),
        )
        .with_listeners(self.listeners)
        .with_host_listeners(self.host_listeners)
        .with_status_page(status_page)
        .with_own(inside.map(|inside| inside.own))
        .with_inspector(inspector.clone())
        .with_room(shares.room)
        .with_allowed_clients(self.allowed_clients)
        .with_datagram_clients(self.datagram_clients);
        let proxy = Arc::new(proxy);
        Ok(Gateway {
            dns,
            proxy: proxy.clone(),
            startup: match resolve {
                Resolve::Startup => {
                    let schedule = || descriptors::startup_schedule(descriptors);
                    Some(self.schedule.unwrap_or_else(schedule))
                }
                Resolve::OnDemand => None,
            },
            policy: PolicySlot {
                policy,
                leases,
                proxy,
                recorder: self.recorder,
                inspector,
                transparent: self.transparent,
                networks: self.networks,
                acceptable: self.acceptable,
                replacing: Default::default(),
            },
        })
    }
}

/// One sandbox's gateway.
pub struct Gateway {
    policy: PolicySlot,
    dns: Arc<DnsService>,
    proxy: Arc<Proxy>,
    /// Set where names are resolved before anything is served.
    startup: Option<StartupSchedule>,
}

impl Gateway {
    /// A builder that denies all, resolves nothing and records nothing.
    pub fn builder() -> Builder {
        Builder {
            policy: Policy::deny_all(),
            resolvers: Vec::new(),
            hosts: Arc::default(),
            host_network: None,
            search: SearchList::default(),
            recorder: Recorder::null(),
            gate: Box::new(NoGate),
            own: OwnNames::default(),
            status_page: None,
            inside: None,
            tickets: None,
            listeners: Vec::new(),
            host_listeners: Vec::new(),
            resolve: None,
            schedule: None,
            transparent: true,
            lease_grace: LEASE_GRACE,
            descriptors: None,
            allowed_clients: AllowedClients::default(),
            datagram_clients: None,
            inspector: None,
            networks: None,
            acceptable: None,
            mark: None,
        }
    }

    /// The policy in force. To put another one in force, see [`Gateway::replace_policy`].
    pub fn policy(&self) -> &PolicyHandle {
        &self.policy.policy
    }

    /// The certificate of the authority that inspected names are shown by, PEM; none where the
    /// policy inspects nothing. It is public: programs have to trust it.
    pub fn ca_pem(&self) -> Option<String> {
        let inspector = self.policy.inspector.as_ref();
        inspector.map(|inspector| inspector.ca_pem())
    }

    /// Which name gave out which address.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.policy.leases
    }

    /// Where decisions are recorded.
    pub fn recorder(&self) -> &Recorder {
        &self.policy.recorder
    }

    /// What it has counted so far. Cheap enough for each time that metrics are collected.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            counters: self.recorder().counters(),
            open: self.proxy.open_flows(),
            lookups: self.dns.lookups_begun(),
            records: self.recorder().health(),
        }
    }

    /// Starts serving on tasks of `tracker`, until `token` is cancelled. Call it within a Tokio
    /// runtime with I/O and time. A part that fails cancels `token`, since a gateway that
    /// lacks one would be half open: [`Serving::ended`] says which and why.
    ///
    /// Where the policy says `resolve = "startup"`, its exact names are resolved first: see
    /// [`Serving::names`]. Otherwise it returns at once. Cancelling `token` meanwhile ends that at
    /// once; no signal handler is touched.
    ///
    /// # Errors
    /// Names that did not resolve, all of them, or a socket that cannot be served; nothing is served
    /// then.
    pub async fn start(
        &self,
        entrances: Entrances,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> Result<Serving, StartError> {
        let names = match &self.startup {
            Some(schedule) => self.dns.resolve_all(schedule, token).await?,
            None => Vec::new(),
        };
        let opened = entrances.open()?;
        let serving = Serving::new(names, self.recorder().clone(), token.clone());
        let (leases, until) = (self.leases().clone(), token.clone());
        let dns = self.dns.clone();
        serving.keep("the keeper of leases", tracker, async move {
            leases.keep_held(until).await;
            dns.record_held();
            Ok(())
        });
        opened.serve(&self.dns, &self.proxy, &serving, tracker);
        info!(names = serving.names().len(), "gateway serves");
        Ok(serving)
    }

    /// Puts another policy in force, under live traffic. Leases of names that it lists live on, with
    /// their ports there; addresses that it no longer lists are refused at the next connect(); flows
    /// that it no longer allows are reset. Budgets of new names and what upstream servers were found
    /// to be go on. Names that are new are resolved when they are asked for, also where the policy
    /// says `resolve = "startup"`: nothing waits for them.
    ///
    /// It leaves one record, whatever comes of it.
    ///
    /// # Errors
    /// See [`ReplaceError`]; the policy before is in force then, unchanged.
    pub fn replace_policy(&self, policy: Policy) -> Result<Replaced, ReplaceError> {
        self.policy.replace(policy)
    }

    /// Replaces the host's resolvers, where it has moved to another network: see
    /// [`Builder::resolvers`]. What the earlier ones answered is asked again. Equal ones change nothing:
    /// `false`.
    pub fn set_resolvers(&self, resolvers: Vec<SocketAddr>) -> bool {
        self.dns.set_upstreams(resolvers)
    }

    /// Replaces the host's hosts file, where it has changed.
    pub fn set_hosts(&self, hosts: Arc<HostsFile>) {
        self.dns.set_hosts(hosts);
    }

    /// Records that a policy was not put in force because it did not even load: `why` is its first
    /// error.
    pub fn record_rejected(&self, why: &str) {
        self.policy.record_rejected(why);
    }
}
