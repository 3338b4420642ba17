//! The table behind [`Leases`](super::Leases): who owns which address, and who must make room.
//!
//! Answers *exhaustion* (docs/threats.md): leases are bounded for a name, for an address and in
//! total, and what makes room has neither a fresh answer nor a connection.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_names::{Name, PortSet};
use smallvec::SmallVec;

use super::grant::{Grant, GrantError};
use super::pool::Pool;

/// Leases (pairs of address and name) of one sandbox.
pub(super) const MAX_LEASES: usize = 65_536;

/// Addresses leased to one name at a time.
pub(super) const MAX_ADDRESSES_PER_NAME: usize = 512;

/// Names that may own one address at a time (many names share a CDN's addresses).
pub(super) const MAX_NAMES_PER_ADDRESS: usize = 1_024;

/// What a sweep of a full table leaves, so that the next grant does not sweep again.
pub(super) const SWEEP_TO: usize = MAX_LEASES / 8 * 7;

/// A table full of fresh leases is not swept again for this long.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What the connections of one lease share: their number is its strong count less the table's own.
pub(super) type Users = Arc<()>;

/// When a lease is held, and how long it must last.
#[derive(Clone, Copy, Debug)]
pub(super) struct HoldTimes {
    pub now: Instant,
    /// A lease that would end before is renewed.
    pub soon: Instant,
    /// Until then.
    pub until: Instant,
}

/// A share in a lease.
#[derive(Debug)]
pub(super) struct Held {
    pub users: Users,
    /// The ports to open again, where the lease was renewed.
    pub renewed: Option<PortSet>,
}

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub name: Name,
    pub canonical: Option<Name>,
    pub ports: PortSet,
    /// Until then the sandbox may rightly believe its answer: never evicted before.
    pub fresh_until: Instant,
    pub until: Instant,
    /// The freshness for which the kernel's gate is known to be open; synthetic leases only, whose
    /// answers are given out again without asking the gate.
    pub opened: Option<Instant>,
    users: Option<Users>,
}

impl Lease {
    fn is_held(&self) -> bool {
        self.users
            .as_ref()
            .is_some_and(|users| Arc::strong_count(users) > 1)
    }

    pub(super) fn lives(&self, now: Instant) -> bool {
        now < self.until || self.is_held()
    }

    fn may_go(&self, now: Instant) -> bool {
        self.fresh_until <= now && !self.is_held()
    }
}

/// What the kernel's gate is to be told about an address after the policy changed.
#[derive(Debug)]
pub(super) struct Change {
    pub address: IpAddr,
    pub opened: PortSet,
    pub closed: PortSet,
    pub left: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    by_address: HashMap<IpAddr, SmallVec<[Lease; 1]>>,
    by_name: HashMap<Name, SmallVec<[IpAddr; 4]>>,
    leases: usize,
    no_sweep_until: Option<Instant>,
    /// Leases that a connection used since the last [`Table::renew_held`].
    held: HashSet<(IpAddr, Name)>,
    /// Places of the synthetic range, where there is one.
    pub(super) pool: Option<Pool>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.leases
    }

    /// The leases of an address that live now, oldest first.
    pub(super) fn live(&self, address: IpAddr, now: Instant) -> impl Iterator<Item = &Lease> {
        let leases = self.by_address.get(&address);
        leases.into_iter().flatten().filter(move |l| l.lives(now))
    }

    /// The lease of an address to a name.
    pub(super) fn lease(&self, address: IpAddr, name: &Name) -> Option<&Lease> {
        let leases = self.by_address.get(&address)?;
        leases.iter().find(|lease| lease.name == *name)
    }

    pub(super) fn lease_mut(&mut self, address: IpAddr, name: &Name) -> Option<&mut Lease> {
        let leases = self.by_address.get_mut(&address)?;
        leases.iter_mut().find(|lease| lease.name == *name)
    }

    /// How long the gate must stay open for these ports of an address: as long as the longest lease
    /// that any name has there, since one element of the kernel's set stands for all of them.
    pub(super) fn open_for(&self, address: IpAddr, ports: &PortSet, now: Instant) -> Duration {
        self.live(address, now)
            .filter(|lease| lease.ports.overlaps(ports))
            .map(|lease| lease.until.saturating_duration_since(now))
            .max()
            .unwrap_or(Duration::ZERO)
    }

    /// Inserts or renews; returns how many leases that had not run out made room for it.
    pub(super) fn insert(
        &mut self,
        address: IpAddr,
        grant: &Grant<'_>,
        now: Instant,
        until: Instant,
    ) -> Result<usize, GrantError> {
        let fresh_until = now + grant.ttl;
        if let Some(lease) = self.lease_mut(address, grant.name) {
            lease.fresh_until = lease.fresh_until.max(fresh_until);
            lease.until = lease.until.max(until);
            lease.ports = grant.ports.clone();
            if grant.canonical.is_some() {
                lease.canonical = grant.canonical.cloned();
            }
            return Ok(0);
        }
        let evicted = self.make_room(address, grant.name, now)?;
        self.by_address.entry(address).or_default().push(Lease {
            name: grant.name.clone(),
            canonical: grant.canonical.cloned(),
            ports: grant.ports.clone(),
            fresh_until,
            until,
            opened: None,
            users: None,
        });
        self.by_name
            .entry(grant.name.clone())
            .or_default()
            .push(address);
        self.leases += 1;
        Ok(evicted)
    }

    /// Gives `name` the only lease of an address: whoever had it before is gone for good.
    pub(super) fn insert_alone(
        &mut self,
        address: IpAddr,
        grant: &Grant<'_>,
        now: Instant,
        until: Instant,
    ) -> Result<usize, GrantError> {
        let before = self.by_address.get(&address).into_iter().flatten();
        let others: SmallVec<[Name; 1]> = before
            .filter(|lease| lease.name != *grant.name)
            .map(|lease| lease.name.clone())
            .collect();
        for other in others {
            self.remove(address, &other, now);
        }
        self.insert(address, grant, now, until)
    }

    /// A share in the lease of an address to a name: while it lives, so does the lease.
    pub(super) fn hold(&mut self, address: IpAddr, name: &Name, times: HoldTimes) -> Option<Held> {
        let HoldTimes { now, soon, until } = times;
        let lease = self.lease_mut(address, name).filter(|l| l.lives(now))?;
        let renewed = (lease.until < soon).then(|| {
            lease.until = until;
            lease.ports.clone()
        });
        let users = lease.users.get_or_insert_with(Users::default).clone();
        self.held.insert((address, name.clone()));
        if renewed.is_some() {
            self.keep_place(address, until);
        }
        Some(Held { users, renewed })
    }

    fn keep_place(&mut self, address: IpAddr, until: Instant) {
        if let (IpAddr::V4(address), Some(pool)) = (address, &mut self.pool) {
            pool.keep(address, until);
        }
    }

    /// Whether a connection uses any lease of the address.
    pub(super) fn is_held(&self, address: IpAddr) -> bool {
        let leases = self.by_address.get(&address);
        leases.into_iter().flatten().any(Lease::is_held)
    }

    /// Renews every lease that a connection uses until `until`, and forgets the users of those that
    /// none uses any more. Returns what the gate is to keep open.
    pub(super) fn renew_held(&mut self, until: Instant) -> Vec<(IpAddr, PortSet)> {
        let mut renewed = Vec::new();
        for (address, name) in std::mem::take(&mut self.held) {
            let Some(lease) = self.lease_mut(address, &name) else {
                continue;
            };
            if !lease.is_held() {
                lease.users = None;
                continue;
            }
            if lease.until < until {
                lease.until = until;
                renewed.push((address, lease.ports.clone()));
                self.keep_place(address, until);
            }
            self.held.insert((address, name));
        }
        renewed
    }

    /// Gives every lease the ports that `ports_of` has for its name now. The leases of names that are
    /// no longer listed stay, without ports, so that a refusal still knows the name.
    pub(super) fn follow(
        &mut self,
        now: Instant,
        ports_of: impl Fn(&Name) -> PortSet,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (address, leases) in &mut self.by_address {
            let union = |leases: &[Lease]| {
                let live = leases.iter().filter(|lease| lease.lives(now));
                live.fold(PortSet::EMPTY, |ports, lease| ports.union(&lease.ports))
            };
            let before = union(leases);
            for lease in leases.iter_mut() {
                let ports = ports_of(&lease.name);
                if lease.ports != ports {
                    lease.ports = ports;
                    lease.opened = None;
                }
            }
            let after = union(leases);
            if before != after {
                let left = leases
                    .iter()
                    .map(|lease| lease.until.saturating_duration_since(now));
                changes.push(Change {
                    address: *address,
                    closed: before.difference(&after),
                    opened: after,
                    left: left.max().unwrap_or(Duration::ZERO),
                });
            }
        }
        changes
    }

    fn make_room(
        &mut self,
        address: IpAddr,
        name: &Name,
        now: Instant,
    ) -> Result<usize, GrantError> {
        let mut evicted = 0;
        let of_name = self
            .by_name
            .get(name)
            .map_or(0, |addresses| addresses.len());
        if of_name >= MAX_ADDRESSES_PER_NAME {
            let addresses = self.by_name.get(name).into_iter().flatten();
            let oldest = addresses
                .filter_map(|a| Some((*a, self.lease(*a, name)?)))
                .filter(|(_, lease)| lease.may_go(now))
                .min_by_key(|(_, lease)| lease.fresh_until);
            let (victim, _) = oldest.ok_or(GrantError::Full)?;
            evicted += self.remove(victim, name, now);
        }
        let of_address = self
            .by_address
            .get(&address)
            .map_or(0, |leases| leases.len());
        if of_address >= MAX_NAMES_PER_ADDRESS {
            let victim = self
                .by_address
                .get(&address)
                .into_iter()
                .flatten()
                .filter(|lease| lease.may_go(now))
                .min_by_key(|lease| lease.fresh_until)
                .map(|lease| lease.name.clone())
                .ok_or(GrantError::Full)?;
            evicted += self.remove(address, &victim, now);
        }
        if self.leases >= MAX_LEASES {
            evicted += self.sweep(now)?;
        }
        Ok(evicted)
    }

    /// Frees an eighth of a full table: what has run out first, then what lives on grace alone.
    fn sweep(&mut self, now: Instant) -> Result<usize, GrantError> {
        if self.no_sweep_until.is_some_and(|until| now < until) {
            return Err(GrantError::Full);
        }
        let mut stale: Vec<(Instant, IpAddr, Name)> = self
            .by_address
            .iter()
            .flat_map(|(address, leases)| leases.iter().map(move |lease| (*address, lease)))
            .filter(|(_, lease)| lease.may_go(now))
            .map(|(address, lease)| (lease.fresh_until, address, lease.name.clone()))
            .collect();
        stale.sort_by_key(|(fresh_until, ..)| *fresh_until);
        let mut evicted = 0;
        for (_, address, name) in stale {
            if self.leases <= SWEEP_TO {
                break;
            }
            evicted += self.remove(address, &name, now);
        }
        if self.leases >= MAX_LEASES {
            self.no_sweep_until = Some(now + SWEEP_PAUSE);
            return Err(GrantError::Full);
        }
        Ok(evicted)
    }

    /// Removes one lease; 1 if it had not run out, else 0.
    fn remove(&mut self, address: IpAddr, name: &Name, now: Instant) -> usize {
        let mut lived = 0;
        if let Entry::Occupied(mut entry) = self.by_address.entry(address) {
            if let Some(at) = entry.get().iter().position(|lease| lease.name == *name) {
                let lease = entry.get_mut().remove(at);
                lived = usize::from(now < lease.until);
                self.leases -= 1;
            }
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        if let Entry::Occupied(mut entry) = self.by_name.entry(name.clone()) {
            entry.get_mut().retain(|a| *a != address);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        lived
    }
}
