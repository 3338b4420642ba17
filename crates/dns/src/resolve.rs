//! Resolution for the dialler: both families at once, from the sandbox's own cache.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_policy::{LookupPermit, Reason};
use smallvec::smallvec;
use tokio::time::timeout;

use crate::cache::{Entry, Key, Outcome};
use crate::flight::Ask;
use crate::service::{Inner, ResolveError, Resolved};

/// How long addresses of one family wait for the other's (RFC 8305 3 suggests 50 ms; resolvers on
/// the way to a cold cache are often slower).
const OTHER_FAMILY_PATIENCE: Duration = Duration::from_millis(150);

impl Inner {
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        permit: &LookupPermit,
        unguarded: bool,
    ) -> Result<Resolved, ResolveError> {
        let entries = self.both_families(permit).await;
        let now = self.clock.now();
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

    async fn both_families(self: &Arc<Self>, permit: &LookupPermit) -> Vec<Arc<Entry>> {
        let (policy, epoch) = self.policy();
        let ask = |qtype| Ask {
            key: Key {
                name: permit.name().clone(),
                qtype,
            },
            permits: smallvec![permit.clone()],
            policy: policy.clone(),
            epoch,
        };
        if !(self.ipv6_route)() {
            return vec![self.fetch(ask(RecordType::A)).await];
        }
        let four = self.fetch(ask(RecordType::A));
        let six = self.fetch(ask(RecordType::AAAA));
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
}

/// An entry with addresses need not wait long for the other; one without must.
fn patience(entry: &Entry) -> Duration {
    if entry.addresses.is_empty() {
        // Flights end by themselves within the lookup budget.
        crate::upstream::LOOKUP_BUDGET * 2
    } else {
        OTHER_FAMILY_PATIENCE
    }
}

/// The reason that says most: a guarded address, a failure, an absent name, no address.
fn error(permit: &LookupPermit, entries: &[Arc<Entry>], refused: Vec<IpAddr>) -> ResolveError {
    let failed = entries.iter().find_map(|entry| match entry.outcome {
        Outcome::Failed(reason) => Some((reason, entry.detail.as_deref())),
        _ => None,
    });
    let missing = entries
        .iter()
        .any(|entry| entry.outcome == Outcome::NameNotFound);
    let (reason, detail) = if !refused.is_empty() {
        (Reason::PrivateAddress, None)
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
