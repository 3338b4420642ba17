//! One question upstream for any number of equal ones, and what becomes of its answer.
//!
//! Answers "DNS floods": a name that a thousand programs ask for at once is asked once. A flight is
//! a task of its own, so a client that leaves does not take the answer from the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_names::NameBuf;
use portcullis_policy::{LookupPermit, Policy, Reason};
use smallvec::SmallVec;
use tokio::sync::watch;

use crate::cache::{Entry, Key, Outcome};
use crate::chain::Chain;
use crate::reply::rtype;
use crate::service::Inner;
use crate::upstream::{Attempts, LOOKUP_BUDGET, UpstreamError};

/// Lookups under way for one sandbox. Each may hold four sockets while its upstreams are silent, so
/// that a sandbox asking for names without end cannot take all descriptors of the gateway.
const MAX_FLIGHTS: usize = 192;

/// Questions asked for one lookup, where an upstream answers with a CNAME and no more.
const MAX_QUESTIONS: usize = 6;

/// How long a failure is remembered (RFC 9520 asks for at least a second).
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// The time that a reverse lookup may take before the lease's own name is answered: programs ask
/// for it on the way, and a company's resolver often does not answer at all.
const REVERSE_BUDGET: Duration = Duration::from_millis(1_500);

/// How long a failed reverse lookup is remembered.
const REVERSE_FAILURE_TTL: Duration = Duration::from_secs(60);

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
        if let Some(entry) = self.cached(&ask.key, ask.epoch) {
            return entry;
        }
        let (epoch, qtype) = (ask.epoch, ask.key.qtype);
        let now = self.clock.now();
        let admitted = |permit| self.new_names.admit(permit, epoch, now);
        if !ask.permits.iter().any(admitted) {
            return self.failed(Reason::RateLimited, TOO_MANY_NEW_NAMES, epoch, qtype);
        }
        let Some(mut landing) = self.board(ask) else {
            let detail = "too many lookups are under way";
            return self.failed(Reason::RateLimited, detail, epoch, qtype);
        };
        match landing.wait_for(Option::is_some).await {
            Ok(entry) => match entry.as_ref() {
                Some(entry) => entry.clone(),
                None => self.failed(Reason::Internal, "lookup lost", epoch, qtype),
            },
            // The task ended without an answer: it panicked, or the runtime is shutting down.
            Err(_) => self.failed(Reason::Internal, "the lookup was cut off", epoch, qtype),
        }
    }

    fn cached(&self, key: &Key, epoch: u64) -> Option<Arc<Entry>> {
        let key = crate::cache::KeyRef {
            name: key.name.as_ref(),
            qtype: key.qtype,
        };
        self.cache
            .get(key)
            .filter(|entry| entry.is_valid(self.clock.now(), epoch))
    }

    fn board(self: &Arc<Self>, ask: Ask) -> Option<Landing> {
        let key = FlightKey {
            key: ask.key.clone(),
            epoch: ask.epoch,
        };
        let mut table = self.flights.lock();
        if let Some(landing) = table.get(&key) {
            return Some(landing.clone());
        }
        if table.len() >= MAX_FLIGHTS {
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
            let entry = Arc::new(inner.look_up(&ask).await);
            // Into the cache before off the table: in between a third asker finds one of them.
            inner.cache.insert(ask.key, entry.clone());
            drop(landed);
            arrival.send_replace(Some(entry));
        });
        Some(landing)
    }

    async fn look_up(&self, ask: &Ask) -> Entry {
        let Key { name, qtype } = &ask.key;
        let Some(first) = ask.permits.first() else {
            return self.failure(Reason::Internal, "no permit", ask.epoch, *qtype);
        };
        let budget = if *qtype == rtype::PTR {
            REVERSE_BUDGET
        } else {
            LOOKUP_BUDGET
        };
        let on_demand = Attempts::OnDemand {
            deadline: tokio::time::Instant::now() + budget,
        };
        let mut chain = Chain::new(name.clone(), *qtype);
        let mut permit = first.clone();
        let mut attempts = 0;
        for _ in 0..MAX_QUESTIONS {
            let answered = match self.upstream.query(&permit, *qtype, on_demand).await {
                Ok(answered) => answered,
                Err(UpstreamError {
                    reason,
                    detail,
                    server,
                    attempts: more,
                }) => {
                    return self
                        .failure(reason, &detail, ask.epoch, *qtype)
                        .answered_by(server, attempts + more);
                }
            };
            attempts += answered.attempts;
            let server = answered.server;
            match chain.follow(answered.message) {
                Ok(true) => {
                    return self.judge(ask, chain).answered_by(Some(server), attempts);
                }
                // The canonical name stands under the same listed name.
                Ok(false) => permit = permit.follow(chain.end().clone()),
                Err(error) => {
                    let detail = format!("resolver {server}: {error}");
                    return self
                        .failure(Reason::DnsFailed, &detail, ask.epoch, *qtype)
                        .answered_by(Some(server), attempts);
                }
            }
        }
        let detail = "the CNAME chain takes too many questions to follow";
        self.failure(Reason::DnsFailed, detail, ask.epoch, *qtype)
    }

    /// Sorts an answer: what the guard lets through is written into the reply's body.
    fn judge(&self, ask: &Ask, mut chain: Chain) -> Entry {
        let born = self.clock.now();
        let ttl = chain.ttl();
        let passes = |address: IpAddr| {
            let own = (self.host_owns)(address.to_canonical());
            ask.permits.iter().any(|permit| {
                let lifted = !own || ask.policy.lifts_any(address, permit.ports());
                lifted && ask.policy.guard_lookup(address, permit.ports())
            })
        };
        let (given, refused): (Vec<IpAddr>, Vec<IpAddr>) =
            chain.addresses().partition(|address| passes(*address));
        let outcome = if !refused.is_empty() && given.is_empty() {
            Outcome::Private
        } else if chain.nx_domain() {
            Outcome::NameNotFound
        } else {
            Outcome::Found
        };
        let mut entry = Entry::new(outcome, born, ttl, ask.epoch);
        entry.addresses = given.into();
        entry.refused = refused.into();
        entry.targets = chain.targets().into();
        entry.pointer = chain.pointer();
        if outcome == Outcome::Private {
            return entry;
        }
        chain.retain_addresses(passes);
        match chain.body() {
            Ok(body) => entry.body = body,
            Err(error) => {
                let detail = error.to_string();
                return self.failure(Reason::Internal, &detail, ask.epoch, ask.key.qtype);
            }
        }
        entry
    }

    fn failure(&self, reason: Reason, detail: &str, epoch: u64, qtype: u16) -> Entry {
        let ttl = if qtype == rtype::PTR {
            REVERSE_FAILURE_TTL
        } else {
            FAILURE_TTL
        };
        let mut entry = Entry::new(Outcome::Failed(reason), self.clock.now(), ttl, epoch);
        entry.detail = Some(detail.into());
        entry
    }

    fn failed(&self, reason: Reason, detail: &str, epoch: u64, qtype: u16) -> Arc<Entry> {
        Arc::new(self.failure(reason, detail, epoch, qtype))
    }
}

impl Key {
    /// The key of a question as parsed.
    pub(crate) fn new(name: &NameBuf, qtype: u16) -> Key {
        Key {
            name: name.to_name(),
            qtype,
        }
    }
}
