//! The core: from a query's bytes to a reply's bytes.
//!
//! Decided before anything leaves: guard, decision, cache, flight, lease, reply, in this order. What
//! can be answered at once (refusals, own names, cached answers) is answered without waiting and
//! without a task; the rest comes back as [`Pending`].

use std::sync::Arc;
use std::time::Duration;

use portcullis_names::{Name, RecordType};
use portcullis_policy::{HOST_NAME, Policy, Reason, Request, Verdict};
use portcullis_record::{DecisionId, Protocol};
use portcullis_wire::dns::{Query, QueryError, guard_query, ptr_address};

use crate::cache::{Entry, Key, KeyRef, Outcome};
use crate::flight::{Ask, Permits};
use crate::leases::{Grant, GrantError};
use crate::local;
use crate::memo::Keep;
use crate::reply::{self, Asked, Ede, rcode};
use crate::reverse::Reverse;
use crate::service::Inner;
use crate::synthetic::{self, MadeUp};
use crate::turn::{Judged, Refusal, Turn, Via, write_refusal};

/// How often a lookup is decided again because the policy changed while it was under way.
const MAX_POLICY_CHANGES: usize = 3;

/// What the record says of queries above the policy's pace.
const TOO_MANY_QUERIES: &str = "more DNS queries than dns_queries_per_second allows";

/// How far a query has come.
pub(crate) enum Step {
    /// The reply is in the buffer; an empty buffer means that none is due. It comes with leave to
    /// repeat it, where equal questions get the same.
    Done(Option<Keep>),
    /// Somebody has to be asked.
    Wait(Box<Pending>),
}

/// A permitted question whose answer is not at hand.
pub(crate) struct Pending {
    query: Query,
    judged: Judged,
    ask: Ask,
    wanted: Wanted,
}

/// What is asked for.
pub(crate) enum Wanted {
    /// Records as the upstream has them.
    Records,
    /// The name of an address that was given out.
    Reverse(Reverse),
    /// An address to be made up, if the name has any.
    Synthetic,
}

impl Inner {
    /// Answers one query, waiting for an upstream where there is need.
    pub(crate) async fn answer(self: &Arc<Self>, message: &[u8], via: Via, out: &mut Vec<u8>) {
        if let Step::Wait(pending) = self.begin(message, via, out) {
            self.conclude(message, pending, via, out).await;
        }
    }

    /// Answers what can be answered at once.
    pub(crate) fn begin(&self, message: &[u8], via: Via, out: &mut Vec<u8>) -> Step {
        out.clear();
        let query = match guard_query(message) {
            Ok(query) => query,
            Err(error) => {
                self.malformed(message, &error, via, out);
                return Step::Done(None);
            }
        };
        let turn = Turn::new(message, &query, via);
        let (policy, epoch) = self.policy();
        if self.outpaces(&turn, &policy, out) || local::answer(&turn, out) {
            return Step::Done(None);
        }
        let pending = match (query.qtype, ptr_address(turn.name)) {
            (RecordType::PTR, Some(address)) => self.begin_reverse(&turn, &policy, address, out),
            _ => self.begin_forward(&turn, &policy, epoch, out),
        };
        let Some((judged, permits, wanted)) = pending else {
            return Step::Done(turn.keep());
        };
        let key = Key::new(&query.name, query.qtype);
        let ask = Ask {
            key,
            permits,
            policy,
            epoch,
        };
        let known = match wanted {
            Wanted::Synthetic => self.known_addresses(&ask),
            _ => self.at_hand(&ask.key, epoch),
        };
        let pending = Pending {
            query,
            judged,
            ask,
            wanted,
        };
        let Some(entry) = known else {
            return Step::Wait(Box::new(pending));
        };
        let turn = Turn::new(message, &pending.query, via);
        self.complete(&turn, &pending, &entry, out);
        Step::Done(None)
    }

    /// Asks for what [`Inner::begin`] could not answer, and answers it.
    pub(crate) async fn conclude(
        self: &Arc<Self>,
        message: &[u8],
        mut pending: Box<Pending>,
        via: Via,
        out: &mut Vec<u8>,
    ) {
        let started = std::time::Instant::now();
        for _ in 0..MAX_POLICY_CHANGES {
            let entry = match pending.wanted {
                Wanted::Synthetic => self.find_addresses(&pending.ask).await,
                _ => self.fetch(pending.ask.clone()).await,
            };
            // A policy that came in meanwhile decides anew: it may have taken the name back.
            if self.policy().1 == pending.ask.epoch {
                let mut turn = Turn::new(message, &pending.query, via);
                turn.started = started;
                self.complete(&turn, &pending, &entry, out);
                return;
            }
            match self.begin(message, via, out) {
                Step::Done(_) => return,
                Step::Wait(again) => pending = again,
            }
        }
        let turn = Turn::new(message, &pending.query, via);
        let judged = Judged::of(Reason::Internal, None);
        self.refuse(
            &turn,
            &pending.ask.policy,
            judged,
            Refusal::Code(rcode::SERV_FAIL),
            out,
        );
    }

    /// Refuses a query above the policy's `dns_queries_per_second`, before anything is done for it.
    fn outpaces(&self, turn: &Turn<'_>, policy: &Policy, out: &mut Vec<u8>) -> bool {
        let Some(id) = self.over_pace(turn.via, policy) else {
            return false;
        };
        let refusal = Refusal::Code(rcode::SERV_FAIL);
        write_refusal(turn, Reason::RateLimited, id, refusal, out);
        true
    }

    /// Counts a message, and records it where the policy's pace is used up. The record has no name,
    /// so that a flood of names shares one record a second.
    fn over_pace(&self, via: Via, policy: &Policy) -> Option<DecisionId> {
        let limit = policy.settings().dns.queries_per_second?;
        if self.pace.admits(limit, self.clock.now()) {
            return None;
        }
        let event = via.event(Reason::RateLimited.verdict(), Reason::RateLimited);
        Some(self.recorder.decision(event.detail(TOO_MANY_QUERIES)))
    }

    /// Decides a question that is not for an address. `None`: it is answered.
    fn begin_forward(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        epoch: u64,
        out: &mut Vec<u8>,
    ) -> Option<(Judged, Permits, Wanted)> {
        let (name, qtype) = (turn.name, turn.query.qtype);
        // Read before they are: what is learnt meanwhile makes this answer an old one.
        let aliases = self.aliases.learnt();
        // ANY asks about the name, and whatever is listed has an answer to it.
        let asked_type = if qtype == RecordType::ANY {
            RecordType::A
        } else {
            qtype
        };
        let decision = policy.decide(&Request::Lookup {
            name,
            qtype: asked_type,
        });
        let mut judged = Judged::from(&decision);
        let mut known: Option<Permits> = None;
        if decision.reason == Reason::NotListed && matches!(qtype, RecordType::A | RecordType::AAAA)
        {
            known = self.canonical(turn, policy);
        }
        if let Some(permits) = &known {
            // Also where the policy only watches: a canonical name need not be listed.
            judged = canonical_judged(permits);
        } else if decision.reason == Reason::NotListed && self.answer_own_hostname(turn, out) {
            return None;
        } else if !decision.permits() {
            let refusal = match decision.reason {
                Reason::TransferRefused => Refusal::Code(rcode::REFUSED),
                Reason::TypeNotServed => Refusal::NoData,
                // A canonical name exists for the sandbox, with addresses only: an NXDOMAIN for
                // its other types would take the addresses away too (RFC 8020).
                Reason::NotListed if self.canonical(turn, policy).is_some() => {
                    judged = Judged::of(Reason::TypeNotServed, None);
                    Refusal::NoData
                }
                _ => Refusal::Absent,
            };
            self.refuse(turn, policy, judged, refusal, out);
            turn.may_repeat(None, None, Some(aliases));
            return None;
        }
        if qtype == RecordType::ANY {
            self.note_own(turn, policy, judged, &[]);
            local::answer_any(turn, out);
            return None;
        }
        if name.as_str() == HOST_NAME {
            let permits = decision.lookup_permit().into_iter().collect();
            self.answer_host(turn, policy, judged, permits, out);
            return None;
        }
        if synthetic::makes_up(policy) {
            let permits = known
                .clone()
                .unwrap_or_else(|| decision.lookup_permit().into_iter().collect());
            match self.begin_made_up(turn, (policy, epoch), judged, &permits, out) {
                MadeUp::Answered => return None,
                MadeUp::IfItExists => return Some((judged, permits, Wanted::Synthetic)),
                MadeUp::No => {}
            }
        }
        if qtype == RecordType::AAAA && !(self.ipv6_route)() {
            self.note_own(turn, policy, judged, &[]);
            reply::negative(out, &turn.asked, rcode::NO_ERROR, None);
            return None;
        }
        if known.is_none() && self.answer_cached(turn, policy, judged, epoch, out) {
            return None;
        }
        let permits = known.unwrap_or_else(|| decision.lookup_permit().into_iter().collect());
        Some((judged, permits, Wanted::Records))
    }

    /// The path that costs least: a listed name whose cached answer needs no new lease.
    fn answer_cached(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        judged: Judged,
        epoch: u64,
        out: &mut Vec<u8>,
    ) -> bool {
        let key = KeyRef {
            name: turn.name,
            qtype: turn.query.qtype,
        };
        let Some(entry) = self.cache.get(key) else {
            return false;
        };
        let now = self.clock.now();
        let leased = self.leases.evictions();
        if entry.outcome != Outcome::Found
            || !entry.is_valid(now, epoch)
            || !entry.is_leased(leased)
            || entry.is_due(now)
        {
            return false;
        }
        entry.count_use();
        self.note(turn, policy, judged, &entry, None);
        let age = now.saturating_duration_since(entry.born);
        reply::prepared(out, &turn.asked, &entry.body, age, None);
        // TTLs are whole seconds: these are right until the next one begins.
        let next = entry.born + Duration::from_secs(age.as_secs() + 1);
        turn.may_repeat(Some(next.min(entry.expires)), Some(leased), None);
        true
    }

    /// Permits for a canonical name, under the listed names whose chains led to it and that the
    /// policy in force still lists.
    fn canonical(&self, turn: &Turn<'_>, policy: &Policy) -> Option<Permits> {
        let name = turn.name;
        let owners = self.aliases.owners(name, self.clock.now());
        // Another type than an address's asks only whether the name is one that exists.
        let qtypes: &[RecordType] = match turn.query.qtype {
            RecordType::A => &[RecordType::A],
            RecordType::AAAA => &[RecordType::AAAA],
            _ => &[RecordType::A, RecordType::AAAA],
        };
        let permit = |listed: &Name| {
            let decide = |qtype: &RecordType| {
                let (name, qtype) = (listed.as_ref(), *qtype);
                policy
                    .decide(&Request::Lookup { name, qtype })
                    .lookup_permit()
            };
            Some(qtypes.iter().find_map(decide)?.follow(name.to_name()))
        };
        let permits: Permits = owners.iter().filter_map(permit).collect();
        (!permits.is_empty()).then_some(permits)
    }

    /// Leases, records and answers what a lookup brought.
    fn complete(&self, turn: &Turn<'_>, pending: &Pending, entry: &Entry, out: &mut Vec<u8>) {
        let Pending {
            judged,
            ask,
            wanted,
            ..
        } = pending;
        let policy = &*ask.policy;
        match wanted {
            Wanted::Reverse(reverse) => {
                return self.complete_reverse(turn, policy, *judged, (reverse, entry), out);
            }
            Wanted::Synthetic if entry.outcome == Outcome::Found => {
                let (policy, found) = ((policy, ask.epoch), (&ask.permits, entry));
                return self.complete_synthetic(turn, policy, *judged, found, out);
            }
            Wanted::Records | Wanted::Synthetic => {}
        }
        let failed = |reason| Judged::of(reason, judged.rule);
        match entry.outcome {
            Outcome::Failed(reason) => {
                let id = self.note(turn, policy, failed(reason), entry, None);
                write_refusal(turn, reason, id, Refusal::Code(rcode::SERV_FAIL), out);
            }
            Outcome::Private | Outcome::PrivateFamily => {
                let reason = Reason::PrivateAddress;
                let id = self.note(turn, policy, failed(reason), entry, None);
                let refusal = match entry.outcome {
                    Outcome::Private => Refusal::Absent,
                    _ => Refusal::NoData,
                };
                write_refusal(turn, reason, id, refusal, out);
            }
            Outcome::NameNotFound if !synthetic::may_be_absent(policy, &ask.permits) => {
                self.answer_nothing(turn, policy, *judged, out);
            }
            Outcome::Found | Outcome::NameNotFound => {
                if let Err(error) = self.lease(&ask.permits, entry) {
                    let reason = local::grant_reason(&error);
                    let detail = error.to_string();
                    let id = self.note(turn, policy, failed(reason), entry, Some(&detail));
                    write_refusal(turn, reason, id, Refusal::Code(rcode::SERV_FAIL), out);
                    return;
                }
                let judged = match entry.outcome {
                    Outcome::NameNotFound => failed(Reason::NameNotFound),
                    _ => *judged,
                };
                if entry.is_stale() {
                    return self.complete_stale(turn, policy, judged, entry, out);
                }
                entry.count_use();
                self.note(turn, policy, judged, entry, None);
                let age = self.clock.now().saturating_duration_since(entry.born);
                reply::prepared(out, &turn.asked, &entry.body, age, None);
            }
        }
    }

    /// Gives an answer out again after its end: it says so itself, and holds for as long each time.
    fn complete_stale(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        judged: Judged,
        entry: &Entry,
        out: &mut Vec<u8>,
    ) {
        let reason = Reason::StaleAnswer;
        let judged = match judged.verdict {
            Verdict::Allow => Judged { reason, ..judged },
            // What would have been refused stays recorded as that; the detail tells the rest.
            _ => judged,
        };
        let id = self.note(turn, policy, judged, entry, None);
        let text = format_args!("{reason}; id={id}");
        let ede = reason.ede().map(|code| Ede { code, text });
        reply::prepared(out, &turn.asked, &entry.body, Duration::ZERO, ede.as_ref());
    }

    /// Grants an answer's addresses to the listed names it is for, and learns its chain.
    pub(crate) fn lease(&self, permits: &Permits, entry: &Entry) -> Result<(), GrantError> {
        let state = self.leases.evictions();
        let now = self.clock.now();
        let ttl = entry.left(now);
        let mut followed = false;
        for permit in permits {
            followed |= permit.name() != permit.listed();
            let own_name = (permit.name() != permit.listed()).then(|| permit.name());
            let canonical = entry.canonical().or(own_name);
            for address in &entry.addresses {
                let (name, ports) = (permit.listed(), permit.ports());
                self.leases.grant_chain(
                    *address,
                    Grant {
                        name,
                        canonical,
                        ports,
                        ttl,
                    },
                )?;
                let udp = permit.udp_ports();
                self.leases.open_datagrams(*address, udp, ttl)?;
            }
        }
        self.learn_aliases(permits, entry);
        // A canonical name's owners change from one question to the next: grant each time.
        // What is given out again is granted each time too: its age is no guide to its lease's.
        if !followed && !entry.is_stale() {
            entry.set_leased(state);
        }
        Ok(())
    }

    /// Remembers which listed names the names of an answer's chain stand for.
    pub(crate) fn learn_aliases(&self, permits: &Permits, entry: &Entry) {
        let now = self.clock.now();
        let until = now + entry.left(now) + self.leases.grace();
        for permit in permits {
            for target in &entry.targets {
                self.aliases.learn(target, permit.listed(), now, until);
            }
        }
    }

    /// Answers and records what is no plain query.
    fn malformed(&self, message: &[u8], error: &QueryError, via: Via, out: &mut Vec<u8>) {
        if self.over_pace(via, &self.policy().0).is_some() {
            // Whoever floods with what is no query is owed no reply.
            return;
        }
        let detail = error.to_string();
        let question = error.question.clone().and_then(|range| message.get(range));
        let mut event = via.event(Verdict::Deny, Reason::Malformed).detail(&detail);
        // The name's labels, length bytes and all: the record escapes what is no text.
        event.raw_name = question.and_then(|bytes| bytes.get(..bytes.len().saturating_sub(4)));
        let id = self.recorder.decision(event);
        let Some(code) = error.answer.rcode() else {
            return;
        };
        let asked = Asked {
            id: error.header.id,
            recursion_desired: error.header.rd,
            question: question.unwrap_or(&[]),
            edns: error.edns.map(|edns| (edns.udp_bytes, edns.dnssec_ok)),
            stream: via.protocol == Protocol::DnsTcp,
        };
        if code == u16::from(rcode::NX_DOMAIN) {
            let ede = Ede {
                code: 15,
                text: format_args!("{}; id={id}", Reason::Malformed),
            };
            reply::negative(out, &asked, rcode::NX_DOMAIN, Some(&ede));
        } else {
            reply::bare(out, &asked, code, None);
            // The opcode comes back as it was asked (RFC 1035 4.1.1).
            out[2] |= error.header.opcode << 3;
        }
    }
}

/// How a canonical name's lookup is recorded: as its listed name's would be.
fn canonical_judged(permits: &Permits) -> Judged {
    let first = permits.first();
    let audit = first.is_some_and(|permit| permit.audit());
    let verdict = if audit {
        Verdict::Audit
    } else {
        Verdict::Allow
    };
    let rule = first.and_then(|permit| permit.rule());
    Judged {
        verdict,
        reason: Reason::CanonicalName,
        rule,
    }
}
