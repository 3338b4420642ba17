//! One question upstream for any number of equal ones, and what becomes of its answer.
//!
//! Answers "DNS floods": a name that a thousand programs ask for at once is asked once. A flight is
//! a task of its own, so a client that leaves does not take the answer from the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_names::{NameBuf, RecordType};
use portcullis_policy::{LookupPermit, Policy, Reason};
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cache::{Entry, Key, KeyRef, Outcome};
use crate::service::Inner;
use crate::stale::{self, CLIENT_RESPONSE_TIMER};

/// Lookups under way for one sandbox. Each may hold four sockets while its upstreams are silent, so
/// that a sandbox asking for names without end cannot take all descriptors of the gateway.
const MAX_FLIGHTS: usize = 192;

/// Lookups under way beyond which no hot answer is fetched ahead of its end: those that somebody
/// waits for come first.
const MAX_REFRESHES: usize = MAX_FLIGHTS / 2;

/// What the record says of an answer that was fetched before its predecessor's end: nobody's
/// question led to it at that moment.
const REFRESHED: &str = "fetched ahead of the earlier answer's end";

/// Why a name is not asked about, or an earlier answer is given out again.
const TOO_MANY_LOOKUPS: &str = "too many lookups are under way";

/// Leave to look one name up: the first permit asks, all of them own what is found.
pub(crate) type Permits = SmallVec<[LookupPermit; 1]>;

/// Why a name that the policy allows is not asked about.
pub(crate) const TOO_MANY_NEW_NAMES: &str = "too many new names below one pattern within a minute";

/// A question and who may ask it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub key: Key,
    pub permits: Permits,
    pub policy: Arc<Policy>,
    pub epoch: u64,
}

type Landing = watch::Receiver<Option<Arc<Entry>>>;

/// The lookups under way.
#[derive(Default)]
pub(crate) struct Flights {
    table: Mutex<HashMap<FlightKey, Landing>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct FlightKey {
    key: Key,
    epoch: u64,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<FlightKey, Landing>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a flight off the table when its task ends, however it ends.
struct Landed {
    inner: Arc<Inner>,
    key: FlightKey,
}

impl Drop for Landed {
    fn drop(&mut self) {
        self.inner.flights.lock().remove(&self.key);
    }
}

impl Inner {
    /// The answer to a question: from the cache, from a flight under way, or from a new one.
    pub(crate) async fn fetch(self: &Arc<Self>, ask: Ask) -> Arc<Entry> {
        let (epoch, qtype) = (ask.epoch, ask.key.qtype);
        let now = self.clock.now();
        let kept = self.kept(&ask.key);
        if let Some(entry) = kept.as_ref().filter(|entry| entry.is_valid(now, epoch)) {
            if entry.claim_refresh(now) {
                self.refresh(ask);
            }
            return entry.clone();
        }
        if let Some(entry) = self.never_leaves(&ask) {
            return Arc::new(entry);
        }
        let budget = ask.policy.settings().dns.new_names_per_minute;
        let admitted = |permit| self.new_names.admit(permit, (epoch, budget), now);
        if !ask.permits.iter().any(admitted) {
            return self.failed(Reason::RateLimited, TOO_MANY_NEW_NAMES, epoch, qtype);
        }
        let stale = kept.filter(|entry| entry.outlives_its_end(now, epoch, qtype));
        let Some(mut landing) = self.board(ask, MAX_FLIGHTS, None) else {
            return match stale {
                Some(stale) => stale.again(now, &stale::because(Some(TOO_MANY_LOOKUPS))),
                None => self.failed(Reason::RateLimited, TOO_MANY_LOOKUPS, epoch, qtype),
            };
        };
        let landed = landing.wait_for(Option::is_some);
        let landed = match stale {
            None => landed.await,
            Some(stale) => match timeout(CLIENT_RESPONSE_TIMER, landed).await {
                Ok(landed) => landed,
                Err(_) => return stale.again(self.clock.now(), stale::SLOW),
            },
        };
        match landed {
            Ok(entry) => match entry.as_ref() {
                Some(entry) => entry.clone(),
                None => self.failed(Reason::Internal, "lookup lost", epoch, qtype),
            },
            // The task ended without an answer: it panicked, or the runtime is shutting down.
            Err(_) => self.failed(Reason::Internal, "the lookup was cut off", epoch, qtype),
        }
    }

    /// The answer that can be given out without waiting. One that is due goes the long way once, to
    /// be fetched anew while it is given out.
    pub(crate) fn at_hand(&self, key: &Key, epoch: u64) -> Option<Arc<Entry>> {
        let now = self.clock.now();
        self.kept(key)
            .filter(|entry| entry.is_valid(now, epoch) && !entry.is_due(now))
    }

    /// The answer at hand, valid or not.
    fn kept(&self, key: &Key) -> Option<Arc<Entry>> {
        self.cache.get(KeyRef {
            name: key.name.as_ref(),
            qtype: key.qtype,
        })
    }

    /// Joins the flight for a question, or starts one where fewer than `limit` are under way.
    /// `note` is what its record says besides.
    fn board(
        self: &Arc<Self>,
        ask: Ask,
        limit: usize,
        note: Option<&'static str>,
    ) -> Option<Landing> {
        let key = FlightKey {
            key: ask.key.clone(),
            epoch: ask.epoch,
        };
        let mut table = self.flights.lock();
        if let Some(landing) = table.get(&key) {
            return Some(landing.clone());
        }
        if table.len() >= limit {
            return None;
        }
        let (arrival, landing) = watch::channel(None);
        table.insert(key.clone(), landing.clone());
        drop(table);
        let landed = Landed {
            inner: self.clone(),
            key,
        };
        let inner = self.clone();
        tokio::spawn(async move {
            let mut entry = inner.look_up(&ask).await;
            entry.detail = entry.detail.or(note.map(Into::into));
            // Into the cache before off the table: in between a third asker finds one of them.
            let entry = inner.land(&ask, entry);
            drop(landed);
            arrival.send_replace(Some(entry));
        });
        Some(landing)
    }

    /// What becomes of a lookup: kept, or, where it failed, what was kept before it.
    fn land(&self, ask: &Ask, entry: Entry) -> Arc<Entry> {
        let now = self.clock.now();
        let kept = self.kept(&ask.key);
        let entry = match (entry.outcome, kept) {
            (Outcome::Failed(_), Some(kept)) => {
                if kept.is_valid(now, ask.epoch) {
                    // It was to be refreshed ahead of its end, and still holds.
                    return kept;
                }
                if kept.outlives_its_end(now, ask.epoch, ask.key.qtype) {
                    kept.again(now, &stale::because(entry.detail.as_deref()))
                } else {
                    Arc::new(entry.after(&kept))
                }
            }
            _ => Arc::new(entry),
        };
        self.cache.insert(ask.key.clone(), entry.clone());
        entry
    }

    /// Fetches a hot answer anew while the one at hand still holds; nobody waits for it.
    fn refresh(self: &Arc<Self>, ask: Ask) {
        // Whoever asks for this name is admitted already: it is no new one.
        let _flying = self.board(ask, MAX_REFRESHES, Some(REFRESHED));
    }

    /// A failure that is not kept: the next asker tries again.
    pub(crate) fn failed(
        &self,
        reason: Reason,
        detail: &str,
        epoch: u64,
        qtype: RecordType,
    ) -> Arc<Entry> {
        Arc::new(self.failure(reason, detail, epoch, qtype))
    }
}

impl Key {
    /// The key of a question as parsed.
    pub(crate) fn new(name: &NameBuf, qtype: RecordType) -> Key {
        Key {
            name: name.to_name(),
            qtype,
        }
    }
}
