//! Start-up resolution: every name that the policy lists without a wildcard, all at once, before
//! anything is served.
//!
//! Answers "an allowlist that is resolved when the sandbox is made": one lost datagram does not
//! lose a name (attempts); a name that is lost is told, with all others, and nothing starts;
//! nothing is ever answered 0.0.0.0 (the guard keeps it, and the name fails); and dead names do not
//! add up: however many there are, they take as long as one.
//!
//! What is found goes into the cache and is leased, the kernel's gate included, so that the first
//! question of a program is answered at once.

mod outcome;
mod round;
mod schedule;

use std::sync::atomic::Ordering;

use futures_util::stream::{FuturesUnordered, StreamExt};
use portcullis_names::Name;
use portcullis_policy::{HOST_NAME, LookupPermit};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use outcome::{MAX_STARTUP_NAMES, StartupError, StartupFailure, StartupName};
pub(crate) use round::Round;
pub use schedule::{MAX_NAMES_AT_ONCE, MAX_STARTUP_ATTEMPTS, StartupSchedule};

use crate::policy_in_force::InForce;
use crate::synthetic;

/// Resolves every name that the policy lists without a wildcard.
///
/// # Errors
/// [`StartupError`], with every failed name.
pub(crate) async fn resolve_all(
    round: Round<'_>,
    token: &CancellationToken,
) -> Result<Vec<StartupName>, StartupError> {
    let permits = permits(&round.in_force);
    let of = permits.len();
    if of > MAX_STARTUP_NAMES {
        return Err(StartupError::TooMany { names: of });
    }
    debug!(names = of, "names are resolved before the start");
    round.unresolved.store(of, Ordering::Relaxed);
    let all: FuturesUnordered<_> = permits.iter().map(|permit| round.name(permit)).collect();
    let results: Vec<_> = tokio::select! {
        biased;
        () = token.cancelled() => return Err(StartupError::Cancelled),
        results = all.collect() => results,
    };
    let (mut names, mut failures) = (Vec::with_capacity(of), Vec::new());
    for result in results {
        match result {
            Ok(name) => names.push(name),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() {
        names.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(names)
    } else {
        failures.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Err(StartupError::Unresolved { failures, of })
    }
}

/// Permits to look up each exact name that has addresses of its own, sorted by name.
fn permits(in_force: &InForce) -> Vec<LookupPermit> {
    let policy = &in_force.policy;
    let looked_up = |name: Name| {
        // Answered here: the host's own loopback. Or no host at all (RFC 8552): a policy lists
        // `_kerberos._tcp.example.corp` for its SRV records.
        let underscored = |label: &str| label.starts_with('_');
        if name.as_str() == HOST_NAME || name.as_str().split('.').any(underscored) {
            return None;
        }
        in_force.address_permit(&name)
    };
    policy
        .exact_names()
        .into_iter()
        .filter_map(looked_up)
        // Sent elsewhere by their rule, or looked up by the upstream proxy.
        .filter(|permit| permit.to().is_none() && !synthetic::by_upstream_proxy(policy, permit))
        .collect()
}
