//! What one rule is: its number, its ports, and what it says.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_names::{PortSet, Target, Transport};

use super::terms::Says;
use crate::types::TypeSet;

/// Which rule; valid for the policy whose decision carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub(crate) u32);

/// An allow rule for addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRule {
    /// The range.
    pub net: IpNet,
    /// Its TCP ports.
    pub ports: PortSet,
    /// Its UDP ports.
    pub udp: PortSet,
    /// The rule.
    pub rule: RuleId,
}

/// The ports that a rule covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ports {
    pub tcp: PortSet,
    pub udp: PortSet,
}

impl Ports {
    /// What a target's ports mean in a rule. A rule that allows covers one transport. A deny without a
    /// port, or of every port, covers everything: whoever denies a name must not find its port 22, or
    /// its datagrams, let through because another rule allowed that.
    pub fn of(target: &Target, denies: bool) -> Ports {
        let (ports, transport) = (target.ports(), target.transport());
        let bare = matches!(target, Target::Name { explicit_ports, .. } if !explicit_ports);
        if denies && transport == Transport::Tcp && (bare || ports.is_any()) {
            return Ports {
                tcp: PortSet::ANY,
                udp: PortSet::ANY,
            };
        }
        let (tcp, udp) = match transport {
            Transport::Tcp => (ports.clone(), PortSet::EMPTY),
            Transport::Udp => (PortSet::EMPTY, ports.clone()),
        };
        Ports { tcp, udp }
    }

    pub fn on(&self, transport: Transport) -> &PortSet {
        match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
        }
    }

    pub fn len(&self) -> usize {
        self.tcp.len() + self.udp.len()
    }

    /// Whether there is no port that is not among these.
    pub fn is_any(&self) -> bool {
        self.tcp.is_any() && self.udp.is_any()
    }

    pub fn overlaps(&self, other: &Ports) -> bool {
        self.tcp.overlaps(&other.tcp) || self.udp.overlaps(&other.udp)
    }

    pub fn contains_all(&self, other: &Ports) -> bool {
        self.tcp.contains_all(&other.tcp) && self.udp.contains_all(&other.udp)
    }

    pub fn union(&self, other: &Ports) -> Ports {
        Ports {
            tcp: self.tcp.union(&other.tcp),
            udp: self.udp.union(&other.udp),
        }
    }

    /// As a rule writes them.
    pub fn text(&self) -> String {
        match (self.tcp.is_empty(), self.udp.is_empty()) {
            (_, true) => self.tcp.to_string(),
            (true, false) => format!("{}/udp", self.udp),
            (false, false) => format!("{},{}/udp", self.tcp, self.udp),
        }
    }
}

/// What a rule says besides its target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub denies: bool,
    pub allow_no_sni: bool,
    /// The record types that are served, where the rule says.
    pub types: Option<TypeSet>,
    /// Where connections go instead of to the name's own addresses.
    pub to: Option<SocketAddr>,
    /// What it says about its flows, where it says anything.
    pub says: Option<Arc<Says>>,
}

/// A rule for a pattern, beside the others for it.
pub(crate) struct Said<'t> {
    pub rule: RuleId,
    pub denies: bool,
    pub ports: &'t Ports,
    pub to: Option<SocketAddr>,
    pub says: Option<&'t Says>,
}
