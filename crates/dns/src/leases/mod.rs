//! Leases: which name gave out which address, on which ports, until when.
//!
//! Answers *decision and destination differ* (docs/threats.md): a direct connection is judged by
//! the names that own its address here, and only an answer that this gateway gave out makes an
//! owner. A lease outlives its TTL by a grace, because programs hold addresses longer than DNS
//! says, and lives for as long as a connection uses it.
//!
//! Where answers are synthetic, an address of a private range stands for one name alone, so that a
//! direct connection keeps its name ([`Owner::Synthetic`]). Such an address has no place outside.
//!
//! Invariant: a grant returns `Ok` only after the table and the kernel's gate both hold the address,
//! and nothing is put into an answer before it does.
//! Invariant: an address of the synthetic range has at most one owner.
//!
//! The table is one sandbox's; another sandbox's table cannot be reached through it.

mod gate;
mod grant;
mod pool;
mod table;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use portcullis_names::{Name, PortSet};
use portcullis_policy::{Asked, CowName, Policy};
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

use crate::Clock;

pub use self::gate::{AddressGate, NoGate};
pub(crate) use self::grant::Grant;
pub use self::grant::GrantError;
use self::pool::Pool;
pub use self::pool::SYNTHETIC_RANGE;
use self::table::{HoldTimes, Lease, Table, Users};

/// How long a lease outlives the TTL of the answer that made it.
pub const LEASE_GRACE: Duration = Duration::from_secs(300);

/// The TTL of a synthetic answer: programs ask again while they use the name, and what is not asked
/// for any more can be reclaimed soon.
pub const SYNTHETIC_TTL: Duration = Duration::from_secs(60);

/// A synthetic answer is given out again, with the seconds it has left, down to this many; with less
/// its lease is renewed first.
const SYNTHETIC_RENEWAL: Duration = Duration::from_secs(30);

/// How often the leases of connections are renewed, as a part of the grace.
const RENEWALS_PER_GRACE: u32 = 3;

/// The shortest pause between two renewals.
const MIN_RENEWAL_PAUSE: Duration = Duration::from_millis(100);

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The listed names that DNS gave the address out for, oldest first; perhaps none.
    Names(Vec<Name>),
    /// The address is of the synthetic range: it stands for this name, or for nothing. It is never
    /// dialled.
    Synthetic(Option<Name>),
}

impl Owner {
    /// The address that it is the owner of, as a destination.
    pub fn asked(self, address: IpAddr) -> Asked<'static> {
        match self {
            Owner::Names(names) => Asked::Address {
                address,
                owners: names.into(),
            },
            Owner::Synthetic(name) => Asked::Synthetic {
                address,
                name: name.map(CowName::Owned),
            },
        }
    }
}

/// A name that an address was given out for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeasedName {
    pub listed: Name,
    /// The end of the CNAME chain that gave the address out, where there is one.
    pub canonical: Option<Name>,
}

/// A synthetic address and the TTL to give it out with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntheticGrant {
    /// The address.
    pub address: Ipv4Addr,
    /// Less than its lease lasts.
    pub ttl: Duration,
}

/// A connection's share in its lease: while it lives the lease does not run out, is not evicted and
/// is kept open in the kernel's set.
#[derive(Debug)]
pub struct Hold {
    _users: Users,
}

/// One sandbox's leases.
pub struct Leases {
    gate: Box<dyn AddressGate>,
    clock: Clock,
    grace: Duration,
    range: OnceLock<Ipv4Net>,
    table: RwLock<Table>,
    /// Counts evictions of leases that had not run out: a cached answer that was leased under an
    /// older count must be leased again before it is given out.
    evictions: AtomicU64,
}

impl Leases {
    /// An empty table in front of `gate`, without synthetic addresses.
    pub fn new(gate: Box<dyn AddressGate>, clock: Clock) -> Leases {
        Leases {
            gate,
            clock,
            grace: LEASE_GRACE,
            range: OnceLock::new(),
            table: RwLock::default(),
            evictions: AtomicU64::new(0),
        }
    }

    /// Another grace than [`LEASE_GRACE`].
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Leases {
        self.grace = grace;
        self
    }

    /// How long a lease outlives its TTL here.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Takes synthetic addresses from `range` from now on. Once set, the range stays: programs hold
    /// addresses of it. `false`: another one is in use.
    pub fn use_synthetic_range(&self, range: Ipv4Net) -> bool {
        let range = range.trunc();
        let mut table = self.write();
        if *self.range.get_or_init(|| range) != range {
            return false;
        }
        table.pool.get_or_insert_with(|| Pool::new(range));
        true
    }

    /// The range that synthetic addresses are taken from, where there is one.
    pub fn synthetic_range(&self) -> Option<Ipv4Net> {
        self.range.get().copied()
    }

    /// Whether `address` is of the synthetic range: it means something in here, and nothing outside.
    pub fn is_synthetic(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address.to_canonical() else {
            return false;
        };
        self.range
            .get()
            .is_some_and(|range| range.contains(&address))
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
        if self.is_synthetic(address) {
            return Err(GrantError::Synthetic);
        }
        let now = self.clock.now();
        let left = {
            let mut table = self.write();
            let evicted = table.insert(address, &grant, now, now + grant.ttl + self.grace)?;
            self.count_evicted(evicted);
            table.open_for(address, grant.ports, now)
        };
        // Outside the lock: it is a system call. The lease stands already, so a connection that
        // races ahead of the answer meets the same verdict.
        self.gate.open(address, grant.ports, left)?;
        Ok(())
    }

    /// Lets datagrams to `ports` of a leased address through for `ttl` and the grace after it. Each is
    /// decided on again by lease and rule when its flow begins.
    ///
    /// # Errors
    /// See [`GrantError`].
    pub fn open_datagrams(
        &self,
        address: IpAddr,
        ports: &PortSet,
        ttl: Duration,
    ) -> Result<(), GrantError> {
        if !ports.is_empty() {
            self.gate.open_datagrams(address, ports, ttl + self.grace)?;
        }
        Ok(())
    }

    /// Opens the gate for connections to one port of `address` for `ttl`. Nothing is leased: each is
    /// decided on when it comes.
    ///
    /// # Errors
    /// See [`GrantError`].
    pub fn open_port(&self, address: IpAddr, port: u16, ttl: Duration) -> Result<(), GrantError> {
        Ok(self.gate.open(address, &PortSet::single(port), ttl)?)
    }

    /// The synthetic address that stands for `name`, leased and open on `ports`, and the TTL to give
    /// it out with. A name keeps its address for as long as it is asked for or used.
    ///
    /// # Errors
    /// See [`GrantError`].
    pub fn grant_synthetic(
        &self,
        name: &Name,
        ports: &PortSet,
    ) -> Result<SyntheticGrant, GrantError> {
        let now = self.clock.now();
        if let Some(fresh) = self.fresh_synthetic(name, ports, now) {
            return Ok(fresh);
        }
        let grant = Grant {
            name,
            canonical: None,
            ports,
            ttl: SYNTHETIC_TTL,
        };
        let fresh_until = now + SYNTHETIC_TTL;
        let until = fresh_until + self.grace;
        let (address, left) = {
            let mut table = self.write();
            let mut pool = table.pool.take().ok_or(GrantError::NoRange)?;
            let assigned = pool.assign(name, now, self.grace, |a| table.is_held(a));
            let range = pool.range();
            let pool = table.pool.insert(pool);
            let address = assigned.ok_or(GrantError::RangeFull(range))?;
            pool.keep(address, until);
            let evicted = table.insert_alone(address.into(), &grant, now, until)?;
            self.count_evicted(evicted);
            (address, table.open_for(address.into(), ports, now))
        };
        self.gate.open(address.into(), ports, left)?;
        if let Some(lease) = self.write().lease_mut(address.into(), name) {
            lease.opened = lease.opened.max(Some(fresh_until));
        }
        Ok(SyntheticGrant {
            address,
            ttl: SYNTHETIC_TTL,
        })
    }

    /// An answer that was given out a short while ago, and needs neither lease nor gate renewed.
    fn fresh_synthetic(
        &self,
        name: &Name,
        ports: &PortSet,
        now: Instant,
    ) -> Option<SyntheticGrant> {
        let table = self.read();
        let address = table.pool.as_ref()?.address_of(name.as_ref())?;
        let lease = table.lease(address.into(), name)?;
        let ttl = lease.opened?.saturating_duration_since(now);
        let fresh = ttl >= SYNTHETIC_RENEWAL && lease.ports == *ports;
        fresh.then_some(SyntheticGrant { address, ttl })
    }

    /// Whose `address` is now.
    pub fn owner(&self, address: IpAddr) -> Owner {
        let names = self.names_for(address);
        if self.is_synthetic(address) {
            Owner::Synthetic(names.into_iter().next())
        } else {
            Owner::Names(names)
        }
    }

    /// The listed names that own `address` now, oldest first.
    pub fn names_for(&self, address: IpAddr) -> Vec<Name> {
        let now = self.clock.now();
        let table = self.read();
        table.live(address, now).map(|l| l.name.clone()).collect()
    }

    /// Whether any listed name owns `address` now.
    pub fn is_leased(&self, address: IpAddr) -> bool {
        let now = self.clock.now();
        self.read().live(address, now).next().is_some()
    }

    /// Owners of `address` with the canonical name of the chain that gave it out, latest first.
    pub(crate) fn owners(&self, address: IpAddr) -> SmallVec<[LeasedName; 2]> {
        let now = self.clock.now();
        let table = self.read();
        let mut live: SmallVec<[&Lease; 2]> = table.live(address, now).collect();
        live.sort_by_key(|lease| std::cmp::Reverse(lease.fresh_until));
        live.into_iter()
            .map(|lease| LeasedName {
                listed: lease.name.clone(),
                canonical: lease.canonical.clone(),
            })
            .collect()
    }

    /// A share in the lease of `address` to `name`, for a connection that uses it; `None` where
    /// there is no such lease.
    pub fn hold(&self, address: IpAddr, name: &Name) -> Option<Hold> {
        let now = self.clock.now();
        // What is left must reach to the next renewal of all that is held, and some more.
        let soon = now + self.renewal_pause() * 2;
        let times = HoldTimes {
            now,
            soon,
            until: now + self.grace,
        };
        let held = self.write().hold(address, name, times)?;
        if let Some(ports) = held.renewed {
            let left = self.read().open_for(address, &ports, now);
            // Refused, it is tried again with the others; this connection stands already.
            let _ = self.gate.open(address, &ports, left);
        }
        Some(Hold { _users: held.users })
    }

    fn renewal_pause(&self) -> Duration {
        (self.grace / RENEWALS_PER_GRACE).max(MIN_RENEWAL_PAUSE)
    }

    /// Renews the leases that connections use, for a grace from now on, and keeps the gate open for
    /// them: a second connection must be possible during a long first one.
    ///
    /// # Errors
    /// The first refusal of the kernel; the leases are renewed all the same.
    pub fn renew_held(&self) -> io::Result<()> {
        let now = self.clock.now();
        let renewed = self.write().renew_held(now + self.grace);
        let mut result = Ok(());
        for (address, ports) in renewed {
            let left = self.read().open_for(address, &ports, now);
            let opened = self.gate.open(address, &ports, left);
            result = result.and(opened);
        }
        result
    }

    /// [`Leases::renew_held`], again and again, until `token` is cancelled.
    pub async fn keep_held(&self, token: CancellationToken) {
        let pause = self.renewal_pause();
        while token
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            // A kernel that refuses one renewal is asked again before the grace has run out.
            let _ = self.renew_held();
        }
    }

    /// Takes over a policy that was swapped in: leases of names that it still lists live on with the
    /// ports that they have there, the others have none, and the gate follows.
    ///
    /// # Errors
    /// The first refusal of the kernel. The table follows all the same, and every accept is decided
    /// on anew.
    pub fn follow(&self, policy: &Policy) -> io::Result<()> {
        let now = self.clock.now();
        let changes = self
            .write()
            .follow(now, |name| policy.ports_for(name.as_ref()));
        let mut result = Ok(());
        for change in changes {
            if !change.opened.is_empty() {
                let opened = self.gate.open(change.address, &change.opened, change.left);
                result = result.and(opened);
            }
            if !change.closed.is_empty() {
                result = result.and(self.gate.close(change.address, &change.closed));
            }
        }
        result
    }

    /// Changes whenever a lease that had not run out was given up.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Acquire)
    }

    fn count_evicted(&self, evicted: usize) {
        if evicted > 0 {
            self.evictions.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Leases held now, those that ran out but were not swept yet included.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether nothing is leased.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // A poisoned lock means that a thread panicked while it held the table; every update
    // leaves it usable at each step, and refusing all lookups for ever would help nobody.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
