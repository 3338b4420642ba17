//! Addresses that the gateway gives instead of a name's own: synthetic ones, and those of a rule's
//! `to`.
//!
//! Answers *decision and destination differ* (docs/threats.md) for raw TCP: each listed name gets
//! an address of its own from a private range, so that a direct connection is judged and dialled by
//! its name. It also lets names be used that only the upstream proxy can resolve. Where that proxy
//! looks a name up, it is given an address at once and nobody is asked; where connections go
//! direct, the name is looked up first, so that a name that does not exist stays NXDOMAIN. Address
//! records are the only ones made up: a name has no AAAA here, and no alias to follow around its
//! address.
//!
//! A rule's `to` sends a name to an address that the operator chose ("mocked"). Nobody is asked about
//! such a name, whatever the type of the question. Where connections come to this gateway, the answer
//! is a synthetic address: inside a sandbox the target's own address would be the sandbox's
//! (127.0.0.1), and the dialler goes to the target by the name. Where clients connect by themselves
//! (a restrictive resolver on the host), the answer is the target.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_policy::{Answers, LookupPermit, Policy, Reason};

use crate::Clock;
use crate::entry::{Entry, EntryKind};
use crate::grants::Grants;
use crate::leases::Leases;
use crate::lookup::Permits;
use crate::new_names::{NewNameBudget, TOO_MANY_NEW_NAMES};
use crate::query::{ClientQuery, Decided};
use crate::reply;

/// What the record of a synthetic answer says.
const DETAIL: &str = "a synthetic address";

/// How long the answer for a mocked name may be cached, seconds: an operator who changes the policy
/// looks at once whether it works.
const MOCK_TTL: u32 = 60;

/// What comes of a question where addresses may be made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synthesis {
    /// It is answered.
    Answered,
    /// It is to be answered with a synthetic address, if the name has any address at all.
    IfItExists,
    /// It is an ordinary question.
    No,
}

/// Whether a policy has addresses made up at all.
pub(crate) fn makes_up(policy: &Policy) -> bool {
    policy.has_mocks() || is_synthetic(policy)
}

/// Whether a policy gives out synthetic addresses instead of real ones.
pub(crate) fn is_synthetic(policy: &Policy) -> bool {
    policy.settings().dns.answers == Answers::Synthetic
}

/// Whether the upstream proxy looks the name up, and nobody here.
pub(crate) fn by_upstream_proxy(policy: &Policy, permit: &LookupPermit) -> bool {
    let proxies = &policy.settings().upstream;
    is_synthetic(policy) && proxies.look_up(permit.listed().as_ref(), permit.ports())
}

/// Whether the upstream's word that a name does not exist counts: not where the name was given an
/// address without asking, since its absence would take the address away (RFC 8020).
pub(crate) fn may_be_absent(policy: &Policy, permits: &Permits) -> bool {
    let first = permits.first();
    !first.is_some_and(|permit| by_upstream_proxy(policy, permit))
}

/// Gives out made-up addresses.
pub(crate) struct SyntheticAnswers {
    pub leases: Arc<Leases>,
    pub grants: Grants,
    pub new_names: Arc<NewNameBudget>,
    pub clock: Clock,
    /// Whether connections to what is answered come to this gateway.
    pub transparent: bool,
}

impl SyntheticAnswers {
    /// Answers a question for a permitted name whose addresses are made up.
    pub(crate) fn begin(
        &self,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        permits: &Permits,
        out: &mut Vec<u8>,
    ) -> Synthesis {
        let Some(permit) = permits.first() else {
            return Synthesis::No;
        };
        if let Some(to) = permit.to() {
            self.answer_mock(query, decided, permit, to, out);
            return Synthesis::Answered;
        }
        if !is_synthetic(decided.policy()) {
            return Synthesis::No;
        }
        let proxied = by_upstream_proxy(decided.policy(), permit);
        match query.qtype() {
            RecordType::A if proxied => {
                self.answer_synthetic(query, decided, permit, DETAIL, out);
                Synthesis::Answered
            }
            // Aliases and hints would come from a resolver that need not know the name.
            RecordType::AAAA | RecordType::CNAME | RecordType::SVCB | RecordType::HTTPS
                if proxied =>
            {
                query.answer_no_data(decided, out);
                Synthesis::Answered
            }
            RecordType::A | RecordType::AAAA => Synthesis::IfItExists,
            _ => Synthesis::No,
        }
    }

    /// Answers a question for the addresses of a name that has some: `entry`.
    pub(crate) fn complete(
        &self,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        permits: &Permits,
        entry: &Entry,
        out: &mut Vec<u8>,
    ) {
        // A program may ask for the alias itself, and then for what it names.
        self.grants.learn_chain(permits, entry);
        entry.count_use();
        match permits.first() {
            Some(permit) if query.qtype() == RecordType::A && !entry.addresses.is_empty() => {
                self.answer_synthetic(query, decided, permit, DETAIL, out);
            }
            _ => query.answer_no_data(decided, out),
        }
    }

    /// Answers any question for a name that its rule sends `to` somewhere.
    fn answer_mock(
        &self,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        permit: &LookupPermit,
        to: SocketAddr,
        out: &mut Vec<u8>,
    ) {
        let detail = format!("its rule sends it to {to}");
        if self.transparent {
            if query.qtype() != RecordType::A {
                return query.answer_no_data(decided, out);
            }
            return self.answer_synthetic(query, decided, permit, &detail, out);
        }
        let address = to.ip().to_canonical();
        let data: &[u8] = match (address, query.qtype()) {
            (IpAddr::V4(v4), RecordType::A) => &v4.octets(),
            (IpAddr::V6(v6), RecordType::AAAA) => &v6.octets(),
            _ => return query.answer_no_data(decided, out),
        };
        let ttl = Duration::from_secs(MOCK_TTL.into());
        if let Err(error) = self.grants.grant(permit, address, None, ttl) {
            return self.fail(query, &decided.but(error.reason()), &error.to_string(), out);
        }
        self.record(query, decided, address, &detail);
        reply::one(out, &query.reply, query.qtype(), MOCK_TTL, data);
    }

    /// Answers a listed name's A question with its synthetic address. `detail` is for the record.
    fn answer_synthetic(
        &self,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        permit: &LookupPermit,
        detail: &str,
        out: &mut Vec<u8>,
    ) {
        // Nothing leaves, but names without end would use the range up.
        let now = self.clock.now();
        if !self.new_names.admit(permit, decided.in_force, now) {
            let decided = decided.but(Reason::RateLimited);
            return self.fail(query, &decided, TOO_MANY_NEW_NAMES, out);
        }
        let granted = self
            .leases
            .grant_synthetic(permit.listed(), permit.ports())
            .and_then(|granted| {
                let (address, udp) = (granted.address.into(), permit.udp_ports());
                self.leases.open_datagrams(address, udp, granted.ttl)?;
                Ok(granted)
            });
        match granted {
            Ok(granted) => {
                self.record(query, decided, granted.address.into(), detail);
                // At most a minute.
                let ttl = granted.ttl.as_secs() as u32;
                reply::one(
                    out,
                    &query.reply,
                    RecordType::A,
                    ttl,
                    &granted.address.octets(),
                );
            }
            Err(error) => {
                self.fail(query, &decided.but(error.reason()), &error.to_string(), out);
            }
        }
    }

    /// Records an address that was given out instead of a name's own.
    fn record(
        &self,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        address: IpAddr,
        detail: &str,
    ) {
        let mut given = Entry::new(EntryKind::Found, self.clock.now(), Duration::ZERO, 0);
        given.addresses.push(address);
        query.record(decided, &given, Some(detail));
    }

    /// Records and answers a failure of our own: SERVFAIL with its reason.
    fn fail(
        &self,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        detail: &str,
        out: &mut Vec<u8>,
    ) {
        let kind = EntryKind::Failed(decided.ruling.reason);
        let entry = Entry::new(kind, self.clock.now(), Duration::ZERO, 0);
        query.fail(decided, &entry, Some(detail), out);
    }
}
