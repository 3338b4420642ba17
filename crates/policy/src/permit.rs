//! Proof that the policy was asked.
//!
//! The upstream resolver and the dialler take a permit, not a name. Nothing outside this crate can
//! make one, so a path that forgot to ask the policy does not compile: *resolution as a way out*
//! (docs/threats.md).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portcullis_names::{Name, PortSet, RecordType};
use portcullis_wire::dns::ptr_name;

use crate::rules::{RuleId, RuleSet, RuleTerms};

/// Permission to resolve one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupPermit {
    name: Name,
    listed: Name,
    rule: Option<RuleId>,
    ports: PortSet,
    udp_ports: PortSet,
    audit: bool,
    by_pattern: bool,
    flattened: bool,
    to: Option<SocketAddr>,
}

impl LookupPermit {
    /// By the rules, for a name that they allow or a policy that watches.
    pub(crate) fn of(rules: &RuleSet, name: Name, rule: Option<RuleId>, audit: bool) -> Self {
        let reach = rules.names.reach(name.as_str());
        LookupPermit {
            listed: name.clone(),
            name,
            rule,
            ports: if audit { PortSet::ANY } else { reach.tcp },
            udp_ports: reach.udp,
            audit,
            by_pattern: !reach.exact,
            flattened: !reach
                .types
                .unwrap_or(rules.types)
                .contains(RecordType::CNAME),
            to: reach.to,
        }
    }

    /// For a name that the operator gave in the settings.
    pub(crate) fn for_operator(name: Name, port: u16) -> Self {
        LookupPermit {
            listed: name.clone(),
            name,
            rule: None,
            ports: PortSet::single(port),
            udp_ports: PortSet::EMPTY,
            audit: false,
            by_pattern: false,
            flattened: false,
            to: None,
        }
    }

    /// The name to resolve.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The name that the policy listed: where [`follow`](Self::follow) or
    /// [`reverse`](Self::reverse) came from, otherwise the name itself. Leases are kept for it.
    pub fn listed(&self) -> &Name {
        &self.listed
    }

    /// The rule that allowed it; none in audit mode and for the gateway's own names.
    pub fn rule(&self) -> Option<RuleId> {
        self.rule
    }

    /// The TCP ports on which the listed name may be reached.
    pub fn ports(&self) -> &PortSet {
        &self.ports
    }

    /// The UDP ports on which the listed name may be reached.
    pub fn udp_ports(&self) -> &PortSet {
        &self.udp_ports
    }

    /// Whether the lookup passes only because the policy watches.
    pub fn audit(&self) -> bool {
        self.audit
    }

    /// Whether the listed name passes only by a pattern (`*.example.org`), so that the program chose
    /// what the upstream resolver hears. New names of this kind have a budget.
    pub fn by_pattern(&self) -> bool {
        self.by_pattern
    }

    /// Whether CNAME is not among the types that are served for the listed name: the addresses at
    /// the end of a chain are then answered under the name that was asked for, and the sandbox
    /// learns no canonical name.
    pub fn flattened(&self) -> bool {
        self.flattened
    }

    /// Where the rule sends the listed name instead of to its own addresses (`to`): nobody is
    /// asked for those. The same for every port, unless rules for several ports differ; then the
    /// lowest port's.
    pub fn to(&self) -> Option<SocketAddr> {
        self.to
    }

    /// Permission to resolve the name that a CNAME of this permit's name points to.
    #[must_use]
    pub fn follow(&self, canonical: Name) -> LookupPermit {
        LookupPermit {
            name: canonical,
            ..self.clone()
        }
    }

    /// Permission to ask for the PTR of an address that was given out under this permit.
    #[must_use]
    pub fn reverse(&self, address: IpAddr) -> LookupPermit {
        self.follow(ptr_name(address))
    }
}

/// What a [`ConnectPermit`] lets the dialler reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermitTarget {
    /// Any address of this name.
    Name(Name),
    /// This address.
    Address(IpAddr),
    /// This address of this name; another leased address of the same name does as well.
    NameAt(Name, IpAddr),
    /// These addresses of the sandbox itself, in this order, reached from inside it. Nothing outside is.
    Inside(Box<[IpAddr]>),
}

/// Who lets a connection through.
#[derive(Clone)]
pub(crate) enum GrantedBy {
    /// The operator, who named the endpoint in the settings.
    Operator,
    /// Nobody has to: it leads into the sandbox itself.
    Sandbox,
    Rules(Arc<RuleSet>),
}

impl PartialEq for GrantedBy {
    fn eq(&self, other: &GrantedBy) -> bool {
        match (self, other) {
            (GrantedBy::Operator, GrantedBy::Operator) => true,
            (GrantedBy::Sandbox, GrantedBy::Sandbox) => true,
            (GrantedBy::Rules(one), GrantedBy::Rules(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for GrantedBy {}

impl fmt::Debug for GrantedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GrantedBy::Operator => "Operator",
            GrantedBy::Sandbox => "Sandbox",
            GrantedBy::Rules(_) => "Rules",
        })
    }
}

/// Permission to open one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectPermit {
    pub(crate) target: PermitTarget,
    pub(crate) port: u16,
    pub(crate) rule: Option<RuleId>,
    pub(crate) audit: bool,
    pub(crate) by: GrantedBy,
    pub(crate) to: Option<SocketAddr>,
    pub(crate) terms: Option<Arc<RuleTerms>>,
    pub(crate) only_http: bool,
}

impl ConnectPermit {
    /// For an endpoint that the operator named in the settings.
    pub(crate) fn for_operator(target: PermitTarget, port: u16) -> Self {
        ConnectPermit {
            target,
            port,
            rule: None,
            audit: false,
            by: GrantedBy::Operator,
            to: None,
            terms: None,
            only_http: false,
        }
    }

    /// For a server of the sandbox's own, which programs inside may reach in any case.
    pub fn inside(addresses: &[IpAddr], port: u16) -> Self {
        let target = PermitTarget::Inside(addresses.into());
        ConnectPermit {
            by: GrantedBy::Sandbox,
            ..Self::for_operator(target, port)
        }
    }

    /// Whether it leads into the sandbox itself, and nowhere else.
    pub fn is_inside(&self) -> bool {
        matches!(self.target, PermitTarget::Inside(_))
    }

    /// What may be reached.
    pub fn target(&self) -> &PermitTarget {
        &self.target
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> Option<RuleId> {
        self.rule
    }

    /// Where the rule sends the connection instead of to an address of the name (`to`). The operator
    /// chose it, so that the address guard does not apply to it.
    pub fn to(&self) -> Option<SocketAddr> {
        self.to
    }

    /// What the rule says about the flow; nothing for a plain rule.
    pub fn terms(&self) -> Option<&Arc<RuleTerms>> {
        self.terms.as_ref()
    }

    /// Whether nothing but conforming HTTP may pass on the connection, request by request: its rule
    /// has methods or paths, or the mode is `limited`. Never where the policy only watches.
    pub fn only_http(&self) -> bool {
        self.only_http
    }

    /// Permission to resolve the target's name, where it has one; made only when it is asked for.
    pub fn lookup(&self) -> Option<LookupPermit> {
        let name = match &self.target {
            PermitTarget::Name(name) | PermitTarget::NameAt(name, _) => name.clone(),
            PermitTarget::Address(_) | PermitTarget::Inside(_) => return None,
        };
        match &self.by {
            GrantedBy::Operator => Some(LookupPermit::for_operator(name, self.port)),
            GrantedBy::Rules(rules) => Some(LookupPermit::of(rules, name, self.rule, self.audit)),
            GrantedBy::Sandbox => None,
        }
    }

    /// Whether the connection passes only because the policy watches. The address guard holds.
    pub fn audit(&self) -> bool {
        self.audit
    }

    /// Whether the operator named this endpoint in the settings (the upstream proxy). The address
    /// guard does not apply to it: the sandbox did not choose it.
    pub fn is_operators(&self) -> bool {
        self.by == GrantedBy::Operator
    }
}

/// Permission to exchange datagrams with one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatagramPermit(ConnectPermit);

impl DatagramPermit {
    pub(crate) fn new(permit: ConnectPermit) -> Self {
        DatagramPermit(permit)
    }

    /// What may be reached.
    pub fn target(&self) -> &PermitTarget {
        &self.0.target
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> Option<RuleId> {
        self.0.rule
    }

    /// What the rule says about the flow; nothing for a plain rule.
    pub fn terms(&self) -> Option<&Arc<RuleTerms>> {
        self.0.terms.as_ref()
    }

    /// Permission to resolve the target's name, where it has one.
    pub fn lookup(&self) -> Option<LookupPermit> {
        self.0.lookup()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit() -> LookupPermit {
        let name = Name::from_policy("api.example.org").unwrap();
        LookupPermit::for_operator(name, 443)
    }

    #[test]
    fn follow_and_reverse_remember_the_listed_name() {
        let canonical = permit().follow(Name::from_policy("edge.cdn.example").unwrap());
        assert_eq!(canonical.name().as_str(), "edge.cdn.example");
        assert_eq!(canonical.listed().as_str(), "api.example.org");
        assert_eq!(canonical.ports(), &PortSet::HTTPS);
        let ptr = canonical.reverse("192.0.2.7".parse().unwrap());
        assert_eq!(ptr.name().as_str(), "7.2.0.192.in-addr.arpa");
        assert_eq!(ptr.listed().as_str(), "api.example.org");
    }

    #[test]
    fn rfc_3596_reverse_names() {
        let ptr = permit().reverse("2001:db8::567:89ab".parse().unwrap());
        assert_eq!(
            ptr.name().as_str(),
            "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }
}
