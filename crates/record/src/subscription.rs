//! Live views of decisions in memory, for `learn`, `diagnose` and embedders. A slow reader misses decisions,
//! and can ask how many; it never holds up a connection.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_policy::{Reason, Verdict};

use crate::event::{Event, Layer, Protocol};
use crate::id::DecisionId;
use crate::summary::{name_of, short, short_lines};

/// Decisions that wait for one subscriber.
const MAX_WAITING: usize = 8192;
/// Decisions that room is kept for once all are read.
const KEPT_ROOM: usize = 64;
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

/// What one subscriber has not read yet, shared with the recorder.
#[derive(Default)]
struct View {
    state: Mutex<Waiting>,
    changed: Condvar,
    missed: AtomicU64,
}

/// Grows with what waits: a process may have a thousand views.
#[derive(Default)]
struct Waiting {
    decisions: VecDeque<ObservedDecision>,
    /// The task that waits for the next one.
    task: Option<Waker>,
    /// Nobody reads any more.
    unread: bool,
    /// None will come any more.
    ended: bool,
}

impl Waiting {
    fn take(&mut self) -> Option<ObservedDecision> {
        let next = self.decisions.pop_front();
        if self.decisions.is_empty() && self.decisions.capacity() > KEPT_ROOM {
            self.decisions = VecDeque::new();
        }
        next
    }
}

impl View {
    /// Shows a decision; `false` once nobody reads any more.
    fn show(&self, seen: &ObservedDecision) -> bool {
        let mut state = self.state();
        if state.unread {
            return false;
        }
        if state.decisions.len() == MAX_WAITING {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        state.decisions.push_back(seen.clone());
        self.wake(state);
        true
    }

    fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, Waiting>) {
        let task = state.task.take();
        drop(state);
        self.changed.notify_one();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading end of a live view. Dropping it ends the view.
pub struct Subscription(Arc<View>);

impl Subscription {
    /// The next decision, waiting at most `timeout`. `None` when none came, or when the recorder is
    /// gone. Blocks its thread: tasks use [`Subscription::recv`].
    #[must_use]
    pub fn next(&self, timeout: Duration) -> Option<ObservedDecision> {
        let idle = |state: &mut Waiting| state.decisions.is_empty() && !state.ended;
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.0.state(), timeout, idle);
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }

    /// The next decision, for a task of any runtime; `None` once the recorder is gone. One waits at a
    /// time. Nothing is lost if it is dropped while it waits.
    pub async fn recv(&self) -> Option<ObservedDecision> {
        poll_fn(|cx| {
            let mut state = self.0.state();
            match state.take() {
                Some(next) => Poll::Ready(Some(next)),
                None if state.ended => Poll::Ready(None),
                None => {
                    state.task = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// All decisions that wait now.
    #[must_use]
    pub fn drain(&self) -> Vec<ObservedDecision> {
        std::mem::take(&mut self.0.state().decisions).into()
    }

    /// Whether nothing waits and nothing will come: the recorder is gone, or there were too many views.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let state = self.0.state();
        state.ended && state.decisions.is_empty()
    }

    /// Decisions that came while as many as are kept were waiting, and were not kept.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.0.missed.load(Ordering::Relaxed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.unread = true;
        state.decisions = VecDeque::new();
    }
}

/// All live views of one recorder.
pub(crate) struct Subscribers {
    /// Read on every decision, so that the usual case of no subscriber takes no lock.
    active: AtomicUsize,
    views: Mutex<Vec<Arc<View>>>,
}

impl Subscribers {
    pub(crate) fn new() -> Subscribers {
        Subscribers {
            active: AtomicUsize::new(0),
            views: Mutex::default(),
        }
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        let view = Arc::<View>::default();
        let mut views = self.views();
        if views.len() == MAX_SUBSCRIBERS {
            // The oldest view ends: its reader sees that, not silence.
            views.remove(0).end();
        }
        views.push(view.clone());
        self.active.store(views.len(), Ordering::Release);
        Subscription(view)
    }

    fn views(&self) -> MutexGuard<'_, Vec<Arc<View>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut views = self.views();
        views.retain(|view| view.show(&seen));
        self.active.store(views.len(), Ordering::Release);
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        for view in self.views().iter() {
            view.end();
        }
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

    /// Wakes a thread that waits for a task.
    struct Unpark(std::thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn block_on<T>(task: impl Future<Output = T>) -> T {
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        let mut task = std::pin::pin!(task);
        loop {
            if let Poll::Ready(done) = task.as_mut().poll(&mut context) {
                return done;
            }
            std::thread::park();
        }
    }

    #[test]
    fn a_task_waits_for_decisions_and_is_told_the_end() {
        let (subscribers, ids) = (Subscribers::new(), IdSource::new(Boot::new()));
        let subscription = subscribers.subscribe();
        std::thread::scope(|scope| {
            let task = scope.spawn(|| {
                block_on(async {
                    let mut names = Vec::new();
                    while let Some(seen) = subscription.recv().await {
                        names.push(seen.name);
                    }
                    names
                })
            });
            for name in ["a.example", "b.example"] {
                std::thread::sleep(Duration::from_millis(20));
                subscribers.show(ids.next(), &Event::default().name(name), &|| None);
            }
            drop(subscribers);
            assert_eq!(task.join().unwrap(), ["a.example", "b.example"]);
        });
    }

    #[test]
    fn a_thousand_views_that_nobody_shows_anything_take_no_room() {
        let (subscribers, ids) = (Subscribers::new(), IdSource::new(Boot::new()));
        let view = subscribers.subscribe();
        assert_eq!(view.0.state().decisions.capacity(), 0);
        for _ in 0..2 * KEPT_ROOM {
            subscribers.show(ids.next(), &Event::default(), &|| None);
        }
        while view.next(Duration::ZERO).is_some() {}
        assert!(view.0.state().decisions.capacity() <= KEPT_ROOM);
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
