//! How each kind of request is weighed.
//!
//! Answers *decision and destination differ* (docs/threats.md). What a name is worth depends on how
//! it is known: a name that was asked for is resolved by us, so it speaks for itself; a name that was
//! merely shown on a connection to some address counts only if DNS gave that address out for it; an
//! address counts by a lease or a rule, never by what is said on the connection.

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_names::{Name, NameRef, RecordType, STATUS_NAME, Transport, is_guarded};

use crate::decision::{Decision, Found, Grant, Route};
use crate::destination::{Asked, Destination, Shown, ShownBy};
use crate::host_name::HOST_NAME;
use crate::http::LIMITED_METHODS;
use crate::reason::Reason;
use crate::request::Request;
use crate::rules::{LookupVerdict, NameMatch, NameVerdict, NetVerdict, RuleId, RuleSet, RuleTerms};
use crate::verdict::{Mode, Verdict};

/// What is decided by.
#[derive(Clone, Copy)]
pub(crate) struct Basis<'p> {
    pub rules: &'p Arc<RuleSet>,
    pub mode: Mode,
}

/// The port on which the TLS of many names shares an address, and shows which one is meant.
const HTTPS_PORT: u16 = 443;

/// A port, and what it is a port of.
#[derive(Clone, Copy)]
struct PortOn {
    transport: Transport,
    port: u16,
}

impl PortOn {
    fn tcp(port: u16) -> PortOn {
        PortOn {
            transport: Transport::Tcp,
            port,
        }
    }

    fn name(self, policy: Basis<'_>, name: NameRef<'_>) -> NameVerdict {
        let names = &policy.rules.names;
        names.verdict(name.as_str(), self.transport, self.port)
    }

    /// Whether TLS on a direct connection to this name may show no name: on ports where plain TCP
    /// passes by lease it says no less than that, and many of their clients send none.
    fn may_hide_the_name(self, found: &NameMatch) -> bool {
        found.no_sni || self.port != HTTPS_PORT
    }

    fn net(self, policy: Basis<'_>, address: IpAddr) -> NetVerdict {
        policy
            .rules
            .nets
            .verdict(address, self.transport, self.port)
    }
}

/// What the rules say, before the mode has its say.
struct Assessment<'r> {
    reason: Reason,
    rule: Option<RuleId>,
    /// Where the request goes if it passes.
    route: Route<'r>,
    /// The rules that let it pass.
    found: Found,
}

impl<'r> Assessment<'r> {
    fn allow(found: Found, route: Route<'r>) -> Self {
        Assessment {
            reason: Reason::Allowed,
            rule: found.rule(),
            route,
            found,
        }
    }

    /// By no rule that would say more: refusals, and lookups.
    fn plain(reason: Reason, rule: Option<RuleId>, route: Route<'r>) -> Self {
        Assessment {
            reason,
            rule,
            route,
            found: Found::Nothing,
        }
    }
}

pub(crate) fn decide<'r>(policy: Basis<'_>, request: &Request<'r>) -> Decision<'r> {
    let (assessed, transport) = match *request {
        Request::Lookup { name, qtype } => (lookup(policy, name, qtype), Transport::Tcp),
        Request::Connect { to, port } => {
            let on = PortOn::tcp(port);
            (connect(policy, to, on), Transport::Tcp)
        }
        Request::Http {
            to,
            port,
            method,
            path,
        } => {
            let asks = Asks { method, path };
            (http(policy, to, port, asks), Transport::Tcp)
        }
        Request::FtpData { to, control, port } => {
            (ftp_data(policy, to, control, port), Transport::Tcp)
        }
        Request::Datagrams { to, port } => (datagrams(policy, to, port), Transport::Udp),
    };
    // the kernel inside refuses datagrams by its own set, also where the policy only watches
    let watches = policy.mode == Mode::Audit && transport == Transport::Tcp;
    let verdict = match assessed.reason.verdict() {
        Verdict::Deny if watches && !stands(&assessed) => Verdict::Audit,
        verdict => verdict,
    };
    let passes = matches!(verdict, Verdict::Allow | Verdict::Audit);
    let grant = passes.then(|| Grant {
        rules: policy.rules.clone(),
        route: assessed.route,
        found: assessed.found,
        transport,
        enforced: policy.mode == Mode::Enforce,
    });
    Decision {
        verdict,
        reason: assessed.reason,
        rule: assessed.rule,
        grant,
    }
}

/// Whether a refusal stands although the policy only watches: the host's own loopback is as private
/// by its name as it is by its address, the status page is nobody else's business, and where nothing is known to dial nothing can pass.
fn stands(assessed: &Assessment<'_>) -> bool {
    let name = match assessed.route {
        Route::Lookup(name) | Route::ToName(name, _) | Route::ToNameAt(name, ..) => Some(name),
        Route::ToAddress(..) => None,
        Route::Nowhere => return true,
    };
    let own = |name: NameRef<'_>| [HOST_NAME, STATUS_NAME].contains(&name.as_str());
    assessed.reason.stands_in_audit() || name.is_some_and(own)
}

fn lookup<'r>(policy: Basis<'_>, name: NameRef<'r>, qtype: RecordType) -> Assessment<'r> {
    let route = Route::Lookup(name);
    if qtype.is_transfer() {
        return Assessment::plain(Reason::TransferRefused, None, route);
    }
    let rules = policy.rules;
    let (reason, rule, types) = match rules.names.lookup_verdict(name.as_str()) {
        LookupVerdict::Allowed(rule, types) => (Reason::Allowed, Some(rule), types),
        LookupVerdict::Denied(rule) => (Reason::DeniedByRule, Some(rule), None),
        LookupVerdict::Unlisted => (Reason::NotListed, None, None),
    };
    // a type that is not served stays so in audit mode, where unlisted names pass
    let types = match reason {
        Reason::Allowed => types,
        _ if policy.mode == Mode::Audit => rules.names.types_for(name.as_str()),
        _ => return Assessment::plain(reason, rule, route),
    };
    let served = types.unwrap_or(rules.types).contains(qtype);
    let reason = if served {
        reason
    } else {
        Reason::TypeNotServed
    };
    Assessment::plain(reason, rule, route)
}

fn connect<'r>(policy: Basis<'_>, to: &'r Destination<'r>, on: PortOn) -> Assessment<'r> {
    match &to.asked {
        Asked::Name(name) => {
            let assessed = asked(policy, name.as_ref(), on);
            match &to.shown {
                Shown::Name(shown, by) if assessed.reason == Reason::Allowed && shown != name => {
                    Assessment {
                        reason: mismatch(*by),
                        ..assessed
                    }
                }
                _ => assessed,
            }
        }
        Asked::Address { address, owners } => {
            let at = At {
                policy,
                address: *address,
                names: owners,
                on,
            };
            match &to.shown {
                Shown::Bare => by_address(policy, *address, on),
                Shown::Nothing if owners.is_empty() => by_address(policy, *address, on),
                Shown::Nothing => at.unshown(false),
                Shown::Hidden => at.unshown(true),
                Shown::Name(shown, by) => {
                    (at.refused()).unwrap_or_else(|| at.by_shown(shown.as_ref(), *by))
                }
            }
        }
        Asked::Synthetic { name: None, .. } => {
            Assessment::plain(Reason::AddressNotLeased, None, Route::Nowhere)
        }
        Asked::Synthetic {
            name: Some(name), ..
        } => synthetic(policy, name.as_ref(), &to.shown, on),
    }
}

/// What a request asks for, as it stands in the request.
#[derive(Clone, Copy)]
struct Asks<'r> {
    method: &'r str,
    path: &'r str,
}

/// A request passes where a connection would, and has the method and the path that the rules want.
fn http<'r>(
    policy: Basis<'_>,
    to: &'r Destination<'r>,
    port: u16,
    asks: Asks<'_>,
) -> Assessment<'r> {
    let on = PortOn::tcp(port);
    let assessed = connect(policy, to, on);
    if assessed.reason != Reason::Allowed {
        return assessed;
    }
    let rules = policy.rules;
    let refused = match (assessed.found, &to.asked) {
        // It shows no name, so it may be for any that owns the address: all of them must take it.
        (Found::Name(_), Asked::Address { owners, .. }) if to.shown == Shown::Nothing => owners
            .iter()
            .find_map(|name| match on.name(policy, name.as_ref()) {
                NameVerdict::Allowed(found) => refusing(rules.names.flows(&found), asks),
                _ => None,
            }),
        (Found::Name(found), _) => refusing(rules.names.flows(&found), asks),
        (Found::Net(found), _) => refusing(rules.nets.flows(&found), asks),
        (Found::Nothing, _) => None,
    };
    if rules.limited.is_some() && !LIMITED_METHODS.contains(&asks.method) {
        return Assessment {
            reason: Reason::MethodNotAllowed,
            ..assessed
        };
    }
    match refused {
        Some((rule, reason)) => Assessment::plain(reason, Some(rule), assessed.route),
        None => assessed,
    }
}

/// Which rule, if any, does not take a request with this method and path: methods first, so that
/// what is reported does not depend on the order of rules.
fn refusing<'p>(
    rules: impl Iterator<Item = (RuleId, &'p RuleTerms)>,
    Asks { method, path }: Asks<'_>,
) -> Option<(RuleId, Reason)> {
    let mut other_path = None;
    for (rule, terms) in rules {
        if (terms.methods.as_ref()).is_some_and(|own| !own.allows(method)) {
            return Some((rule, Reason::MethodNotAllowed));
        }
        if other_path.is_none() && terms.paths.as_ref().is_some_and(|own| !own.allows(path)) {
            other_path = Some((rule, Reason::PathNotAllowed));
        }
    }
    other_path
}

/// A data connection passes where its control connection would, by a rule with `ftp`, and leads to the very
/// address of that.
fn ftp_data<'r>(
    policy: Basis<'_>,
    to: &'r Destination<'r>,
    control: u16,
    port: u16,
) -> Assessment<'r> {
    let assessed = connect(policy, to, PortOn::tcp(control));
    let names = &policy.rules.names;
    let opens = match assessed.found {
        Found::Name(found) => {
            names.terms(&found).is_some_and(|terms| terms.ftp) && names.sent_to(&found).is_none()
        }
        Found::Net(_) | Found::Nothing => false,
    };
    let (reason, route) = match (assessed.reason, &to.asked) {
        (Reason::Allowed, Asked::Address { address, .. }) if opens => {
            (Reason::Allowed, Route::ToAddress(*address, port))
        }
        (Reason::Allowed, _) => (Reason::PortNotAllowed, Route::Nowhere),
        (reason, _) => (reason, Route::Nowhere),
    };
    Assessment {
        reason,
        route,
        ..assessed
    }
}

/// Datagrams pass by a rule for their port alone; what no such rule is about is a protocol that does
/// not pass, whatever else is listed.
fn datagrams<'r>(policy: Basis<'_>, to: &'r Destination<'r>, port: u16) -> Assessment<'r> {
    let on = PortOn {
        transport: Transport::Udp,
        port,
    };
    let assessed = connect(policy, to, on);
    match assessed.reason {
        _ if matches!(assessed.route, Route::Nowhere) => assessed,
        Reason::NotListed | Reason::AddressNotLeased | Reason::PortNotAllowed => Assessment {
            reason: Reason::ProtocolNotAllowed,
            ..assessed
        },
        _ => assessed,
    }
}

/// The address was made up for the name, so the name alone counts: it is what is dialled, and the
/// guard looks at the addresses that it turns out to have. What is shown must still be that name, as
/// on any direct connection.
fn synthetic<'r>(
    policy: Basis<'_>,
    name: NameRef<'r>,
    shown: &Shown<'r>,
    on: PortOn,
) -> Assessment<'r> {
    let assessed = asked(policy, name, on);
    if assessed.reason != Reason::Allowed {
        return assessed;
    }
    let (reason, rule) = match shown {
        Shown::Nothing | Shown::Bare => return assessed,
        Shown::Hidden => match on.name(policy, name) {
            NameVerdict::Allowed(found) if on.may_hide_the_name(&found) => return assessed,
            _ => (Reason::SniMissing, assessed.rule),
        },
        Shown::Name(shown, _) if shown.as_ref() == name => return assessed,
        Shown::Name(shown, by) => match on.name(policy, shown.as_ref()) {
            NameVerdict::Denied(rule) => (Reason::DeniedByRule, Some(rule)),
            NameVerdict::Allowed(found) => (mismatch(*by), Some(found.rule)),
            NameVerdict::OtherPort(rule) => (Reason::PortNotAllowed, Some(rule)),
            NameVerdict::Unlisted => (not_listed(*by), None),
        },
    };
    Assessment::plain(reason, rule, assessed.route)
}

fn not_listed(by: ShownBy) -> Reason {
    match by {
        ShownBy::Sni => Reason::SniNotListed,
        ShownBy::Host => Reason::NotListed,
    }
}

fn asked<'r>(policy: Basis<'_>, name: NameRef<'r>, on: PortOn) -> Assessment<'r> {
    let route = Route::ToName(name, on.port);
    match on.name(policy, name) {
        NameVerdict::Allowed(found) => Assessment::allow(Found::Name(found), route),
        NameVerdict::Denied(rule) => Assessment::plain(Reason::DeniedByRule, Some(rule), route),
        NameVerdict::OtherPort(rule) => {
            Assessment::plain(Reason::PortNotAllowed, Some(rule), route)
        }
        NameVerdict::Unlisted => Assessment::plain(Reason::NotListed, None, route),
    }
}

fn by_address<'r>(policy: Basis<'_>, address: IpAddr, on: PortOn) -> Assessment<'r> {
    let route = Route::ToAddress(address, on.port);
    let verdict = on.net(policy, address);
    match verdict {
        NetVerdict::Allowed(found) => Assessment::allow(Found::Net(found), route),
        NetVerdict::Denied(rule) | NetVerdict::OtherPort(rule) => {
            let reason = match verdict {
                // the guard keeps the address whatever the rules say, and keeps it in audit mode too
                _ if is_guarded(address) && policy.mode == Mode::Audit => Reason::PrivateAddress,
                NetVerdict::Denied(_) => Reason::DeniedByRule,
                _ => Reason::PortNotAllowed,
            };
            Assessment::plain(reason, Some(rule), route)
        }
        NetVerdict::Unlisted if is_guarded(address) => {
            Assessment::plain(Reason::PrivateAddress, None, route)
        }
        NetVerdict::Unlisted => Assessment::plain(Reason::AddressNotLeased, None, route),
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
    on: PortOn,
}

impl<'r> At<'_, 'r> {
    /// Where nothing but the address is known, or TLS hides the name.
    fn unshown(&self, hidden: bool) -> Assessment<'r> {
        self.refused()
            .or_else(|| self.by_rule())
            .unwrap_or_else(|| self.by_lease(hidden))
    }

    /// A refusal that no name can lift: a deny rule for the address, or the address guard.
    fn refused(&self) -> Option<Assessment<'r>> {
        let verdict = self.on.net(self.policy, self.address);
        if matches!(verdict, NetVerdict::Allowed(_)) || self.is_the_host() {
            return None;
        }
        if matches!(verdict, NetVerdict::Denied(_)) || is_guarded(self.address) {
            return Some(by_address(self.policy, self.address, self.on));
        }
        None
    }

    /// Whether this is the address that stands for the host's loopback: the one guarded address that
    /// a name rule opens, because the dialler goes by that name.
    fn is_the_host(&self) -> bool {
        let mut own = self.names.iter().filter(|name| name.as_str() == HOST_NAME);
        own.any(|name| {
            let verdict = self.on.name(self.policy, name.as_ref());
            matches!(verdict, NameVerdict::Allowed(_))
        })
    }

    fn by_rule(&self) -> Option<Assessment<'r>> {
        let PortOn { transport, port } = self.on;
        let nets = &self.policy.rules.nets;
        let found = nets.lifts(self.address, transport, port)?;
        Some(Assessment::allow(Found::Net(found), self.to_address()))
    }

    /// By the names that own the address. `hidden` is TLS that shows no name, which the port or a rule
    /// must allow on top. Of several that allow it, one whose connections may carry anything comes
    /// first: what turns out to be HTTP is decided on again. Of hidden TLS nothing more is seen, so
    /// there the strictest name comes first.
    fn by_lease(&self, hidden: bool) -> Assessment<'r> {
        let mut next = None;
        let mut refusal = Assessment::plain(Reason::AddressNotLeased, None, self.to_address());
        for name in self.names {
            let route = self.to_name(name.as_ref());
            let (reason, rule) = match self.on.name(self.policy, name.as_ref()) {
                NameVerdict::Allowed(found) if !hidden || self.on.may_hide_the_name(&found) => {
                    let first = match hidden {
                        true => self.is_only_http(&found) || self.is_inspected(&found),
                        false => !self.is_only_http(&found),
                    };
                    if first {
                        return Assessment::allow(Found::Name(found), route);
                    }
                    next.get_or_insert((found, route));
                    continue;
                }
                NameVerdict::Allowed(found) => (Reason::SniMissing, Some(found.rule)),
                NameVerdict::OtherPort(rule) => (Reason::PortNotAllowed, Some(rule)),
                NameVerdict::Denied(rule) => (Reason::DeniedByRule, Some(rule)),
                NameVerdict::Unlisted => (Reason::NotListed, None),
            };
            if nearness(reason) > nearness(refusal.reason) {
                refusal = Assessment::plain(reason, rule, route);
            }
        }
        match next {
            Some((found, route)) => Assessment::allow(Found::Name(found), route),
            None => refusal,
        }
    }

    /// Whether TLS to this name is opened.
    fn is_inspected(&self, found: &NameMatch) -> bool {
        let mut flows = self.policy.rules.names.flows(found);
        flows.any(|(_, terms)| terms.inspect)
    }

    /// Whether nothing but HTTP may be said to this name.
    fn is_only_http(&self, found: &NameMatch) -> bool {
        let mut flows = self.policy.rules.names.flows(found);
        self.on.transport == Transport::Tcp && flows.any(|(_, terms)| terms.only_http())
    }

    fn by_shown(&self, shown: NameRef<'r>, by: ShownBy) -> Assessment<'r> {
        let owner = self.names.iter().any(|name| name.as_ref() == shown);
        let route = if owner {
            self.to_name(shown)
        } else {
            self.to_address()
        };
        let verdict = self.on.name(self.policy, shown);
        match verdict {
            NameVerdict::Denied(rule) => {
                return Assessment::plain(Reason::DeniedByRule, Some(rule), route);
            }
            NameVerdict::Allowed(found) if owner => {
                return Assessment::allow(Found::Name(found), route);
            }
            _ => {}
        }
        // an address rule speaks for whatever is behind the address
        if let Some(assessed) = self.by_rule() {
            return assessed;
        }
        match verdict {
            NameVerdict::Allowed(found) => Assessment::plain(mismatch(by), Some(found.rule), route),
            NameVerdict::OtherPort(rule) => {
                Assessment::plain(Reason::PortNotAllowed, Some(rule), route)
            }
            NameVerdict::Denied(_) | NameVerdict::Unlisted => {
                Assessment::plain(not_listed(by), None, route)
            }
        }
    }

    fn to_address(&self) -> Route<'r> {
        Route::ToAddress(self.address, self.on.port)
    }

    fn to_name(&self, name: NameRef<'r>) -> Route<'r> {
        Route::ToNameAt(name, self.address, self.on.port)
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
