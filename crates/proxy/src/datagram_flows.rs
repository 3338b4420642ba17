//! The flows of datagrams of one sandbox: how many there may be, and which of them have lost their
//! program's socket.
//!
//! Answers *exhaustion* (docs/threats.md). A program may ask a thousand servers in a minute, each from a
//! socket that it closes at once. Such flows end here: sooner where places are few, and never more often
//! than once in [`SHORT_LOOK_PAUSE`], whatever a program does. Looks run on a thread for work that
//! blocks.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::limits::{MAX_QUEUED_DATAGRAM_BYTES, Slot, Slots};

/// How often it is looked for flows whose program has closed its socket.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// The same while places are few.
const SHORT_LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Places are few when no more than this part of them is free: a half.
const FEW_PART: usize = 2;
/// How long one more flow waits at most for those that end to make room.
const ROOM_WAIT: Duration = Duration::from_millis(150);
/// The most flows that wait so; any further one is refused at once.
const MAX_WAITING: usize = 32;

/// The ends of a flow of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramEnds {
    /// The program's socket.
    pub client: SocketAddr,
    /// Where it sends to, as it sees that.
    pub server: SocketAddr,
}

/// Why a program's datagrams are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// Nobody listens there, or there is no room for one more flow.
    Refused,
    /// No way leads there.
    Unreachable,
    /// It may not go there.
    Prohibited,
}

/// What can be known of the sockets from which datagrams come, and told to them. Calls take some
/// microseconds.
pub trait DatagramClients: Send + Sync {
    /// Whether the program's socket is surely gone. May block.
    fn is_gone(&self, ends: DatagramEnds) -> bool;
    /// Shows the program an error of its socket. Does not block.
    fn tell(&self, ends: DatagramEnds, why: Untaken);
}

/// The flows of one sandbox.
pub(crate) struct DatagramFlows {
    places: Arc<Slots>,
    waiting: Arc<Slots>,
    open: Mutex<Open>,
    /// Told when one of them ends.
    ended: Notify,
    /// Told when it was looked for them and none was to be ended.
    none_gone: Notify,
    /// Told when a look is worth while.
    look: Notify,
    watched: AtomicBool,
    max: usize,
    pub(crate) clients: Option<Arc<dyn DatagramClients>>,
    /// Bytes of their datagrams that wait to be sent.
    pub(crate) bytes: Arc<Semaphore>,
}

#[derive(Default)]
struct Open {
    flows: HashMap<u64, OpenFlow>,
    /// The number of the last one.
    last: u64,
}

struct OpenFlow {
    ends: DatagramEnds,
    client_gone: CancellationToken,
    /// Whether its client was not found at the last look.
    missed: bool,
}

/// A flow to be looked for.
struct Candidate {
    number: u64,
    ends: DatagramEnds,
}

impl DatagramFlows {
    /// With room for so many flows, and what knows their clients.
    pub(crate) fn new(max: usize, clients: Option<Arc<dyn DatagramClients>>) -> DatagramFlows {
        DatagramFlows {
            places: Slots::new(max),
            waiting: Slots::new(MAX_WAITING),
            open: Mutex::default(),
            ended: Notify::new(),
            none_gone: Notify::new(),
            look: Notify::new(),
            watched: AtomicBool::new(false),
            max,
            clients,
            bytes: Arc::new(Semaphore::new(MAX_QUEUED_DATAGRAM_BYTES)),
        }
    }

    /// Shows a program an error of its socket, where that can be done.
    pub(crate) fn tell(&self, ends: DatagramEnds, why: Untaken) {
        if let Some(clients) = &self.clients {
            clients.tell(ends, why);
        }
    }

    /// Takes in a flow, if there is room.
    pub(crate) fn enter(self: &Arc<Self>, ends: DatagramEnds) -> Option<DatagramPlace> {
        let place = self.places.take();
        let mut open = self.lock();
        let count = open.flows.len();
        // Looks begin with the first flow.
        if count == 0 || self.are_few(count) {
            self.look.notify_one();
        }
        let place = place?;
        open.last += 1;
        let (number, client_gone) = (open.last, CancellationToken::new());
        let flow = OpenFlow {
            ends,
            client_gone: client_gone.clone(),
            missed: false,
        };
        open.flows.insert(number, flow);
        Some(DatagramPlace {
            flows: self.clone(),
            number,
            client_gone,
            place: Some(place),
        })
    }

    /// How many are in.
    pub(crate) fn len(&self) -> usize {
        self.lock().flows.len()
    }

    /// A place to wait for room in; there are few, and none where nobody can tell what has ended.
    pub(crate) fn queue(&self) -> Option<Slot> {
        self.clients.as_ref().and_then(|_| self.waiting.take())
    }

    /// Takes in a flow as soon as another ends, unless the next look finds none to be ended.
    pub(crate) async fn enter_later(
        self: &Arc<Self>,
        ends: DatagramEnds,
        _queued: Slot,
    ) -> Option<DatagramPlace> {
        let entered = async {
            loop {
                let (ended, none_gone) = (self.ended.notified(), self.none_gone.notified());
                if let Some(place) = self.enter(ends) {
                    return Some(place);
                }
                tokio::select! {
                    () = ended => {}
                    () = none_gone => return None,
                }
            }
        };
        timeout(ROOM_WAIT, entered).await.ok().flatten()
    }

    /// Ends flows whose program has closed its socket, until `token` is cancelled. The first of several
    /// callers does it for all.
    pub(crate) async fn watch(self: Arc<Self>, token: CancellationToken) {
        let Some(clients) = self.clients.clone() else {
            return;
        };
        if self.watched.swap(true, Ordering::AcqRel) {
            return;
        }
        let looks = async {
            loop {
                sleep(SHORT_LOOK_PAUSE).await;
                if self.lock().flows.is_empty() {
                    self.look.notified().await;
                } else {
                    let _ = timeout(LOOK_PAUSE, self.look.notified()).await;
                }
                self.end_gone(&clients).await;
            }
        };
        tokio::select! {
            () = looks => {}
            () = token.cancelled() => {}
        }
    }

    /// Looks for every flow's socket once. A flow ends when its socket was missing twice in a row, since
    /// a socket that is connected elsewhere for a moment is not gone; where places are few, at once.
    async fn end_gone(&self, clients: &Arc<dyn DatagramClients>) {
        let of_flow = |(number, flow): (&u64, &OpenFlow)| Candidate {
            number: *number,
            ends: flow.ends,
        };
        let candidates: Vec<_> = self.lock().flows.iter().map(of_flow).collect();
        let few = self.are_few(candidates.len());
        let clients = clients.clone();
        let look = spawn_blocking(move || {
            let gone = candidates
                .into_iter()
                .filter(|flow| clients.is_gone(flow.ends));
            gone.map(|flow| flow.number).collect::<HashSet<_>>()
        });
        // No thread, no look: flows end when nothing passes.
        let gone = look.await.unwrap_or_default();
        let mut none_gone = true;
        for (number, flow) in &mut self.lock().flows {
            let missing = gone.contains(number);
            if missing && (few || flow.missed) {
                flow.client_gone.cancel();
                none_gone = false;
            }
            flow.missed = missing;
        }
        if none_gone {
            self.none_gone.notify_waiters();
        }
    }

    fn are_few(&self, taken: usize) -> bool {
        taken >= self.max - self.max / FEW_PART
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow's place among those of its sandbox; dropping it gives it back.
pub(crate) struct DatagramPlace {
    flows: Arc<DatagramFlows>,
    number: u64,
    /// Cancelled once the program's socket is gone.
    pub(crate) client_gone: CancellationToken,
    place: Option<Slot>,
}

impl Drop for DatagramPlace {
    fn drop(&mut self) {
        self.flows.lock().flows.remove(&self.number);
        self.place = None;
        self.flows.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Knows which ports' sockets are gone, and counts what it is asked.
    #[derive(Default)]
    struct Clients {
        gone: Mutex<HashSet<u16>>,
        asked: AtomicUsize,
    }

    impl DatagramClients for Clients {
        fn is_gone(&self, ends: DatagramEnds) -> bool {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.gone.lock().unwrap().contains(&ends.client.port())
        }

        fn tell(&self, _: DatagramEnds, _: Untaken) {}
    }

    fn flows(max: usize, clients: &Arc<Clients>) -> Arc<DatagramFlows> {
        Arc::new(DatagramFlows::new(max, Some(clients.clone())))
    }

    fn ends(port: u16) -> DatagramEnds {
        DatagramEnds {
            client: ([10, 0, 2, 15], port).into(),
            server: ([192, 0, 2, 1], 53).into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_ends_when_its_socket_is_missing_twice_and_not_when_it_was_missed_once() {
        let clients = Arc::new(Clients::default());
        let flows = flows(64, &clients);
        let as_dyn: Arc<dyn DatagramClients> = clients.clone();
        let (gone, moved) = (flows.enter(ends(1)).unwrap(), flows.enter(ends(2)).unwrap());
        clients.gone.lock().unwrap().extend([1, 2]);
        flows.end_gone(&as_dyn).await;
        assert!(!gone.client_gone.is_cancelled() && !moved.client_gone.is_cancelled());
        clients.gone.lock().unwrap().remove(&2);
        flows.end_gone(&as_dyn).await;
        assert!(gone.client_gone.is_cancelled() && !moved.client_gone.is_cancelled());
        clients.gone.lock().unwrap().insert(2);
        flows.end_gone(&as_dyn).await;
        assert!(!moved.client_gone.is_cancelled(), "missing once again");
        flows.end_gone(&as_dyn).await;
        assert!(moved.client_gone.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn where_places_are_few_one_look_makes_room_for_who_waits() {
        let clients = Arc::new(Clients::default());
        let flows = flows(4, &clients);
        let token = CancellationToken::new();
        let watch = tokio::spawn(flows.clone().watch(token.clone()));
        let mut open: Vec<_> = (0..4)
            .map(|port| flows.enter(ends(port)).unwrap())
            .collect();
        assert!(flows.enter(ends(4)).is_none());
        let waiting = flows.enter_later(ends(4), flows.queue().unwrap());
        assert!(waiting.await.is_none(), "all are alive");
        clients.gone.lock().unwrap().insert(2);
        let gone = open.remove(2);
        let end = tokio::spawn(async move {
            gone.client_gone.cancelled().await;
            drop(gone);
        });
        let waiting = flows.enter_later(ends(4), flows.queue().unwrap());
        assert!(waiting.await.is_some());
        end.await.unwrap();
        assert!(open.iter().all(|flow| !flow.client_gone.is_cancelled()));
        token.cancel();
        watch.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_new_flows_does_not_hasten_looks() {
        let clients = Arc::new(Clients::default());
        let flows = flows(8, &clients);
        let token = CancellationToken::new();
        let watch = tokio::spawn(flows.clone().watch(token.clone()));
        let another = tokio::spawn(flows.clone().watch(token.clone()));
        let open: Vec<_> = (0..8)
            .map(|port| flows.enter(ends(port)).unwrap())
            .collect();
        for _ in 0..1000 {
            for _ in 0..10 {
                assert!(flows.enter(ends(9)).is_none());
            }
            sleep(Duration::from_millis(1)).await;
        }
        let looks = clients.asked.load(Ordering::Relaxed) / open.len();
        assert!((10..=20).contains(&looks), "{looks} looks in a second");
        token.cancel();
        watch.await.unwrap();
        another.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_where_nobody_can_tell_and_few_wait_where_somebody_can() {
        let flows = Arc::new(DatagramFlows::new(1, None));
        let _only = flows.enter(ends(1)).unwrap();
        assert!(flows.queue().is_none());
        flows.clone().watch(CancellationToken::new()).await;
        let flows = self::flows(1, &Arc::default());
        let queued: Vec<_> = std::iter::from_fn(|| flows.queue()).collect();
        assert_eq!(queued.len(), MAX_WAITING);
    }
}
