//! What is checked and done before anything is served, and why nothing is.
//!
//! Answers *failing open* (docs/threats.md): where names are resolved at
//! start-up, [`Gateway::start`](crate::Gateway::start) is the only way to serve, and it fails first.

use crate::serving::PartError;
use crate::synthetic::RangeError;
use portcullis_dns::{StartupError, StartupSchedule};
use portcullis_policy::{Policy, Resolver};
use portcullis_proxy::InspectError;
use rustix::process::{Resource, getrlimit};
use std::io;

/// Descriptors that start-up leaves for everything else.
const RESERVED_DESCRIPTORS: u64 = 128;
/// Descriptors for one name: a socket for A, one for AAAA.
const DESCRIPTORS_PER_NAME: u64 = 2;

/// Why a gateway cannot be made for a policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The names that the policy inspects cannot be inspected.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// A resolver that this build cannot ask.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// The range of synthetic addresses that the policy needs is in use.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The embedder's own check refuses the policy: see
    /// [`Builder::acceptable`](crate::Builder::acceptable).
    #[error(transparent)]
    Unacceptable(io::Error),
}

/// A resolver over HTTPS, in a build without the feature `doh`.
#[derive(Debug, thiserror::Error)]
#[error("the policy names the resolver {0}, but this build leaves out DNS over HTTPS")]
pub struct ResolverError(String);

/// Whether this build can ask every resolver that a policy names.
pub(crate) fn check_resolvers(policy: &Policy) -> Result<(), ResolverError> {
    let settings = policy.settings();
    let zones = settings.dns.zones.iter();
    let mut all = (settings.resolvers.iter()).chain(zones.flat_map(|zone| &zone.resolvers));
    let left_out =
        |resolver: &&Resolver| !cfg!(feature = "doh") && matches!(resolver, Resolver::Https { .. });
    match all.find(left_out) {
        Some(resolver) => Err(ResolverError(resolver.to_string())),
        None => Ok(()),
    }
}

/// Why a gateway does not start. Nothing is served then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A socket that cannot be served.
    #[error(transparent)]
    Part(#[from] PartError),
    /// Names that were to be resolved before, and were not.
    #[error(transparent)]
    Names(#[from] StartupError),
}

/// The default schedule, with as many names at once as this process may have sockets for.
pub(crate) fn schedule() -> StartupSchedule {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let names = limit.saturating_sub(RESERVED_DESCRIPTORS) / DESCRIPTORS_PER_NAME;
    StartupSchedule::default().at_once(usize::try_from(names).unwrap_or(usize::MAX))
}
