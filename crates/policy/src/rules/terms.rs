//! What a rule says about the flows that it lets through: what they may carry, how much, and how
//! fast.
//!
//! Answers *exhaustion* (docs/threats.md). What the rules of one pattern say for one port adds up to
//! the narrowest: a request has to pass every one of them, so that no file and no flag widens another's rule
//! without anybody noticing. Limits of one port come from one rule; two do not load.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_names::{PortSet, Transport};

use super::ports::Ports;
use crate::http::{MethodSet, PathSet};
use crate::limits::FlowLimits;

/// What a rule says about the flows that it allows: one type from the file to the permit.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleTerms {
    /// The rule's pattern and ports in canonical form: the same for the same rule of a policy that
    /// was loaded again. Flows with one key share the rule's limits.
    pub key: Box<str>,
    /// TLS is opened, so that its requests can be decided on.
    pub inspect: bool,
    /// Certificates (PEM) that vouch for the upstream besides the host's own, where `inspect`.
    pub ca_pem: Option<Arc<str>>,
    /// Data connections that the server names in FTP (PASV, EPSV) pass.
    pub ftp: bool,
    /// The methods that requests may have; every one where none are named.
    pub methods: Option<MethodSet>,
    /// The paths that requests may have; every one where none are named.
    pub paths: Option<PathSet>,
    /// The rule's limits, over all of its flows in one sandbox.
    pub limits: FlowLimits,
}

impl RuleTerms {
    /// Whether nothing but requests that are decided on one by one may pass.
    pub fn only_http(&self) -> bool {
        self.methods.is_some() || self.paths.is_some()
    }

    /// Whether a connection may change to another protocol (WebSocket). Behind it there are no
    /// methods any more, so a rule that limits methods lets none through; a rule for paths alone
    /// has decided on the path that it leads to.
    pub fn allows_upgrade(&self) -> bool {
        self.methods.is_none()
    }
}

/// What rules say about a connection that passes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Says<'t> {
    /// Where it is sent instead of to the name's own addresses.
    pub to: Option<SocketAddr>,
    /// What holds for its flow.
    pub terms: Option<&'t Arc<RuleTerms>>,
}

impl<'t> Says<'t> {
    pub fn terms(terms: Option<&'t Arc<RuleTerms>>) -> Says<'t> {
        Says { to: None, terms }
    }
}

/// What one rule says about its flows, and on which ports.
#[derive(Clone, Copy)]
pub(super) struct RuleFlow<'r> {
    pub ports: &'r Ports,
    pub terms: &'r RuleTerms,
}

/// What the rules of one pattern say together on ports that they have in common.
#[derive(Debug)]
pub(super) struct Cell {
    transport: Transport,
    ports: PortSet,
    terms: Arc<RuleTerms>,
}

impl Cell {
    /// The terms among these for a port.
    pub fn find(cells: &[Cell], transport: Transport, port: u16) -> Option<&Arc<RuleTerms>> {
        let has = |cell: &&Cell| cell.transport == transport && cell.ports.contains(port);
        Some(&cells.iter().find(has)?.terms)
    }

    /// The terms for each port of some rules of one pattern, given in their own order. In `limited`
    /// mode requests have its methods alone. `pattern` is the rules' own, in canonical form.
    pub fn compile<'r>(
        rules: impl Iterator<Item = RuleFlow<'r>>,
        transport: Transport,
        limited: bool,
        pattern: &str,
    ) -> Vec<Cell> {
        let mut parts: Vec<(PortSet, Vec<RuleFlow<'_>>)> = Vec::new();
        for rule in rules {
            let mut rest = rule.ports.on(transport).clone();
            for at in 0..parts.len() {
                let (own, members) = &mut parts[at];
                let both = own.intersection(&rest);
                if both.is_empty() {
                    continue;
                }
                rest = rest.difference(&both);
                let (alone, mut shared) = (own.difference(&both), members.clone());
                if !alone.is_empty() {
                    let members = std::mem::take(members);
                    parts.push((alone, members));
                }
                shared.push(rule);
                parts[at] = (both, shared);
            }
            if !rest.is_empty() {
                parts.push((rest, vec![rule]));
            }
        }
        // datagrams have no methods
        let limited = limited && transport == Transport::Tcp;
        let cells = parts.into_iter().map(|(ports, members)| Cell {
            transport,
            ports,
            terms: Arc::new(RuleTerms::together(&members, limited, pattern)),
        });
        cells.collect()
    }
}

impl RuleTerms {
    /// What plain rules say in `limited` mode.
    pub(super) fn limited() -> RuleTerms {
        RuleTerms {
            methods: Some(MethodSet::limited()),
            ..RuleTerms::default()
        }
    }

    /// What several rules say together, called by the one that has the limits, or else by the first.
    fn together(rules: &[RuleFlow<'_>], limited: bool, pattern: &str) -> RuleTerms {
        let mut all = RuleTerms::default();
        let limiting = rules.iter().find(|rule| !rule.terms.limits.is_empty());
        if let Some(rule) = limiting.or(rules.first()) {
            all.key = format!("{pattern}:{}", rule.ports.text()).into();
            all.limits = rule.terms.limits;
        }
        let limited = limited.then(RuleTerms::limited);
        for one in rules.iter().map(|rule| rule.terms).chain(&limited) {
            all.inspect |= one.inspect;
            // An allowance like a port: those of all rules add up.
            all.ftp |= one.ftp;
            all.ca_pem = both(all.ca_pem, &one.ca_pem, |a, b| match a == *b {
                true => a,
                false => format!("{a}\n{b}").into(),
            });
            all.methods = both(all.methods, &one.methods, |a, b| a.intersection(b));
            all.paths = both(all.paths, &one.paths, |a, b| a.and(b));
        }
        all
    }
}

/// What two rules say: either alone, or joined where both say something.
fn both<T: Clone>(a: Option<T>, b: &Option<T>, join: impl FnOnce(T, &T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(join(a, b)),
        (a, b) => a.or_else(|| b.clone()),
    }
}
