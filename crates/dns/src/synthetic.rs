//! Synthetic answers: each listed name gets an address of its own from a private range, so that a
//! direct connection is judged and dialled by its name.
//!
//! Answers "two names on one CDN address" for raw TCP, and lets names be used that only the
//! company's proxy can resolve. Where that proxy looks a name up, it is given an address at once and
//! nobody is asked; where connections go direct, the name is looked up first, so that a name that
//! does not exist stays NXDOMAIN. Address records are the only ones made up: a name has no AAAA here,
//! and no alias to follow around its address.

use std::sync::Arc;

use portcullis_names::RecordType;
use portcullis_policy::{Answers, LookupPermit, Policy};

use crate::cache::{Entry, Key, Outcome};
use crate::flight::{Ask, Permits};
use crate::service::Inner;
use crate::turn::{Judged, Turn};

/// What the record of a synthetic answer says.
const DETAIL: &str = "a synthetic address";

/// What comes of a question where addresses may be made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MadeUp {
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

pub(crate) fn is_synthetic(policy: &Policy) -> bool {
    policy.settings().dns.answers == Answers::Synthetic
}

/// Whether the company's proxy looks the name up, and nobody here.
pub(crate) fn by_company_proxy(policy: &Policy, permit: &LookupPermit) -> bool {
    let proxies = &policy.settings().upstream;
    is_synthetic(policy) && proxies.look_up(permit.listed().as_ref(), permit.ports())
}

/// Whether the upstream's word that a name does not exist counts: not where the name was given an
/// address without asking, since its absence would take the address away (RFC 8020).
pub(crate) fn may_be_absent(policy: &Policy, permits: &Permits) -> bool {
    let first = permits.first();
    !first.is_some_and(|permit| by_company_proxy(policy, permit))
}

impl Inner {
    /// Answers a question for a permitted name whose addresses are made up.
    pub(crate) fn begin_made_up(
        &self,
        turn: &Turn<'_>,
        (policy, epoch): (&Policy, u64),
        judged: Judged,
        permits: &Permits,
        out: &mut Vec<u8>,
    ) -> MadeUp {
        let Some(permit) = permits.first() else {
            return MadeUp::No;
        };
        if let Some(to) = permit.to() {
            self.answer_mock(turn, (policy, epoch), judged, (permit, to), out);
            return MadeUp::Answered;
        }
        if !is_synthetic(policy) {
            return MadeUp::No;
        }
        let proxied = by_company_proxy(policy, permit);
        match turn.query.qtype {
            RecordType::A if proxied => {
                self.answer_synthetic(turn, (policy, epoch), judged, permit, (DETAIL, out));
                MadeUp::Answered
            }
            // Aliases and hints would come from a resolver that need not know the name.
            RecordType::AAAA | RecordType::CNAME | RecordType::SVCB | RecordType::HTTPS
                if proxied =>
            {
                self.answer_nothing(turn, policy, judged, out);
                MadeUp::Answered
            }
            RecordType::A | RecordType::AAAA => MadeUp::IfItExists,
            _ => MadeUp::No,
        }
    }

    /// What is known of a name's addresses, of either family, without asking.
    pub(crate) fn known_addresses(&self, ask: &Ask) -> Option<Arc<Entry>> {
        let at_hand = |qtype| {
            let name = ask.key.name.clone();
            self.at_hand(&Key { name, qtype }, ask.epoch)
        };
        let four = at_hand(RecordType::A)?;
        if self.settles(&four) {
            return Some(four);
        }
        let six = at_hand(RecordType::AAAA)?;
        Some(if six.addresses.is_empty() { four } else { six })
    }

    /// Finds out whether a name has addresses: IPv4 first, and IPv6 where there are none.
    pub(crate) async fn find_addresses(self: &Arc<Self>, ask: &Ask) -> Arc<Entry> {
        let of = |qtype| Ask {
            key: Key {
                name: ask.key.name.clone(),
                qtype,
            },
            ..ask.clone()
        };
        let four = self.fetch(of(RecordType::A)).await;
        if self.settles(&four) {
            return four;
        }
        let six = self.fetch(of(RecordType::AAAA)).await;
        if six.addresses.is_empty() { four } else { six }
    }

    /// Whether the answer for IPv4 says all there is to know.
    fn settles(&self, four: &Entry) -> bool {
        !four.addresses.is_empty()
            || !(self.ipv6_route)()
            || !matches!(four.outcome, Outcome::Found | Outcome::PrivateFamily)
    }

    /// Answers a question for the addresses of a name that has some.
    pub(crate) fn complete_synthetic(
        &self,
        turn: &Turn<'_>,
        (policy, epoch): (&Policy, u64),
        judged: Judged,
        (permits, entry): (&Permits, &Entry),
        out: &mut Vec<u8>,
    ) {
        // A program may ask for the alias itself, and then for what it names.
        self.learn_aliases(permits, entry);
        entry.count_use();
        match permits.first() {
            Some(permit) if turn.query.qtype == RecordType::A && !entry.addresses.is_empty() => {
                self.answer_synthetic(turn, (policy, epoch), judged, permit, (DETAIL, out));
            }
            _ => self.answer_nothing(turn, policy, judged, out),
        }
    }
}
