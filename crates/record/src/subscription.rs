//! Live views of decisions in memory, for `learn` and `diagnose`. A slow reader misses decisions,
//! and can ask how many; it never holds up a connection.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_policy::{Reason, Verdict};

use crate::event::{Event, Layer, Protocol};
use crate::id::DecisionId;
use crate::summary::{name_of, short, short_lines};

/// Decisions that wait for one subscriber.
const MAX_WAITING: usize = 8192;
/// Subscribers at once.
const MAX_SUBSCRIBERS: usize = 16;
/// Addresses copied of each decision.
const MAX_COPIED_ADDRESSES: usize = 32;

/// One decision, owned. Unlike the written record, every decision is seen on its own: equal ones
/// carry the same id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObservedDecision {
    /// The record that it is part of.
    pub id: DecisionId,
    /// Where in the stack.
    pub layer: Layer,
    /// By which entrance.
    pub protocol: Protocol,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The name, or the address where no name was known, printable.
    pub name: String,
    /// The end of the CNAME chain.
    pub canonical_name: Option<String>,
    /// The destination's port.
    pub port: Option<u16>,
    /// The DNS record type.
    pub qtype: Option<RecordType>,
    /// Addresses answered, leased or dialled.
    pub addresses: Vec<IpAddr>,
    /// The rule's text and source.
    pub rule: Option<(String, String)>,
    /// The circumstance.
    pub detail: Option<String>,
    /// The policy line that would allow it.
    pub suggestion: Option<String>,
}

impl ObservedDecision {
    fn new(id: DecisionId, event: &Event<'_>, suggestion: Option<&str>) -> ObservedDecision {
        ObservedDecision {
            id,
            layer: event.layer,
            protocol: event.protocol,
            verdict: event.verdict,
            reason: event.reason,
            name: name_of(event),
            canonical_name: event.canonical_name.map(short),
            port: event.port,
            qtype: event.qtype,
            addresses: event
                .addresses
                .iter()
                .take(MAX_COPIED_ADDRESSES)
                .copied()
                .collect(),
            rule: event
                .rule
                .map(|(text, source)| (short(text), short(&source.to_string()))),
            detail: event.detail.map(short),
            suggestion: suggestion.map(short_lines),
        }
    }
}

/// The reading end of a live view. Dropping it ends the view.
pub struct Subscription {
    receiver: Receiver<ObservedDecision>,
    missed: Arc<AtomicU64>,
}

impl Subscription {
    /// The next decision, waiting at most `timeout`. `None` when none came, or when the recorder is
    /// gone.
    #[must_use]
    pub fn next(&self, timeout: Duration) -> Option<ObservedDecision> {
        self.receiver.recv_timeout(timeout).ok()
    }

    /// All decisions that wait now.
    #[must_use]
    pub fn drain(&self) -> Vec<ObservedDecision> {
        let mut all = Vec::new();
        while all.len() < MAX_WAITING {
            match self.receiver.try_recv() {
                Ok(seen) => all.push(seen),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        all
    }

    /// Decisions that came while [`MAX_WAITING`] others were waiting, and were not kept.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

struct Subscriber {
    sender: SyncSender<ObservedDecision>,
    missed: Arc<AtomicU64>,
}

/// All live views of one recorder.
pub(crate) struct Subscribers {
    /// Read on every decision, so that the usual case of no subscriber takes no lock.
    active: AtomicUsize,
    subscribers: Mutex<Vec<Subscriber>>,
}

impl Subscribers {
    pub(crate) fn new() -> Subscribers {
        Subscribers {
            active: AtomicUsize::new(0),
            subscribers: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        let (sender, receiver) = std::sync::mpsc::sync_channel(MAX_WAITING);
        let missed = Arc::new(AtomicU64::new(0));
        let mut subscribers = self
            .subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if subscribers.len() == MAX_SUBSCRIBERS {
            // The oldest view ends: its reader sees a disconnected channel, not silence.
            subscribers.remove(0);
        }
        subscribers.push(Subscriber {
            sender,
            missed: missed.clone(),
        });
        self.active.store(subscribers.len(), Ordering::Release);
        Subscription { receiver, missed }
    }

    /// Whether anybody wants to see every decision.
    pub(crate) fn any(&self) -> bool {
        self.active.load(Ordering::Acquire) > 0
    }

    pub(crate) fn show(
        &self,
        id: DecisionId,
        event: &Event<'_>,
        suggest: &dyn Fn() -> Option<String>,
    ) {
        if !self.any() {
            return;
        }
        let seen = ObservedDecision::new(id, event, suggest().as_deref());
        let mut subscribers = self
            .subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(
            |subscriber| match subscriber.sender.try_send(seen.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    subscriber.missed.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            },
        );
        self.active.store(subscribers.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Boot, IdSource};

    #[test]
    fn a_subscriber_sees_each_decision_and_a_slow_one_knows_what_it_missed() {
        let (subscribers, ids) = (Subscribers::new(), IdSource::new(Boot::new()));
        let subscription = subscribers.subscribe();
        let event = Event::default().name("a.example").port(443);
        for _ in 0..MAX_WAITING + 3 {
            subscribers.show(ids.next(), &event, &|| Some("line".into()));
        }
        let seen = subscription.next(Duration::ZERO).unwrap();
        assert_eq!((seen.name.as_str(), seen.port), ("a.example", Some(443)));
        assert_eq!(subscription.drain().len(), MAX_WAITING - 1);
        assert_eq!(subscription.missed(), 3);
    }

    #[test]
    fn a_dropped_subscription_is_forgotten() {
        let (subscribers, ids) = (Subscribers::new(), IdSource::new(Boot::new()));
        drop(subscribers.subscribe());
        subscribers.show(ids.next(), &Event::default(), &|| None);
        assert_eq!(subscribers.active.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn subscribers_are_bounded() {
        let subscribers = Subscribers::new();
        let all: Vec<_> = (0..MAX_SUBSCRIBERS + 2)
            .map(|_| subscribers.subscribe())
            .collect();
        assert_eq!(subscribers.active.load(Ordering::Relaxed), MAX_SUBSCRIBERS);
        assert_eq!(all.len(), MAX_SUBSCRIBERS + 2);
    }
}
