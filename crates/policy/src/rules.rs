//! The compiled rules, and how they are put together.
//!
//! Nothing here depends on the order in which rules were written (case 5: a zone order that came from
//! a hash map changed results from run to run): deny wins wherever it stands, and among allows the
//! most specific pattern supplies the ports.

use std::net::SocketAddr;

use ipnet::IpNet;
use portcullis_names::{Pattern, PortSet, Target};

use crate::nets::{NetTable, NetsBuilder};
use crate::table::{NameTable, NamesBuilder};
use crate::types::TypeSet;

/// Most rules of one policy, of all its files together.
pub const MAX_RULES: usize = 4_000_000;
/// Most different sets of ports, types and `to` of one policy: rows keep their number in 16 bits.
pub const MAX_PORT_SETS: usize = 65_536;

/// Which rule; valid for the policy whose decision carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub(crate) u32);

/// A rule as the operator wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInfo<'p> {
    /// The target as written, such as `*.example.org` or `db.corp.example:5432`.
    pub text: &'p str,
    /// Where: `file:line`, or `--allow x`.
    pub source: &'p str,
    /// Whether it denies.
    pub denies: bool,
}

/// An allow rule for addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRule {
    /// The range.
    pub net: IpNet,
    /// Its ports.
    pub ports: PortSet,
    /// The rule.
    pub rule: RuleId,
}

/// One rule before it is compiled.
#[derive(Clone, Debug)]
pub(crate) struct RawRule {
    pub target: Target,
    pub terms: Terms,
    pub text: String,
    pub source: String,
}

/// What a rule says besides its target.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub denies: bool,
    pub allow_no_sni: bool,
    /// The record types that are served, where the rule says.
    pub types: Option<TypeSet>,
    /// Where connections go instead of to the name's own addresses.
    pub to: Option<SocketAddr>,
}

impl RawRule {
    /// The ports that the rule covers. A deny without a port covers every port: whoever denies a name
    /// must not find its port 22 open because another rule allowed that.
    pub fn ports(&self) -> PortSet {
        match &self.target {
            Target::Name {
                explicit_ports: false,
                ..
            } if self.terms.denies => PortSet::ANY,
            target => target.ports().clone(),
        }
    }

    /// What two rules must share to contradict each other.
    pub fn subject(&self) -> Subject<'_> {
        match &self.target {
            Target::Name { pattern, .. } => Subject::Name(pattern),
            Target::Net { net, .. } => Subject::Net(*net),
        }
    }
}

/// The canonical pattern of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject<'a> {
    Name(&'a Pattern),
    Net(IpNet),
}

/// All rules, compiled.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    pub names: NameTable,
    pub nets: NetTable,
    info: InfoArena,
}

impl RuleSet {
    /// Compiles rules.
    ///
    /// # Errors
    /// A sentence, if there are more rules or port sets than a policy may have.
    pub fn compile(rules: &[RawRule]) -> Result<RuleSet, String> {
        if rules.len() > MAX_RULES {
            return Err(format!("a policy may have {MAX_RULES} rules at most"));
        }
        let mut names = NamesBuilder::default();
        let mut nets = NetsBuilder::default();
        let mut info = InfoArena::default();
        for rule in rules {
            let id = info.push(rule)?;
            let ports = rule.ports();
            match &rule.target {
                Target::Name { pattern, .. } => {
                    names.push(id, pattern, &ports, rule.terms)?;
                }
                Target::Net { net, .. } => nets.push(id, *net, ports, rule.terms.denies),
            }
        }
        Ok(RuleSet {
            names: names.build(),
            nets: nets.build(),
            info,
        })
    }

    pub fn info(&self, id: RuleId) -> Option<RuleInfo<'_>> {
        self.info.get(id)
    }

    pub fn len(&self) -> usize {
        self.info.rows.len()
    }
}

/// Texts and sources of all rules, end to end: two small vectors rather than two strings a rule.
#[derive(Debug, Default)]
struct InfoArena {
    text: String,
    rows: Vec<InfoRow>,
}

#[derive(Clone, Copy, Debug)]
struct InfoRow {
    at: u32,
    text_len: u16,
    source_len: u16,
    denies: bool,
}

impl InfoArena {
    fn push(&mut self, rule: &RawRule) -> Result<RuleId, String> {
        let too_long = |_| "the texts of all rules together are too long".to_owned();
        let id = RuleId(u32::try_from(self.rows.len()).map_err(too_long)?);
        self.rows.push(InfoRow {
            at: u32::try_from(self.text.len()).map_err(too_long)?,
            text_len: u16::try_from(rule.text.len()).map_err(too_long)?,
            source_len: u16::try_from(rule.source.len()).map_err(too_long)?,
            denies: rule.terms.denies,
        });
        self.text.push_str(&rule.text);
        self.text.push_str(&rule.source);
        Ok(id)
    }

    fn get(&self, id: RuleId) -> Option<RuleInfo<'_>> {
        let row = self.rows.get(id.0 as usize)?;
        let (from, mid) = (row.at as usize, row.at as usize + usize::from(row.text_len));
        Some(RuleInfo {
            text: &self.text[from..mid],
            source: &self.text[mid..mid + usize::from(row.source_len)],
            denies: row.denies,
        })
    }
}
