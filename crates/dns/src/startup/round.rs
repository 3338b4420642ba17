//! One start-up under way: the attempts for each name, what they come to, and its record.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use portcullis_names::{Name, RecordType};
use portcullis_policy::{LookupPermit, Policy, Reason, Verdict};
use portcullis_record::{Event, Layer, Protocol, Stage, Timings};
use smallvec::smallvec;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::{StartupFailure, StartupName, StartupSchedule, pause_after};
use crate::Attempts;
use crate::cache::{Entry, Key, Outcome};
use crate::flight::Ask;
use crate::local::grant_reason;
use crate::service::Inner;

/// How long usable addresses of one family wait for the other family's answer, which can still be
/// asked for on demand: resolvers that never answer AAAA exist.
const OTHER_FAMILY_PATIENCE: Duration = Duration::from_millis(500);

/// One start-up: what all its names share.
pub(super) struct Round<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) policy: Arc<Policy>,
    pub(super) epoch: u64,
    pub(super) schedule: &'a StartupSchedule,
    pub(super) slots: Semaphore,
    pub(super) unresolved: AtomicUsize,
    pub(super) ends: Instant,
}

/// What is known of one name: its two answers, once they are more than failures.
struct Known {
    entries: [(RecordType, Option<Entry>); 2],
    attempts: u32,
}

impl Known {
    /// What the attempts so far come to, as far as it is settled.
    fn answered(&self) -> bool {
        self.entries
            .iter()
            .all(|(_, entry)| entry.as_ref().is_some_and(is_answer))
    }
}

/// Whether an entry is the resolver's word on the name, rather than the lack of it.
fn is_answer(entry: &Entry) -> bool {
    !matches!(entry.outcome, Outcome::Failed(_))
}

impl Round<'_> {
    /// Resolves one name, by its schedule.
    pub(super) async fn name(&self, permit: &LookupPermit) -> Result<StartupName, StartupFailure> {
        let started = Instant::now();
        let mut known = Known {
            entries: [(RecordType::A, None), (RecordType::AAAA, None)],
            attempts: 0,
        };
        for number in 0..self.schedule.attempts {
            if number > 0 {
                // A machine too busy to keep the schedule does not get more time for it.
                if Instant::now() + pause_after(number) >= self.ends {
                    break;
                }
                sleep(pause_after(number)).await;
            }
            self.attempt(permit, number, &mut known).await;
            if self.is_usable(&known) || known.answered() {
                break;
            }
        }
        self.unresolved.fetch_sub(1, Ordering::Relaxed);
        let result = self.settle(permit, known);
        self.note(permit, &result, started.elapsed());
        match result.outcome {
            Ok(()) => Ok(StartupName {
                name: permit.name().clone(),
                canonical: result.canonical.unwrap_or_else(|| permit.name().clone()),
                addresses: result.addresses,
                attempts: result.attempts,
            }),
            Err((reason, detail)) => Err(StartupFailure {
                name: permit.name().clone(),
                reason,
                detail,
                attempts: result.attempts,
            }),
        }
    }

    /// One attempt: A and AAAA together, each unless it is answered already.
    async fn attempt(&self, permit: &LookupPermit, number: usize, known: &mut Known) {
        let mut until = (Instant::now() + self.schedule.limit).min(self.ends);
        let slot = timeout_at(until, self.slots.acquire()).await;
        let patience = self
            .schedule
            .patience(self.unresolved.load(Ordering::Relaxed));
        until = until.min(Instant::now() + patience);
        let missing = known
            .entries
            .iter()
            .enumerate()
            .filter(|(_, (_, entry))| !entry.as_ref().is_some_and(is_answer));
        let mut asking: FuturesUnordered<_> = missing
            .map(|(index, (qtype, _))| {
                let ask = self.ask(permit, *qtype);
                let limit = until.saturating_duration_since(Instant::now());
                async move {
                    let attempt = Attempts::One { number, limit };
                    (index, self.look_up(&ask, attempt).await)
                }
            })
            .collect();
        if slot.is_ok() {
            known.attempts += 1;
            while let Ok(Some((index, entry))) = timeout_at(until, asking.next()).await {
                known.entries[index].1 = Some(entry);
                if self.is_usable(known) {
                    until = until.min(Instant::now() + OTHER_FAMILY_PATIENCE);
                }
            }
        }
        drop(asking);
        for (qtype, entry) in &mut known.entries {
            entry.get_or_insert_with(|| {
                self.inner
                    .failure(Reason::DnsTimeout, NO_ANSWER, self.epoch, *qtype)
            });
        }
    }

    async fn look_up(&self, ask: &Ask, attempt: Attempts) -> Entry {
        match self.inner.never_leaves(ask) {
            Some(entry) => entry,
            None => self.inner.look_up_type(ask, ask.key.qtype, attempt).await,
        }
    }

    fn ask(&self, permit: &LookupPermit, qtype: RecordType) -> Ask {
        Ask {
            key: Key {
                name: permit.name().clone(),
                qtype,
            },
            permits: smallvec![permit.clone()],
            policy: self.policy.clone(),
            epoch: self.epoch,
        }
    }

    /// Whether the sandbox could connect to one of the addresses known so far.
    fn is_usable(&self, known: &Known) -> bool {
        let six = (self.inner.ipv6_route)();
        let entries = known.entries.iter().filter_map(|(_, e)| e.as_ref());
        entries
            .flat_map(|entry| &entry.addresses)
            .any(|address| address.is_ipv4() || six)
    }

    /// Puts what was learnt where programs find it, and says what it comes to.
    fn settle(&self, permit: &LookupPermit, known: Known) -> Settled {
        let usable = self.is_usable(&known);
        let six = (self.inner.ipv6_route)();
        let mut settled = Settled {
            outcome: Ok(()),
            canonical: None,
            addresses: Vec::new(),
            refused: Vec::new(),
            upstream: None,
            attempts: known.attempts,
        };
        let mut failure: Option<(Reason, String)> = None;
        for (qtype, entry) in known.entries {
            let Some(entry) = entry else { continue };
            let addresses = entry.addresses.iter();
            let reachable = addresses.filter(|address| address.is_ipv4() || six);
            settled.addresses.extend(reachable);
            settled.refused.extend(&entry.refused);
            settled.canonical = settled.canonical.or(entry.canonical().cloned());
            settled.upstream = entry.server.clone().or(settled.upstream);
            if usable {
                if let Err(detail) = self.keep(permit, qtype, entry) {
                    settled.outcome = Err(detail);
                }
                continue;
            }
            let (reason, detail) = why(&entry);
            // The reason that says most stands: a guarded address, a failure, an absent name.
            if failure
                .as_ref()
                .is_none_or(|(had, _)| weight(reason) >= weight(*had))
            {
                failure = Some((reason, detail));
            }
        }
        if let Some((reason, detail)) = failure {
            settled.outcome = Err(match reason {
                Reason::PrivateAddress => (reason, private(&settled.refused)),
                _ => (reason, detail),
            });
        }
        settled
    }

    /// Caches and leases one answer of a name that has usable addresses.
    fn keep(
        &self,
        permit: &LookupPermit,
        qtype: RecordType,
        entry: Entry,
    ) -> Result<(), (Reason, String)> {
        if !is_answer(&entry) {
            // Left to the first program that asks: the name has addresses of the other family.
            return Ok(());
        }
        let mut entry = entry;
        if entry.outcome == Outcome::Private {
            // The other family is usable: an NXDOMAIN would take it away (RFC 8020).
            entry.outcome = Outcome::PrivateFamily;
        }
        let entry = Arc::new(entry);
        let ask = self.ask(permit, qtype);
        // Where addresses are made up, these are only looked at, and given to nobody.
        if !crate::synthetic::is_synthetic(&ask.policy) {
            self.inner
                .lease(&ask.permits, &entry)
                .map_err(|error| (grant_reason(&error), error.to_string()))?;
        }
        self.inner.cache.insert(ask.key, entry);
        Ok(())
    }

    /// Leaves the name's one record.
    fn note(&self, permit: &LookupPermit, settled: &Settled, took: Duration) {
        let (verdict, reason, detail) = match &settled.outcome {
            Ok(()) if permit.audit() => (Verdict::Audit, Reason::Allowed, None),
            Ok(()) => (Verdict::Allow, Reason::Allowed, None),
            Err((reason, detail)) => (reason.verdict(), *reason, Some(detail.as_str())),
        };
        let mut event = Event::new(Layer::Dns, Protocol::Startup, verdict, reason);
        event.name = Some(permit.name().as_str());
        event.canonical_name = settled.canonical.as_ref().map(|name| name.as_str());
        event.addresses = match settled.addresses.as_slice() {
            [] => &settled.refused,
            given => given,
        };
        event.families = true;
        event.upstream = settled.upstream.as_deref();
        event.attempts = Some(settled.attempts);
        event.detail = detail;
        event.timings = Timings::default().with(Stage::Total, took);
        if let Some(rule) = permit.rule() {
            let info = self.policy.rule(rule);
            event.rule = Some((info.text, info.source));
        }
        self.inner.recorder.decision(event);
    }
}

/// What a name came to.
struct Settled {
    outcome: Result<(), (Reason, String)>,
    canonical: Option<Name>,
    addresses: Vec<IpAddr>,
    refused: Vec<IpAddr>,
    upstream: Option<Arc<str>>,
    attempts: u32,
}

const NO_ANSWER: &str = "no resolver answered in time";

/// Why an entry gives the sandbox no address.
fn why(entry: &Entry) -> (Reason, String) {
    let told = |reason: Reason| (reason, reason.sentence().to_owned());
    match entry.outcome {
        Outcome::Failed(reason) => {
            let detail = entry.detail.as_deref().unwrap_or(reason.sentence());
            (reason, detail.to_owned())
        }
        Outcome::Private | Outcome::PrivateFamily => told(Reason::PrivateAddress),
        Outcome::NameNotFound => match &entry.detail {
            Some(detail) => (Reason::NameNotFound, detail.to_string()),
            None => told(Reason::NameNotFound),
        },
        Outcome::Found if entry.addresses.is_empty() => told(Reason::NoAddress),
        Outcome::Found => (
            Reason::NoAddress,
            "its addresses are IPv6 only, and this host has no IPv6 route".to_owned(),
        ),
    }
}

/// Which of two families' reasons is told. Between two answers without an address, the one that
/// has one which cannot be reached is longer, and comes second.
fn weight(reason: Reason) -> u8 {
    match reason {
        Reason::PrivateAddress => 3,
        Reason::NameNotFound => 1,
        Reason::NoAddress => 0,
        _ => 2,
    }
}

fn private(refused: &[IpAddr]) -> String {
    let addresses: Vec<String> = refused.iter().map(IpAddr::to_string).collect();
    format!(
        "its addresses are private, local or reserved, and no address rule lifts that: {}",
        addresses.join(", ")
    )
}
