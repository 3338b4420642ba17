//! Synthetic addresses: which address of a private range stands for which name.
//!
//! Answers *decision and destination differ* (docs/threats.md): an address is given to another name
//! only after its last lease, the grace and a quarantine as long as the grace have passed, no
//! connection uses it, and no address is left that was never given out. Then the one that was
//! unused for longest goes first. A name keeps its address while it is here, and gets the same one
//! again in the next run where it can (its place comes from a hash of the name).
//!
//! Only the bookkeeping of names and places: what may be reached is the table's business.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use portcullis_names::{Name, NameRef};

/// The range where none is configured: set aside for measurements between networks (RFC 2544), so
/// that nothing real is there.
pub const SYNTHETIC_RANGE: Ipv4Net = match Ipv4Net::new(Ipv4Addr::new(198, 18, 0, 0), 15) {
    Ok(net) => net,
    Err(_) => panic!("a prefix of 15 bits is one"),
};

/// Names that hold a synthetic address at a time, for one sandbox: bounds memory where the range is
/// larger.
const MAX_SYNTHETIC: usize = 65_536;

/// Places that are tried from a name's own before the next unused one is taken.
const PROBES: u32 = 8;

/// Addresses at each end of the range that are not given out: programs take the first and the last
/// address of a network for the network itself and its broadcast.
const MARGIN: u32 = 1;

/// Places of the range, by their distance from its first address.
type Place = u32;

#[derive(Debug)]
struct Slot {
    name: Name,
    /// When the name's last lease ends, its grace included.
    until: Instant,
}

/// Which name has which place.
#[derive(Debug)]
pub(super) struct Pool {
    range: Ipv4Net,
    slots: HashMap<Place, Slot>,
    by_name: HashMap<Name, Place>,
    /// Every slot by the end of its last lease: the least recently used first.
    order: BTreeSet<(Instant, Place)>,
    /// Places before this one were given out at least once, or passed over as taken.
    unused: Place,
}

impl Pool {
    pub(super) fn new(range: Ipv4Net) -> Pool {
        Pool {
            range: range.trunc(),
            slots: HashMap::new(),
            by_name: HashMap::new(),
            order: BTreeSet::new(),
            unused: MARGIN,
        }
    }

    pub(super) fn range(&self) -> Ipv4Net {
        self.range
    }

    /// The address that stands for `name` now.
    pub(super) fn address_of(&self, name: NameRef<'_>) -> Option<Ipv4Addr> {
        let place = self.by_name.get(name.as_str())?;
        Some(self.address(*place))
    }

    /// The address for `name`: its own where it has one, else one that nobody could still hold.
    /// `quarantine` is how long an address rests after its last lease; `in_use` says whether a
    /// connection uses one. The caller leases it and says until when with [`Pool::keep`].
    pub(super) fn assign(
        &mut self,
        name: &Name,
        now: Instant,
        quarantine: Duration,
        in_use: impl Fn(IpAddr) -> bool,
    ) -> Option<Ipv4Addr> {
        if let Some(place) = self.by_name.get(name) {
            return Some(self.address(*place));
        }
        let place = self
            .vacant(name.as_ref())
            .or_else(|| self.reclaim(now, quarantine, in_use))?;
        self.slots.insert(
            place,
            Slot {
                name: name.clone(),
                until: now,
            },
        );
        self.by_name.insert(name.clone(), place);
        self.order.insert((now, place));
        Some(self.address(place))
    }

    /// The lease of `address` lasts until then. Never shortens.
    pub(super) fn keep(&mut self, address: Ipv4Addr, until: Instant) {
        let Some(place) = self.place(address) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(&place)
            && slot.until < until
        {
            self.order.remove(&(slot.until, place));
            self.order.insert((until, place));
            slot.until = until;
        }
    }

    /// Places that can be given out.
    fn size(&self) -> u32 {
        let host_bits = 32 - u32::from(self.range.prefix_len());
        let all = 1_u64 << host_bits;
        // At most 2^32 - 2.
        u32::try_from(all.saturating_sub(u64::from(2 * MARGIN))).unwrap_or(0)
    }

    fn address(&self, place: Place) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.range.network().to_bits().wrapping_add(place))
    }

    fn place(&self, address: Ipv4Addr) -> Option<Place> {
        self.range
            .contains(&address)
            .then(|| address.to_bits() - self.range.network().to_bits())
    }

    /// A place that nobody has: near the name's own, else the next that was never given out.
    fn vacant(&mut self, name: NameRef<'_>) -> Option<Place> {
        let size = self.size();
        if self.slots.len() >= MAX_SYNTHETIC || self.slots.len() as u64 >= u64::from(size) {
            return None;
        }
        let own = hash(name.as_str()) % size;
        for step in 0..PROBES.min(size) {
            // Both below 2^32: no overflow in 64 bits.
            let at = (u64::from(own) + u64::from(step)) % u64::from(size);
            let place = MARGIN + u32::try_from(at).unwrap_or(0);
            if !self.slots.contains_key(&place) {
                return Some(place);
            }
        }
        while self.unused < MARGIN + size {
            let place = self.unused;
            self.unused += 1;
            if !self.slots.contains_key(&place) {
                return Some(place);
            }
        }
        None
    }

    /// Takes back the place that was unused for longest, once nobody can hold its address.
    fn reclaim(
        &mut self,
        now: Instant,
        quarantine: Duration,
        in_use: impl Fn(IpAddr) -> bool,
    ) -> Option<Place> {
        for _ in 0..self.slots.len() {
            let &(until, place) = self.order.first()?;
            if now < until + quarantine {
                return None;
            }
            let address = self.address(place);
            if in_use(address.into()) {
                self.keep(address, now);
                continue;
            }
            self.order.remove(&(until, place));
            if let Some(slot) = self.slots.remove(&place) {
                self.by_name.remove(&slot.name);
            }
            return Some(place);
        }
        None
    }
}

/// FNV-1a, 32 bits: the same in each release and on each machine, which is all that is asked of it.
/// A program that makes names collide makes its own names move, and nothing else.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
