//! Resolution for the dialler: both families at once, from the sandbox's own cache.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_names::{Name, RecordType};
use portcullis_policy::{LookupPermit, Reason};
use tokio::time::timeout;

use crate::entry::{Entry, EntryKind};
use crate::lookup::LookupRequest;
use crate::policy_in_force::InForce;
use crate::resolver::Resolver;
use crate::upstream::LOOKUP_BUDGET;

/// How long addresses of one family wait for the other's (RFC 8305 3 suggests 50 ms; resolvers on
/// the way to a cold cache are often slower).
const OTHER_FAMILY_PATIENCE: Duration = Duration::from_millis(150);

/// What a name resolved to, for the dialler.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name that was asked for.
    pub name: Name,
    /// The end of its CNAME chain; `name` itself where there is none.
    pub canonical: Name,
    /// Its addresses of both families that the guard lets through; never empty.
    pub addresses: Vec<IpAddr>,
    /// Addresses that the guard took out.
    pub refused: Vec<IpAddr>,
    /// How long the answer holds.
    pub ttl: Duration,
    /// The resolver that answered, where it was asked.
    pub upstream: Option<Arc<str>>,
}

/// Why a name did not resolve.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{name}: {detail}")]
pub struct ResolveError {
    /// The name that was asked for.
    pub name: Name,
    /// `name-not-found`, `no-address`, `private-address`, `dns-timeout`, `dns-unreachable`,
    /// `dns-failed` or `rate-limited`.
    pub reason: Reason,
    /// A sentence for the operator's record.
    pub detail: String,
    /// Addresses that the guard took out.
    pub refused: Vec<IpAddr>,
}

/// Resolves a permitted name to its addresses. `unguarded` keeps the addresses that the guard takes
/// out: the operator named the endpoint.
///
/// # Errors
/// [`ResolveError`] with the reason that the record and the program are told.
pub(crate) async fn resolve(
    resolver: &Arc<Resolver>,
    in_force: InForce,
    permit: &LookupPermit,
    unguarded: bool,
) -> Result<Resolved, ResolveError> {
    let entries = both_families(resolver, in_force, permit).await;
    let now = resolver.lookup.clock.now();
    let mut found = Resolved {
        name: permit.name().clone(),
        canonical: permit.name().clone(),
        addresses: Vec::new(),
        refused: Vec::new(),
        ttl: Duration::MAX,
        upstream: None,
    };
    for entry in &entries {
        found.addresses.extend_from_slice(&entry.addresses);
        if unguarded {
            found.addresses.extend_from_slice(&entry.refused);
        } else {
            found.refused.extend_from_slice(&entry.refused);
        }
        if let Some(canonical) = entry.canonical() {
            found.canonical = canonical.clone();
        }
        found.ttl = found.ttl.min(entry.left(now));
        found.upstream = found.upstream.or_else(|| entry.server.clone());
    }
    if found.addresses.is_empty() {
        return Err(error(permit, &entries, found.refused));
    }
    Ok(found)
}

async fn both_families(
    resolver: &Arc<Resolver>,
    in_force: InForce,
    permit: &LookupPermit,
) -> Vec<Arc<Entry>> {
    let request = LookupRequest::new(permit, RecordType::A, in_force);
    if !resolver.lookup.host.routes_ipv6() {
        return vec![resolver.fetch(request).await];
    }
    let six = resolver.fetch(request.with_type(RecordType::AAAA));
    let four = resolver.fetch(request);
    tokio::pin!(four, six);
    tokio::select! {
        four = &mut four => {
            let patience = patience(&four);
            match timeout(patience, six).await {
                Ok(six) => vec![four, six],
                Err(_) => vec![four],
            }
        }
        six = &mut six => {
            let patience = patience(&six);
            match timeout(patience, four).await {
                Ok(four) => vec![four, six],
                Err(_) => vec![six],
            }
        }
    }
}

/// An entry with addresses need not wait long for the other; one without must.
fn patience(entry: &Entry) -> Duration {
    if entry.addresses.is_empty() {
        // Flights end by themselves within the lookup budget.
        LOOKUP_BUDGET * 2
    } else {
        OTHER_FAMILY_PATIENCE
    }
}

/// The reason that says most: a guarded address, a failure, an absent name, no address.
fn error(permit: &LookupPermit, entries: &[Arc<Entry>], refused: Vec<IpAddr>) -> ResolveError {
    let failed = entries.iter().find_map(|entry| match entry.kind {
        EntryKind::Failed(reason) => Some((reason, entry.detail.as_deref())),
        _ => None,
    });
    let missing = entries
        .iter()
        .any(|entry| entry.kind == EntryKind::NameNotFound);
    let (reason, detail) = if !refused.is_empty() {
        let detail = entries.iter().find_map(|entry| entry.detail.as_deref());
        (Reason::PrivateAddress, detail)
    } else if let Some(failed) = failed {
        failed
    } else if missing {
        (Reason::NameNotFound, None)
    } else {
        (Reason::NoAddress, None)
    };
    ResolveError {
        name: permit.name().clone(),
        reason,
        detail: detail.unwrap_or(reason.sentence()).to_owned(),
        refused,
    }
}
