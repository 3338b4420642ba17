//! Leases: which name gave out which address, on which ports, until when.
//!
//! Answers "the attacker's address with a listed name's SNI": a direct connection is judged by the
//! names that own its address here, and only an answer that this gateway gave out makes an owner.
//! A lease outlives its TTL by a grace, because programs hold addresses longer than DNS says.
//!
//! Invariant: [`Leases::grant`] returns `Ok` only after the table and the kernel's gate both hold
//! the address, and nothing is put into an answer before it does.
//!
//! The table is one sandbox's; another sandbox's table cannot be reached through it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use portcullis_names::{Name, PortSet};
use smallvec::SmallVec;

use crate::Clock;

/// How long a lease outlives the TTL of the answer that made it.
pub const LEASE_GRACE: Duration = Duration::from_secs(300);

/// Leases (pairs of address and name) of one sandbox.
const MAX_LEASES: usize = 65_536;

/// Addresses leased to one name at a time.
const MAX_ADDRESSES_PER_NAME: usize = 512;

/// Names that may own one address at a time (many names share a CDN's addresses).
const MAX_NAMES_PER_ADDRESS: usize = 1_024;

/// What a sweep of a full table leaves, so that the next grant does not sweep again.
const SWEEP_TO: usize = MAX_LEASES / 8 * 7;

/// A table full of fresh leases is not swept again for this long.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// The kernel's set of addresses that a sandbox may connect to.
pub trait AddressGate: Send + Sync {
    /// Lets the sandbox connect to `address` on `ports` for `ttl` from now on.
    ///
    /// Called before the answer that names the address is sent, so it must have taken effect when
    /// it returns. Called again to renew, and for other names' ports on the same address.
    ///
    /// # Errors
    /// The kernel's refusal; the answer is then not given out.
    fn open(&self, address: IpAddr, ports: &PortSet, ttl: Duration) -> io::Result<()>;
}

/// A gate that has nothing to open: where no kernel set stands before the gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGate;

impl AddressGate for NoGate {
    fn open(&self, _address: IpAddr, _ports: &PortSet, _ttl: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// Why an address could not be leased; the answer is then not given out.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The table holds as many fresh leases as it may.
    #[error("too many leased addresses")]
    Full,
    /// The kernel did not take the address.
    #[error("the kernel's gate did not open: {0}")]
    Gate(#[from] io::Error),
}

/// One grant, whole: what [`Leases::grant`] spells out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant<'a> {
    /// The listed name that the address is given out for.
    pub name: &'a Name,
    /// The end of the name's CNAME chain, where there is one.
    pub canonical: Option<&'a Name>,
    /// The ports on which the policy lets the name be reached.
    pub ports: &'a PortSet,
    /// How long the answer holds.
    pub ttl: Duration,
}

#[derive(Clone, Debug)]
struct Lease {
    name: Name,
    canonical: Option<Name>,
    ports: PortSet,
    /// Until then the sandbox may rightly believe its answer: never evicted before.
    fresh_until: Instant,
    until: Instant,
}

#[derive(Debug, Default)]
struct Table {
    by_address: HashMap<IpAddr, SmallVec<[Lease; 1]>>,
    by_name: HashMap<Name, SmallVec<[IpAddr; 4]>>,
    leases: usize,
    no_sweep_until: Option<Instant>,
}

/// One sandbox's leases.
pub struct Leases {
    gate: Box<dyn AddressGate>,
    clock: Clock,
    table: RwLock<Table>,
    /// Counts evictions of leases that had not run out: a cached answer that was leased under an
    /// older count must be leased again before it is given out.
    evictions: AtomicU64,
}

impl Leases {
    /// An empty table in front of `gate`.
    pub fn new(gate: Box<dyn AddressGate>, clock: Clock) -> Leases {
        Leases {
            gate,
            clock,
            table: RwLock::default(),
            evictions: AtomicU64::new(0),
        }
    }

    /// Records that `name` owns `address` on `ports` for `ttl` and the grace after it, and opens
    /// the gate for as long. Granting again renews; it never shortens.
    ///
    /// # Errors
    /// See [`GrantError`].
    pub fn grant(
        &self,
        address: IpAddr,
        name: &Name,
        ports: &PortSet,
        ttl: Duration,
    ) -> Result<(), GrantError> {
        self.grant_chain(
            address,
            Grant {
                name,
                canonical: None,
                ports,
                ttl,
            },
        )
    }

    /// [`Leases::grant`] with the canonical name that reverse lookups answer.
    pub(crate) fn grant_chain(&self, address: IpAddr, grant: Grant<'_>) -> Result<(), GrantError> {
        let now = self.clock.now();
        let lifetime = grant.ttl + LEASE_GRACE;
        {
            let mut table = self.write();
            let evicted = table.insert(address, &grant, now, now + lifetime)?;
            if evicted > 0 {
                self.evictions.fetch_add(1, Ordering::AcqRel);
            }
        }
        // Outside the lock: it is a system call. The lease stands already, so a connection that
        // races ahead of the answer meets the same verdict.
        self.gate.open(address, grant.ports, lifetime)?;
        Ok(())
    }

    /// The listed names that own `address` now, oldest first.
    pub fn names_for(&self, address: IpAddr) -> Vec<Name> {
        let now = self.clock.now();
        match self.read().by_address.get(&address) {
            None => Vec::new(),
            Some(leases) => leases
                .iter()
                .filter(|lease| now < lease.until)
                .map(|l| l.name.clone())
                .collect(),
        }
    }

    /// Whether any listed name owns `address` now.
    pub fn is_leased(&self, address: IpAddr) -> bool {
        let now = self.clock.now();
        let table = self.read();
        table
            .by_address
            .get(&address)
            .is_some_and(|l| l.iter().any(|lease| now < lease.until))
    }

    /// The ports on which the names that own `address` were given out, joined.
    pub fn ports_for(&self, address: IpAddr) -> Option<PortSet> {
        let now = self.clock.now();
        let table = self.read();
        let mut live = table
            .by_address
            .get(&address)?
            .iter()
            .filter(|lease| now < lease.until);
        let first = live.next()?.ports.clone();
        Some(live.fold(first, |ports, lease| ports.union(&lease.ports)))
    }

    /// Owners of `address` with the canonical name of the chain that gave it out, latest first.
    pub(crate) fn owners(&self, address: IpAddr) -> SmallVec<[(Name, Option<Name>); 2]> {
        let now = self.clock.now();
        let table = self.read();
        let Some(leases) = table.by_address.get(&address) else {
            return SmallVec::new();
        };
        let mut live: SmallVec<[&Lease; 2]> = leases.iter().filter(|l| now < l.until).collect();
        live.sort_by_key(|lease| std::cmp::Reverse(lease.fresh_until));
        live.into_iter()
            .map(|l| (l.name.clone(), l.canonical.clone()))
            .collect()
    }

    /// Changes whenever a lease that had not run out was given up.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Acquire)
    }

    /// Leases held now, those that ran out but were not swept yet included.
    pub fn len(&self) -> usize {
        self.read().leases
    }

    /// Whether nothing is leased.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // A poisoned lock means that a thread panicked while it held the table; every update below
    // leaves it usable at each step, and refusing all lookups for ever would help nobody.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Inserts or renews; returns how many leases that had not run out made room for it.
    fn insert(
        &mut self,
        address: IpAddr,
        grant: &Grant<'_>,
        now: Instant,
        until: Instant,
    ) -> Result<usize, GrantError> {
        let fresh_until = now + grant.ttl;
        if let Some(lease) = self
            .by_address
            .get_mut(&address)
            .and_then(|leases| leases.iter_mut().find(|lease| lease.name == *grant.name))
        {
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
        });
        self.by_name
            .entry(grant.name.clone())
            .or_default()
            .push(address);
        self.leases += 1;
        Ok(evicted)
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
            let addresses = self.by_name.get(name).cloned().unwrap_or_default();
            let oldest = addresses
                .iter()
                .filter_map(|a| Some((*a, self.lease(*a, name)?.fresh_until)))
                .filter(|(_, fresh_until)| *fresh_until <= now)
                .min_by_key(|(_, fresh_until)| *fresh_until);
            let (victim, _) = oldest.ok_or(GrantError::Full)?;
            evicted += self.remove(victim, &name.clone(), now);
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
                .filter(|lease| lease.fresh_until <= now)
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
            .filter(|(_, lease)| lease.fresh_until <= now)
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

    fn lease(&self, address: IpAddr, name: &Name) -> Option<&Lease> {
        self.by_address
            .get(&address)?
            .iter()
            .find(|lease| lease.name == *name)
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

#[cfg(test)]
mod tests;
