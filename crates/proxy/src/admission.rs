//! Who comes in: one sandbox's connections against its limits, and against the descriptors that there are.
//!
//! Answers *exhaustion* (docs/threats.md): whatever comes in by one entrance, the others keep places of
//! their own. What is above a limit is refused when it comes, never kept waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use portcullis_dns::Reserve;
use portcullis_names::AllowedClients;
use portcullis_policy::{Mode, Policy};

use crate::datagram_flows::{DatagramClients, DatagramFlows};
use crate::limits::{MAX_CONNECTIONS, MAX_DATAGRAM_FLOWS, MAX_REFUSALS, Slot, Slots};
use crate::meter::{Limiter, OverLimit};

/// The part of all places that each entrance keeps for itself: an eighth, but not more than
/// [`MAX_KEPT`].
const KEPT_PART: usize = 8;
/// Places that each entrance keeps for itself.
const MAX_KEPT: usize = 64;
/// Kinds of entrances that take connections.
pub(crate) const ENTRANCES: usize = 3;
/// Bits of the number of one entrance's connections, in the one number that holds all of them.
const COUNT_BITS: u32 = 21;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// How much a proxy may hold at once. What a policy says on connections counts where it is less.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Connections for which there are descriptors; each takes two.
    pub connections: usize,
    /// Connections above the limit that are told so; any further one is reset. Each takes a descriptor.
    pub refusals: usize,
    /// Flows of datagrams; each takes a descriptor.
    pub datagram_flows: usize,
}

impl Default for Room {
    /// As much as is ever used.
    fn default() -> Room {
        Room {
            connections: usize::MAX,
            refusals: MAX_REFUSALS,
            datagram_flows: MAX_DATAGRAM_FLOWS,
        }
    }
}

/// What a sandbox holds at one moment, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlows {
    /// Connections that an entrance has taken in.
    pub connections: usize,
    /// Flows of datagrams.
    pub datagrams: usize,
}

/// The places of one sandbox.
pub(crate) struct Admission {
    places: Arc<Places>,
    /// Connections that are being told that there are too many.
    refusals: Arc<Slots>,
    /// Flows of datagrams.
    pub(crate) datagrams: Arc<DatagramFlows>,
    room: Room,
    /// From where connections to listeners may come.
    pub(crate) allowed_clients: AllowedClients,
    /// Of all its listeners.
    pub(crate) reserve: Arc<Reserve>,
    limiter: Arc<Limiter>,
}

impl Admission {
    pub(crate) fn new(limiter: Arc<Limiter>) -> Admission {
        let room = Room::default();
        Admission {
            places: Arc::default(),
            refusals: Slots::new(room.refusals),
            datagrams: Arc::new(DatagramFlows::new(room.datagram_flows, None)),
            room,
            allowed_clients: AllowedClients::default(),
            reserve: Arc::default(),
            limiter,
        }
    }

    /// Sets how much there is room for; [`Admission::follow`] comes next.
    pub(crate) fn set_room(&mut self, room: Room) {
        self.refusals.set_max(room.refusals);
        self.room = room;
        self.set_datagram_clients(self.datagrams.clients.clone());
    }

    /// Sets what knows the sockets from which datagrams come. No flow is in yet.
    pub(crate) fn set_datagram_clients(&mut self, clients: Option<Arc<dyn DatagramClients>>) {
        self.datagrams = Arc::new(DatagramFlows::new(self.room.datagram_flows, clients));
    }

    /// Takes over the limits of a policy that came into force. What was used stays used.
    pub(crate) fn follow(&self, policy: &Policy) {
        // A policy that only watches refuses nothing.
        let enforces = policy.mode() != Mode::Audit;
        let own = policy
            .settings()
            .limits
            .flows
            .connections
            .filter(|_| enforces);
        let own = own.and_then(|most| usize::try_from(most.get()).ok());
        let room = self.room.connections;
        match own.filter(|own| *own <= room) {
            // The operator's number is for the sandbox as a whole: no part of it is kept.
            Some(own) => self.places.set(own, 0),
            None => {
                let max = room.min(own.unwrap_or(MAX_CONNECTIONS));
                self.places.set(max, (max / KEPT_PART).min(MAX_KEPT));
            }
        }
        self.limiter.follow(policy);
    }

    /// Takes in a connection by an entrance: a number below [`ENTRANCES`].
    ///
    /// # Errors
    /// The limit of the sandbox that it is above.
    pub(crate) fn connection(&self, entrance: usize) -> Result<Place, OverLimit> {
        let place = self.places.take(entrance).ok_or(OverLimit::TOO_MANY)?;
        self.limiter.enter()?;
        Ok(place)
    }

    /// Connections and flows of datagrams that are in now.
    pub(crate) fn open(&self) -> OpenFlows {
        OpenFlows {
            connections: self.places.taken(),
            datagrams: self.datagrams.len(),
        }
    }

    /// A place to tell a connection that it is one too many; there are few.
    pub(crate) fn refusal(&self) -> Option<Slot> {
        self.refusals.take()
    }
}

/// Places for connections, taken without a lock.
#[derive(Debug, Default)]
struct Places {
    /// How many each entrance has taken, [`COUNT_BITS`] for each.
    taken: AtomicU64,
    max: AtomicUsize,
    /// How many of them each entrance has for itself.
    kept: AtomicUsize,
}

/// A place for a connection; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    one: u64,
}

impl Places {
    /// Makes room for so many from now on; those that are in stay.
    fn set(&self, max: usize, kept: usize) {
        self.max.store(max, Ordering::Release);
        self.kept.store(kept, Ordering::Release);
    }

    fn taken(&self) -> usize {
        let taken = self.taken.load(Ordering::Acquire);
        (0..ENTRANCES).map(|of| count(taken, of)).sum()
    }

    fn take(self: &Arc<Self>, entrance: usize) -> Option<Place> {
        let (max, kept) = (
            self.max.load(Ordering::Acquire),
            self.kept.load(Ordering::Acquire),
        );
        let one = 1 << (COUNT_BITS * entrance as u32);
        let more = |taken: u64| {
            let count = |of| count(taken, of);
            // What the others have taken, or keep.
            let others = (0..ENTRANCES).filter(|of| *of != entrance);
            let others: usize = others.map(|of| count(of).max(kept)).sum();
            (others + count(entrance) < max).then_some(taken + one)
        };
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more)
            .ok()?;
        Some(Place {
            places: self.clone(),
            one,
        })
    }
}

/// How many of these an entrance has taken.
fn count(taken: u64, entrance: usize) -> usize {
    (taken >> (COUNT_BITS * entrance as u32) & COUNT_MASK) as usize
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(self.one, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(places: &Arc<Places>, entrance: usize) -> Vec<Place> {
        std::iter::from_fn(|| places.take(entrance)).collect()
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let places: Arc<Places> = Arc::default();
        assert!(places.take(0).is_none(), "none before anything is set");
        places.set(2, 0);
        let first = places.take(0);
        let second = places.take(1);
        assert!(first.is_some() && second.is_some() && places.take(2).is_none());
        drop(first);
        let third = places.take(2);
        assert!(third.is_some());
        places.set(1, 0);
        drop(third);
        assert!(
            places.take(0).is_none(),
            "one is in, and that is all there is room for"
        );
    }

    #[test]
    fn places_of_all_entrances_are_counted_together() {
        let places = Arc::<Places>::default();
        places.set(10, 0);
        let taken: Vec<_> = (0..ENTRANCES).map(|of| places.take(of).unwrap()).collect();
        assert_eq!(places.taken(), ENTRANCES);
        drop(taken);
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn an_entrance_that_is_full_leaves_the_others_theirs() {
        let places: Arc<Places> = Arc::default();
        places.set(80, 10);
        let one = fill(&places, 0);
        assert_eq!(one.len(), 60);
        let another = fill(&places, 1);
        assert_eq!(another.len(), 10);
        let last = fill(&places, 2);
        assert_eq!(last.len(), 10);
        drop(one);
        assert_eq!(
            fill(&places, 1).len(),
            50,
            "ten more are kept for the first"
        );
        drop((another, last));
        assert_eq!(places.taken.load(Ordering::Acquire), 0);
    }
}
