//! Reverse lookups: only for addresses that were given out, with the canonical name as answer.
//!
//! `getfqdn` and Kerberos build the service's principal from it, so it must be the name at the end
//! of the last chain. The upstream is asked, since it may know better; it is believed only where it
//! names a name of the chain or a listed one. Otherwise the lease's own canonical name is answered.
//! A reverse lookup of any other address is refused and does not leave: the question alone would
//! carry bytes out.

use std::net::IpAddr;
use std::time::Duration;

use portcullis_names::{Name, RecordType};
use portcullis_policy::{Policy, Reason, Request, Verdict};
use smallvec::{SmallVec, smallvec};

use crate::answer::Wanted;
use crate::cache::{Entry, Outcome};
use crate::flight::Permits;
use crate::reply::{self, rcode};
use crate::service::Inner;
use crate::turn::{Judged, Refusal, Turn};

/// How long a reverse answer may be cached, seconds: short, since the next chain may end elsewhere.
const REVERSE_TTL: u32 = 60;

/// A reverse lookup of an address that was given out.
#[derive(Clone, Debug)]
pub(crate) struct Reverse {
    /// Owners and their canonical names, latest first.
    owners: SmallVec<[(Name, Option<Name>); 2]>,
}

impl Reverse {
    /// The name that the leases know, without asking anyone.
    fn own_answer(&self) -> Option<&Name> {
        self.owners
            .first()
            .map(|(name, canonical)| canonical.as_ref().unwrap_or(name))
    }

    fn knows(&self, name: &Name) -> bool {
        self.owners.iter().any(|(listed, canonical)| {
            listed == name
                || canonical
                    .as_ref()
                    .is_some_and(|canonical| canonical == name)
        })
    }
}

impl Inner {
    /// Decides a reverse lookup. `None`: it is answered.
    pub(crate) fn begin_reverse(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        address: IpAddr,
        out: &mut Vec<u8>,
    ) -> Option<(Judged, Permits, Wanted)> {
        let decision = policy.decide(&turn.request());
        let owners = self.leases.owners(address);
        if owners.is_empty() && self.own.owns(address) {
            reply::negative(out, &turn.asked, rcode::NX_DOMAIN, None);
            return None;
        }
        // Listed itself (a company's reverse zone), or watched only: an ordinary lookup.
        if decision.permits() && owners.is_empty() {
            let permits = decision.lookup_permit().into_iter().collect();
            return Some((Judged::from(&decision), permits, Wanted::Records));
        }
        // Owners that the policy in force still lists.
        let mut live: SmallVec<[(Name, Option<Name>); 2]> = SmallVec::new();
        let mut permit = None;
        let mut not_served = None;
        for owner in owners {
            let request = Request::Lookup {
                name: owner.0.as_ref(),
                qtype: RecordType::PTR,
            };
            let decision = policy.decide(&request);
            if let Some(listed) = decision.lookup_permit() {
                permit.get_or_insert_with(|| listed.reverse(address));
                live.push(owner);
            } else if decision.reason == Reason::TypeNotServed {
                not_served = Some(Judged::of(Reason::TypeNotServed, decision.rule));
            }
        }
        let denied = decision.reason == Reason::DeniedByRule;
        if let (None, Some(judged), false) = (&permit, not_served, denied) {
            // The address was given out, so its name exists; the policy serves no PTR for it.
            self.refuse(turn, policy, judged, Refusal::NoData, out);
            return None;
        }
        let Some(permit) = permit.filter(|_| !denied) else {
            let reason = match decision.reason {
                Reason::DeniedByRule => Reason::DeniedByRule,
                _ => Reason::AddressNotLeased,
            };
            let judged = Judged::of(reason, decision.rule);
            self.refuse(turn, policy, judged, Refusal::Absent, out);
            return None;
        };
        let verdict = if permit.audit() {
            Verdict::Audit
        } else {
            Verdict::Allow
        };
        let judged = Judged {
            verdict,
            reason: Reason::ReverseLookup,
            rule: permit.rule(),
        };
        let reverse = Reverse { owners: live };
        if self.own.owns(address) || self.leases.is_synthetic(address) {
            // The host's own name, or made up: nobody outside could answer for the address.
            let now = self.clock.now();
            let entry = Entry::new(Outcome::NameNotFound, now, Duration::ZERO, 0);
            self.complete_reverse(turn, policy, judged, (&reverse, &entry), out);
            return None;
        }
        Some((judged, smallvec![permit], Wanted::Reverse(reverse)))
    }

    /// Chooses and writes the answer to a reverse lookup.
    pub(crate) fn complete_reverse(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        judged: Judged,
        (reverse, entry): (&Reverse, &Entry),
        out: &mut Vec<u8>,
    ) {
        let believed = entry.pointer.as_ref().filter(|name| {
            reverse.knows(name)
                || self.is_alias(name)
                || policy
                    .decide(&Request::Lookup {
                        name: name.as_ref(),
                        qtype: RecordType::A,
                    })
                    .permits()
        });
        let Some(name) = believed.or_else(|| reverse.own_answer()) else {
            let judged = Judged::of(Reason::AddressNotLeased, judged.rule);
            return self.refuse(turn, policy, judged, Refusal::Absent, out);
        };
        let detail = believed.is_none().then_some("answered from the lease");
        let mut shown = Entry::new(Outcome::Found, entry.born, Duration::ZERO, entry.epoch)
            .answered_by(entry.server.clone(), entry.attempts);
        shown.targets.push(name.clone());
        self.note(turn, policy, judged, &shown, detail);
        let mut data: SmallVec<[u8; 256]> = SmallVec::new();
        for label in name.as_ref().labels() {
            // A canonical name's labels are at most 63 bytes.
            data.push(label.len() as u8);
            data.extend_from_slice(label.as_bytes());
        }
        data.push(0);
        reply::one(out, &turn.asked, RecordType::PTR, REVERSE_TTL, &data);
    }

    fn is_alias(&self, name: &Name) -> bool {
        !self
            .aliases
            .owners(name.as_ref(), self.clock.now())
            .is_empty()
    }
}
