//! The DNS forwarder: what a sandbox asks, decided before anything leaves.
//!
//! Answers *resolution as a way out* (docs/threats.md): no lookup leaves before its name is
//! allowed, what leaves is a new message made from the canonical name and type alone, and an
//! address is given to the sandbox only after it is recorded ([`Leases`]) as belonging to the name
//! that was asked for.
//!
//! A query's way through the crate is one line: receive (`udp`, `tcp`) → guard → decide (`forwarder`)
//! → `cache` → flight (`resolver`) → [`Upstream::query`] → `chain` (`lookup`) → lease (`grants`) →
//! `reply`. What a socket answered within the last second is repeated from its `response_cache`.
//! [`DnsService`] puts the parts together; each takes only those that it uses.
//!
//! Invariant: [`Upstream::query`] is the only function that sends to an upstream resolver, and it
//! cannot be called without a [`LookupPermit`](portcullis_policy::LookupPermit).
//!
//! Invariant: an address leaves in an answer only after the lease and the kernel's gate hold it.
#![forbid(unsafe_code)]

mod acceptor;
mod batch;
mod cache;
mod canonical_names;
mod chain;
mod clock;
mod config;
mod entry;
mod forwarder;
mod grants;
mod host;
mod hosts;
mod leases;
mod local;
mod lookup;
mod new_names;
pub mod pktinfo;
mod policy_in_force;
mod query;
mod query_rate;
mod reply;
mod resolvconf;
mod resolve;
mod resolver;
mod response_cache;
mod reverse;
mod search;
mod searches;
mod service;
mod special_use;
mod startup;
mod svcb;
mod synthetic;
mod tcp;
mod udp;
mod upstream;

pub use acceptor::{Accepted, Acceptor, Reserve};
pub use clock::Clock;
pub use config::{
    CACHE_BYTES, DESCRIPTORS_PER_LOOKUP, DnsConfig, MAX_LOOKUPS, MAX_TCP_CLIENTS, OwnNames,
};
pub use hosts::{HostsFile, hosts_inside};
pub use leases::{
    AddressGate, GrantError, Hold, LEASE_GRACE, Leases, NoGate, Owner, SYNTHETIC_RANGE,
    SYNTHETIC_TTL, SyntheticGrant,
};
pub use policy_in_force::PolicyHandle;
pub use resolvconf::ResolvConf;
pub use resolve::{ResolveError, Resolved};
pub use search::SearchList;
pub use service::DnsService;
pub use startup::{
    MAX_NAMES_AT_ONCE, MAX_STARTUP_ATTEMPTS, MAX_STARTUP_NAMES, StartupError, StartupFailure,
    StartupName, StartupSchedule,
};
pub use upstream::{
    Answered, Attempts, Authorities, ByteStream, Datagrams, Network, Progress, SystemNetwork,
    Unanswered, Upstream, UpstreamConfig, UpstreamError, interface_index,
};
