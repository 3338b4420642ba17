//! The forwarder: from a query's bytes to a reply's bytes.
//!
//! Decided before anything leaves: receive → guard → decide → cache → flight → upstream → chain →
//! lease → reply, in this order. What can be answered at once (refusals, own names, cached answers)
//! is answered without waiting and without a task; the rest comes back as [`Pending`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_names::{AllowedClients, Name, NameRef, RecordType, STATUS_NAME};
use portcullis_policy::{HOST_NAME, Mode, Policy, Reason, Verdict};
use portcullis_record::{DecisionId, Protocol, Recorder};
use portcullis_wire::dns::{Query, QueryError, guard_query, ptr_address};
use smallvec::smallvec;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::Clock;
use crate::acceptor::Reserve;
use crate::cache::{Key, KeyRef};
use crate::canonical_names::CanonicalNames;
use crate::entry::{Entry, EntryKind};
use crate::grants::Grants;
use crate::leases::Leases;
use crate::local::{self, LocalNames};
use crate::lookup::{LookupRequest, Permits};
use crate::policy_in_force::{InForce, PolicyInForce};
use crate::query::{ClientQuery, Decided, Refusal, Ruling, Source};
use crate::query_rate::QueryRate;
use crate::reply::{self, Ede, ReplyContext, rcode};
use crate::resolver::Resolver;
use crate::response_cache::{BatchContext, Reusable, Validity};
use crate::reverse::{LeasedNames, ReverseLookups};
use crate::searches::Searches;
use crate::synthetic::{self, Synthesis, SyntheticAnswers};

/// How often a lookup is decided again because the policy changed while it was under way.
const MAX_POLICY_CHANGES: usize = 3;

/// The most names of a message that is no query are kept for the record, in bytes.
const MAX_ASKED_BYTES: usize = 256;

/// What the record says of queries above the policy's rate.
const TOO_MANY_QUERIES: &str = "more DNS queries than dns_queries_per_second allows";

/// How far a query has come.
pub(crate) enum Step {
    /// The reply is in the buffer; an empty buffer means that none is due. Where equal questions get
    /// the same, it says how it may be repeated.
    Done(Option<Reusable>),
    /// Somebody has to be asked.
    Wait(Box<Pending>),
}

/// A permitted question whose answer is not at hand.
pub(crate) struct Pending {
    query: Query,
    ruling: Ruling,
    request: LookupRequest,
    wanted: Wanted,
}

impl Pending {
    fn decided(&self) -> Decided<'_> {
        Decided {
            in_force: &self.request.in_force,
            ruling: self.ruling,
        }
    }
}

/// A permitted question that a resolver may have to answer.
struct Permitted {
    ruling: Ruling,
    permits: Permits,
    wanted: Wanted,
}

/// What is asked for.
enum Wanted {
    /// Records as the upstream has them.
    Records,
    /// The name of an address that was given out.
    Reverse(LeasedNames),
    /// An address to be made up, if the name has any.
    Synthetic,
}

/// What one sandbox's queries are answered from.
pub(crate) struct Forwarder {
    pub policy: PolicyInForce,
    pub recorder: Recorder,
    pub clock: Clock,
    pub query_rate: QueryRate,
    pub leases: Arc<Leases>,
    pub canonical_names: Arc<CanonicalNames>,
    pub grants: Grants,
    pub local: LocalNames,
    pub reverse: ReverseLookups,
    pub synthetic: SyntheticAnswers,
    pub resolver: Arc<Resolver>,
    pub searches: Arc<Searches>,
    /// Places for connections of clients over TCP, of all listeners together.
    pub tcp_clients: Arc<Semaphore>,
    pub allowed_clients: AllowedClients,
    /// Of all listeners.
    pub reserve: Arc<Reserve>,
}

impl Forwarder {
    /// Whether a name means this host or the sandbox itself, whatever a search list would make of it.
    pub(crate) fn is_own(&self, name: NameRef<'_>) -> bool {
        let hostname = self.local.own.hostname.as_ref();
        name.is_localhost()
            || [HOST_NAME, STATUS_NAME].contains(&name.as_str())
            || hostname.is_some_and(|own| own.as_ref() == name)
            || self.resolver.lookup.hosts.load().addresses(name).is_some()
    }

    /// Answers one query, waiting for an upstream where there is need.
    pub(crate) async fn answer(&self, message: &[u8], source: Source, out: &mut Vec<u8>) {
        if let Step::Wait(pending) = self.begin(message, source, out) {
            self.conclude(message, pending, source, out).await;
        }
    }

    /// What a batch of queries is answered under from now on.
    pub(crate) fn batch(&self, epoch: u64, stamp: Instant) -> BatchContext<'_> {
        BatchContext {
            epoch,
            now: self.clock.now(),
            stamp,
            leases: &self.leases,
            canonical_names: &self.canonical_names,
            recorder: &self.recorder,
        }
    }

    /// Answers what can be answered at once.
    pub(crate) fn begin(&self, message: &[u8], source: Source, out: &mut Vec<u8>) -> Step {
        out.clear();
        let parsed = match guard_query(message) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.refuse_malformed(message, &error, source, out);
                return Step::Done(None);
            }
        };
        let query = ClientQuery::new(message, &parsed, source, &self.recorder);
        debug!(
            name = query.name.as_str(), qtype = %parsed.qtype, message_id = parsed.header.id,
            protocol = ?source.protocol, client = ?source.client, "query received"
        );
        let in_force = self.policy.current();
        if self.refuse_above_rate(&query, &in_force.policy, out)
            || local::answer(&query, out)
            || self.local.answer_status(&query, out)
        {
            return Step::Done(None);
        }
        let permitted = match (parsed.qtype, ptr_address(query.name)) {
            (RecordType::PTR, Some(address)) => self
                .reverse
                .begin(&query, &in_force, address, out)
                .map(|reverse| Permitted {
                    ruling: reverse.ruling,
                    permits: smallvec![reverse.permit],
                    wanted: reverse.leased.map_or(Wanted::Records, Wanted::Reverse),
                }),
            _ => self.begin_forward(&query, &in_force, out),
        };
        let Some(permitted) = permitted else {
            return Step::Done(query.reusable());
        };
        let request = LookupRequest {
            key: Key {
                name: parsed.name.to_name(),
                qtype: parsed.qtype,
            },
            permits: permitted.permits,
            in_force,
        };
        let known = match permitted.wanted {
            Wanted::Synthetic => self.resolver.addresses_at_hand(&request),
            _ => self.resolver.at_hand(&request.key, request.in_force.epoch),
        };
        let pending = Pending {
            query: parsed,
            ruling: permitted.ruling,
            request,
            wanted: permitted.wanted,
        };
        let Some(entry) = known else {
            return Step::Wait(Box::new(pending));
        };
        let query = ClientQuery::new(message, &pending.query, source, &self.recorder);
        self.complete(&query, &pending, &entry, out);
        Step::Done(None)
    }

    /// Asks for what [`Forwarder::begin`] could not answer, and answers it.
    pub(crate) async fn conclude(
        &self,
        message: &[u8],
        mut pending: Box<Pending>,
        source: Source,
        out: &mut Vec<u8>,
    ) {
        let started = Instant::now();
        for _ in 0..MAX_POLICY_CHANGES {
            let entry = match pending.wanted {
                Wanted::Synthetic => self.resolver.fetch_addresses(&pending.request).await,
                _ => self.resolver.fetch(pending.request.clone()).await,
            };
            // A policy that came in meanwhile decides anew: it may have taken the name back.
            if self.policy.current().epoch == pending.request.in_force.epoch {
                let mut query = ClientQuery::new(message, &pending.query, source, &self.recorder);
                query.started = started;
                self.complete(&query, &pending, &entry, out);
                return;
            }
            match self.begin(message, source, out) {
                Step::Done(_) => return,
                Step::Wait(anew) => pending = anew,
            }
        }
        let query = ClientQuery::new(message, &pending.query, source, &self.recorder);
        let decided = pending.decided().with(Ruling::of(Reason::Internal, None));
        query.refuse(&decided, Refusal::Code(rcode::SERV_FAIL), out);
    }

    /// Refuses a query because too many wait: SERVFAIL, so that nobody caches it as an absent name.
    pub(crate) fn refuse_too_many(&self, message: &[u8], source: Source, out: &mut Vec<u8>) {
        out.clear();
        let Ok(parsed) = guard_query(message) else {
            return;
        };
        let query = ClientQuery::new(message, &parsed, source, &self.recorder);
        let decided = Decided {
            in_force: &self.policy.current(),
            ruling: Ruling::of(Reason::RateLimited, None),
        };
        query.refuse(&decided, Refusal::Code(rcode::SERV_FAIL), out);
    }

    /// Refuses a query of a client that this resolver does not serve: REFUSED, and nothing for what is no
    /// query. The record has no name, so that a flood of one client shares one record a second.
    pub(crate) fn refuse_stranger(
        &self,
        message: &[u8],
        client: SocketAddr,
        source: Source,
        out: &mut Vec<u8>,
    ) {
        out.clear();
        let id = self.record_stranger(client, source);
        if let Ok(parsed) = guard_query(message) {
            let query = ClientQuery::new(message, &parsed, source, &self.recorder);
            let refusal = Refusal::Code(rcode::REFUSED);
            query.write_refusal(Reason::ClientNotAllowed, id, refusal, out);
        }
    }

    /// Records that a client was refused for where it came from.
    pub(crate) fn record_stranger(&self, client: SocketAddr, source: Source) -> DecisionId {
        let reason = Reason::ClientNotAllowed;
        let detail = format!("from {}", client.ip().to_canonical());
        let event = source.event(reason.verdict(), reason);
        self.recorder.decision(event.detail(&detail))
    }

    /// Refuses a query above the policy's `dns_queries_per_second`, before anything is done for it.
    fn refuse_above_rate(
        &self,
        query: &ClientQuery<'_>,
        policy: &Policy,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(id) = self.above_rate(query.source, policy) else {
            return false;
        };
        let refusal = Refusal::Code(rcode::SERV_FAIL);
        query.write_refusal(Reason::RateLimited, id, refusal, out);
        true
    }

    /// Counts a message, and records it where the policy's rate is used up. The record has no name,
    /// so that a flood of names shares one record a second.
    fn above_rate(&self, source: Source, policy: &Policy) -> Option<DecisionId> {
        let limit = policy.settings().dns.queries_per_second?;
        if self.query_rate.admits(limit, self.clock.now()) {
            return None;
        }
        let event = source.event(Reason::RateLimited.verdict(), Reason::RateLimited);
        Some(self.recorder.decision(event.detail(TOO_MANY_QUERIES)))
    }

    /// Decides a question that is not for an address. `None`: it is answered.
    fn begin_forward(
        &self,
        query: &ClientQuery<'_>,
        in_force: &InForce,
        out: &mut Vec<u8>,
    ) -> Option<Permitted> {
        let (name, qtype) = (query.name, query.qtype());
        let policy = &*in_force.policy;
        // Read before they are: what is learnt meanwhile makes this answer an old one.
        let canonical_names = self.canonical_names.learnt();
        // ANY asks about the name, and whatever is listed has an answer to it.
        let decided_type = if qtype == RecordType::ANY {
            RecordType::A
        } else {
            qtype
        };
        let decision = in_force.decide(name, decided_type);
        let mut decided = Decided {
            in_force,
            ruling: Ruling::from(&decision),
        };
        // No name of an address ([`Forwarder::begin`] takes those elsewhere): nobody has a record of
        // this type for it, and the question would only carry its labels out.
        if qtype == RecordType::PTR && decision.permits() {
            decided.ruling = match policy.mode() {
                Mode::Audit => Ruling::permitted(Reason::TypeNotServed, decision.rule, true),
                _ => Ruling::of(Reason::TypeNotServed, decision.rule),
            };
        }
        let for_address = matches!(qtype, RecordType::A | RecordType::AAAA);
        let canonical = match decision.reason {
            Reason::NotListed => self.canonical_permits(query, in_force),
            _ => None,
        };
        let known = canonical.as_ref().filter(|_| for_address);
        if let Some(permits) = known {
            // Also where the policy only watches: a canonical name need not be listed.
            decided.ruling = canonical_ruling(permits);
        } else if decision.reason == Reason::NotListed && self.local.answer_hostname(query, out) {
            return None;
        } else if canonical.is_none()
            && decided.ruling.reason == Reason::NotListed
            && !decided.ruling.permits()
        {
            if self.searches.refuse(query, &decided, out) {
                query.may_repeat(Validity {
                    canonical_names: Some(canonical_names),
                    ..Validity::default()
                });
            }
            return None;
        } else if !decided.ruling.permits() {
            let refusal = match decided.ruling.reason {
                Reason::TransferRefused => Refusal::Code(rcode::REFUSED),
                Reason::TypeNotServed => Refusal::NoData,
                // A canonical name exists for the sandbox, with addresses only: an NXDOMAIN for
                // its other types would take the addresses away too (RFC 8020).
                Reason::NotListed if canonical.is_some() => {
                    decided.ruling = Ruling::of(Reason::TypeNotServed, None);
                    Refusal::NoData
                }
                _ => Refusal::Absent,
            };
            query.refuse(&decided, refusal, out);
            query.may_repeat(Validity {
                canonical_names: Some(canonical_names),
                ..Validity::default()
            });
            return None;
        }
        if qtype == RecordType::ANY {
            query.record_own(&decided, &[]);
            local::answer_any(query, out);
            return None;
        }
        let listed = || decision.lookup_permit().into_iter().collect();
        if name.as_str() == HOST_NAME {
            self.local.answer_host(query, &decided, &listed(), out);
            return None;
        }
        if synthetic::makes_up(policy) {
            let permits = known.cloned().unwrap_or_else(listed);
            match self.synthetic.begin(query, &decided, &permits, out) {
                Synthesis::Answered => return None,
                Synthesis::IfItExists => {
                    return Some(Permitted {
                        ruling: decided.ruling,
                        permits,
                        wanted: Wanted::Synthetic,
                    });
                }
                Synthesis::No => {}
            }
        }
        if qtype == RecordType::AAAA && !self.resolver.lookup.host.routes_ipv6() {
            query.answer_no_data(&decided, out);
            return None;
        }
        if known.is_none() && self.answer_cached(query, &decided, out) {
            return None;
        }
        let canonical = canonical.filter(|_| for_address);
        Some(Permitted {
            ruling: decided.ruling,
            permits: canonical.unwrap_or_else(listed),
            wanted: Wanted::Records,
        })
    }

    /// The path that costs least: a listed name whose cached answer needs no new lease.
    fn answer_cached(
        &self,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let key = KeyRef {
            name: query.name,
            qtype: query.qtype(),
        };
        let Some(entry) = self.resolver.lookup.cache.get(key) else {
            return false;
        };
        let now = self.clock.now();
        let leases = self.leases.evictions();
        if entry.kind != EntryKind::Found
            || !entry.is_valid(now, decided.in_force.epoch)
            || !entry.is_leased(leases)
            || entry.is_due(now)
        {
            return false;
        }
        entry.count_use();
        query.record(decided, &entry, None);
        let age = now.saturating_duration_since(entry.born);
        reply::prepared(out, &query.reply, &entry.body, age, None);
        // TTLs are whole seconds: these are right until the next one begins.
        let next = entry.born + Duration::from_secs(age.as_secs() + 1);
        query.may_repeat(Validity {
            until: Some(next.min(entry.expires)),
            leases: Some(leases),
            canonical_names: None,
        });
        true
    }

    /// Permits for a canonical name, under the listed names whose chains led to it and that the
    /// policy in force still lists.
    fn canonical_permits(&self, query: &ClientQuery<'_>, in_force: &InForce) -> Option<Permits> {
        let name = query.name;
        let owners = self.canonical_names.owners(name, self.clock.now());
        if owners.is_empty() {
            return None;
        }
        let permit = |listed: &Name| {
            let permit = match query.qtype() {
                qtype @ (RecordType::A | RecordType::AAAA) => {
                    in_force.decide(listed.as_ref(), qtype).lookup_permit()
                }
                // Another type asks only whether the name is one that exists.
                _ => in_force.address_permit(listed),
            };
            Some(permit?.follow(name.to_name()))
        };
        let permits: Permits = owners.iter().filter_map(permit).collect();
        (!permits.is_empty()).then_some(permits)
    }

    /// Leases, records and answers what a lookup brought.
    fn complete(
        &self,
        query: &ClientQuery<'_>,
        pending: &Pending,
        entry: &Entry,
        out: &mut Vec<u8>,
    ) {
        let decided = pending.decided();
        let permits = &pending.request.permits;
        match &pending.wanted {
            Wanted::Reverse(leased) => {
                return self.reverse.complete(query, &decided, leased, entry, out);
            }
            Wanted::Synthetic if entry.kind == EntryKind::Found => {
                return self
                    .synthetic
                    .complete(query, &decided, permits, entry, out);
            }
            Wanted::Records | Wanted::Synthetic => {}
        }
        match entry.kind {
            EntryKind::Failed(reason) => query.fail(&decided.but(reason), entry, None, out),
            EntryKind::Private | EntryKind::PrivateFamily => {
                let decided = decided.but(Reason::PrivateAddress);
                let id = query.record(&decided, entry, None);
                let refusal = match entry.kind {
                    EntryKind::Private => Refusal::Absent,
                    _ => Refusal::NoData,
                };
                query.write_refusal(Reason::PrivateAddress, id, refusal, out);
            }
            EntryKind::NameNotFound if !synthetic::may_be_absent(decided.policy(), permits) => {
                query.answer_no_data(&decided, out);
            }
            EntryKind::Found | EntryKind::NameNotFound => {
                if let Err(error) = self.grants.grant_entry(permits, entry) {
                    let detail = error.to_string();
                    let decided = decided.but(error.reason());
                    return query.fail(&decided, entry, Some(&detail), out);
                }
                let decided = match entry.kind {
                    EntryKind::NameNotFound => decided.but(Reason::NameNotFound),
                    _ => decided,
                };
                if entry.is_stale() {
                    return answer_stale(query, &decided, entry, out);
                }
                entry.count_use();
                query.record(&decided, entry, None);
                let age = self.clock.now().saturating_duration_since(entry.born);
                reply::prepared(out, &query.reply, &entry.body, age, None);
            }
        }
    }

    /// Answers and records what is no plain query.
    fn refuse_malformed(
        &self,
        message: &[u8],
        error: &QueryError,
        source: Source,
        out: &mut Vec<u8>,
    ) {
        if self
            .above_rate(source, &self.policy.current().policy)
            .is_some()
        {
            // Whoever floods with what is no query is owed no reply.
            return;
        }
        let detail = error.to_string();
        let question = error.question.clone().and_then(|range| message.get(range));
        let mut event = source
            .event(Verdict::Deny, Reason::Malformed)
            .detail(&detail);
        // The name's labels, length bytes and all: the record escapes what is no text.
        event.raw_name = question.and_then(|bytes| bytes.get(..bytes.len().saturating_sub(4)));
        let asked = match event.raw_name {
            Some(name) => readable(name),
            None => asked_in(message),
        };
        event.asked = Some(asked.as_slice()).filter(|asked| !asked.is_empty());
        let id = self.recorder.decision(event);
        debug!(%id, client = ?source.client, %error, "malformed query");
        let Some(code) = error.answer.rcode() else {
            return;
        };
        let to = ReplyContext {
            id: error.header.id,
            recursion_desired: error.header.rd,
            question: question.unwrap_or(&[]),
            edns: error.edns,
            stream: source.protocol == Protocol::DnsTcp,
        };
        if code == u16::from(rcode::NX_DOMAIN) {
            let ede = Ede {
                code: 15,
                text: format_args!("{}; id={id}", Reason::Malformed),
            };
            reply::negative(out, &to, rcode::NX_DOMAIN, Some(&ede));
        } else {
            reply::bare(out, &to, code, None);
            // The opcode comes back as it was asked (RFC 1035 4.1.1).
            out[2] |= error.header.opcode << 3;
        }
    }
}

/// Gives an answer out again after its end: it says so itself, and holds for as long each time.
fn answer_stale(query: &ClientQuery<'_>, decided: &Decided<'_>, entry: &Entry, out: &mut Vec<u8>) {
    let reason = Reason::StaleAnswer;
    let decided = match decided.ruling.verdict {
        Verdict::Allow => decided.with(Ruling {
            reason,
            ..decided.ruling
        }),
        // What would have been refused stays recorded as that; the detail tells the rest.
        _ => *decided,
    };
    let id = query.record(&decided, entry, None);
    let text = format_args!("{reason}; id={id}");
    let ede = reason.ede().map(|code| Ede { code, text });
    reply::prepared(out, &query.reply, &entry.body, Duration::ZERO, ede.as_ref());
}

/// How a canonical name's lookup is recorded: as its listed name's would be.
fn canonical_ruling(permits: &Permits) -> Ruling {
    let first = permits.first();
    let audit = first.is_some_and(|permit| permit.audit());
    let rule = first.and_then(|permit| permit.rule());
    Ruling::permitted(Reason::CanonicalName, rule, audit)
}

/// The names of the questions in a message that is no query, with blanks between them, as far as they are
/// any.
pub(crate) fn asked_in(message: &[u8]) -> Vec<u8> {
    const HEADER_BYTES: usize = 12;
    const TYPE_AND_CLASS_BYTES: usize = 4;
    let questions = match message {
        [_, _, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]).max(1),
        _ => 0,
    };
    let mut rest = message.get(HEADER_BYTES..).unwrap_or_default();
    let mut asked = Vec::new();
    for _ in 0..questions {
        if rest.is_empty() || asked.len() >= MAX_ASKED_BYTES {
            break;
        }
        if !asked.is_empty() {
            asked.push(b' ');
        }
        asked.extend(readable(rest));
        let mut left = rest;
        while let Some((&length, behind)) = left.split_first() {
            left = behind.get(length.into()..).unwrap_or_default();
            if length == 0 {
                break;
            }
        }
        rest = left.get(TYPE_AND_CLASS_BYTES..).unwrap_or_default();
    }
    asked.truncate(MAX_ASKED_BYTES);
    asked
}

/// The labels of a question's name with dots between them, as far as they are any.
fn readable(mut name: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.len());
    // A pointer leads nowhere but back.
    let is_label = |length: &u8| (1..0xc0).contains(length);
    while let Some((&length, rest)) = name.split_first().filter(|(length, _)| is_label(length)) {
        let (label, behind) = rest.split_at(rest.len().min(length.into()));
        if !text.is_empty() {
            text.push(b'.');
        }
        text.extend_from_slice(label);
        name = behind;
    }
    text
}
