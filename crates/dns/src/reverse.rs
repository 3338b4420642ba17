//! Reverse lookups: only for addresses that were given out, with the canonical name as answer.
//!
//! `getfqdn` and Kerberos build the service's principal from it, so it must be the name at the end
//! of the last chain. The upstream is asked, since it may know better; it is believed only where it
//! names a name of the chain or a listed one. Otherwise the lease's own canonical name is answered.
//! A reverse lookup of any other address is refused and does not leave: the question alone would
//! carry bytes out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_names::{Name, RecordType};
use portcullis_policy::{LookupPermit, Reason};
use smallvec::SmallVec;

use crate::canonical_names::CanonicalNames;
use crate::entry::{Entry, EntryKind};
use crate::hosts::Hosts;
use crate::leases::{LeasedName, Leases};
use crate::lookup::HOSTS_FILE;
use crate::policy_in_force::InForce;
use crate::query::{ClientQuery, Decided, Refusal, Ruling};
use crate::reply::{self, rcode};
use crate::{Clock, OwnNames};

/// How long a reverse answer may be cached, seconds: short, since the next chain may end elsewhere.
const REVERSE_TTL: u32 = 60;

/// The names that an address was given out for, latest first.
#[derive(Clone, Debug)]
pub(crate) struct LeasedNames(SmallVec<[LeasedName; 2]>);

impl LeasedNames {
    /// The name that the leases know, without asking anyone.
    fn own_answer(&self) -> Option<&Name> {
        let latest = self.0.first()?;
        Some(latest.canonical.as_ref().unwrap_or(&latest.listed))
    }

    fn contain(&self, name: &Name) -> bool {
        self.0
            .iter()
            .any(|leased| leased.listed == *name || leased.canonical.as_ref() == Some(name))
    }
}

/// A permitted reverse lookup that the upstream is asked for.
pub(crate) struct ReversePermit {
    pub ruling: Ruling,
    pub permit: LookupPermit,
    /// The leases of the address; `None` for an ordinary lookup.
    pub leased: Option<LeasedNames>,
}

/// Decides and answers reverse lookups.
pub(crate) struct ReverseLookups {
    pub leases: Arc<Leases>,
    pub canonical_names: Arc<CanonicalNames>,
    pub hosts: Hosts,
    pub own: OwnNames,
    pub clock: Clock,
}

impl ReverseLookups {
    /// Decides a reverse lookup. `None`: it is answered.
    pub(crate) fn begin(
        &self,
        query: &ClientQuery<'_>,
        in_force: &InForce,
        address: IpAddr,
        out: &mut Vec<u8>,
    ) -> Option<ReversePermit> {
        let decision = in_force.decide(query.name, query.qtype());
        let decided = Decided {
            in_force,
            ruling: Ruling::from(&decision),
        };
        let owners = self.leases.owners(address);
        if owners.is_empty() && self.own.owns(address) {
            reply::negative(out, &query.reply, rcode::NX_DOMAIN, None);
            return None;
        }
        if decision.reason != Reason::DeniedByRule
            && let Some((ruling, leased)) = self.in_hosts(in_force, address)
        {
            let now = self.clock.now();
            let entry = Entry::new(EntryKind::Found, now, Duration::ZERO, 0)
                .answered_by(Some(HOSTS_FILE.into()), 0);
            self.complete(query, &decided.with(ruling), &leased, &entry, out);
            return None;
        }
        // Listed itself (a private reverse zone), or watched only: an ordinary lookup.
        if owners.is_empty()
            && let Some(permit) = decision.lookup_permit()
        {
            return Some(ReversePermit {
                ruling: decided.ruling,
                permit,
                leased: None,
            });
        }
        // Owners that the policy in force still lists.
        let mut live = SmallVec::new();
        let mut permit = None;
        let mut not_served = None;
        for owner in owners {
            let decision = in_force.decide(owner.listed.as_ref(), RecordType::PTR);
            if let Some(listed) = decision.lookup_permit() {
                permit.get_or_insert_with(|| listed.reverse(address));
                live.push(owner);
            } else if decision.reason == Reason::TypeNotServed {
                not_served = Some(Ruling::of(Reason::TypeNotServed, decision.rule));
            }
        }
        let denied = decision.reason == Reason::DeniedByRule;
        if let (None, Some(ruling), false) = (&permit, not_served, denied) {
            // The address was given out, so its name exists; the policy serves no PTR for it.
            query.refuse(&decided.with(ruling), Refusal::NoData, out);
            return None;
        }
        let Some(permit) = permit.filter(|_| !denied) else {
            let reason = match decision.reason {
                Reason::DeniedByRule => Reason::DeniedByRule,
                _ => Reason::AddressNotLeased,
            };
            query.refuse(&decided.but(reason), Refusal::Absent, out);
            return None;
        };
        let ruling = Ruling::permitted(Reason::ReverseLookup, permit.rule(), permit.audit());
        let leased = LeasedNames(live);
        if self.own.owns(address) || self.leases.is_synthetic(address) {
            // The host's own name, or made up: nobody outside could answer for the address.
            let now = self.clock.now();
            let entry = Entry::new(EntryKind::NameNotFound, now, Duration::ZERO, 0);
            self.complete(query, &decided.with(ruling), &leased, &entry, out);
            return None;
        }
        Some(ReversePermit {
            ruling,
            permit,
            leased: Some(leased),
        })
    }

    /// The names that the host's hosts file gives an address and that may be told: listed ones, for which
    /// the guard lets the address through. The first of a line is the canonical one.
    fn in_hosts(&self, in_force: &InForce, address: IpAddr) -> Option<(Ruling, LeasedNames)> {
        let dns = &in_force.policy.settings().dns;
        let hosts = self.hosts.load();
        let mut found: Option<(Ruling, LeasedNames)> = None;
        for name in hosts.names(address) {
            if dns.zone_for(name.as_ref()).is_some() {
                continue;
            }
            let decision = in_force.decide(name.as_ref(), RecordType::PTR);
            let Some(permit) = decision.lookup_permit() else {
                continue;
            };
            if !in_force.policy.guard_lookup(address, permit.ports()) {
                continue;
            }
            let ruling = Ruling::permitted(Reason::ReverseLookup, permit.rule(), permit.audit());
            let (_, LeasedNames(names)) =
                found.get_or_insert_with(|| (ruling, LeasedNames(SmallVec::new())));
            names.push(LeasedName {
                listed: name.clone(),
                canonical: None,
            });
        }
        found
    }

    /// Chooses and writes the answer to a reverse lookup: what the upstream said, in `entry`, or
    /// what the leases know.
    pub(crate) fn complete(
        &self,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        leased: &LeasedNames,
        entry: &Entry,
        out: &mut Vec<u8>,
    ) {
        let listed = |name: &Name| {
            let decision = decided.in_force.decide(name.as_ref(), RecordType::A);
            decision.permits()
        };
        let believed = entry
            .pointer
            .as_ref()
            .filter(|name| leased.contain(name) || self.is_canonical(name) || listed(name));
        let Some(name) = believed.or_else(|| leased.own_answer()) else {
            let decided = decided.but(Reason::AddressNotLeased);
            return query.refuse(&decided, Refusal::Absent, out);
        };
        let from_lease = believed.is_none() && entry.server.as_deref() != Some(HOSTS_FILE);
        let detail = from_lease.then_some("answered from the lease");
        let mut shown = Entry::new(EntryKind::Found, entry.born, Duration::ZERO, entry.epoch)
            .answered_by(entry.server.clone(), entry.attempts);
        shown.targets.push(name.clone());
        query.record(decided, &shown, detail);
        let mut data: SmallVec<[u8; 256]> = SmallVec::new();
        for label in name.as_ref().labels() {
            // A canonical name's labels are at most 63 bytes.
            data.push(label.len() as u8);
            data.extend_from_slice(label.as_bytes());
        }
        data.push(0);
        reply::one(out, &query.reply, RecordType::PTR, REVERSE_TTL, &data);
    }

    fn is_canonical(&self, name: &Name) -> bool {
        let now = self.clock.now();
        !self.canonical_names.owners(name.as_ref(), now).is_empty()
    }
}
