//! One start-up under way: the attempts for each name, what they come to, and its record.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use portcullis_names::{Name, RecordType};
use portcullis_policy::{LookupPermit, Reason, Verdict};
use portcullis_record::{Event, Layer, Protocol, Recorder, Stage, Timings};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::outcome::{StartupFailure, StartupName};
use super::schedule::{StartupSchedule, pause_after};
use crate::entry::{Entry, EntryKind};
use crate::grants::Grants;
use crate::lookup::LookupRequest;
use crate::policy_in_force::InForce;
use crate::resolver::Resolver;
use crate::synthetic;
use crate::upstream::{Attempts, Progress};

/// How long usable addresses of one family wait for the other family's answer, which can still be
/// asked for on demand: resolvers that never answer AAAA exist.
const OTHER_FAMILY_PATIENCE: Duration = Duration::from_millis(500);

/// One start-up: what all its names share.
pub(crate) struct Round<'a> {
    pub(super) in_force: InForce,
    /// Names that have no answer yet.
    pub(super) unresolved: AtomicUsize,
    resolver: &'a Resolver,
    grants: &'a Grants,
    recorder: &'a Recorder,
    schedule: &'a StartupSchedule,
    slots: Semaphore,
    ends: Instant,
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
    !matches!(entry.kind, EntryKind::Failed(_))
}

impl<'a> Round<'a> {
    /// A round whose time begins now.
    pub(crate) fn new(
        resolver: &'a Resolver,
        grants: &'a Grants,
        recorder: &'a Recorder,
        in_force: InForce,
        schedule: &'a StartupSchedule,
    ) -> Round<'a> {
        Round {
            in_force,
            unresolved: AtomicUsize::new(0),
            resolver,
            grants,
            recorder,
            schedule,
            slots: Semaphore::new(schedule.at_once),
            ends: Instant::now() + schedule.longest(),
        }
    }

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
        self.record(permit, &result, started.elapsed());
        match result.outcome {
            Ok(()) => Ok(StartupName {
                name: permit.name().clone(),
                canonical: result.canonical.unwrap_or_else(|| permit.name().clone()),
                addresses: result.addresses,
                attempts: result.attempts,
            }),
            Err(Failure { reason, detail }) => Err(StartupFailure {
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
                let request = self.request(permit, *qtype);
                let limit = until.saturating_duration_since(Instant::now());
                async move {
                    let attempt = Attempts::One { number, limit };
                    (index, self.look_up(&request, attempt).await)
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
                let request = self.request(permit, *qtype);
                let lookup = &self.resolver.lookup;
                lookup.failed(&request, Reason::DnsTimeout, NO_ANSWER)
            });
        }
    }

    async fn look_up(&self, request: &LookupRequest, attempt: Attempts) -> Entry {
        let lookup = &self.resolver.lookup;
        match lookup.never_asked(request) {
            Some(entry) => entry,
            None => {
                let unwatched = Progress::default();
                lookup.look_up_type(request, attempt, &unwatched).await
            }
        }
    }

    fn request(&self, permit: &LookupPermit, qtype: RecordType) -> LookupRequest {
        LookupRequest::new(permit, qtype, self.in_force.clone())
    }

    /// Whether the sandbox could connect to one of the addresses known so far.
    fn is_usable(&self, known: &Known) -> bool {
        let six = self.resolver.lookup.host.routes_ipv6();
        let entries = known.entries.iter().filter_map(|(_, e)| e.as_ref());
        entries
            .flat_map(|entry| &entry.addresses)
            .any(|address| address.is_ipv4() || six)
    }

    /// Puts what was learnt where programs find it, and says what it comes to.
    fn settle(&self, permit: &LookupPermit, known: Known) -> Settled {
        let usable = self.is_usable(&known);
        let six = self.resolver.lookup.host.routes_ipv6();
        let mut settled = Settled {
            outcome: Ok(()),
            canonical: None,
            addresses: Vec::new(),
            refused: Vec::new(),
            upstream: None,
            attempts: known.attempts,
        };
        let mut failure: Option<Failure> = None;
        for (qtype, entry) in known.entries {
            let Some(entry) = entry else { continue };
            let addresses = entry.addresses.iter();
            let reachable = addresses.filter(|address| address.is_ipv4() || six);
            settled.addresses.extend(reachable);
            settled.refused.extend(&entry.refused);
            settled.canonical = settled.canonical.or(entry.canonical().cloned());
            settled.upstream = entry.server.clone().or(settled.upstream);
            if usable {
                if let Err(failure) = self.keep(permit, qtype, entry) {
                    settled.outcome = Err(failure);
                }
                continue;
            }
            let new = Failure::of(&entry);
            // The reason that says most stands: a guarded address, a failure, an absent name.
            if failure
                .as_ref()
                .is_none_or(|had| new.weight() >= had.weight())
            {
                failure = Some(new);
            }
        }
        if let Some(mut failure) = failure {
            if failure.reason == Reason::PrivateAddress {
                failure.detail = private(&settled.refused);
            }
            settled.outcome = Err(failure);
        }
        settled
    }

    /// Caches and leases one answer of a name that has usable addresses.
    fn keep(
        &self,
        permit: &LookupPermit,
        qtype: RecordType,
        mut entry: Entry,
    ) -> Result<(), Failure> {
        if !is_answer(&entry) {
            // Left to the first program that asks: the name has addresses of the other family.
            return Ok(());
        }
        if entry.kind == EntryKind::Private {
            // The other family is usable: an NXDOMAIN would take it away (RFC 8020).
            entry.kind = EntryKind::PrivateFamily;
        }
        let request = self.request(permit, qtype);
        // Where addresses are made up, these are only looked at, and given to nobody.
        if !synthetic::is_synthetic(&self.in_force.policy) {
            self.grants
                .grant_entry(&request.permits, &entry)
                .map_err(|error| Failure {
                    reason: error.reason(),
                    detail: error.to_string(),
                })?;
        }
        self.resolver
            .lookup
            .cache
            .insert(request.key, Arc::new(entry));
        Ok(())
    }

    /// Leaves the name's one record.
    fn record(&self, permit: &LookupPermit, settled: &Settled, took: Duration) {
        let (verdict, reason, detail) = match &settled.outcome {
            Ok(()) if permit.audit() => (Verdict::Audit, Reason::Allowed, None),
            Ok(()) => (Verdict::Allow, Reason::Allowed, None),
            Err(failure) => {
                let reason = failure.reason;
                (reason.verdict(), reason, Some(failure.detail.as_str()))
            }
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
            let info = self.in_force.policy.rule(rule);
            event.rule = Some((info.text, info.source));
        }
        let id = self.recorder.decision(event);
        debug!(
            %id, name = permit.name().as_str(), %reason, attempts = settled.attempts,
            "start-up name decided"
        );
    }
}

/// What a name came to.
struct Settled {
    outcome: Result<(), Failure>,
    canonical: Option<Name>,
    addresses: Vec<IpAddr>,
    refused: Vec<IpAddr>,
    upstream: Option<Arc<str>>,
    attempts: u32,
}

const NO_ANSWER: &str = "no resolver answered in time";
const IPV6_ONLY: &str = "its addresses are IPv6 only, and this host has no IPv6 route";

/// Why a name gives the sandbox no address.
struct Failure {
    reason: Reason,
    detail: String,
}

impl Failure {
    /// Why an entry does.
    fn of(entry: &Entry) -> Failure {
        let (reason, detail) = match entry.kind {
            EntryKind::Failed(reason) => (reason, entry.detail.as_deref()),
            EntryKind::Private | EntryKind::PrivateFamily => (Reason::PrivateAddress, None),
            EntryKind::NameNotFound => (Reason::NameNotFound, entry.detail.as_deref()),
            EntryKind::Found if entry.addresses.is_empty() => (Reason::NoAddress, None),
            EntryKind::Found => (Reason::NoAddress, Some(IPV6_ONLY)),
        };
        Failure {
            reason,
            detail: detail.unwrap_or(reason.sentence()).to_owned(),
        }
    }

    /// Which of two families' failures is told: the heavier. Between two answers without an address,
    /// the one that has one which cannot be reached comes second, and stands.
    fn weight(&self) -> u8 {
        match self.reason {
            Reason::PrivateAddress => 3,
            Reason::NameNotFound => 1,
            Reason::NoAddress => 0,
            _ => 2,
        }
    }
}

fn private(refused: &[IpAddr]) -> String {
    let addresses: Vec<String> = refused.iter().map(IpAddr::to_string).collect();
    format!(
        "its addresses are private, local or reserved, and no address rule lifts that: {}",
        addresses.join(", ")
    )
}
