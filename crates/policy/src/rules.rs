//! The compiled rules, and how they are put together.
//!
//! Nothing here depends on the order in which rules were written (case 5: a zone order that came from
//! a hash map changed results from run to run): deny wins wherever it stands, and among allows the
//! most specific pattern supplies the ports.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_names::{PortSet, Target, Transport};

use crate::flow::Says;
use crate::info::{Infos, NOT_A_NAME, RuleInfo};
use crate::nets::{NetTable, NetsBuilder};
use crate::table::{NameTable, NamesBuilder};
use crate::types::TypeSet;

/// Most rules of one policy, of all its files together.
pub const MAX_RULES: usize = 4_000_000;
/// Most different sets of ports and terms of one policy: rows keep their number in 16 bits.
pub const MAX_SCOPES: usize = 65_536;

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
    fn of(target: &Target, denies: bool) -> Ports {
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

/// How a rule was written, and where: the source's number and the line, 0 for a flag.
#[derive(Clone, Copy)]
pub(crate) struct Written<'t> {
    pub text: &'t str,
    pub source: u16,
    pub line: u32,
}

/// All rules, compiled.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    pub names: NameTable,
    pub nets: NetTable,
    infos: Infos,
}

impl RuleSet {
    pub fn info(&self, id: RuleId) -> Option<RuleInfo<'_>> {
        self.infos.get(id, |at, len| self.names.text(at, len))
    }

    pub fn len(&self) -> usize {
        self.infos.len()
    }
}

/// Collects rules.
#[derive(Default)]
pub(crate) struct RuleSetBuilder {
    names: NamesBuilder,
    nets: NetsBuilder,
    infos: Infos,
    /// For each rule whether its text is simply its base name.
    plain: Vec<bool>,
}

impl RuleSetBuilder {
    /// Adds a rule.
    ///
    /// # Errors
    /// A sentence, if there are more rules or sets of terms than a policy may have.
    pub fn push(
        &mut self,
        target: &Target,
        terms: Terms,
        at: Written<'_>,
    ) -> Result<RuleId, String> {
        if self.infos.len() >= MAX_RULES {
            return Err(format!("a policy may have {MAX_RULES} rules at most"));
        }
        let place = (at.source, at.line);
        let (id, text_at) = self.infos.push(at.text, place, terms.denies)?;
        let ports = Ports::of(target, terms.denies);
        match target {
            Target::Name { pattern, .. } => {
                let base = pattern.base().as_str();
                self.plain.push(base == at.text);
                let base_at = match offset_of(base, at.text) {
                    Some(offset) => text_at + offset,
                    None => self.infos.text(base)?,
                };
                self.names.push(id, (base_at, pattern), ports, terms)?;
            }
            Target::Net { net, .. } => {
                self.plain.push(false);
                self.nets.push(id, *net, ports, terms);
            }
        }
        Ok(id)
    }

    /// Compiles the rules; `sources` are what their numbers mean.
    ///
    /// # Errors
    /// A sentence, if their texts together are too long.
    pub fn build(self, sources: Vec<Box<str>>) -> Result<RuleSet, String> {
        let RuleSetBuilder {
            names,
            nets,
            mut infos,
            plain,
        } = self;
        let mut places = vec![NOT_A_NAME; infos.len()];
        let place = |id: RuleId, at: u32| {
            let index = id.0 as usize;
            if let (Some(place), Some(true)) = (places.get_mut(index), plain.get(index)) {
                *place = at;
            }
        };
        let order = |a, b| infos.order(&sources, a, b);
        let names = names.build(infos.texts(), order, place)?;
        let nets = nets.build(order);
        infos.settle(&places, sources);
        Ok(RuleSet { names, nets, infos })
    }
}

/// Where a base stands in the text of its rule, if it is written there in canonical form.
fn offset_of(base: &str, text: &str) -> Option<u32> {
    let wild = text.len() - text.trim_start_matches(['*', '.']).len();
    let rest = text.get(wild..)?.strip_prefix(base)?;
    let ends = rest.is_empty() || rest.starts_with([':', '.']);
    ends.then(|| u32::try_from(wild).ok()).flatten()
}
