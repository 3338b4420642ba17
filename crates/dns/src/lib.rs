//! The DNS forwarder: what a sandbox asks, decided before anything leaves.
//!
//! Answers the threat "resolution as a way out": no lookup leaves before its name is allowed, what
//! leaves is a new message made from the canonical name and type alone, and an address is given to
//! the sandbox only after it is recorded ([`Leases`]) as belonging to the name that was asked for.
//!
//! A query's way through the crate is one line: `udp`/`tcp` → `answer` (guard, decide) → `cache` →
//! `flight` → `lookup` → [`Upstream::query`] → `chain` → [`Leases`] → `reply`.
//!
//! Invariant: [`Upstream::query`] is the only function that sends to an upstream resolver, and it
//! cannot be called without a [`LookupPermit`](portcullis_policy::LookupPermit).
//!
//! Invariant: an address leaves in an answer only after the lease and the kernel's gate hold it.
#![forbid(unsafe_code)]

mod aliases;
mod answer;
mod batch;
mod cache;
mod chain;
mod clock;
mod config;
mod flight;
mod leases;
mod local;
mod lookup;
mod memo;
mod mock;
mod new_names;
mod pace;
pub mod pktinfo;
mod reply;
mod resolvconf;
mod resolve;
mod reverse;
mod service;
mod stale;
mod startup;
mod svcb;
mod synthetic;
mod tcp;
mod turn;
mod udp;
mod upstream;

pub use clock::Clock;
pub use config::{CACHE_BYTES, DnsConfig, OwnNames, PolicyHandle};
pub use leases::{
    AddressGate, GrantError, Hold, LEASE_GRACE, Leases, NoGate, Owner, SYNTHETIC_RANGE,
    SYNTHETIC_TTL,
};
pub use resolvconf::upstreams_from_resolv_conf;
pub use service::{DnsService, ResolveError, Resolved};
pub use startup::{
    MAX_NAMES_AT_ONCE, MAX_STARTUP_ATTEMPTS, MAX_STARTUP_NAMES, StartupError, StartupFailure,
    StartupName, StartupSchedule,
};
pub use upstream::{
    Answered, Attempts, Authorities, ByteStream, Datagrams, Network, SystemNetwork, Upstream,
    UpstreamConfig, UpstreamError,
};
