//! One client's query: what was asked, what was decided, and the two things every ending does:
//! record it, and write the reply that carries the record's id.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use portcullis_names::{NameRef, RecordType};
use portcullis_policy::{Decision, Policy, Reason, Request, RuleId, Verdict};
use portcullis_record::{
    Client, DecisionId, Event, Layer, Prepared, Protocol, Recorder, Repeat, Stage, Timings,
};
use portcullis_wire::dns::Query;
use tracing::debug;

use crate::entry::Entry;
use crate::policy_in_force::InForce;
use crate::reply::{self, Ede, ReplyContext, rcode};
use crate::response_cache::{Reusable, Validity};

/// What the policy said, or the service where the policy has no say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ruling {
    pub verdict: Verdict,
    pub reason: Reason,
    pub rule: Option<RuleId>,
}

impl Ruling {
    /// A refusal, or an error, by its own verdict.
    pub(crate) fn of(reason: Reason, rule: Option<RuleId>) -> Ruling {
        Ruling {
            verdict: reason.verdict(),
            reason,
            rule,
        }
    }

    /// A permission for another reason than the policy's own; `audit`: it passes only because the
    /// policy watches.
    pub(crate) fn permitted(reason: Reason, rule: Option<RuleId>, audit: bool) -> Ruling {
        let verdict = if audit {
            Verdict::Audit
        } else {
            Verdict::Allow
        };
        Ruling {
            verdict,
            reason,
            rule,
        }
    }

    /// Whether the query goes on.
    pub(crate) fn permits(&self) -> bool {
        matches!(self.verdict, Verdict::Allow | Verdict::Audit)
    }
}

impl From<&Decision<'_>> for Ruling {
    fn from(decision: &Decision<'_>) -> Ruling {
        Ruling {
            verdict: decision.verdict,
            reason: decision.reason,
            rule: decision.rule,
        }
    }
}

/// A ruling and the policy that it was made under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decided<'p> {
    pub in_force: &'p InForce,
    pub ruling: Ruling,
}

impl<'p> Decided<'p> {
    pub(crate) fn policy(&self) -> &'p Policy {
        &self.in_force.policy
    }

    /// The same with another ruling.
    pub(crate) fn with(self, ruling: Ruling) -> Decided<'p> {
        Decided { ruling, ..self }
    }

    /// A refusal or an error after the name was permitted, under the same rule.
    pub(crate) fn but(self, reason: Reason) -> Decided<'p> {
        self.with(Ruling::of(reason, self.ruling.rule))
    }
}

/// Where a query came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub protocol: Protocol,
    /// The client's socket, where it is known: for the record.
    pub client: Option<SocketAddr>,
    /// The gateway's end of a connection.
    pub server: Option<SocketAddr>,
}

impl Source {
    /// The beginning of a record.
    pub(crate) fn event<'e>(self, verdict: Verdict, reason: Reason) -> Event<'e> {
        let transport = self.protocol.transport();
        let client = self.client.map(|address| Client {
            transport,
            address,
            server: self.server,
        });
        Event::new(Layer::Dns, self.protocol, verdict, reason).client(client)
    }
}

impl From<Protocol> for Source {
    fn from(protocol: Protocol) -> Source {
        Source {
            protocol,
            client: None,
            server: None,
        }
    }
}

/// The shape of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// NXDOMAIN with SOA: the name is not there for the sandbox.
    Absent,
    /// NODATA with SOA: the name is there, this type is not.
    NoData,
    /// A bare response code.
    Code(u8),
}

/// One query on its way through the forwarder.
pub(crate) struct ClientQuery<'a> {
    pub query: &'a Query,
    /// The query's name; the query itself reads its text anew each time it is asked.
    pub name: NameRef<'a>,
    pub reply: ReplyContext<'a>,
    pub source: Source,
    pub started: Instant,
    recorder: &'a Recorder,
    /// How the decision that was recorded last may be repeated.
    repeat: Cell<Option<Repeat>>,
    reusable: Cell<Option<Reusable>>,
}

impl<'a> ClientQuery<'a> {
    /// A query that was read from `message` just now.
    pub(crate) fn new(
        message: &'a [u8],
        query: &'a Query,
        source: Source,
        recorder: &'a Recorder,
    ) -> ClientQuery<'a> {
        let reply = ReplyContext {
            id: query.header.id,
            recursion_desired: query.header.rd,
            question: message.get(query.question.clone()).unwrap_or(&[]),
            edns: query.edns,
            stream: source.protocol == Protocol::DnsTcp,
        };
        ClientQuery {
            query,
            name: query.name.as_ref(),
            reply,
            source,
            started: Instant::now(),
            recorder,
            repeat: Cell::default(),
            reusable: Cell::default(),
        }
    }

    pub(crate) fn qtype(&self) -> RecordType {
        self.query.qtype
    }

    /// Lets what was recorded and written stand for equal questions too, while it is valid.
    pub(crate) fn may_repeat(&self, validity: Validity) {
        let reusable = |repeat| Reusable { validity, repeat };
        self.reusable.set(self.repeat.take().map(reusable));
    }

    /// How the answer may be repeated, where it may.
    pub(crate) fn reusable(&self) -> Option<Reusable> {
        self.reusable.take()
    }

    fn event<'e>(&self, decided: &Decided<'e>) -> Event<'e>
    where
        'a: 'e,
    {
        let ruling = decided.ruling;
        let mut event = self.source.event(ruling.verdict, ruling.reason);
        event.name = Some(self.name.as_str());
        event.qtype = Some(self.query.qtype);
        if let Some(rule) = ruling.rule {
            let info = decided.policy().rule(rule);
            event.rule = Some((info.text, info.source));
        }
        event
    }

    fn trace(&self, id: DecisionId, ruling: Ruling) {
        debug!(
            %id, name = self.name.as_str(), qtype = %self.query.qtype,
            verdict = ?ruling.verdict, reason = %ruling.reason, "query decided"
        );
    }

    /// Records a refusal and writes it.
    pub(crate) fn refuse(&self, decided: &Decided<'_>, refusal: Refusal, out: &mut Vec<u8>) {
        if refusal == Refusal::Absent {
            return self.refuse_for(decided, self.name, out);
        }
        let id = self.record_refusal(decided, &|| None);
        self.write_refusal(decided.ruling.reason, id, refusal, out);
    }

    /// Records that the name is not there for the sandbox, and says so. `wanted` is what a rule should
    /// list for it.
    pub(crate) fn refuse_for(&self, decided: &Decided<'_>, wanted: NameRef<'_>, out: &mut Vec<u8>) {
        let request = Request::Lookup {
            name: wanted,
            qtype: self.qtype(),
        };
        let id = self.record_refusal(decided, &|| decided.policy().suggestion(&request));
        self.write_refusal(decided.ruling.reason, id, Refusal::Absent, out);
    }

    /// Says that the name is not there for the sandbox. What is returned is recorded later, or not.
    pub(crate) fn refuse_for_now(&self, decided: &Decided<'_>, out: &mut Vec<u8>) -> Prepared {
        let prepared = self.recorder.prepare(&self.event(decided), self.started);
        self.trace(prepared.id(), decided.ruling);
        self.write_refusal(decided.ruling.reason, prepared.id(), Refusal::Absent, out);
        prepared
    }

    /// Says that a completion of another name is not there for the sandbox.
    pub(crate) fn refuse_completion(&self, domain: &str, out: &mut Vec<u8>) {
        let id = self.record_completion(domain);
        // Programs are told the same of every name that is not listed.
        self.write_refusal(Reason::NotListed, id, Refusal::Absent, out);
    }

    /// Counts a completion of another name with a domain of the search list.
    pub(crate) fn record_completion(&self, domain: &str) -> DecisionId {
        let reason = Reason::SearchExpansion;
        let event = self.source.event(reason.verdict(), reason).name(domain);
        self.recorder.decision(event.client(None))
    }

    fn record_refusal(
        &self,
        decided: &Decided<'_>,
        suggest: &dyn Fn() -> Option<String>,
    ) -> DecisionId {
        let event = self.event(decided);
        let recorded = self.recorder.decide(&event, self.started, suggest);
        self.repeat.set(recorded.repeat);
        self.trace(recorded.id, decided.ruling);
        recorded.id
    }

    /// Records what came of a lookup that was let through, and returns the record's id.
    pub(crate) fn record(
        &self,
        decided: &Decided<'_>,
        entry: &Entry,
        detail: Option<&str>,
    ) -> DecisionId {
        let mut event = self.event(decided);
        event.canonical_name = entry.canonical().map(|name| name.as_str());
        event.addresses = if entry.addresses.is_empty() {
            &entry.refused
        } else {
            &entry.addresses
        };
        event.upstream = entry.server.as_deref();
        event.attempts = Some(entry.attempts).filter(|attempts| *attempts > 0);
        event.detail = detail.or(entry.detail.as_deref());
        let now = Instant::now();
        let took = now.saturating_duration_since(self.started);
        event.timings = Timings::default().with(Stage::Total, took);
        let recorded = self.recorder.decide(&event, now, &|| None);
        self.repeat.set(recorded.repeat);
        self.trace(recorded.id, decided.ruling);
        recorded.id
    }

    /// Records an answer that nobody had to be asked for.
    pub(crate) fn record_own(&self, decided: &Decided<'_>, addresses: &[IpAddr]) {
        let event = self.event(decided);
        let id = self.recorder.decision(Event { addresses, ..event });
        self.trace(id, decided.ruling);
    }

    /// Answers that the name is there, and has no records of this type.
    pub(crate) fn answer_no_data(&self, decided: &Decided<'_>, out: &mut Vec<u8>) {
        self.record_own(decided, &[]);
        reply::negative(out, &self.reply, rcode::NO_ERROR, None);
    }

    /// Records a lookup that failed, and answers SERVFAIL with the reason.
    pub(crate) fn fail(
        &self,
        decided: &Decided<'_>,
        entry: &Entry,
        detail: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        let id = self.record(decided, entry, detail);
        let refusal = Refusal::Code(rcode::SERV_FAIL);
        self.write_refusal(decided.ruling.reason, id, refusal, out);
    }

    /// Writes a refusal with the reason and the record's id in its extended error.
    pub(crate) fn write_refusal(
        &self,
        reason: Reason,
        id: DecisionId,
        refusal: Refusal,
        out: &mut Vec<u8>,
    ) {
        let text = format_args!("{reason}; id={id}");
        let ede = reason.ede().map(|code| Ede { code, text });
        match refusal {
            Refusal::Absent => reply::negative(out, &self.reply, rcode::NX_DOMAIN, ede.as_ref()),
            Refusal::NoData => reply::negative(out, &self.reply, rcode::NO_ERROR, ede.as_ref()),
            Refusal::Code(code) => reply::bare(out, &self.reply, code.into(), ede.as_ref()),
        }
    }
}
