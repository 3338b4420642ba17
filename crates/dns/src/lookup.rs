//! One lookup: questions to the upstreams until the chain has an end, and the judgement of what
//! they answered.
//!
//! Answers *addresses* (docs/threats.md): addresses are sorted by the guard here, once.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_names::{NameRef, RecordType};
use portcullis_policy::{Answers, LookupPermit, Policy, Reason};
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;

use crate::Clock;
use crate::cache::{Cache, Key, KeyRef};
use crate::chain::Chain;
use crate::entry::{Entry, EntryKind};
use crate::host::Host;
use crate::hosts::Hosts;
use crate::leases::Leases;
use crate::policy_in_force::InForce;
use crate::special_use;
use crate::upstream::{Attempts, LOOKUP_BUDGET, Progress, Unanswered, Upstream};

/// Questions asked for one lookup, where an upstream answers with a CNAME and no more.
const MAX_QUESTIONS: usize = 6;

/// The time that a reverse lookup may take before the lease's own name is answered: programs ask
/// for it on the way, and a private resolver often does not answer at all.
const REVERSE_BUDGET: Duration = Duration::from_millis(1_500);

/// How long a name without an answer for one family counts as one without addresses of it.
const WITHOUT_FAMILY_TTL: Duration = Duration::from_secs(10);

/// What the record says then.
const NO_ANSWER_FOR_FAMILY: &str =
    "no resolver answers for this address family; the other one has addresses";

/// Who is said to have answered from the hosts file.
pub(crate) const HOSTS_FILE: &str = "/etc/hosts";

/// What is said of a name for which that file has no address that may be reached.
const GUARDED_IN_HOSTS: &str =
    "the host's /etc/hosts gives this name an address that only an address rule opens";

/// What is said of a chain that leads from outside to a name of a zone that no rule lists.
const INTO_A_ZONE: &str = "its CNAME chain leads into a zone, to a name that is not listed";

/// Permits to look one name up: the first asks, all of them own what is found.
pub(crate) type Permits = SmallVec<[LookupPermit; 1]>;

/// A question and who may ask it.
#[derive(Clone, Debug)]
pub(crate) struct LookupRequest {
    pub key: Key,
    pub permits: Permits,
    pub in_force: InForce,
}

impl LookupRequest {
    /// By one permit, for its own name.
    pub(crate) fn new(permit: &LookupPermit, qtype: RecordType, in_force: InForce) -> Self {
        let name = permit.name().clone();
        LookupRequest {
            key: Key { name, qtype },
            permits: smallvec![permit.clone()],
            in_force,
        }
    }

    /// The same for another type.
    pub(crate) fn with_type(&self, qtype: RecordType) -> LookupRequest {
        let mut request = self.clone();
        request.key.qtype = qtype;
        request
    }

    /// The same for the other address family; `None` where no addresses are asked for.
    fn other_family(&self) -> Option<LookupRequest> {
        match self.key.qtype {
            RecordType::A => Some(self.with_type(RecordType::AAAA)),
            RecordType::AAAA => Some(self.with_type(RecordType::A)),
            _ => None,
        }
    }

    fn policy(&self) -> &Policy {
        &self.in_force.policy
    }

    /// Whether the policy lists a name for this type by itself.
    fn lists(&self, name: NameRef<'_>, qtype: RecordType) -> bool {
        self.in_force.decide(name, qtype).permits()
    }
}

/// Asks upstream and judges what comes back.
pub(crate) struct Lookup {
    pub upstream: Upstream,
    pub hosts: Hosts,
    pub leases: Arc<Leases>,
    pub cache: Cache,
    pub host: Host,
    pub clock: Clock,
}

impl Lookup {
    /// Asks until the question is answered, and judges the answer.
    pub(crate) async fn look_up(&self, request: &LookupRequest, progress: &Progress) -> Entry {
        let budget = if request.key.qtype == RecordType::PTR {
            REVERSE_BUDGET
        } else {
            LOOKUP_BUDGET
        };
        let how = Attempts::OnDemand {
            deadline: Instant::now() + budget,
        };
        let entry = self.look_up_type(request, how, progress).await;
        match entry.kind {
            EntryKind::Private => self.weigh_other_family(request, entry, how).await,
            EntryKind::Failed(_) if entry.unanswered != Unanswered::Failed => {
                // A server that does not know one of the types says so at once.
                let unable = entry.unanswered == Unanswered::Unable;
                if unable && !self.is_other_family_known(request) {
                    self.look_up_other_family(request, how).await;
                }
                let why = entry.detail.as_deref().unwrap_or_default();
                let (server, attempts) = (entry.server.clone(), entry.attempts);
                match self.without_family(request, why) {
                    Some(without) => without.answered_by(server, attempts),
                    None => entry,
                }
            }
            _ => entry,
        }
    }

    /// Asks for one type, along the CNAME chain to its end.
    pub(crate) async fn look_up_type(
        &self,
        request: &LookupRequest,
        how: Attempts,
        progress: &Progress,
    ) -> Entry {
        let Some(first) = request.permits.first() else {
            return self.failed(request, Reason::Internal, "no permit");
        };
        let qtype = request.key.qtype;
        if let Some(entry) = self.hosts_answer(request) {
            return entry;
        }
        let in_hosts = self.is_in_hosts(request);
        let mut chain = Chain::new(request.key.name.clone(), qtype);
        let mut permit = first.clone();
        let mut attempts = 0;
        let dns = &request.policy().settings().dns;
        for _ in 0..MAX_QUESTIONS {
            if let Some(why) = special_use::never_asked(permit.name().as_ref()) {
                chain.set_absent();
                let mut entry = self.judge(request, chain);
                entry.detail = Some(why.into());
                return entry;
            }
            let asked = self.upstream.query(&permit, qtype, how, progress).await;
            let answered = match asked {
                Ok(answered) => answered,
                Err(error) => {
                    let detail = with_proxy_hint(request.policy(), &error.detail);
                    let mut entry = self
                        .failed(request, error.reason, &detail)
                        .answered_by(error.server, attempts + error.attempts);
                    entry.unanswered = error.unanswered;
                    return entry;
                }
            };
            attempts += answered.attempts;
            let server = answered.server;
            let zone = dns.zone_for(permit.name().as_ref());
            let within = |name: NameRef<'_>| dns.zone_for(name) == zone;
            let unusable = match chain.follow(answered.message, within) {
                Ok(true) => {
                    if in_hosts {
                        chain.set_existing();
                    }
                    return self
                        .judge(request, chain)
                        .answered_by(Some(server), attempts);
                }
                Ok(false) => {
                    let end = chain.end();
                    let into = dns.zone_for(end.as_ref());
                    // Whoever serves a listed name could have any internal name asked for.
                    if into.is_none() || into == zone || request.lists(end.as_ref(), qtype) {
                        // The canonical name stands under the same listed name.
                        permit = permit.follow(end.clone());
                        continue;
                    }
                    format!("resolver {server}: {INTO_A_ZONE}")
                }
                Err(error) => format!("resolver {server}: {error}"),
            };
            return self
                .failed(request, Reason::DnsFailed, &unusable)
                .answered_by(Some(server), attempts);
        }
        let detail = "the CNAME chain takes too many questions to follow";
        self.failed(request, Reason::DnsFailed, detail)
    }

    /// Whether the host's hosts file has the name, and no zone of the policy takes it.
    fn is_in_hosts(&self, request: &LookupRequest) -> bool {
        let name = request.key.name.as_ref();
        let zone = request.policy().settings().dns.zone_for(name);
        zone.is_none() && self.hosts.load().addresses(name).is_some()
    }

    /// The answer of the host's hosts file. Records of other types come from the resolvers.
    fn hosts_answer(&self, request: &LookupRequest) -> Option<Entry> {
        let (name, qtype) = (&request.key.name, request.key.qtype);
        if !is_answered_by_hosts(qtype) || !self.is_in_hosts(request) {
            return None;
        }
        let hosts = self.hosts.load();
        let addresses = hosts.addresses(name.as_ref()).unwrap_or_default();
        let mut entry = match Chain::of_addresses(name.clone(), qtype, addresses) {
            Ok(chain) => self.judge(request, chain),
            Err(error) => self.failed(request, Reason::Internal, &error.to_string()),
        };
        if entry.kind == EntryKind::Private {
            entry.detail = Some(GUARDED_IN_HOSTS.into());
        }
        Some(entry.answered_by(Some(HOSTS_FILE.into()), 0))
    }

    /// Sorts an answer: what the guard lets through is written into the reply's body.
    fn judge(&self, request: &LookupRequest, mut chain: Chain) -> Entry {
        let born = self.clock.now();
        let passes = |address: IpAddr| {
            // A real address of the range would be taken for another name's.
            if self.leases.is_synthetic(address) {
                return false;
            }
            let own = self.host.owns(address);
            request.permits.iter().any(|permit| {
                let lifted = !own || request.policy().lifts_any(address, permit.ports());
                let udp = permit.udp_ports();
                lifted && request.policy().guard_lookup(address, permit.ports())
                    || !own && request.policy().guard_datagram_lookup(address, udp)
            })
        };
        let (mut given, refused): (Vec<IpAddr>, Vec<IpAddr>) =
            chain.addresses().partition(|address| passes(*address));
        let private = !refused.is_empty() && given.is_empty();
        let six = self.host.routes_ipv6();
        // Beside a synthetic address, real ones in hints would be another way to the name.
        let real = request.policy().settings().dns.answers == Answers::Real;
        given.extend(chain.limit_services(|hint| real && passes(hint) && (hint.is_ipv4() || six)));
        // The permits are of one policy and for one name: they agree on this.
        if request.permits.iter().any(LookupPermit::flattened) {
            chain.flatten();
        }
        let kind = if private {
            EntryKind::Private
        } else if chain.nx_domain() {
            EntryKind::NameNotFound
        } else {
            EntryKind::Found
        };
        let mut entry = Entry::new(kind, born, chain.ttl(), request.in_force.epoch);
        entry.addresses = given.into();
        entry.refused = refused.into();
        entry.targets = chain.targets().into();
        entry.pointer = chain.pointer();
        if kind == EntryKind::Private {
            return entry;
        }
        chain.retain_addresses(passes);
        match chain.body() {
            Ok(body) => entry.body = body,
            Err(error) => {
                let detail = error.to_string();
                return self.failed(request, Reason::Internal, &detail);
            }
        }
        entry
    }

    /// Decides what an address family without a usable address means: an NXDOMAIN says that the
    /// name has nothing at all (RFC 8020), so it takes a look at the other family.
    async fn weigh_other_family(
        &self,
        request: &LookupRequest,
        entry: Entry,
        how: Attempts,
    ) -> Entry {
        let other = match request.key.qtype {
            RecordType::A => RecordType::AAAA,
            _ => RecordType::A,
        };
        let routed = other == RecordType::A || self.host.routes_ipv6();
        let mut listed = request
            .permits
            .iter()
            .map(|permit| permit.listed().as_ref());
        if !routed || !listed.any(|name| request.lists(name, other)) {
            return entry;
        }
        let now = self.clock.now();
        let request = request.with_type(other);
        let kept = self.cache.get(KeyRef::from(&request.key));
        let (usable, left, attempts) =
            match kept.filter(|kept| kept.is_valid(now, request.in_force.epoch)) {
                Some(kept) => (is_usable(&kept), kept.left(now), 0),
                // Not by a flight of its own: that one might wait for this one.
                None => {
                    let found = self.look_up_type(&request, how, &Progress::default()).await;
                    let weighed = (is_usable(&found), found.left(now), found.attempts);
                    // Most programs ask for it next. Without an address in this family either, what was
                    // found of the other stands as it is.
                    if !matches!(found.kind, EntryKind::Failed(_)) {
                        self.cache.insert(request.key.clone(), Arc::new(found));
                    }
                    weighed
                }
            };
        let kind = if usable {
            EntryKind::PrivateFamily
        } else {
            EntryKind::Private
        };
        let ttl = entry.left(now).min(left);
        let mut weighed = Entry::new(kind, now, ttl, request.in_force.epoch)
            .answered_by(entry.server, entry.attempts + attempts);
        weighed.refused = entry.refused;
        weighed.targets = entry.targets;
        weighed.detail = entry.detail;
        weighed
    }

    /// The answer to a question for one family that fails where the other one has addresses: the name is
    /// there, without an address of this family for now. Programs ask for both and wait for both, so a
    /// failure would cost them the family that works. `None` where nothing is known of the other
    /// family, or an earlier answer can be given out again. `why` is for the record. The caller knows that
    /// no server has said anything else than that it does not answer such a question.
    pub(crate) fn without_family(&self, request: &LookupRequest, why: &str) -> Option<Entry> {
        let now = self.clock.now();
        let epoch = request.in_force.epoch;
        let other = request.other_family()?;
        let kept = self.cache.get(KeyRef::from(&other.key))?;
        if !kept.is_valid(now, epoch) || kept.addresses.is_empty() {
            return None;
        }
        let (key, qtype) = (&request.key, request.key.qtype);
        let earlier = self.cache.get(KeyRef::from(key));
        if earlier.is_some_and(|earlier| earlier.outlives_its_end(now, epoch, qtype)) {
            return None;
        }
        let mut entry = Entry::new(EntryKind::Found, now, WITHOUT_FAMILY_TTL, epoch);
        let body = Chain::new(key.name.clone(), qtype).body().ok()?;
        entry.body = body.with_ttl(WITHOUT_FAMILY_TTL.as_secs() as u32);
        entry.detail = Some(format!("{NO_ANSWER_FOR_FAMILY}: {why}").into());
        Some(entry)
    }

    fn is_other_family_known(&self, request: &LookupRequest) -> bool {
        let now = self.clock.now();
        let valid = |kept: Arc<Entry>| kept.is_valid(now, request.in_force.epoch);
        request.other_family().is_none_or(|other| {
            let kept = self.cache.get(KeyRef::from(&other.key));
            kept.is_some_and(valid)
        })
    }

    /// Asks for the other family, where it may be asked for, and keeps the answer.
    async fn look_up_other_family(&self, request: &LookupRequest, how: Attempts) {
        let Some(other) = request.other_family() else {
            return;
        };
        let routed = other.key.qtype == RecordType::A || self.host.routes_ipv6();
        let mut listed = request
            .permits
            .iter()
            .map(|permit| permit.listed().as_ref());
        if routed && listed.any(|name| request.lists(name, other.key.qtype)) {
            let found = self.look_up_type(&other, how, &Progress::default()).await;
            if !matches!(found.kind, EntryKind::Failed(_) | EntryKind::Private) {
                self.cache.insert(other.key.clone(), Arc::new(found));
            }
        }
    }

    /// The answer to a name that no resolver may be asked for, although the policy permits it.
    pub(crate) fn never_asked(&self, request: &LookupRequest) -> Option<Entry> {
        let detail = special_use::never_asked(request.key.name.as_ref())?;
        let in_hosts = self.is_in_hosts(request);
        if in_hosts && is_answered_by_hosts(request.key.qtype) {
            return None;
        }
        let mut chain = Chain::new(request.key.name.clone(), request.key.qtype);
        if !in_hosts {
            chain.set_absent();
        }
        let mut entry = self.judge(request, chain);
        entry.detail = Some(detail.into());
        Some(entry)
    }

    /// An entry that says why there is no answer.
    pub(crate) fn failed(&self, request: &LookupRequest, reason: Reason, detail: &str) -> Entry {
        let (qtype, epoch) = (request.key.qtype, request.in_force.epoch);
        Entry::failed(reason, detail, qtype, self.clock.now(), epoch)
    }
}

/// Whether the hosts file answers this type for the names that it has: addresses, and services, whose hints
/// would lead elsewhere.
fn is_answered_by_hosts(qtype: RecordType) -> bool {
    use RecordType as T;
    matches!(qtype, T::A | T::AAAA | T::HTTPS | T::SVCB)
}

/// Whether the program can reach the name by this family, as far as anybody knows: where the lookup
/// failed, an NXDOMAIN would claim too much.
fn is_usable(entry: &Entry) -> bool {
    !entry.addresses.is_empty() || matches!(entry.kind, EntryKind::Failed(_))
}

/// What the record says of a lookup that failed where an upstream proxy could know the name.
fn with_proxy_hint<'d>(policy: &Policy, detail: &'d str) -> Cow<'d, str> {
    let settings = policy.settings();
    match settings.dns.answers {
        Answers::Real if !settings.upstream.is_empty() => {
            let hint = "if only the upstream proxy can resolve names, use `--answers synthetic`";
            format!("{detail}; {hint}").into()
        }
        _ => detail.into(),
    }
}
