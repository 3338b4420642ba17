//! One query's turn: what was asked, what was decided, and the two things every ending does:
//! record it, and write the reply that carries the record's id.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use portcullis_names::NameRef;
use portcullis_policy::{Decision, Policy, Reason, Request, RuleId, Verdict};
use portcullis_record::{Client, DecisionId, Event, Layer, Protocol, Repeat, Stage, Timings};
use portcullis_wire::dns::Query;

use crate::cache::Entry;
use crate::memo::Keep;
use crate::reply::{self, Asked, Ede, rcode};
use crate::service::Inner;

/// What the policy said, or the service where the policy has no say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    pub verdict: Verdict,
    pub reason: Reason,
    pub rule: Option<RuleId>,
}

impl Judged {
    /// A refusal, or an error, by its own verdict.
    pub(crate) fn of(reason: Reason, rule: Option<RuleId>) -> Judged {
        Judged {
            verdict: reason.verdict(),
            reason,
            rule,
        }
    }
}

impl From<&Decision<'_>> for Judged {
    fn from(decision: &Decision<'_>) -> Judged {
        Judged {
            verdict: decision.verdict,
            reason: decision.reason,
            rule: decision.rule,
        }
    }
}

/// The way that a query came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Via {
    pub protocol: Protocol,
    /// Who asks, where a socket tells: for the record.
    pub from: Option<SocketAddr>,
    /// The gateway's end of a connection.
    pub server: Option<SocketAddr>,
}

impl Via {
    /// The beginning of a record.
    pub(crate) fn event<'e>(self, verdict: Verdict, reason: Reason) -> Event<'e> {
        let transport = self.protocol.transport();
        let client = self.from.map(|address| Client {
            transport,
            address,
            server: self.server,
        });
        Event::new(Layer::Dns, self.protocol, verdict, reason).client(client)
    }
}

impl From<Protocol> for Via {
    fn from(protocol: Protocol) -> Via {
        Via {
            protocol,
            from: None,
            server: None,
        }
    }
}

/// One query on its way through the service.
pub(crate) struct Turn<'a> {
    pub query: &'a Query,
    /// The query's name; the query itself reads its text anew each time it is asked.
    pub name: NameRef<'a>,
    pub asked: Asked<'a>,
    pub via: Via,
    pub started: Instant,
    /// How the decision that was recorded last may be repeated.
    again: Cell<Option<Repeat>>,
    keep: Cell<Option<Keep>>,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(message: &'a [u8], query: &'a Query, via: Via) -> Turn<'a> {
        let asked = Asked {
            id: query.header.id,
            recursion_desired: query.header.rd,
            question: message.get(query.question.clone()).unwrap_or(&[]),
            edns: query.edns.map(|edns| (edns.udp_bytes, edns.dnssec_ok)),
            stream: via.protocol == Protocol::DnsTcp,
        };
        Turn {
            query,
            name: query.name.as_ref(),
            asked,
            via,
            started: Instant::now(),
            again: Cell::default(),
            keep: Cell::default(),
        }
    }

    /// Notes that what was recorded and written is right for an equal question too: until `until`,
    /// and while the leases stand as `leased` says and the canonical names as `aliases` says.
    pub(crate) fn may_repeat(
        &self,
        until: Option<Instant>,
        leased: Option<u64>,
        aliases: Option<u64>,
    ) {
        self.keep.set(self.again.take().map(|again| Keep {
            until,
            leased,
            aliases,
            again,
        }));
    }

    /// How the answer may be repeated, where it may.
    pub(crate) fn keep(&self) -> Option<Keep> {
        self.keep.take()
    }

    /// The question to the policy.
    pub(crate) fn request(&self) -> Request<'a> {
        Request::Lookup {
            name: self.name,
            qtype: self.query.qtype,
        }
    }

    fn event(&self, policy: &'a Policy, judged: Judged) -> Event<'a> {
        let mut event = self.via.event(judged.verdict, judged.reason);
        event.name = Some(self.name.as_str());
        event.qtype = Some(self.query.qtype);
        if let Some(rule) = judged.rule {
            let info = policy.rule(rule);
            event.rule = Some((info.text, info.source));
        }
        event
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

impl Inner {
    /// Records a refusal and writes it.
    pub(crate) fn refuse(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        judged: Judged,
        refusal: Refusal,
        out: &mut Vec<u8>,
    ) {
        let event = turn.event(policy, judged);
        let suggest = || match refusal {
            Refusal::Absent => policy.suggestion(&turn.request()),
            _ => None,
        };
        let recorded = self.recorder.decide(&event, turn.started, &suggest);
        let id = recorded.id;
        turn.again.set(recorded.repeat);
        write_refusal(turn, judged.reason, id, refusal, out);
    }

    /// Records what came of a lookup that was let through, and returns the record's id.
    pub(crate) fn note(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        judged: Judged,
        entry: &Entry,
        detail: Option<&str>,
    ) -> DecisionId {
        let mut event = turn.event(policy, judged);
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
        let took = now.saturating_duration_since(turn.started);
        event.timings = Timings::default().with(Stage::Total, took);
        let recorded = self.recorder.decide(&event, now, &|| None);
        turn.again.set(recorded.repeat);
        recorded.id
    }

    /// Records an answer that nobody had to be asked for.
    pub(crate) fn note_own(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        judged: Judged,
        addresses: &[IpAddr],
    ) {
        let event = turn.event(policy, judged);
        self.recorder.decision(Event { addresses, ..event });
    }
}

/// Writes a refusal with the reason and the record's id in its extended error.
pub(crate) fn write_refusal(
    turn: &Turn<'_>,
    reason: Reason,
    id: DecisionId,
    refusal: Refusal,
    out: &mut Vec<u8>,
) {
    let text = format_args!("{reason}; id={id}");
    let ede = reason.ede().map(|code| Ede { code, text });
    match refusal {
        Refusal::Absent => reply::negative(out, &turn.asked, rcode::NX_DOMAIN, ede.as_ref()),
        Refusal::NoData => reply::negative(out, &turn.asked, rcode::NO_ERROR, ede.as_ref()),
        Refusal::Code(code) => reply::bare(out, &turn.asked, code.into(), ede.as_ref()),
    }
}
