//! The ports that a rule covers.

use portcullis_names::{PortSet, Target, Transport};

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
