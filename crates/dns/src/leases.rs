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
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Mutex};

    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn name(text: &str) -> Name {
        Name::from_policy(text).unwrap()
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0xC633_6400 + n))
    }

    fn leases() -> (Leases, Clock) {
        let clock = Clock::manual();
        (Leases::new(Box::new(NoGate), clock.clone()), clock)
    }

    #[derive(Clone, Default)]
    struct Noted(Arc<Mutex<Vec<(IpAddr, PortSet, Duration)>>>);
    impl AddressGate for Noted {
        fn open(&self, address: IpAddr, ports: &PortSet, ttl: Duration) -> io::Result<()> {
            self.0.lock().unwrap().push((address, ports.clone(), ttl));
            Ok(())
        }
    }

    struct Shut;
    impl AddressGate for Shut {
        fn open(&self, _: IpAddr, _: &PortSet, _: Duration) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(1))
        }
    }

    #[test]
    fn two_names_on_one_address_are_both_owners_on_their_own_ports() {
        let (leases, _) = leases();
        leases
            .grant(address(1), &name("a.example"), &PortSet::WEB, TTL)
            .unwrap();
        leases
            .grant(address(1), &name("b.example"), &PortSet::single(5432), TTL)
            .unwrap();
        assert_eq!(
            leases.names_for(address(1)),
            vec![name("a.example"), name("b.example")]
        );
        let ports = leases.ports_for(address(1)).unwrap();
        assert!(ports.contains(443) && ports.contains(5432) && !ports.contains(22));
        assert!(leases.names_for(address(2)).is_empty());
        assert!(leases.ports_for(address(2)).is_none());
    }

    #[test]
    fn a_lease_outlives_its_ttl_by_the_grace_and_no_longer() {
        let (leases, clock) = leases();
        leases
            .grant(address(1), &name("a.example"), &PortSet::WEB, TTL)
            .unwrap();
        clock.advance(TTL + LEASE_GRACE - Duration::from_millis(1));
        assert!(leases.is_leased(address(1)));
        clock.advance(Duration::from_millis(1));
        assert!(!leases.is_leased(address(1)));
        assert!(leases.names_for(address(1)).is_empty());
        assert!(leases.owners(address(1)).is_empty());
    }

    #[test]
    fn a_renewal_never_shortens_and_renews_the_kernels_timeout() {
        let clock = Clock::manual();
        let noted = Noted::default();
        let leases = Leases::new(Box::new(noted.clone()), clock.clone());
        leases
            .grant(address(1), &name("a.example"), &PortSet::WEB, TTL * 10)
            .unwrap();
        leases
            .grant(address(1), &name("a.example"), &PortSet::WEB, TTL)
            .unwrap();
        clock.advance(TTL * 10 + LEASE_GRACE - Duration::from_secs(1));
        assert!(leases.is_leased(address(1)));
        assert_eq!(leases.len(), 1);
        let opened = noted.0.lock().unwrap();
        assert_eq!(opened.len(), 2);
        assert_eq!(
            opened[0],
            (address(1), PortSet::WEB, TTL * 10 + LEASE_GRACE)
        );
    }

    #[test]
    fn an_address_that_the_kernel_refuses_is_not_granted() {
        let leases = Leases::new(Box::new(Shut), Clock::manual());
        let refused = leases.grant(address(1), &name("a.example"), &PortSet::WEB, TTL);
        assert!(matches!(refused, Err(GrantError::Gate(_))));
    }

    #[test]
    fn rebinding_name_holds_a_bounded_number_of_addresses_and_fresh_ones_stay() {
        let (leases, clock) = leases();
        let hostile = name("rebind.example");
        for n in 0..MAX_ADDRESSES_PER_NAME as u32 {
            leases
                .grant(address(n), &hostile, &PortSet::WEB, TTL)
                .unwrap();
        }
        let full = leases.grant(address(60_000), &hostile, &PortSet::WEB, TTL);
        assert!(
            matches!(full, Err(GrantError::Full)),
            "fresh leases are never evicted"
        );
        assert!(leases.is_leased(address(0)));
        // Another name is not harmed.
        leases
            .grant(address(60_000), &name("good.example"), &PortSet::WEB, TTL)
            .unwrap();
        let before = leases.evictions();
        clock.advance(TTL);
        leases
            .grant(address(60_001), &hostile, &PortSet::WEB, TTL)
            .unwrap();
        assert_ne!(
            leases.evictions(),
            before,
            "cached answers must be leased again"
        );
        assert_eq!(leases.len(), MAX_ADDRESSES_PER_NAME + 1);
    }

    #[test]
    fn names_on_one_address_are_bounded() {
        let (leases, clock) = leases();
        for n in 0..MAX_NAMES_PER_ADDRESS {
            leases
                .grant(
                    address(1),
                    &name(&format!("n{n}.example")),
                    &PortSet::WEB,
                    TTL,
                )
                .unwrap();
        }
        let extra = name("extra.example");
        assert!(
            leases
                .grant(address(1), &extra, &PortSet::WEB, TTL)
                .is_err()
        );
        clock.advance(TTL);
        leases
            .grant(address(1), &extra, &PortSet::WEB, TTL)
            .unwrap();
        assert_eq!(leases.names_for(address(1)).len(), MAX_NAMES_PER_ADDRESS);
    }

    #[test]
    fn a_million_addresses_keep_the_table_bounded() {
        let (leases, clock) = leases();
        let mut refused = 0;
        for n in 0..(MAX_LEASES as u32 + 1_000) {
            let owner = name(&format!("n{}.example", n / 256));
            refused += usize::from(
                leases
                    .grant(address(n), &owner, &PortSet::WEB, TTL)
                    .is_err(),
            );
        }
        assert_eq!(leases.len(), MAX_LEASES);
        assert_eq!(refused, 1_000);
        clock.advance(TTL);
        leases
            .grant(address(70_000), &name("late.example"), &PortSet::WEB, TTL)
            .unwrap();
        assert_eq!(leases.len(), SWEEP_TO + 1);
        assert!(leases.is_leased(address(70_000)));
    }

    #[test]
    fn the_latest_chain_names_the_owner() {
        let (leases, clock) = leases();
        let (a, b, end) = (name("a.example"), name("b.example"), name("end.example"));
        let grant = |name, canonical| Grant {
            name,
            canonical,
            ports: &PortSet::WEB,
            ttl: TTL,
        };
        leases
            .grant_chain(address(1), grant(&a, Some(&end)))
            .unwrap();
        clock.advance(Duration::from_secs(1));
        leases.grant_chain(address(1), grant(&b, None)).unwrap();
        let owners = leases.owners(address(1));
        assert_eq!(owners.as_slice(), &[(b, None), (a, Some(end))]);
    }
}
