//! The policy: compiled rules, settings and mode, and the one function that decides.
//!
//! Every path asks [`Policy::decide`]: DNS, HTTP, SOCKS and transparent connections, and `explain`.
//! A policy enforced by whoever remembered to call something else would be none.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use portcullis_names::{Name, NameRef, Pattern, PortSet, RecordType, Transport, is_guarded};

use crate::decide::{self, Basis};
use crate::decision::Decision;
use crate::reason::Reason;
use crate::request::Request;
use crate::rules::{AddressRule, Allow, Kind, RuleId, RuleInfo, RuleSet, RuleSource};
use crate::settings::Settings;
use crate::types::TypeSet;
use crate::verdict::Mode;

/// A compiled policy. Cloning is cheap.
#[derive(Clone)]
pub struct Policy {
    pub(crate) rules: Arc<RuleSet>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) mode: Mode,
    /// The table that `suggestion` names.
    pub(crate) domains_table: Arc<str>,
    pub(crate) names_carry_no_ports: bool,
}

impl Policy {
    /// The policy of an operator who gave none: nothing is allowed.
    pub fn deny_all() -> Policy {
        Policy {
            rules: Arc::default(),
            settings: Arc::default(),
            mode: Mode::Enforce,
            domains_table: "network.domains".into(),
            names_carry_no_ports: false,
        }
    }

    /// The same policy in another mode.
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Policy {
        self.mode = mode;
        self
    }

    /// The policy's mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Decides one request. Allocates nothing, and does not depend on the order of rules.
    pub fn decide<'r>(&self, request: &Request<'r>) -> Decision<'r> {
        let basis = Basis {
            rules: &self.rules,
            mode: self.mode,
        };
        decide::decide(basis, request)
    }

    /// The last check before a connection is opened, on the very address dialled.
    ///
    /// # Errors
    /// [`Reason::DeniedByRule`] if a rule denies the address (not in audit mode),
    /// [`Reason::PrivateAddress`] if the guard keeps it and no address rule lifts that for this port.
    pub fn guard(&self, address: IpAddr, port: u16) -> Result<(), Reason> {
        self.guard_on(address, Transport::Tcp, port)
    }

    /// The same before datagrams are sent; it holds in audit mode too.
    ///
    /// # Errors
    /// As for [`Policy::guard`].
    pub fn guard_datagrams(&self, address: IpAddr, port: u16) -> Result<(), Reason> {
        self.guard_on(address, Transport::Udp, port)
    }

    fn guard_on(&self, address: IpAddr, transport: Transport, port: u16) -> Result<(), Reason> {
        let denied = self.rules.nets.denied(address, transport, port).is_some();
        if denied && (self.mode == Mode::Enforce || transport == Transport::Udp) {
            return Err(Reason::DeniedByRule);
        }
        if is_guarded(address) && self.lifts_on(address, transport, port).is_none() {
            return Err(Reason::PrivateAddress);
        }
        Ok(())
    }

    /// The address rule that lifts the guard for this address and port; also for addresses that the
    /// caller guards by itself, such as the host's own interfaces.
    pub fn lifts(&self, address: IpAddr, port: u16) -> Option<RuleId> {
        self.lifts_on(address, Transport::Tcp, port)
    }

    /// The same for datagrams.
    pub fn lifts_datagrams(&self, address: IpAddr, port: u16) -> Option<RuleId> {
        self.lifts_on(address, Transport::Udp, port)
    }

    pub(crate) fn lifts_on(
        &self,
        address: IpAddr,
        transport: Transport,
        port: u16,
    ) -> Option<RuleId> {
        Some(self.rules.nets.lifts(address, transport, port)?.rule)
    }

    /// Whether DNS may give this address out for a name with these ports: not if none of them could
    /// be reached there.
    pub fn guard_lookup(&self, address: IpAddr, ports: &PortSet) -> bool {
        if is_guarded(address) {
            self.lifts_any(address, ports)
        } else {
            let denied = self.rules.nets.denied_ports(address, Transport::Tcp);
            self.mode == Mode::Audit || !denied.contains_all(ports)
        }
    }

    /// The same for datagrams.
    pub fn guard_datagram_lookup(&self, address: IpAddr, ports: &PortSet) -> bool {
        let nets = &self.rules.nets;
        if is_guarded(address) {
            nets.allowed_ports(address, Transport::Udp).overlaps(ports)
        } else {
            !nets
                .denied_ports(address, Transport::Udp)
                .contains_all(ports)
        }
    }

    /// Whether address rules lift the guard for at least one of these ports.
    pub fn lifts_any(&self, address: IpAddr, ports: &PortSet) -> bool {
        let allowed = self.rules.nets.allowed_ports(address, Transport::Tcp);
        allowed.overlaps(ports)
    }

    /// The TCP ports on which this name may be reached: those of the most specific allow, less those that
    /// are denied. Empty for what is not listed; every port in audit mode.
    pub fn ports_for(&self, name: NameRef<'_>) -> PortSet {
        match self.mode {
            Mode::Enforce => self.rules.names.ports_for(name.as_str(), Transport::Tcp),
            Mode::Audit => PortSet::ANY,
        }
    }

    /// Every UDP port that any rule allows.
    pub fn udp_ports(&self) -> PortSet {
        let names = self.rules.names.allows().map(|allow| &allow.ports.udp);
        let nets = self.rules.nets.allows().iter().map(|rule| &rule.udp);
        let some = names.chain(nets).filter(|ports| !ports.is_empty());
        some.fold(PortSet::EMPTY, |all, ports| all.union(ports))
    }

    /// What any rule inspects: a pattern for each rule, in no order to rely on. A deny may still take
    /// some of it away.
    pub fn inspected(&self) -> impl Iterator<Item = Pattern> + '_ {
        let inspects = |allow: &Allow<'_>| allow.flow.is_some_and(|s| s.inspect);
        let allows = self.rules.names.allows().filter(inspects);
        // A rule's base is canonical already.
        allows.filter_map(|allow| {
            let base = Name::from_policy(allow.base).ok()?;
            Some(match allow.kind {
                Kind::Exact => Pattern::Exact(base),
                Kind::Below => Pattern::Below(base),
                Kind::ApexAndBelow => Pattern::ApexAndBelow(base),
            })
        })
    }

    /// The record types that are served for this name, if it is listed: those of the most specific
    /// allow that says, otherwise the policy's.
    pub fn types_for(&self, name: NameRef<'_>) -> TypeSet {
        let own = self.rules.names.types_for(name.as_str());
        own.unwrap_or(self.rules.types)
    }

    /// The names that allow rules list without a wildcard, sorted: what can be resolved before any
    /// program asks. A deny may still take one of them away: [`Policy::decide`] says.
    pub fn exact_names(&self) -> Vec<Name> {
        let names = self.rules.names.exact_allows();
        // A rule's base is canonical already.
        let mut names: Vec<Name> = names
            .filter_map(|name| Name::from_policy(name).ok())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The deny rules for addresses, in a fixed order; they count in no other mode than enforcing.
    pub fn denied_networks(&self) -> &[AddressRule] {
        self.rules.nets.denials()
    }

    /// The allow rules for addresses, in a fixed order.
    pub fn address_rules(&self) -> &[AddressRule] {
        self.rules.nets.allows()
    }

    /// Whether a name that no rule speaks of may stand for `full`, to which a search list completes it. One
    /// with dots is a name of somebody's, and stands only for what a rule lists without a wildcard: under a
    /// rule for all of a domain it would otherwise pass as a name of that domain, under which it is unlisted.
    pub fn may_complete(&self, short: NameRef<'_>, full: NameRef<'_>) -> bool {
        let name = short;
        let qtype = RecordType::A;
        self.decide(&Request::Lookup { name, qtype }).reason == Reason::NotListed
            && (!short.as_str().contains('.') || self.lists_exactly(full))
    }

    /// Whether the rule for a name is for this one alone, and no pattern.
    pub fn lists_exactly(&self, name: NameRef<'_>) -> bool {
        let qtype = RecordType::A;
        let rule = self.decide(&Request::Lookup { name, qtype }).rule;
        rule.is_some_and(|rule| !self.rule(rule).text.starts_with('*'))
    }

    /// A rule's text and source. For a rule of another policy the answer is empty or another rule's.
    pub fn rule(&self, id: RuleId) -> RuleInfo<'_> {
        let none = RuleInfo {
            text: "",
            source: RuleSource::default(),
            denies: false,
        };
        self.rules.info(id).unwrap_or(none)
    }

    /// Whether any rule sends its names elsewhere (`to`).
    pub fn has_mocks(&self) -> bool {
        self.rules.names.sends_some()
    }

    /// How many rules there are.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// Resolvers, upstream proxies and the like.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::deny_all()
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("mode", &self.mode)
            .field("rules", &self.rules.len())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
