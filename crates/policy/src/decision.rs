//! What the policy says to one request.
//!
//! A permit can only be made from a decision that permits, and a decision only by the policy: code
//! that resolves or dials asks for a permit, so it cannot forget to ask the policy.

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_names::{NameRef, PortSet, RecordType, Transport};

use crate::permit::{ConnectPermit, DatagramPermit, LookupPermit, PermitTarget};
use crate::reason::Reason;
use crate::rules::{RuleId, RuleSet, RuleTerms, together};
use crate::types::TypeSet;
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
    /// What is served for names whose rules do not say.
    pub types: TypeSet,
    pub way: Way<'r>,
    pub transport: Transport,
    /// Whether the mode is `limited`.
    pub limited: bool,
    /// Whether the policy enforces, rather than watches.
    pub enforced: bool,
}

impl Grant<'_> {
    fn types_for(&self, name: NameRef<'_>) -> TypeSet {
        let own = self.rules.names.types_for(name.as_str());
        own.unwrap_or(self.types)
    }

    /// What the rules that let the flow through say about it.
    fn terms(&self, rule: Option<RuleId>) -> Option<Arc<RuleTerms>> {
        let transport = self.transport;
        // datagrams have no methods
        let limited = self.limited && transport == Transport::Tcp;
        match self.way {
            Way::Lookup(_) | Way::Nowhere => None,
            Way::ToName(name, port) | Way::ToNameAt(name, _, port) => {
                let (names, name) = (&self.rules.names, name.as_str());
                let says = names.says(name, transport, port);
                let key = |rule| names.key(name, transport, rule).unwrap_or_default();
                together(says, limited, key, || rule)
            }
            Way::ToAddress(address, port) => {
                let nets = &self.rules.nets;
                let says = nets.says(address, transport, port);
                let key = |rule| nets.key(address, transport, rule).unwrap_or_default();
                together(says, limited, key, || rule)
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'r> {
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
        match self.grant.as_ref()?.way {
            Way::Lookup(name) | Way::ToName(name, _) | Way::ToNameAt(name, ..) => Some(name),
            Way::ToAddress(..) | Way::Nowhere => None,
        }
    }

    /// Leave to resolve the name; only for a permitted [`Request::Lookup`](crate::Request::Lookup).
    pub fn lookup_permit(&self) -> Option<LookupPermit> {
        let grant = self.grant.as_ref().filter(|_| self.permits())?;
        let Way::Lookup(name) = grant.way else {
            return None;
        };
        Some(self.lookup_of(grant, name))
    }

    /// Leave to connect; only for a permitted [`Request::Connect`](crate::Request::Connect) or
    /// [`Request::Http`](crate::Request::Http).
    pub fn connect_permit(&self) -> Option<ConnectPermit> {
        self.permit(Transport::Tcp)
    }

    /// Leave to exchange datagrams; only for permitted
    /// [`Request::Datagrams`](crate::Request::Datagrams).
    pub fn datagram_permit(&self) -> Option<DatagramPermit> {
        self.permit(Transport::Udp).map(DatagramPermit::new)
    }

    fn permit(&self, transport: Transport) -> Option<ConnectPermit> {
        let permits = |grant: &&Grant<'_>| self.permits() && grant.transport == transport;
        let grant = self.grant.as_ref().filter(permits)?;
        let (target, port, name) = match grant.way {
            Way::Lookup(_) | Way::Nowhere => return None,
            Way::ToName(name, port) => (PermitTarget::Name(name.to_name()), port, Some(name)),
            Way::ToAddress(address, port) => (PermitTarget::Address(address), port, None),
            Way::ToNameAt(name, address, port) => (
                PermitTarget::NameAt(name.to_name(), address),
                port,
                Some(name),
            ),
        };
        let lookup = name.map(|name| self.lookup_of(grant, name));
        let sent = |name: NameRef<'_>| grant.rules.names.sent_to(name.as_str(), port);
        let to = name.filter(|_| transport == Transport::Tcp).and_then(sent);
        let permit = ConnectPermit::new(target, port, self.rule, lookup, self.is_audit());
        Some(
            permit
                .sent_to(to)
                .with_terms(grant.terms(self.rule), grant.enforced),
        )
    }

    fn is_audit(&self) -> bool {
        self.verdict == Verdict::Audit
    }

    fn lookup_of(&self, grant: &Grant<'r>, name: NameRef<'r>) -> LookupPermit {
        let ports = if self.is_audit() {
            PortSet::ANY
        } else {
            grant.rules.names.ports_for(name.as_str(), Transport::Tcp)
        };
        let names = &grant.rules.names;
        let udp = names.ports_for(name.as_str(), Transport::Udp);
        LookupPermit::new(name.to_name(), self.rule, ports, self.is_audit())
            .with_datagrams(udp)
            .of_pattern(!names.lists_exactly(name.as_str()))
            .of_flattened(!grant.types_for(name).contains(RecordType::CNAME))
            .sent_to(names.lookup_sent_to(name.as_str()))
    }
}
