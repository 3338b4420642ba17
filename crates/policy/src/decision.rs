//! What the policy says to one request.
//!
//! A permit can only be made from a decision that permits, and a decision only by the policy: code
//! that resolves or dials asks for a permit, so it cannot forget to ask the policy.

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_names::{NameRef, Transport};

use crate::permit::{ConnectPermit, DatagramPermit, GrantedBy, LookupPermit, PermitTarget};
use crate::reason::Reason;
use crate::rules::{NameMatch, NetMatch, RuleId, RuleSet, Says};
use crate::verdict::Verdict;

/// The policy's answer to one [`Request`](crate::Request).
#[derive(Clone, Debug)]
pub struct Decision<'r> {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that allowed, denied, or came nearest (a listed name on another port).
    pub rule: Option<RuleId>,
    pub(crate) grant: Option<Grant<'r>>,
}

/// What a permitting decision lets through.
#[derive(Clone, Debug)]
pub(crate) struct Grant<'r> {
    pub rules: Arc<RuleSet>,
    pub route: Route<'r>,
    pub found: Found,
    pub transport: Transport,
    /// Whether the policy enforces, rather than watches.
    pub enforced: bool,
}

impl Grant<'_> {
    /// Where the rules send the connection, and what they say about the flow.
    fn says(&self, rule: Option<RuleId>) -> Says<'_> {
        let (names, nets) = (&self.rules.names, &self.rules.nets);
        let says = match (self.found, self.route) {
            (Found::Name(found), _) => Says {
                to: names.sent_to(&found),
                terms: names.terms(&found),
            },
            (Found::Net(found), _) => Says::terms(nets.terms(&found)),
            // it passes because the policy watches
            (Found::Nothing, Route::ToName(name, port) | Route::ToNameAt(name, _, port)) => {
                names.watched(name.as_str(), self.transport, port)
            }
            (Found::Nothing, Route::ToAddress(address, port)) => {
                Says::terms(nets.watched(address, self.transport, port))
            }
            (Found::Nothing, Route::Lookup(_) | Route::Nowhere) => Says::default(),
        };
        // datagrams have no methods and are sent nowhere else
        let tcp = self.transport == Transport::Tcp;
        let limited = self.rules.limited.as_ref();
        Says {
            to: says.to.filter(|_| tcp),
            terms: says.terms.or(limited.filter(|_| tcp && rule.is_some())),
        }
    }
}

/// The rules that let a request through, as the walk of the table found them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    Nothing,
    Name(NameMatch),
    Net(NetMatch),
}

impl Found {
    /// The rule that explains it best.
    pub fn rule(&self) -> Option<RuleId> {
        match self {
            Found::Nothing => None,
            Found::Name(found) => Some(found.rule),
            Found::Net(found) => Some(found.rule),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Route<'r> {
    Lookup(NameRef<'r>),
    /// There is nothing that could be dialled.
    Nowhere,
    ToName(NameRef<'r>, u16),
    ToAddress(IpAddr, u16),
    ToNameAt(NameRef<'r>, IpAddr, u16),
}

impl<'r> Decision<'r> {
    /// Whether the request may pass: allowed, or only watched.
    pub fn permits(&self) -> bool {
        matches!(self.verdict, Verdict::Allow | Verdict::Audit)
    }

    /// The name that the request passes by, where it passes by one: the name asked for or shown, or
    /// that name of a lease which allows the port.
    pub fn name(&self) -> Option<NameRef<'r>> {
        match self.grant.as_ref()?.route {
            Route::Lookup(name) | Route::ToName(name, _) | Route::ToNameAt(name, ..) => Some(name),
            Route::ToAddress(..) | Route::Nowhere => None,
        }
    }

    /// Permission to resolve the name; only for a permitted [`Request::Lookup`](crate::Request::Lookup).
    pub fn lookup_permit(&self) -> Option<LookupPermit> {
        let grant = self.grant.as_ref().filter(|_| self.permits())?;
        let Route::Lookup(name) = grant.route else {
            return None;
        };
        let audit = self.is_audit();
        Some(LookupPermit::of(
            &grant.rules,
            name.to_name(),
            self.rule,
            audit,
        ))
    }

    /// Permission to connect; only for a permitted [`Request::Connect`](crate::Request::Connect) or
    /// [`Request::Http`](crate::Request::Http).
    pub fn connect_permit(&self) -> Option<ConnectPermit> {
        self.permit(Transport::Tcp)
    }

    /// Permission to exchange datagrams; only for permitted
    /// [`Request::Datagrams`](crate::Request::Datagrams).
    pub fn datagram_permit(&self) -> Option<DatagramPermit> {
        self.permit(Transport::Udp).map(DatagramPermit::new)
    }

    fn permit(&self, transport: Transport) -> Option<ConnectPermit> {
        let permits = |grant: &&Grant<'_>| self.permits() && grant.transport == transport;
        let grant = self.grant.as_ref().filter(permits)?;
        let (target, port) = match grant.route {
            Route::Lookup(_) | Route::Nowhere => return None,
            Route::ToName(name, port) => (PermitTarget::Name(name.to_name()), port),
            Route::ToAddress(address, port) => (PermitTarget::Address(address), port),
            Route::ToNameAt(name, address, port) => {
                (PermitTarget::NameAt(name.to_name(), address), port)
            }
        };
        let Says { to, terms } = grant.says(self.rule);
        Some(ConnectPermit {
            target,
            port,
            rule: self.rule,
            audit: self.is_audit(),
            by: GrantedBy::Rules(grant.rules.clone()),
            to,
            only_http: grant.enforced && terms.is_some_and(|terms| terms.only_http()),
            terms: terms.cloned(),
        })
    }

    fn is_audit(&self) -> bool {
        self.verdict == Verdict::Audit
    }
}
