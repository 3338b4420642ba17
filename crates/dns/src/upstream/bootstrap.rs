//! The addresses of servers that are known by name.
//!
//! Answers "a resolver that cannot be found without itself": the name of a `tls://` or `https://`
//! server is asked for at plain resolvers alone, with the operator's own leave, on the one path that
//! all questions take. A name inside a zone is asked for at that zone's plain resolvers where it has
//! any: an internal name is not shown to others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use portcullis_names::RecordType;
use portcullis_policy::LookupPermit;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::error::ExchangeError;
use super::lookup::Core;
use super::{Attempts, UpstreamError};
use crate::chain::Chain;

/// Addresses tried of one server.
const MAX_ADDRESSES: usize = 4;

/// Questions asked for one name, where answers stop at a CNAME.
const MAX_QUESTIONS: usize = 6;

/// How long finding a server's addresses may take.
const LIMIT: Duration = Duration::from_secs(3);

/// How long addresses are kept that could not be looked up anew: better old ones than none.
const STALE_FOR: Duration = Duration::from_secs(30);

/// Addresses, IPv4 first.
#[derive(Clone, Debug)]
pub(super) struct Found {
    addresses: SmallVec<[IpAddr; 4]>,
    /// When they are looked up anew.
    pub until: Instant,
}

impl Core {
    /// The addresses of a named server, from its last lookup or a new one.
    ///
    /// A box with a named type: a lookup may need a server that needs a lookup, once.
    pub(super) fn addresses_of<'a>(
        self: &'a Arc<Self>,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, ExchangeError>> {
        Box::pin(async move {
            let now = Instant::now();
            let known = endpoint.found();
            if let Some(found) = &known
                && now < found.until
            {
                return Ok(found.addresses.to_vec());
            }
            match (self.look_up(endpoint).await, known) {
                (Ok(found), _) => {
                    endpoint.keep(found.clone());
                    Ok(found.addresses.to_vec())
                }
                (Err(_), Some(old)) => {
                    let addresses = old.addresses.to_vec();
                    let until = Instant::now() + STALE_FOR;
                    endpoint.keep(Found { until, ..old });
                    Ok(addresses)
                }
                (Err(error), None) => Err(error),
            }
        })
    }

    async fn look_up(self: &Arc<Self>, endpoint: &Endpoint) -> Result<Found, ExchangeError> {
        let Some(permit) = endpoint.permit() else {
            return Err(ExchangeError::unreachable("it has no name"));
        };
        let deadline = Instant::now() + LIMIT;
        let four = self.addresses(permit, RecordType::A, deadline);
        let (four, six) = if (self.ipv6_route)() {
            let six = self.addresses(permit, RecordType::AAAA, deadline);
            let (four, six) = futures_util::join!(four, six);
            (four, Some(six))
        } else {
            (four.await, None)
        };
        let mut ttl = Duration::MAX;
        let mut addresses: SmallVec<[IpAddr; 4]> = SmallVec::new();
        let mut failed = None;
        for family in [Some(four), six].into_iter().flatten() {
            match family {
                Ok((found, its_ttl)) => {
                    ttl = ttl.min(its_ttl);
                    addresses.extend(found);
                }
                Err(error) => failed = Some(error),
            }
        }
        addresses.truncate(MAX_ADDRESSES);
        if !addresses.is_empty() {
            let until = Instant::now() + ttl;
            return Ok(Found { addresses, until });
        }
        Err(match failed {
            Some(error) => ExchangeError::unreachable(format!("its name: {error}")),
            None => ExchangeError::unreachable("its name has no address"),
        })
    }

    async fn addresses(
        self: &Arc<Self>,
        permit: &LookupPermit,
        qtype: RecordType,
        deadline: Instant,
    ) -> Result<(Vec<IpAddr>, Duration), UpstreamError> {
        let mut chain = Chain::new(permit.name().clone(), qtype);
        let mut permit = permit.clone();
        for _ in 0..MAX_QUESTIONS {
            let plan = self.plan();
            let servers = plan.bootstrap_for(permit.name().as_ref());
            let on_demand = Attempts::OnDemand { deadline };
            let answered = self.ask(&servers, &permit, qtype, on_demand).await?;
            let server: Arc<str> = answered.server.clone();
            let zone = plan.zone_of(permit.name().as_ref());
            let within = |name: portcullis_names::NameRef<'_>| plan.zone_of(name) == zone;
            match chain.follow(answered.message, within) {
                Ok(true) => break,
                Ok(false) => permit = permit.follow(chain.end().clone()),
                Err(error) => {
                    let detail = format!("resolver {server}: {error}");
                    return Err(UpstreamError::failed(detail, server, answered.attempts));
                }
            }
        }
        Ok((chain.addresses().collect(), chain.ttl()))
    }
}
