//! Grants an answer's addresses to the listed names that it is for, before it is given out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_names::Name;
use portcullis_policy::LookupPermit;

use crate::Clock;
use crate::canonical_names::CanonicalNames;
use crate::entry::Entry;
use crate::leases::{Grant, GrantError, Leases};
use crate::lookup::Permits;

/// Leases addresses and learns canonical names.
#[derive(Clone)]
pub(crate) struct Grants {
    pub leases: Arc<Leases>,
    pub canonical_names: Arc<CanonicalNames>,
    pub clock: Clock,
}

impl Grants {
    /// Leases one address to the listed name of a permit, for connections and datagrams.
    pub(crate) fn grant(
        &self,
        permit: &LookupPermit,
        address: IpAddr,
        canonical: Option<&Name>,
        ttl: Duration,
    ) -> Result<(), GrantError> {
        let grant = Grant {
            name: permit.listed(),
            canonical,
            ports: permit.ports(),
            ttl,
        };
        self.leases.grant_chain(address, grant)?;
        self.leases.open_datagrams(address, permit.udp_ports(), ttl)
    }

    /// Leases an answer's addresses, and learns its chain.
    pub(crate) fn grant_entry(&self, permits: &Permits, entry: &Entry) -> Result<(), GrantError> {
        let state = self.leases.evictions();
        let ttl = entry.left(self.clock.now());
        let mut followed = false;
        for permit in permits {
            let own_name = (permit.name() != permit.listed()).then(|| permit.name());
            followed |= own_name.is_some();
            let canonical = entry.canonical().or(own_name);
            for address in &entry.addresses {
                self.grant(permit, *address, canonical, ttl)?;
            }
        }
        self.learn_chain(permits, entry);
        // A canonical name's owners change from one question to the next: grant each time.
        // What is given out again is granted each time too: its age is no guide to its lease's.
        if !followed && !entry.is_stale() {
            entry.set_leased(state);
        }
        Ok(())
    }

    /// Remembers which listed names the names of an answer's chain stand for.
    pub(crate) fn learn_chain(&self, permits: &Permits, entry: &Entry) {
        let now = self.clock.now();
        let until = now + entry.left(now) + self.leases.grace();
        for permit in permits {
            for target in &entry.targets {
                let listed = permit.listed();
                self.canonical_names.learn(target, listed, now, until);
            }
        }
    }
}
