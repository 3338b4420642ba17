//! The caching resolver: one question upstream for any number of equal ones, and what becomes of its
//! answer.
//!
//! Answers *exhaustion* (docs/threats.md): a name that a thousand programs ask for at once is asked
//! once. A flight is a task of its own, so a client that leaves does not take the answer from the
//! others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_policy::Reason;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cache::{Key, KeyRef};
use crate::entry::{CLIENT_RESPONSE_TIMER, Entry, EntryKind, SLOW, because};
use crate::lookup::{Lookup, LookupRequest};
use crate::new_names::{NewNameBudget, TOO_MANY_NEW_NAMES};
use crate::upstream::Progress;

/// How long a question for one address family waits until it matters that the other one has an answer:
/// longer than a lost datagram costs ([`Attempts`](crate::Attempts)).
const FAMILY_PATIENCE: Duration = Duration::from_millis(600);

/// The part of the lookups under way beyond which no hot answer is fetched ahead of its end: those that
/// somebody waits for come first.
const REFRESH_SHARE: usize = 2;

/// What the record says of an answer that was fetched before its predecessor's end: nobody's
/// question led to it at that moment.
const REFRESHED: &str = "fetched ahead of the earlier answer's end";

/// Why a name is not asked about, or an earlier answer is given out again.
const TOO_MANY_LOOKUPS: &str = "too many lookups are under way";

/// What is said of an address family that nobody has answered for yet.
const SILENT: &str = "no answer yet";

/// Where a flight's answer appears.
#[derive(Clone)]
struct FlightResult {
    answer: watch::Receiver<Option<Arc<Entry>>>,
    /// How it does until then.
    progress: Arc<Progress>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct FlightKey {
    key: Key,
    epoch: u64,
}

/// One sandbox's resolver: its cache, and the lookups under way.
pub(crate) struct Resolver {
    pub lookup: Lookup,
    pub new_names: Arc<NewNameBudget>,
    /// Lookups under way at most, so that a sandbox that asks for names without end cannot take all
    /// descriptors of the gateway.
    max_flights: usize,
    flights: Mutex<HashMap<FlightKey, FlightResult>>,
    /// Flights that were ever begun.
    begun: AtomicU64,
}

/// Takes a flight off the table when its task ends, however it ends.
struct FlightGuard {
    resolver: Arc<Resolver>,
    key: FlightKey,
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        self.resolver.flights().remove(&self.key);
    }
}

impl Resolver {
    /// Nothing under way.
    pub(crate) fn new(
        lookup: Lookup,
        new_names: Arc<NewNameBudget>,
        max_flights: usize,
    ) -> Resolver {
        Resolver {
            lookup,
            new_names,
            max_flights,
            flights: Mutex::default(),
            begun: AtomicU64::new(0),
        }
    }

    /// Lookups that were ever begun because the cache had no answer, or one that was due.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// The answer to a question: from the cache, from a flight under way, or from a new one.
    pub(crate) async fn fetch(self: &Arc<Self>, request: LookupRequest) -> Arc<Entry> {
        let (epoch, qtype) = (request.in_force.epoch, request.key.qtype);
        // A failure that is not kept: the next asker tries again.
        let failed = |reason, detail| {
            let now = self.lookup.clock.now();
            Arc::new(Entry::failed(reason, detail, qtype, now, epoch))
        };
        let now = self.lookup.clock.now();
        let kept = self.lookup.cache.get(KeyRef::from(&request.key));
        if let Some(entry) = kept.as_ref().filter(|entry| entry.is_valid(now, epoch)) {
            if entry.claim_refresh(now) {
                // Whoever asks for this name is admitted already: it is no new one.
                let _flying =
                    self.board(request, self.max_flights / REFRESH_SHARE, Some(REFRESHED));
            }
            return entry.clone();
        }
        if let Some(entry) = self.lookup.never_asked(&request) {
            return Arc::new(entry);
        }
        let admitted = |permit| self.new_names.admit(permit, &request.in_force, now);
        if !request.permits.iter().any(admitted) {
            return failed(Reason::RateLimited, TOO_MANY_NEW_NAMES);
        }
        let stale = kept.filter(|entry| entry.outlives_its_end(now, epoch, qtype));
        let asked = request.clone();
        let without_family = |lookup: &Lookup| lookup.without_family(&asked, SILENT);
        let Some(FlightResult {
            mut answer,
            progress,
        }) = self.board(request, self.max_flights, None)
        else {
            return match stale {
                Some(stale) => stale.renewed(now, &because(Some(TOO_MANY_LOOKUPS))),
                None => failed(Reason::RateLimited, TOO_MANY_LOOKUPS),
            };
        };
        let answer = answer.wait_for(Option::is_some);
        let answer = match stale {
            None => {
                tokio::pin!(answer);
                loop {
                    if let Ok(answer) = timeout(FAMILY_PATIENCE, &mut answer).await {
                        break answer;
                    }
                    if !progress.has_failed()
                        && let Some(entry) = without_family(&self.lookup)
                    {
                        return Arc::new(entry);
                    }
                }
            }
            Some(stale) => match timeout(CLIENT_RESPONSE_TIMER, answer).await {
                Ok(answer) => answer,
                Err(_) => return stale.renewed(self.lookup.clock.now(), SLOW),
            },
        };
        match answer {
            Ok(entry) => match entry.as_ref() {
                Some(entry) => entry.clone(),
                None => failed(Reason::Internal, "lookup lost"),
            },
            // The task ended without an answer: it panicked, or the runtime is shutting down.
            Err(_) => failed(Reason::Internal, "the lookup was cut off"),
        }
    }

    /// The answer that can be given out without waiting. One that is due goes the long way once, to
    /// be fetched anew while it is given out.
    pub(crate) fn at_hand(&self, key: &Key, epoch: u64) -> Option<Arc<Entry>> {
        let now = self.lookup.clock.now();
        self.lookup
            .cache
            .get(KeyRef::from(key))
            .filter(|entry| entry.is_valid(now, epoch) && !entry.is_due(now))
    }

    /// What is known of a name's addresses, of either family, without asking.
    pub(crate) fn addresses_at_hand(&self, request: &LookupRequest) -> Option<Arc<Entry>> {
        let at_hand = |qtype| {
            let name = request.key.name.clone();
            self.at_hand(&Key { name, qtype }, request.in_force.epoch)
        };
        let four = at_hand(RecordType::A)?;
        if self.settles(&four) {
            return Some(four);
        }
        let six = at_hand(RecordType::AAAA)?;
        Some(if six.addresses.is_empty() { four } else { six })
    }

    /// Finds out whether a name has addresses: IPv4 first, and IPv6 where there are none.
    pub(crate) async fn fetch_addresses(self: &Arc<Self>, request: &LookupRequest) -> Arc<Entry> {
        let four = self.fetch(request.with_type(RecordType::A)).await;
        if self.settles(&four) {
            return four;
        }
        let six = self.fetch(request.with_type(RecordType::AAAA)).await;
        if six.addresses.is_empty() { four } else { six }
    }

    /// Whether the answer for IPv4 says all there is to know.
    fn settles(&self, four: &Entry) -> bool {
        !four.addresses.is_empty()
            || !self.lookup.host.routes_ipv6()
            || !matches!(four.kind, EntryKind::Found | EntryKind::PrivateFamily)
    }

    /// Joins the flight for a question, or starts one where fewer than `limit` are under way.
    /// `detail` is what its record says besides.
    fn board(
        self: &Arc<Self>,
        request: LookupRequest,
        limit: usize,
        detail: Option<&'static str>,
    ) -> Option<FlightResult> {
        let key = FlightKey {
            key: request.key.clone(),
            epoch: request.in_force.epoch,
        };
        let mut flights = self.flights();
        if let Some(result) = flights.get(&key) {
            return Some(result.clone());
        }
        if flights.len() >= limit {
            return None;
        }
        let (arrival, answer) = watch::channel(None);
        let progress = Arc::new(Progress::default());
        let result = FlightResult {
            answer,
            progress: progress.clone(),
        };
        flights.insert(key.clone(), result.clone());
        drop(flights);
        self.begun.fetch_add(1, Ordering::Relaxed);
        let resolver = self.clone();
        let guard = FlightGuard {
            resolver: self.clone(),
            key,
        };
        tokio::spawn(async move {
            let mut entry = resolver.lookup.look_up(&request, &progress).await;
            entry.detail = entry.detail.or(detail.map(Into::into));
            // Into the cache before off the table: in between a third asker finds one of them.
            let entry = resolver.keep(&request, entry);
            drop(guard);
            arrival.send_replace(Some(entry));
        });
        Some(result)
    }

    /// What becomes of a lookup: kept, or, where it failed, what was kept before it.
    fn keep(&self, request: &LookupRequest, entry: Entry) -> Arc<Entry> {
        let (now, epoch) = (self.lookup.clock.now(), request.in_force.epoch);
        let kept = self.lookup.cache.get(KeyRef::from(&request.key));
        let entry = match (entry.kind, kept) {
            (EntryKind::Failed(_), Some(kept)) => {
                if kept.is_valid(now, epoch) {
                    // It was to be refreshed ahead of its end, and still holds.
                    return kept;
                }
                if kept.outlives_its_end(now, epoch, request.key.qtype) {
                    kept.renewed(now, &because(entry.detail.as_deref()))
                } else {
                    Arc::new(entry.after(&kept))
                }
            }
            _ => Arc::new(entry),
        };
        self.lookup.cache.insert(request.key.clone(), entry.clone());
        entry
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<FlightKey, FlightResult>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
