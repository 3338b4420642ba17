//! What one rule is: its number, its ports, and what it says.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_names::PortSet;

use super::ports::Ports;
use super::terms::RuleTerms;
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
    pub flow: Option<Arc<RuleTerms>>,
}

impl Terms {
    /// A verdict, and nothing else.
    pub fn plain(denies: bool) -> Terms {
        Terms {
            denies,
            ..Terms::default()
        }
    }
}

/// One of several rules for the same pattern or range.
pub(crate) struct GroupedRule<'t> {
    pub rule: RuleId,
    pub denies: bool,
    pub ports: &'t Ports,
    pub to: Option<SocketAddr>,
    pub flow: Option<&'t RuleTerms>,
}
