//! The addresses of servers that are known by name.
//!
//! Answers "a resolver that cannot be found without itself": the name of a `tls://` or `https://`
//! server is asked for at plain resolvers alone, with the operator's own permit, on the one path that
//! all questions take. A name inside a zone is asked for at that zone's plain resolvers where it has
//! any: an internal name is not shown to others.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis_names::{NameRef, RecordType};
use portcullis_policy::{LookupPermit, Policy};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::error::{ExchangeError, UpstreamError};
use super::plain::PlainServer;
use super::query::{Progress, query};
use super::schedule::Attempts;
use super::server::Group;
use super::zones::ByZone;
use crate::chain::Chain;

/// Addresses tried of one server.
const MAX_ADDRESSES: usize = 4;

/// Questions asked for one name, where answers stop at a CNAME.
const MAX_QUESTIONS: usize = 6;

/// How long finding a server's addresses may take.
const LIMIT: Duration = Duration::from_secs(3);

/// Addresses, IPv4 first.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub addresses: SmallVec<[IpAddr; 4]>,
    /// When they are looked up anew.
    pub until: Instant,
}

/// The addresses of one family.
struct FoundFamily {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

/// Finds servers by name.
pub(super) struct Bootstrap {
    servers: ArcSwap<ByZone<PlainServer>>,
    ipv6_route: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bootstrap")
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

impl Bootstrap {
    /// Without servers until [`Bootstrap::set_servers`] gives it some.
    pub(super) fn new(
        policy: Arc<Policy>,
        ipv6_route: Arc<dyn Fn() -> bool + Send + Sync>,
    ) -> Bootstrap {
        Bootstrap {
            servers: ArcSwap::from_pointee(ByZone {
                policy,
                zones: Vec::new(),
                general: Group::from([]),
            }),
            ipv6_route,
        }
    }

    /// Asks these servers from now on.
    pub(super) fn set_servers(&self, servers: Arc<ByZone<PlainServer>>) {
        self.servers.store(servers);
    }

    /// Looks up a server's addresses, of both families where the host has an IPv6 route.
    ///
    /// # Errors
    /// Its name has no address, or nobody says.
    pub(super) async fn look_up(&self, permit: &LookupPermit) -> Result<Found, ExchangeError> {
        let deadline = Instant::now() + LIMIT;
        let four = self.family(permit, RecordType::A, deadline);
        let (four, six) = if (self.ipv6_route)() {
            let six = self.family(permit, RecordType::AAAA, deadline);
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
                Ok(found) => {
                    ttl = ttl.min(found.ttl);
                    addresses.extend(found.addresses);
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

    async fn family(
        &self,
        permit: &LookupPermit,
        qtype: RecordType,
        deadline: Instant,
    ) -> Result<FoundFamily, UpstreamError> {
        let mut chain = Chain::new(permit.name().clone(), qtype);
        let mut permit = permit.clone();
        for _ in 0..MAX_QUESTIONS {
            let by_zone = self.servers.load_full();
            let servers = by_zone.servers_for(permit.name().as_ref());
            let on_demand = Attempts::OnDemand { deadline };
            let answered = query(servers, &permit, qtype, on_demand, &Progress::default()).await?;
            let zone = by_zone.suffix_for(permit.name().as_ref());
            let within = |name: NameRef<'_>| by_zone.suffix_for(name) == zone;
            match chain.follow(answered.message, within) {
                Ok(true) => break,
                Ok(false) => permit = permit.follow(chain.end().clone()),
                Err(error) => {
                    let detail = format!("resolver {}: {error}", answered.server);
                    let (server, attempts) = (answered.server, answered.attempts);
                    return Err(UpstreamError::failed(detail, server, attempts));
                }
            }
        }
        Ok(FoundFamily {
            addresses: chain.addresses().collect(),
            ttl: chain.ttl(),
        })
    }
}
