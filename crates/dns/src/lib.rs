//! The DNS forwarder: what a sandbox asks, decided before anything leaves.
//!
//! Answers the threat "resolution as a way out": no lookup leaves before its name is allowed, what
//! leaves is a new message made from the canonical name and type alone, and an address is given to
//! the sandbox only after it is recorded ([`Leases`]) as belonging to the name that was asked for.
//!
//! A query's way through the crate is one line: `udp`/`tcp` → `answer` (guard, decide) → `cache` →
//! `flight` → [`Upstream::query`] → `chain` → [`Leases`] → `reply`.
//!
//! Invariant: [`Upstream::query`] is the only function that sends to an upstream resolver, and it
//! cannot be called without a [`LookupPermit`](portcullis_policy::LookupPermit).
//!
//! Invariant: an address leaves in an answer only after the lease and the kernel's gate hold it.
#![forbid(unsafe_code)]

mod clock;
mod config;
mod leases;
mod resolvconf;
mod service;
mod upstream;

pub use clock::Clock;
pub use config::{DnsConfig, OwnNames, PolicyHandle};
pub use leases::{AddressGate, GrantError, Leases, NoGate};
pub use resolvconf::upstreams_from_resolv_conf;
pub use service::{DnsService, ResolveError, Resolved};
pub use upstream::Upstream;
