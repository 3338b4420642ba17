//! The gateway itself: one policy, one resolver, one dialler and the entrances in front of them.

use crate::replace::{Acceptable, Networks};
use crate::startup::{self, StartError};
use crate::synthetic;
use arc_swap::ArcSwap;
use portcullis_dial::{DialConfig, Dialer, Host, HostAddresses};
use portcullis_dns::{
    AddressGate, Clock, DnsConfig, DnsService, LEASE_GRACE, Leases, NoGate, OwnNames, PolicyHandle,
    StartupName, StartupSchedule,
};
use portcullis_policy::{Policy, Resolve};
use portcullis_proxy::{InspectError, Inspector, ProxyContext};
use portcullis_record::Recorder;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Collects what a [`Gateway`] is made of; start from [`Gateway::builder`].
#[must_use]
pub struct Builder {
    policy: Policy,
    resolvers: Vec<SocketAddr>,
    recorder: Recorder,
    gate: Box<dyn AddressGate>,
    own: OwnNames,
    listeners: Vec<SocketAddr>,
    host_listeners: Vec<SocketAddr>,
    resolve: Option<Resolve>,
    schedule: Option<StartupSchedule>,
    transparent: bool,
    lease_grace: Duration,
    inspector: Option<Arc<Inspector>>,
    networks: Option<Networks>,
    acceptable: Option<Acceptable>,
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

    /// The address that stands for the host inside, and the addresses that are the sandbox's own.
    pub fn own(mut self, own: OwnNames) -> Self {
        self.own = own;
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

    /// That connections of programs do not come here by themselves (plain listeners of the host): a
    /// mocked name is answered with its target's own address then.
    pub fn plain(mut self) -> Self {
        self.transparent = false;
        self
    }

    /// How long a lease outlives its TTL; [`LEASE_GRACE`] otherwise. Programs that keep addresses
    /// for longer than DNS says are refused after it.
    pub fn lease_grace(mut self, grace: Duration) -> Self {
        self.lease_grace = grace;
        self
    }

    /// What HTTPS is inspected with, where its certificate had to be known before. Without one the
    /// gateway makes its own, where the policy inspects anything: see [`Gateway::ca_pem`].
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

    /// What says, a few words, why another policy cannot be served here.
    pub fn acceptable(mut self, acceptable: Acceptable) -> Self {
        self.acceptable = Some(acceptable);
        self
    }

    /// Makes the gateway; nothing is served yet.
    pub fn build(self) -> Gateway {
        let inspector = self.inspector.or_else(|| {
            // Without certificates the names that are to be inspected are refused.
            Inspector::new(&self.policy).ok().flatten().map(Arc::new)
        });
        let resolve = self.resolve.unwrap_or(self.policy.settings().dns.resolve);
        let policy: PolicyHandle = Arc::new(ArcSwap::from_pointee(self.policy));
        let clock = Clock::system();
        let leases = Leases::new(self.gate, clock.clone()).with_grace(self.lease_grace);
        let leases = Arc::new(leases);
        give_range(&leases, &policy.load(), self.transparent);
        let mut dns = DnsConfig::new(
            policy.clone(),
            self.resolvers,
            leases.clone(),
            self.recorder.clone(),
        );
        dns.clock = clock;
        dns.own = self.own;
        dns.transparent = self.transparent;
        dns.ipv6_route = Arc::new(crate::host::has_ipv6_route);
        let host = Host::new(HostAddresses::Interfaces);
        // Where the interfaces cannot be read nobody knows, and the address is kept.
        dns.host_owns = Arc::new(move |address| host.owns(address).unwrap_or(true));
        let dns = Arc::new(DnsService::new(dns));
        let mut dial = DialConfig::new(policy.clone(), dns.clone());
        dial.listeners = self.host_listeners.clone();
        let dialer = Arc::new(Dialer::new(dial));
        let proxy = ProxyContext::new(
            policy.clone(),
            dialer,
            leases.clone(),
            self.recorder.clone(),
        )
        .with_listeners(self.listeners)
        .with_host_listeners(self.host_listeners)
        .with_inspector(inspector.clone());
        Gateway {
            inspector,
            policy,
            dns,
            leases,
            proxy: Arc::new(proxy),
            recorder: self.recorder,
            startup: match resolve {
                Resolve::Startup => Some(self.schedule.unwrap_or_else(startup::schedule)),
                Resolve::OnDemand => None,
            },
            transparent: self.transparent,
            networks: self.networks,
            acceptable: self.acceptable,
            replacing: Mutex::new(()),
        }
    }
}

/// One sandbox's gateway.
pub struct Gateway {
    policy: PolicyHandle,
    dns: Arc<DnsService>,
    leases: Arc<Leases>,
    pub(crate) proxy: Arc<ProxyContext>,
    recorder: Recorder,
    /// Set where names are resolved before anything is served.
    startup: Option<StartupSchedule>,
    inspector: Option<Arc<Inspector>>,
    pub(crate) transparent: bool,
    pub(crate) networks: Option<Networks>,
    pub(crate) acceptable: Option<Acceptable>,
    /// Held while a policy is put in the place of another.
    pub(crate) replacing: Mutex<()>,
}

/// Names get synthetic addresses from now on, where the policy gives any some.
pub(crate) fn give_range(leases: &Leases, policy: &Policy, transparent: bool) {
    if synthetic::answers_synthetic(policy) || (transparent && synthetic::makes_up(policy)) {
        // Another range than the one in use waits for the next start: programs hold its addresses.
        leases.use_synthetic_range(synthetic::range(policy));
    }
}

/// The sockets that a gateway serves. Any may be missing; all are made non-blocking here.
#[derive(Debug, Default)]
pub struct Entrances {
    /// DNS over UDP.
    pub dns_udp: Vec<UdpSocket>,
    /// DNS over TCP.
    pub dns_tcp: Vec<TcpListener>,
    /// HTTP proxy.
    pub http: Vec<TcpListener>,
    /// SOCKS5 proxy.
    pub socks5: Vec<TcpListener>,
    /// Catch-all listeners whose accepted sockets carry the original destination.
    pub transparent: Vec<TcpListener>,
    /// Wildcard UDP sockets of the sandbox, one for each port (and family) that a rule lets datagrams
    /// through on: they tell the address that was asked, and answer from it.
    pub datagrams: Vec<UdpSocket>,
}

impl Gateway {
    /// A builder that denies all, resolves nothing and records nothing.
    pub fn builder() -> Builder {
        Builder {
            policy: Policy::deny_all(),
            resolvers: Vec::new(),
            recorder: Recorder::null(),
            gate: Box::new(NoGate),
            own: OwnNames::default(),
            listeners: Vec::new(),
            host_listeners: Vec::new(),
            resolve: None,
            schedule: None,
            transparent: true,
            lease_grace: LEASE_GRACE,
            inspector: None,
            networks: None,
            acceptable: None,
        }
    }

    /// The policy in force. To put another one in force, see [`Gateway::replace_policy`].
    pub fn policy(&self) -> &PolicyHandle {
        &self.policy
    }

    /// The certificate of the authority that inspected names are shown by, PEM; none where the
    /// policy inspects nothing. It is public: programs have to trust it.
    pub fn ca_pem(&self) -> Option<String> {
        self.inspector.as_ref().map(|inspector| inspector.ca_pem())
    }

    /// Whether the gateway can put this policy in force as far as inspection goes: its authority is
    /// held to the names that were inspected when it started, and programs trust no other.
    ///
    /// # Errors
    /// What the policy inspects and the authority was not made for. In force, it would refuse that.
    pub fn covers(&self, policy: &Policy) -> Result<(), InspectError> {
        portcullis_proxy::covers(self.inspector.as_deref(), policy)
    }

    /// Which name gave out which address.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// Where decisions are recorded.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Starts serving on tasks of `tracker`, until `token` is cancelled. Call it within a Tokio
    /// runtime with I/O and time. An entrance that fails for good cancels `token`: a gateway with a
    /// dead door is not left half open.
    ///
    /// Where the policy says `resolve = "startup"`, its exact names are resolved first, and are
    /// what is returned, sorted; otherwise it returns at once. Cancelling `token` meanwhile ends
    /// that at once; no signal handler is touched.
    ///
    /// # Errors
    /// Names that did not resolve, all of them, or a socket that the runtime cannot take; nothing is
    /// served then.
    pub async fn start(
        &self,
        entrances: Entrances,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> Result<Vec<StartupName>, StartError> {
        let names = match &self.startup {
            Some(schedule) => self.dns.resolve_all(schedule, token).await?,
            None => Vec::new(),
        };
        self.serve(entrances, tracker, token)?;
        Ok(names)
    }

    fn serve(
        &self,
        entrances: Entrances,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> io::Result<()> {
        let (leases, until) = (self.leases.clone(), token.clone());
        tracker.spawn(async move { leases.keep_held(until).await });
        for socket in entrances.dns_udp {
            socket.set_nonblocking(true)?;
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            let serving = self.dns.clone().serve_udp(socket, token.clone());
            spawn(tracker, token, serving);
        }
        for listener in entrances.dns_tcp {
            let serving = self
                .dns
                .clone()
                .serve_tcp(listener_of(listener)?, token.clone());
            spawn(tracker, token, serving);
        }
        for listener in entrances.http {
            let serving = portcullis_proxy::serve_http(
                self.proxy.clone(),
                listener_of(listener)?,
                token.clone(),
            );
            spawn(tracker, token, serving);
        }
        for listener in entrances.socks5 {
            let serving = portcullis_proxy::serve_socks5(
                self.proxy.clone(),
                listener_of(listener)?,
                token.clone(),
            );
            spawn(tracker, token, serving);
        }
        for socket in entrances.datagrams {
            socket.set_nonblocking(true)?;
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            let serving =
                portcullis_proxy::serve_datagrams(self.proxy.clone(), socket, token.clone());
            spawn(tracker, token, serving);
        }
        for listener in entrances.transparent {
            let serving = portcullis_proxy::serve_transparent(
                self.proxy.clone(),
                listener_of(listener)?,
                token.clone(),
            );
            spawn(tracker, token, serving);
        }
        Ok(())
    }
}

fn listener_of(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn spawn(
    tracker: &TaskTracker,
    token: &CancellationToken,
    serving: impl Future<Output = io::Result<()>> + Send + 'static,
) {
    let token = token.clone();
    tracker.spawn(async move {
        if serving.await.is_err() {
            token.cancel();
        }
    });
}
