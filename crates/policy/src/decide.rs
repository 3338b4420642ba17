//! How each kind of request is weighed.
//!
//! Answers *decision and destination differ* (docs/threats.md). What a name is worth depends on how it is known: a
//! name that was asked for is resolved by us, so it speaks for itself; a name that was merely shown
//! on a connection to some address counts only if DNS gave that address out for it; an address
//! counts by a lease or a rule, never by what is said on the connection.

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_names::{Name, NameRef, RecordType, Transport, is_guarded};

use crate::decision::{Decision, Grant, Way};
use crate::destination::{Asked, Destination, Shown, ShownBy};
use crate::host_name::HOST_NAME;
use crate::http::LIMITED_METHODS;
use crate::reason::Reason;
use crate::request::Request;
use crate::rules::{NameVerdict, NetVerdict, RuleId, RuleSet, Says};
use crate::types::TypeSet;
use crate::verdict::{Mode, Verdict};

/// What is decided by.
#[derive(Clone, Copy)]
pub(crate) struct Basis<'p> {
    pub rules: &'p Arc<RuleSet>,
    /// What is served for names whose rules do not say.
    pub types: TypeSet,
    /// Whether requests have the methods of `mode = "limited"` alone.
    pub limited: bool,
    pub mode: Mode,
}

/// A port, and what it is a port of.
#[derive(Clone, Copy)]
struct Door {
    transport: Transport,
    port: u16,
}

impl Door {
    fn tcp(port: u16) -> Door {
        Door {
            transport: Transport::Tcp,
            port,
        }
    }

    fn name(self, policy: Basis<'_>, name: NameRef<'_>) -> NameVerdict {
        let names = &policy.rules.names;
        names.verdict(name.as_str(), self.transport, self.port)
    }

    fn net(self, policy: Basis<'_>, address: IpAddr) -> NetVerdict {
        policy
            .rules
            .nets
            .verdict(address, self.transport, self.port)
    }
}

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

pub(crate) fn decide<'r>(policy: Basis<'_>, request: &Request<'r>) -> Decision<'r> {
    let (outcome, transport) = match *request {
        Request::Lookup { name, qtype } => (lookup(policy, name, qtype), Transport::Tcp),
        Request::Connect { to, port } => {
            let door = Door::tcp(port);
            (connect(policy, to, door), Transport::Tcp)
        }
        Request::Http {
            to,
            port,
            method,
            path,
        } => (http(policy, to, port, (method, path)), Transport::Tcp),
        Request::Datagrams { to, port } => (datagrams(policy, to, port), Transport::Udp),
    };
    // the kernel inside refuses datagrams by its own set, also where the policy only watches
    let watches = policy.mode == Mode::Audit && transport == Transport::Tcp;
    let verdict = match outcome.reason.verdict() {
        Verdict::Deny if watches && !stands(&outcome) => Verdict::Audit,
        verdict => verdict,
    };
    let passes = matches!(verdict, Verdict::Allow | Verdict::Audit);
    let grant = passes.then(|| Grant {
        rules: policy.rules.clone(),
        types: policy.types,
        way: outcome.way,
        transport,
        limited: policy.limited,
        enforced: policy.mode == Mode::Enforce,
    });
    Decision {
        verdict,
        reason: outcome.reason,
        rule: outcome.rule,
        grant,
    }
}

/// Whether a refusal stands although the policy only watches: the host's own loopback is as private
/// by its name as it is by its address, and where nothing is known to dial nothing can pass.
fn stands(outcome: &Outcome<'_>) -> bool {
    let name = match outcome.way {
        Way::Lookup(name) | Way::ToName(name, _) | Way::ToNameAt(name, ..) => Some(name),
        Way::ToAddress(..) => None,
        Way::Nowhere => return true,
    };
    outcome.reason.stands_in_audit() || name.is_some_and(|name| name.as_str() == HOST_NAME)
}

fn lookup<'r>(policy: Basis<'_>, name: NameRef<'r>, qtype: RecordType) -> Outcome<'r> {
    let way = Way::Lookup(name);
    if qtype.is_transfer() {
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
    if would_pass
        && !policy
            .rules
            .names
            .types_for(name.as_str())
            .unwrap_or(policy.types)
            .contains(qtype)
    {
        return Outcome::refuse(Reason::TypeNotServed, rule, way);
    }
    Outcome { reason, rule, way }
}

fn connect<'r>(policy: Basis<'_>, to: &'r Destination<'r>, door: Door) -> Outcome<'r> {
    match &to.asked {
        Asked::Name(name) => {
            let outcome = asked(policy, name.as_ref(), door);
            match &to.shown {
                Shown::Name(shown, by) if outcome.reason == Reason::Allowed && shown != name => {
                    Outcome {
                        reason: mismatch(*by),
                        ..outcome
                    }
                }
                _ => outcome,
            }
        }
        Asked::Address { address, owners } => {
            let at = At {
                policy,
                address: *address,
                names: owners,
                door,
            };
            match &to.shown {
                Shown::Bare => by_address(policy, *address, door),
                Shown::Nothing if owners.is_empty() => by_address(policy, *address, door),
                Shown::Nothing => at.unshown(false),
                Shown::Hidden => at.unshown(true),
                Shown::Name(shown, by) => {
                    (at.refused()).unwrap_or_else(|| at.by_shown(shown.as_ref(), *by))
                }
            }
        }
        Asked::Synthetic { name: None, .. } => {
            Outcome::refuse(Reason::AddressNotLeased, None, Way::Nowhere)
        }
        Asked::Synthetic {
            name: Some(name), ..
        } => synthetic(policy, name.as_ref(), &to.shown, door),
    }
}

/// A request passes where a connection would, and has the method and the path that the rules want.
fn http<'r>(
    policy: Basis<'_>,
    to: &'r Destination<'r>,
    port: u16,
    asks: (&str, &str),
) -> Outcome<'r> {
    let door = Door::tcp(port);
    let outcome = connect(policy, to, door);
    if outcome.reason != Reason::Allowed {
        return outcome;
    }
    let refused = match (outcome.way, &to.asked) {
        (Way::Lookup(_) | Way::Nowhere, _) => None,
        (Way::ToAddress(address, port), _) => {
            let says = policy.rules.nets.says(address, Transport::Tcp, port);
            narrowed(says, asks)
        }
        // It shows no name, so it may be for any that owns the address: all of them must take it.
        (Way::ToNameAt(..), Asked::Address { owners, .. }) if to.shown == Shown::Nothing => owners
            .iter()
            .filter(|name| {
                matches!(
                    door.name(policy, name.as_ref()),
                    NameVerdict::Allowed { .. }
                )
            })
            .find_map(|name| narrowed(says(policy, name.as_ref(), port), asks)),
        (Way::ToName(name, port) | Way::ToNameAt(name, _, port), _) => {
            narrowed(says(policy, name, port), asks)
        }
    };
    if policy.limited && !LIMITED_METHODS.contains(&asks.0) {
        return Outcome {
            reason: Reason::MethodNotAllowed,
            ..outcome
        };
    }
    match refused {
        Some((rule, reason)) => Outcome::refuse(reason, Some(rule), outcome.way),
        None => outcome,
    }
}

fn says<'p>(
    policy: Basis<'p>,
    name: NameRef<'_>,
    port: u16,
) -> impl Iterator<Item = (RuleId, &'p Says)> {
    let names = &policy.rules.names;
    names.says(name.as_str(), Transport::Tcp, port)
}

/// Which rule, if any, does not take a request with this method and path: methods first, so that
/// what is reported does not depend on the order of rules.
fn narrowed<'p>(
    says: impl Iterator<Item = (RuleId, &'p Says)>,
    (method, path): (&str, &str),
) -> Option<(RuleId, Reason)> {
    let mut other_path = None;
    for (rule, says) in says {
        if says.methods.as_ref().is_some_and(|own| !own.allows(method)) {
            return Some((rule, Reason::MethodNotAllowed));
        }
        if other_path.is_none() && says.paths.as_ref().is_some_and(|own| !own.allows(path)) {
            other_path = Some((rule, Reason::PathNotAllowed));
        }
    }
    other_path
}

/// Datagrams pass by a rule for their port alone; what no such rule is about is a protocol that does
/// not pass, whatever else is listed.
fn datagrams<'r>(policy: Basis<'_>, to: &'r Destination<'r>, port: u16) -> Outcome<'r> {
    let door = Door {
        transport: Transport::Udp,
        port,
    };
    let outcome = connect(policy, to, door);
    match outcome.reason {
        _ if matches!(outcome.way, Way::Nowhere) => outcome,
        Reason::NotListed | Reason::AddressNotLeased | Reason::PortNotAllowed => Outcome {
            reason: Reason::ProtocolNotAllowed,
            ..outcome
        },
        _ => outcome,
    }
}

/// The address was made up for the name, so the name alone counts: it is what is dialled, and the
/// guard looks at the addresses that it turns out to have. What is shown must still be that name, as
/// on any direct connection.
fn synthetic<'r>(
    policy: Basis<'_>,
    name: NameRef<'r>,
    shown: &Shown<'r>,
    door: Door,
) -> Outcome<'r> {
    let outcome = asked(policy, name, door);
    if outcome.reason != Reason::Allowed {
        return outcome;
    }
    let (reason, rule) = match shown {
        Shown::Nothing | Shown::Bare => return outcome,
        Shown::Hidden => match door.name(policy, name) {
            NameVerdict::Allowed { no_sni: true, .. } => return outcome,
            _ => (Reason::SniMissing, outcome.rule),
        },
        Shown::Name(shown, _) if shown.as_ref() == name => return outcome,
        Shown::Name(shown, by) => match door.name(policy, shown.as_ref()) {
            NameVerdict::Denied(rule) => (Reason::DeniedByRule, Some(rule)),
            NameVerdict::Allowed { rule, .. } => (mismatch(*by), Some(rule)),
            NameVerdict::OtherPort(rule) => (Reason::PortNotAllowed, Some(rule)),
            NameVerdict::Unlisted => (not_listed(*by), None),
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

fn asked<'r>(policy: Basis<'_>, name: NameRef<'r>, door: Door) -> Outcome<'r> {
    let way = Way::ToName(name, door.port);
    match door.name(policy, name) {
        NameVerdict::Allowed { rule, .. } => Outcome::allow(rule, way),
        NameVerdict::Denied(rule) => Outcome::refuse(Reason::DeniedByRule, Some(rule), way),
        NameVerdict::OtherPort(rule) => Outcome::refuse(Reason::PortNotAllowed, Some(rule), way),
        NameVerdict::Unlisted => Outcome::refuse(Reason::NotListed, None, way),
    }
}

fn by_address<'r>(policy: Basis<'_>, address: IpAddr, door: Door) -> Outcome<'r> {
    let way = Way::ToAddress(address, door.port);
    match door.net(policy, address) {
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
    policy: Basis<'p>,
    address: IpAddr,
    names: &'r [Name],
    door: Door,
}

impl<'r> At<'_, 'r> {
    /// Where nothing but the address is known, or TLS hides the name.
    fn unshown(&self, hidden: bool) -> Outcome<'r> {
        self.refused()
            .or_else(|| self.by_rule())
            .unwrap_or_else(|| self.by_lease(hidden))
    }

    /// A refusal that no name can lift: a deny rule for the address, or the address guard.
    fn refused(&self) -> Option<Outcome<'r>> {
        let verdict = self.door.net(self.policy, self.address);
        if matches!(verdict, NetVerdict::Allowed(_)) || self.is_the_host() {
            return None;
        }
        if matches!(verdict, NetVerdict::Denied(_)) || is_guarded(self.address) {
            return Some(by_address(self.policy, self.address, self.door));
        }
        None
    }

    /// Whether this is the address that stands for the host's loopback: the one guarded address that
    /// a name rule opens, because the dialler goes by that name.
    fn is_the_host(&self) -> bool {
        let mut own = self.names.iter().filter(|name| name.as_str() == HOST_NAME);
        own.any(|name| {
            let verdict = self.door.name(self.policy, name.as_ref());
            matches!(verdict, NameVerdict::Allowed { .. })
        })
    }

    fn by_rule(&self) -> Option<Outcome<'r>> {
        let Door { transport, port } = self.door;
        let rule = self
            .policy
            .rules
            .nets
            .lifts(self.address, transport, port)?;
        Some(Outcome::allow(rule, self.to_address()))
    }

    /// By the names that own the address. `hidden` is TLS that shows no name, which a rule must
    /// allow on top. Of several that allow it, one whose connections may carry anything comes
    /// first: what turns out to be HTTP is decided on again.
    fn by_lease(&self, hidden: bool) -> Outcome<'r> {
        let mut narrow = None;
        let mut refusal = Outcome::refuse(Reason::AddressNotLeased, None, self.to_address());
        for name in self.names {
            let way = self.to_name(name.as_ref());
            let (reason, rule) = match self.door.name(self.policy, name.as_ref()) {
                NameVerdict::Allowed { rule, no_sni } if no_sni || !hidden => {
                    if !self.is_narrow(name.as_ref()) {
                        return Outcome::allow(rule, way);
                    }
                    narrow.get_or_insert((rule, way));
                    continue;
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
        match narrow {
            Some((rule, way)) => Outcome::allow(rule, way),
            None => refusal,
        }
    }

    /// Whether nothing but HTTP may be said to this name.
    fn is_narrow(&self, name: NameRef<'_>) -> bool {
        self.door.transport == Transport::Tcp
            && says(self.policy, name, self.door.port).any(|(_, says)| says.only_http())
    }

    fn by_shown(&self, shown: NameRef<'r>, by: ShownBy) -> Outcome<'r> {
        let owner = self.names.iter().any(|name| name.as_ref() == shown);
        let way = if owner {
            self.to_name(shown)
        } else {
            self.to_address()
        };
        let verdict = self.door.name(self.policy, shown);
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
        Way::ToAddress(self.address, self.door.port)
    }

    fn to_name(&self, name: NameRef<'r>) -> Way<'r> {
        Way::ToNameAt(name, self.address, self.door.port)
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
