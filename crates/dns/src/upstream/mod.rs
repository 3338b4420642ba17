//! Asking upstream resolvers: which, how often, how long.
//!
//! Invariant: `query` is the only function of the crates that sends a sandbox's question to an
//! upstream resolver, and it takes a permit that only the policy can make. What it sends is made from
//! the permit's name and the type, and from nothing else. The names of the resolvers themselves take
//! the same path ([`bootstrap`]), with the operator's permit.
//!
//! Answers "one lost datagram loses the name": at least four attempts, the first retry soon and at
//! the next server, all within what a stub resolver waits. An attempt that was given a successor is
//! still listened to: a slow answer is an answer.
//!
//! A question's way: `plan` (which servers) → `query` (the loop) → `schedule` and `health` (when, in
//! which order) → `plain`, or `encrypted` → `connections` → `connector` → `tls` or `https`.

mod bootstrap;
mod connections;
mod connector;
mod encrypted;
mod endpoint;
mod error;
mod exchange;
mod health;
#[cfg(feature = "doh")]
mod https;
mod network;
mod plain;
mod plan;
mod query;
mod question;
mod quirks;
mod schedule;
mod server;
mod tls;
mod trust;
mod zones;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis_names::RecordType;
use portcullis_policy::LookupPermit;

pub use error::{Unanswered, UpstreamError};
pub use network::{ByteStream, Datagrams, Network, SystemNetwork, interface_index};
pub use portcullis_tls::Authorities;
pub use query::{Answered, Progress};
pub use schedule::Attempts;

use crate::policy_in_force::PolicyHandle;
use bootstrap::Bootstrap;
use connector::Transport;
use plan::Plan;
use trust::Trust;

/// The time a lookup may take, all its questions included: within 4 s the sandbox has an answer.
pub(crate) const LOOKUP_BUDGET: Duration = Duration::from_millis(3_700);

/// What an [`Upstream`] needs; start from [`UpstreamConfig::new`].
#[derive(Clone)]
pub struct UpstreamConfig {
    /// The policy in force: its resolvers, zones and bootstrap resolvers.
    pub policy: PolicyHandle,
    /// The host's own resolvers, asked where the policy names none.
    pub host: Vec<SocketAddr>,
    /// What opens sockets.
    pub network: Arc<dyn Network>,
    /// Whose certificates encrypted resolvers may show.
    pub authorities: Authorities,
    /// Whether the host can reach IPv6 addresses now.
    pub ipv6_route: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl UpstreamConfig {
    /// A configuration with real sockets, the host's authorities and IPv6 assumed routed.
    pub fn new(policy: PolicyHandle, host: Vec<SocketAddr>) -> UpstreamConfig {
        UpstreamConfig {
            policy,
            host,
            network: Arc::new(SystemNetwork::default()),
            authorities: Authorities::Host,
            ipv6_route: Arc::new(|| true),
        }
    }
}

impl fmt::Debug for UpstreamConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamConfig")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// The upstream resolvers of one sandbox.
pub struct Upstream {
    policy: PolicyHandle,
    host: ArcSwap<Arc<[SocketAddr]>>,
    transport: Transport,
    plan: ArcSwap<Plan>,
    /// Held while a plan is made.
    planning: Mutex<()>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    /// Resolvers as the policy in force names them; nothing is sent or connected.
    pub fn new(config: UpstreamConfig) -> Upstream {
        let policy = config.policy.load_full();
        let host: Arc<[SocketAddr]> = config.host.into();
        let transport = Transport {
            network: config.network,
            trust: Arc::new(Trust::new(config.authorities)),
            bootstrap: Arc::new(Bootstrap::new(policy.clone(), config.ipv6_route)),
        };
        let plan = Plan::new(policy, host.clone(), None, &transport);
        transport.bootstrap.set_servers(plan.bootstrap.clone());
        Upstream {
            policy: config.policy,
            host: ArcSwap::from_pointee(host),
            transport,
            plan: ArcSwap::from_pointee(plan),
            planning: Mutex::default(),
        }
    }

    /// Puts other host's resolvers in the place of the present ones; lookups under way keep theirs.
    /// `false` where they are the same.
    pub fn set_host(&self, servers: Vec<SocketAddr>) -> bool {
        let are_others = self.host()[..] != servers[..];
        if are_others {
            self.host.store(Arc::new(servers.into()));
        }
        are_others
    }

    fn host(&self) -> Arc<[SocketAddr]> {
        self.host.load().as_ref().clone()
    }

    /// Asks for the permitted name's records of one type: the servers of the zone that the name is
    /// in under the policy in force, or else the general ones.
    ///
    /// # Errors
    /// [`UpstreamError`] when no server gave a usable answer in time.
    pub async fn query(
        &self,
        permit: &LookupPermit,
        qtype: RecordType,
        attempts: Attempts,
        progress: &Progress,
    ) -> Result<Answered, UpstreamError> {
        let plan = self.plan();
        let servers = plan.servers_for(permit.name().as_ref());
        query::query(servers, permit, qtype, attempts, progress).await
    }

    /// The plan of the policy in force.
    fn plan(&self) -> Arc<Plan> {
        let current = || (self.policy.load_full(), self.host());
        let plan = self.plan.load_full();
        let (policy, host) = current();
        if plan.is_for(&policy, &host) {
            return plan;
        }
        let _one_at_a_time = self.planning.lock().unwrap_or_else(PoisonError::into_inner);
        // Read again: another thread may have been here, and an older policy must not come back.
        let (policy, host) = current();
        let before = self.plan.load_full();
        if before.is_for(&policy, &host) {
            return before;
        }
        let plan = Arc::new(Plan::new(policy, host, Some(&before), &self.transport));
        let bootstrap = &self.transport.bootstrap;
        bootstrap.set_servers(plan.bootstrap.clone());
        self.plan.store(plan.clone());
        plan
    }
}
