//! Name rules, compiled: a lookup of the name, and one for each suffix of it that a wildcard may have.
//!
//! A decision allocates nothing and costs at most as many lookups as the name has labels, however
//! many rules there are.
//!
//! The host's own loopback has a name ([`HOST_NAME`]), and only a rule for that very name lists it:
//! `*.internal` must not open the host. The status page's name ([`STATUS_NAME`]) is listed by none.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use portcullis_names::{PortSet, STATUS_NAME, Transport};

use super::ports::Ports;
use super::rows::{self, Kind, Row, Rows};
use super::rule::{GroupedRule, RuleId};
use super::terms::{Cell, RuleFlow, RuleTerms, Says};
use crate::host_name::HOST_NAME;
use crate::types::TypeSet;

/// What many rows have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Scope {
    pub ports: Ports,
    pub types: Option<TypeSet>,
    pub to: Option<SocketAddr>,
    pub flow: Option<Arc<RuleTerms>>,
}

/// The name rules of a policy.
#[derive(Debug, Default)]
pub(crate) struct NameTable {
    /// Rules for one name each.
    exact: Rows,
    /// Rules with a wildcard: apart, since these are few, and are looked for at every label.
    wild: Rows,
    scopes: Vec<Scope>,
    used: Used,
    /// What the rules of a pattern say together about their flows, by the first rule that says
    /// anything.
    terms: HashMap<RuleId, Vec<Cell>, RandomState>,
}

/// Whether any rule says which types are served, sends a name elsewhere, says anything about its
/// flows, or lets datagrams through: without, nobody needs to look.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    types: bool,
    to: bool,
    flow: bool,
    udp: bool,
}

/// What the rules say about a name and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameVerdict {
    Unlisted,
    /// Listed by the rule named, but not on this port.
    OtherPort(RuleId),
    Denied(RuleId),
    Allowed(NameMatch),
}

/// The rules that allow a port of a name, as one walk of the table found them: all that a decision
/// and its permit need is read from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameMatch {
    /// The rule that explains it best.
    pub rule: RuleId,
    /// TLS may hide the server's name.
    pub no_sni: bool,
    level: Level,
    port: u16,
}

/// What the rules say about looking a name up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupVerdict {
    Unlisted,
    Denied(RuleId),
    /// By this rule; of these types, where the rules say.
    Allowed(RuleId, Option<TypeSet>),
}

/// Where a name that is looked up may be reached.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub tcp: PortSet,
    pub udp: PortSet,
    /// The types that its rules serve, where they say.
    pub types: Option<TypeSet>,
    /// Where its rules send it, on its lowest port if ports differ.
    pub to: Option<SocketAddr>,
    /// Whether a rule lists it without a wildcard.
    pub exact: bool,
}

/// The rules of one base, in one of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chain {
    wild: bool,
    rows: rows::Chain,
}

/// The most specific allow rules that match a name and have ports of one transport: all such rows
/// of one kind in one chain. A rule for datagrams takes nothing from a wider one for connections,
/// nor the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    chain: Chain,
    kind: Kind,
    transport: Transport,
}

/// The levels of both transports.
#[derive(Clone, Copy, Default)]
struct Levels {
    tcp: Option<Level>,
    udp: Option<Level>,
}

impl Levels {
    fn on(&self, transport: Transport) -> Option<Level> {
        match transport {
            Transport::Tcp => self.tcp,
            Transport::Udp => self.udp,
        }
    }

    /// Connections' level, or else datagrams': what speaks for the name where no port is asked for.
    fn first(&self) -> Option<Level> {
        self.tcp.or(self.udp)
    }

    fn iter(self) -> impl Iterator<Item = Level> {
        self.tcp.into_iter().chain(self.udp)
    }
}

impl NameTable {
    /// The table of these rules. `udp` says that a rule lets datagrams through; in `limited` mode
    /// requests have its methods alone.
    pub(super) fn new(
        exact: Rows,
        wild: Rows,
        scopes: Vec<Scope>,
        udp: bool,
        limited: bool,
    ) -> NameTable {
        let mut table = NameTable {
            used: Used {
                types: scopes.iter().any(|scope| scope.types.is_some()),
                to: scopes.iter().any(|scope| scope.to.is_some()),
                flow: scopes.iter().any(|scope| scope.flow.is_some()),
                udp,
            },
            exact,
            wild,
            scopes,
            terms: HashMap::default(),
        };
        if table.used.flow {
            table.terms = table.compile_terms(limited);
        }
        table
    }

    /// What the rules say about this canonical name on this port. Allocates nothing.
    pub fn verdict(&self, name: &str, transport: Transport, port: u16) -> NameVerdict {
        let denies = |row: Row| self.ports(row).on(transport).contains(port);
        let levels = match self.walk(name, denies) {
            Ok(levels) => levels,
            Err(denied) => return NameVerdict::Denied(denied),
        };
        let Some(level) = levels.on(transport) else {
            // listed, but for the other transport
            return match levels.first() {
                Some(other) => NameVerdict::OtherPort(self.first_of(other)),
                None => NameVerdict::Unlisted,
            };
        };
        let mut best: Option<Row> = None;
        let mut no_sni = false;
        for row in self.rows_with(level, port) {
            no_sni |= row.allow_no_sni();
            // of several rows with this port, the one with fewest ports explains it best
            if best.is_none_or(|b| self.ports(row).len() < self.ports(b).len()) {
                best = Some(row);
            }
        }
        match best {
            Some(row) => NameVerdict::Allowed(NameMatch {
                rule: row.id,
                no_sni,
                level,
                port,
            }),
            None => NameVerdict::OtherPort(self.first_of(level)),
        }
    }

    /// What the rules say about looking this name up: allowed if at least one of its ports is open.
    /// Allocates nothing.
    pub fn lookup_verdict(&self, name: &str) -> LookupVerdict {
        let mut some_deny = None;
        let walked = self.walk(name, |row| {
            some_deny.get_or_insert(row.id);
            self.ports(row).is_any()
        });
        let levels = match walked {
            Ok(levels) => levels,
            Err(denied) => return LookupVerdict::Denied(denied),
        };
        let Some(level) = levels.first() else {
            return LookupVerdict::Unlisted;
        };
        match some_deny {
            Some(denied) if !levels.iter().any(|level| self.some_port_open(name, level)) => {
                LookupVerdict::Denied(denied)
            }
            _ => LookupVerdict::Allowed(self.first_of(level), self.types(level)),
        }
    }

    /// Where a name may be reached that is looked up.
    pub fn reach(&self, name: &str) -> Reach {
        let (mut tcp, mut udp) = (PortSet::EMPTY, PortSet::EMPTY);
        let walked = self.walk(name, |row| {
            tcp = tcp.union(&self.ports(row).tcp);
            udp = udp.union(&self.ports(row).udp);
            false
        });
        let levels = walked.unwrap_or_default();
        Reach {
            tcp: self.level_ports(levels.tcp).difference(&tcp),
            udp: self.level_ports(levels.udp).difference(&udp),
            types: levels.first().and_then(|level| self.types(level)),
            to: levels.tcp.and_then(|level| self.lowest_to(level)),
            exact: levels.iter().any(|level| !level.chain.wild),
        }
    }

    /// The ports on which the name is allowed.
    pub fn ports_for(&self, name: &str, transport: Transport) -> PortSet {
        let mut denied = PortSet::EMPTY;
        let walked = self.walk(name, |row| {
            denied = denied.union(self.ports(row).on(transport));
            false
        });
        let level = walked.unwrap_or_default().on(transport);
        self.level_ports(level).difference(&denied)
    }

    /// The ports that the most specific allow supplies, whatever is denied.
    pub fn listed_ports(&self, name: &str, transport: Transport) -> PortSet {
        self.level_ports(self.levels(name).on(transport))
    }

    /// The types that the most specific allow serves, whatever is denied. Allocates nothing.
    pub fn types_for(&self, name: &str) -> Option<TypeSet> {
        let level = self.used.types.then(|| self.levels(name).first());
        self.types(level.flatten()?)
    }

    /// Whether any rule sends its names elsewhere.
    pub fn sends_some(&self) -> bool {
        self.used.to
    }

    /// Where the rules send the connections that they allow.
    pub fn sent_to(&self, found: &NameMatch) -> Option<SocketAddr> {
        let mut rows = self.matched(found).filter(|_| self.used.to);
        // two that differ for one port do not load
        rows.find_map(|row| self.scope(row).to)
    }

    /// What each of the rules says about the flows that they allow, in an order of their own.
    /// Allocates nothing.
    pub fn flows(&self, found: &NameMatch) -> impl Iterator<Item = (RuleId, &RuleTerms)> {
        let rows = self.matched(found).filter(|_| self.used.flow);
        rows.filter_map(|row| Some((row.id, self.scope(row).flow.as_deref()?)))
    }

    /// What the rules say together about the flows that they allow.
    pub fn terms(&self, found: &NameMatch) -> Option<&Arc<RuleTerms>> {
        self.terms_at(found.level, found.port)
    }

    /// The same for a name and a port that only passes because the policy watches.
    pub fn watched(&self, name: &str, transport: Transport, port: u16) -> Says<'_> {
        let level = self.levels(name).on(transport);
        let mut rows = level
            .filter(|_| self.used.to)
            .into_iter()
            .flat_map(|level| self.rows_with(level, port));
        Says {
            to: rows.find_map(|row| self.scope(row).to),
            terms: level.and_then(|level| self.terms_at(level, port)),
        }
    }

    fn terms_at(&self, level: Level, port: u16) -> Option<&Arc<RuleTerms>> {
        if !self.used.flow {
            return None;
        }
        let says = |row: &Row| self.scope(*row).flow.is_some();
        let named = self.level_rows(level).find(says)?;
        Cell::find(self.terms.get(&named.id)?, level.transport, port)
    }

    /// Walks the rules that are about a name once, and finds the most specific allows. `deny` is told
    /// of each deny; the walk ends with the first that it takes.
    #[inline]
    fn walk(&self, name: &str, mut deny: impl FnMut(Row) -> bool) -> Result<Levels, RuleId> {
        let mut levels = Levels::default();
        for (chain, own) in self.chains(name) {
            for row in self.chain(chain).filter(|row| row.covers(own)) {
                if row.denies() {
                    if deny(row) {
                        return Err(row.id);
                    }
                } else if name != STATUS_NAME && (own || name != HOST_NAME) {
                    self.offer(&mut levels, chain, row);
                }
            }
        }
        Ok(levels)
    }

    /// The most specific allows, whatever is denied.
    fn levels(&self, name: &str) -> Levels {
        self.walk(name, |_| false).unwrap_or_default()
    }

    /// The types that the rules of a level serve: those of the rules that say, together.
    fn types(&self, level: Level) -> Option<TypeSet> {
        let rows = self.level_rows(level).filter(|_| self.used.types);
        rows.filter_map(|row| self.scope(row).types)
            .reduce(TypeSet::union)
    }

    /// Where the rules of a level send the name, on its lowest port.
    fn lowest_to(&self, level: Level) -> Option<SocketAddr> {
        let rows = self.level_rows(level).filter(|_| self.used.to);
        let scopes = rows.map(|row| self.scope(row));
        let sent = scopes.filter_map(|scope| Some((&scope.ports, scope.to?)));
        sent.min().map(|(_, to)| to)
    }

    fn matched(&self, found: &NameMatch) -> impl Iterator<Item = Row> {
        self.rows_with(found.level, found.port)
    }

    /// Every allow rule with its base, kind and ports, and what it says about its flows, in no order
    /// to rely on.
    pub fn allows(&self) -> impl Iterator<Item = Allow<'_>> {
        let allows = self.all().filter(|(_, row)| !row.denies());
        allows.map(|(base, row)| Allow {
            rule: row.id,
            base,
            kind: row.kind(),
            ports: self.ports(row),
            flow: self.scope(row).flow.as_deref(),
        })
    }

    /// Whether an allow rule lists this very name, without a wildcard.
    pub fn lists_exactly(&self, name: &str) -> bool {
        let rows = self.exact.find(name).into_iter();
        rows.flat_map(|chain| self.exact.chain(chain))
            .any(|row| !row.denies())
    }

    /// The names that allow rules list without a wildcard, one for each rule, in no order to rely on.
    /// A deny may still take one of them away.
    pub fn exact_allows(&self) -> impl Iterator<Item = &str> {
        let allows = |(base, row): (_, Row)| (!row.denies()).then_some(base);
        self.exact.all().filter_map(allows)
    }

    /// A deny rule for this name or for names below it: of several, the one whose base is the first
    /// in the alphabet.
    pub fn denies_within(&self, base: &str) -> Option<RuleId> {
        let within = |own: &str| {
            own == base
                || own
                    .strip_suffix(base)
                    .is_some_and(|labels| labels.ends_with('.'))
        };
        let mut first: Option<(&str, Row)> = None;
        for (own, row) in self.all().filter(|(own, row)| row.denies() && within(own)) {
            // rows of one base come in their order
            if first.is_none_or(|(seen, _)| own < seen) {
                first = Some((own, row));
            }
        }
        first.map(|(_, row)| row.id)
    }

    /// Calls `found` with each exact allow that a deny of another pattern covers on every port, and
    /// that deny.
    pub fn dead_allows(&self, mut found: impl FnMut(RuleId, RuleId)) {
        if !self
            .all()
            .any(|(_, row)| row.denies() && row.kind() != Kind::Exact)
        {
            return;
        }
        for (base, row) in self.all() {
            if row.denies() || row.kind() != Kind::Exact {
                continue;
            }
            if let LookupVerdict::Denied(deny) = self.lookup_verdict(base) {
                found(row.id, deny);
            }
        }
    }

    /// Calls `found` with the rules of each pattern that has several, those that allow first.
    pub fn patterns(&self, mut found: impl FnMut(&[GroupedRule<'_>])) {
        let mut current: Option<(&str, Kind)> = None;
        let mut group: Vec<GroupedRule<'_>> = Vec::new();
        for (base, row) in self.all() {
            let pattern = (base, row.kind());
            if current != Some(pattern) {
                if group.len() > 1 {
                    found(&group);
                }
                group.clear();
                current = Some(pattern);
            }
            let scope = self.scope(row);
            group.push(GroupedRule {
                rule: row.id,
                denies: row.denies(),
                ports: &scope.ports,
                to: scope.to,
                flow: scope.flow.as_deref(),
            });
        }
        if group.len() > 1 {
            found(&group);
        }
    }

    /// What the rules of each pattern say together about their flows.
    fn compile_terms(&self, limited: bool) -> HashMap<RuleId, Vec<Cell>, RandomState> {
        let mut compiled: HashMap<RuleId, Vec<Cell>, RandomState> = HashMap::default();
        let allows = self.all().filter(|(_, row)| !row.denies());
        let rows: Vec<(&str, Row)> = allows
            .filter(|(_, row)| self.scope(*row).flow.is_some())
            .collect();
        for group in rows.chunk_by(|a, b| a.0 == b.0 && a.1.kind() == b.1.kind()) {
            let Some((base, first)) = group.first() else {
                continue;
            };
            let pattern = format!("{}{base}", first.kind().prefix());
            for transport in [Transport::Tcp, Transport::Udp] {
                let has_some = |row: &&Row| !self.ports(**row).on(transport).is_empty();
                let rows = || group.iter().map(|(_, row)| row).filter(has_some);
                let Some(named) = rows().next() else {
                    continue;
                };
                let rules = rows().filter_map(|row| {
                    let scope = self.scope(*row);
                    Some(RuleFlow {
                        ports: &scope.ports,
                        terms: scope.flow.as_deref()?,
                    })
                });
                let cells = Cell::compile(rules, transport, limited, &pattern);
                compiled.entry(named.id).or_default().extend(cells);
            }
        }
        compiled
    }

    /// The text that stands at a place that [`RowsBuilder::build`](rows::RowsBuilder::build) has told.
    pub fn text(&self, at: usize, len: usize) -> &str {
        self.exact.text(at, len)
    }

    fn level_ports(&self, level: Option<Level>) -> PortSet {
        let Some(level) = level else {
            return PortSet::EMPTY;
        };
        self.level_rows(level).fold(PortSet::EMPTY, |all, row| {
            all.union(self.ports(row).on(level.transport))
        })
    }

    /// Takes the row's level for each transport that it has ports of, unless a more specific one was
    /// seen: chains come from the longest base to the shortest, and kinds are numbered from the
    /// narrowest.
    fn offer(&self, levels: &mut Levels, chain: Chain, row: Row) {
        let take = |level: &mut Option<Level>, transport| match level {
            Some(seen) if seen.chain != chain || seen.kind <= row.kind() => {}
            _ => {
                *level = Some(Level {
                    chain,
                    kind: row.kind(),
                    transport,
                });
            }
        };
        if !self.used.udp || !self.ports(row).tcp.is_empty() {
            take(&mut levels.tcp, Transport::Tcp);
        }
        if self.used.udp && !self.ports(row).udp.is_empty() {
            take(&mut levels.udp, Transport::Udp);
        }
    }

    fn first_of(&self, level: Level) -> RuleId {
        // a level exists because a row of it was seen
        self.level_rows(level)
            .next()
            .map_or(RuleId(u32::MAX), |row| row.id)
    }

    /// Whether a port of the level is left when every deny is taken away; walks from gap to gap.
    fn some_port_open(&self, name: &str, level: Level) -> bool {
        self.level_rows(level).any(|row| {
            let ports = self.ports(row).on(level.transport);
            ports.ranges().iter().any(|range| {
                let mut port = range.first;
                loop {
                    match self.denied_until(name, level.transport, port) {
                        None => return true,
                        Some(last) if last >= range.last => return false,
                        Some(last) => port = last + 1,
                    }
                }
            })
        })
    }

    /// The last port of a denied range that holds this port.
    fn denied_until(&self, name: &str, transport: Transport, port: u16) -> Option<u16> {
        self.chains(name)
            .flat_map(|(chain, own)| {
                self.chain(chain)
                    .filter(move |row| row.denies() && row.covers(own))
            })
            .flat_map(|row| self.ports(row).on(transport).ranges())
            .filter(|range| range.first <= port && port <= range.last)
            .map(|range| range.last)
            .max()
    }

    /// The chains for the name itself and for each name above it, most specific first.
    fn chains<'t>(&'t self, name: &'t str) -> impl Iterator<Item = (Chain, bool)> + 't {
        let exact = self
            .exact
            .find(name)
            .map(|rows| Chain { wild: false, rows });
        let mut rest = Some(name).filter(|_| !self.wild.is_empty());
        let wild = std::iter::from_fn(move || {
            while let Some(base) = rest {
                // Labels are short: a plain loop finds the dot before a search for a `char` starts.
                let dot = base.bytes().position(|byte| byte == b'.');
                rest = dot.and_then(|dot| base.get(dot + 1..));
                if let Some(rows) = self.wild.find(base) {
                    return Some((Chain { wild: true, rows }, base.len() == name.len()));
                }
            }
            None
        });
        exact.map(|chain| (chain, true)).into_iter().chain(wild)
    }

    fn chain(&self, chain: Chain) -> impl Iterator<Item = Row> + '_ {
        self.table(chain).chain(chain.rows)
    }

    fn table(&self, chain: Chain) -> &Rows {
        if chain.wild { &self.wild } else { &self.exact }
    }

    /// Every row with its base.
    fn all(&self) -> impl Iterator<Item = (&str, Row)> + '_ {
        self.exact.all().chain(self.wild.all())
    }

    fn level_rows(&self, level: Level) -> impl Iterator<Item = Row> + '_ {
        let has_some =
            move |row: &Row| !self.used.udp || !self.ports(*row).on(level.transport).is_empty();
        self.chain(level.chain)
            .filter(move |row| !row.denies() && row.kind() == level.kind)
            .filter(has_some)
    }

    fn rows_with(&self, level: Level, port: u16) -> impl Iterator<Item = Row> + '_ {
        self.level_rows(level)
            .filter(move |row| self.ports(*row).on(level.transport).contains(port))
    }

    fn scope(&self, row: Row) -> &Scope {
        &self.scopes[usize::from(row.scope)]
    }

    fn ports(&self, row: Row) -> &Ports {
        &self.scope(row).ports
    }
}

/// An allow rule, as [`NameTable::allows`] shows it.
pub(crate) struct Allow<'t> {
    pub rule: RuleId,
    pub base: &'t str,
    pub kind: Kind,
    pub ports: &'t Ports,
    pub flow: Option<&'t RuleTerms>,
}
