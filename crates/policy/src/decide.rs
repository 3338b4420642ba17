//! How each kind of request is weighed.
//!
//! THREATS, "decision and destination differ". What a name is worth depends on how it is known: a
//! name that was asked for is resolved by us, so it speaks for itself; a name that was merely shown
//! on a connection to some address counts only if DNS gave that address out for it; an address
//! counts by a lease or a rule, never by what is said on the connection.

use std::net::IpAddr;

use portcullis_names::{Name, NameRef, is_guarded};

use crate::HOST_NAME;
use crate::decision::{Decision, Grant, Verdict, Way};
use crate::nets::NetVerdict;
use crate::policy::{Mode, Policy};
use crate::reason::Reason;
use crate::request::{Destination, Request, Seen, ShownBy};
use crate::rules::RuleId;
use crate::table::NameVerdict;

/// IXFR and AXFR: zone transfers.
const TRANSFER_TYPES: [u16; 2] = [251, 252];

/// What the rules say, before the mode has its say.
struct Outcome<'r> {
    reason: Reason,
    rule: Option<RuleId>,
    /// Where the request goes if it passes.
    way: Way<'r>,
}

impl<'r> Outcome<'r> {
    fn allow(rule: RuleId, way: Way<'r>) -> Self {
        Outcome {
            reason: Reason::Allowed,
            rule: Some(rule),
            way,
        }
    }

    fn refuse(reason: Reason, rule: Option<RuleId>, way: Way<'r>) -> Self {
        Outcome { reason, rule, way }
    }
}

pub(crate) fn decide<'r>(policy: &Policy, request: &Request<'r>) -> Decision<'r> {
    let outcome = match *request {
        Request::Lookup { name, qtype } => lookup(policy, name, qtype),
        Request::Connect { how, port } => connect(policy, how, port),
    };
    let verdict = match outcome.reason.verdict() {
        Verdict::Deny if policy.mode == Mode::Audit && !stands(&outcome) => Verdict::Audit,
        verdict => verdict,
    };
    let passes = matches!(verdict, Verdict::Allow | Verdict::Audit);
    let grant = passes.then(|| Grant {
        rules: policy.rules.clone(),
        types: policy.settings.dns.types,
        way: outcome.way,
    });
    Decision {
        verdict,
        reason: outcome.reason,
        rule: outcome.rule,
        grant,
    }
}

/// Whether a refusal stands although the policy only watches: the host's own loopback is as private
/// by its name as it is by its address.
fn stands(outcome: &Outcome<'_>) -> bool {
    let name = match outcome.way {
        Way::Lookup(name) | Way::ToName(name, _) | Way::ToNameAt(name, ..) => Some(name),
        Way::ToAddress(..) => None,
    };
    outcome.reason.stands_in_audit() || name.is_some_and(|name| name.as_str() == HOST_NAME)
}

fn lookup<'r>(policy: &Policy, name: NameRef<'r>, qtype: u16) -> Outcome<'r> {
    let way = Way::Lookup(name);
    if TRANSFER_TYPES.contains(&qtype) {
        return Outcome::refuse(Reason::TransferRefused, None, way);
    }
    let (reason, rule) = match policy.rules.names.lookup_verdict(name.as_str()) {
        NameVerdict::Denied(rule) => (Reason::DeniedByRule, Some(rule)),
        NameVerdict::Allowed { rule, .. } | NameVerdict::OtherPort(rule) => {
            (Reason::Allowed, Some(rule))
        }
        NameVerdict::Unlisted => (Reason::NotListed, None),
    };
    // a type that is not served stays so in audit mode, where unlisted names pass
    let would_pass = reason == Reason::Allowed || policy.mode == Mode::Audit;
    if would_pass && !policy.types_for(name).contains(qtype) {
        return Outcome::refuse(Reason::TypeNotServed, rule, way);
    }
    Outcome { reason, rule, way }
}

fn connect<'r>(policy: &Policy, how: Destination<'r>, port: u16) -> Outcome<'r> {
    match how {
        Destination::Asked(name) => asked(policy, name, port),
        Destination::AskedAndShown {
            asked: name,
            shown,
            by,
        } => {
            let outcome = asked(policy, name, port);
            if outcome.reason == Reason::Allowed && name != shown {
                return Outcome {
                    reason: mismatch(by),
                    ..outcome
                };
            }
            outcome
        }
        Destination::Address(address) => by_address(policy, address, port),
        Destination::Leased { address, names } => {
            let at = At {
                policy,
                address,
                names,
                port,
            };
            at.refused()
                .or_else(|| at.by_rule())
                .unwrap_or_else(|| at.by_lease(false))
        }
        Destination::Hidden { address, names } => {
            let at = At {
                policy,
                address,
                names,
                port,
            };
            at.refused()
                .or_else(|| at.by_rule())
                .unwrap_or_else(|| at.by_lease(true))
        }
        Destination::Shown {
            address,
            names,
            shown,
            by,
        } => {
            let at = At {
                policy,
                address,
                names,
                port,
            };
            at.refused().unwrap_or_else(|| at.by_shown(shown, by))
        }
        Destination::Synthetic { name, seen } => synthetic(policy, name.as_ref(), seen, port),
    }
}

/// The address was made up for the name, so the name alone counts: it is what is dialled, and the
/// guard looks at the addresses that it turns out to have. What is shown must still be that name, as
/// on any direct connection.
fn synthetic<'r>(policy: &Policy, name: NameRef<'r>, seen: Seen<'r>, port: u16) -> Outcome<'r> {
    let outcome = asked(policy, name, port);
    if outcome.reason != Reason::Allowed {
        return outcome;
    }
    let names = &policy.rules.names;
    let (reason, rule) = match seen {
        Seen::Nothing => return outcome,
        Seen::Hidden => match names.verdict(name.as_str(), port) {
            NameVerdict::Allowed { no_sni: true, .. } => return outcome,
            _ => (Reason::SniMissing, outcome.rule),
        },
        Seen::Name(shown, _) if shown == name => return outcome,
        Seen::Name(shown, by) => match names.verdict(shown.as_str(), port) {
            NameVerdict::Denied(rule) => (Reason::DeniedByRule, Some(rule)),
            NameVerdict::Allowed { rule, .. } => (mismatch(by), Some(rule)),
            NameVerdict::OtherPort(rule) => (Reason::PortNotAllowed, Some(rule)),
            NameVerdict::Unlisted => (not_listed(by), None),
        },
    };
    Outcome::refuse(reason, rule, outcome.way)
}

fn not_listed(by: ShownBy) -> Reason {
    match by {
        ShownBy::Sni => Reason::SniNotListed,
        ShownBy::Host => Reason::NotListed,
    }
}

fn asked<'r>(policy: &Policy, name: NameRef<'r>, port: u16) -> Outcome<'r> {
    let way = Way::ToName(name, port);
    match policy.rules.names.verdict(name.as_str(), port) {
        NameVerdict::Allowed { rule, .. } => Outcome::allow(rule, way),
        NameVerdict::Denied(rule) => Outcome::refuse(Reason::DeniedByRule, Some(rule), way),
        NameVerdict::OtherPort(rule) => Outcome::refuse(Reason::PortNotAllowed, Some(rule), way),
        NameVerdict::Unlisted => Outcome::refuse(Reason::NotListed, None, way),
    }
}

fn by_address<'r>(policy: &Policy, address: IpAddr, port: u16) -> Outcome<'r> {
    let way = Way::ToAddress(address, port);
    match policy.rules.nets.verdict(address, port) {
        NetVerdict::Allowed(rule) => Outcome::allow(rule, way),
        NetVerdict::Denied(rule) => {
            // the guard keeps the address whatever the rules say, and keeps it in audit mode too
            let reason = if is_guarded(address) && policy.mode == Mode::Audit {
                Reason::PrivateAddress
            } else {
                Reason::DeniedByRule
            };
            Outcome::refuse(reason, Some(rule), way)
        }
        NetVerdict::OtherPort(rule) => {
            let reason = if is_guarded(address) && policy.mode == Mode::Audit {
                Reason::PrivateAddress
            } else {
                Reason::PortNotAllowed
            };
            Outcome::refuse(reason, Some(rule), way)
        }
        NetVerdict::Unlisted if is_guarded(address) => {
            Outcome::refuse(Reason::PrivateAddress, None, way)
        }
        NetVerdict::Unlisted => Outcome::refuse(Reason::AddressNotLeased, None, way),
    }
}

fn mismatch(by: ShownBy) -> Reason {
    match by {
        ShownBy::Sni => Reason::SniMismatch,
        ShownBy::Host => Reason::HostMismatch,
    }
}

/// A direct connection to an address.
struct At<'p, 'r> {
    policy: &'p Policy,
    address: IpAddr,
    names: &'r [Name],
    port: u16,
}

impl<'r> At<'_, 'r> {
    /// A refusal that no name can lift: a deny rule for the address, or the address guard.
    fn refused(&self) -> Option<Outcome<'r>> {
        let verdict = self.policy.rules.nets.verdict(self.address, self.port);
        if matches!(verdict, NetVerdict::Allowed(_)) || self.is_the_host() {
            return None;
        }
        if matches!(verdict, NetVerdict::Denied(_)) || is_guarded(self.address) {
            return Some(by_address(self.policy, self.address, self.port));
        }
        None
    }

    /// Whether this is the address that stands for the host's loopback: the one guarded address that
    /// a name rule opens, because the dialler goes by that name.
    fn is_the_host(&self) -> bool {
        let owns = |name: &Name| name.as_str() == HOST_NAME;
        self.names.iter().any(owns)
            && matches!(
                self.policy.rules.names.verdict(HOST_NAME, self.port),
                NameVerdict::Allowed { .. }
            )
    }

    fn by_rule(&self) -> Option<Outcome<'r>> {
        let rule = self.policy.lifts(self.address, self.port)?;
        Some(Outcome::allow(rule, self.to_address()))
    }

    /// By the names that own the address. `hidden` is TLS that shows no name, which a rule must
    /// allow on top.
    fn by_lease(&self, hidden: bool) -> Outcome<'r> {
        let mut refusal = Outcome::refuse(Reason::AddressNotLeased, None, self.to_address());
        for name in self.names {
            let way = self.to_name(name.as_ref());
            let (reason, rule) = match self.policy.rules.names.verdict(name.as_str(), self.port) {
                NameVerdict::Allowed { rule, no_sni } if no_sni || !hidden => {
                    return Outcome::allow(rule, way);
                }
                NameVerdict::Allowed { rule, .. } => (Reason::SniMissing, Some(rule)),
                NameVerdict::OtherPort(rule) => (Reason::PortNotAllowed, Some(rule)),
                NameVerdict::Denied(rule) => (Reason::DeniedByRule, Some(rule)),
                NameVerdict::Unlisted => (Reason::NotListed, None),
            };
            if nearness(reason) > nearness(refusal.reason) {
                refusal = Outcome::refuse(reason, rule, way);
            }
        }
        refusal
    }

    fn by_shown(&self, shown: NameRef<'r>, by: ShownBy) -> Outcome<'r> {
        let owner = self.names.iter().any(|name| name.as_ref() == shown);
        let way = if owner {
            self.to_name(shown)
        } else {
            self.to_address()
        };
        let verdict = self.policy.rules.names.verdict(shown.as_str(), self.port);
        match verdict {
            NameVerdict::Denied(rule) => {
                return Outcome::refuse(Reason::DeniedByRule, Some(rule), way);
            }
            NameVerdict::Allowed { rule, .. } if owner => return Outcome::allow(rule, way),
            _ => {}
        }
        // an address rule speaks for whatever is behind the address
        if let Some(outcome) = self.by_rule() {
            return outcome;
        }
        match verdict {
            NameVerdict::Allowed { rule, .. } => Outcome::refuse(mismatch(by), Some(rule), way),
            NameVerdict::OtherPort(rule) => {
                Outcome::refuse(Reason::PortNotAllowed, Some(rule), way)
            }
            NameVerdict::Denied(_) | NameVerdict::Unlisted => {
                Outcome::refuse(not_listed(by), None, way)
            }
        }
    }

    fn to_address(&self) -> Way<'r> {
        Way::ToAddress(self.address, self.port)
    }

    fn to_name(&self, name: NameRef<'r>) -> Way<'r> {
        Way::ToNameAt(name, self.address, self.port)
    }
}

/// Of several names' refusals, the one nearest to being allowed is the one worth reporting.
fn nearness(reason: Reason) -> u8 {
    match reason {
        Reason::SniMissing => 4,
        Reason::PortNotAllowed => 3,
        Reason::DeniedByRule => 2,
        Reason::NotListed => 1,
        _ => 0,
    }
}
