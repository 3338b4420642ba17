//! What is checked and done before anything is served, and why nothing is.
//!
//! Answers *failing open* (docs/threats.md): where names are resolved at
//! start-up, [`Gateway::start`](crate::Gateway::start) is the only way to serve, and it fails first.

use crate::serving::PartError;
use crate::synthetic::{self, RangeError};
use portcullis_dns::StartupError;
use portcullis_policy::{Policy, Resolver};
use portcullis_proxy::InspectError;
use std::io;

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

/// Whether this gateway could serve a policy; see
/// [`Builder::acceptable`](crate::Builder::acceptable).
pub type Acceptable = Box<dyn Fn(&Policy) -> io::Result<()> + Send + Sync>;

/// What a policy must fulfil to be served, at first and in the place of another.
pub(crate) fn check(
    policy: &Policy,
    transparent: bool,
    acceptable: Option<&Acceptable>,
) -> Result<(), BuildError> {
    if let Some(acceptable) = acceptable {
        acceptable(policy).map_err(BuildError::Unacceptable)?;
    }
    if synthetic::needs_range(policy, transparent) {
        synthetic::check_synthetic_range(policy)?;
    }
    Ok(check_resolvers(policy)?)
}

/// Whether this build can ask every resolver that a policy names.
fn check_resolvers(policy: &Policy) -> Result<(), ResolverError> {
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
