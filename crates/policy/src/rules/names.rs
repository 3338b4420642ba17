//! Name rules, compiled: a lookup of the name, and one for each suffix of it that a wildcard may have.
//!
//! A decision allocates nothing and costs at most as many lookups as the name has labels, however
//! many rules there are.
//!
//! The host's own loopback has a name ([`HOST_NAME`]), and only a rule for that very name lists it:
//! `*.internal` must not open the host.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_names::{Pattern, PortSet, Transport};

use super::rows::{self, Kind, Row, Rows, RowsBuilder, Saying};
use super::rule::{Ports, RuleId, Said, Terms};
use super::terms::Says;
use crate::host_name::HOST_NAME;
use crate::types::TypeSet;

/// Most different sets of ports and terms of one policy: rows keep their number in 16 bits.
pub const MAX_SCOPES: usize = 65_536;

/// What many rows have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Scope {
    ports: Ports,
    types: Option<TypeSet>,
    to: Option<SocketAddr>,
    says: Option<Arc<Says>>,
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
}

/// Whether any rule says which types are served, sends a name elsewhere, says anything about its
/// flows, or lets datagrams through: without, nobody needs to look.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    types: bool,
    to: bool,
    says: bool,
    udp: bool,
}

/// What the rules say about a name and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameVerdict {
    Unlisted,
    /// Listed by the rule named, but not on this port.
    OtherPort(RuleId),
    Denied(RuleId),
    Allowed {
        rule: RuleId,
        no_sni: bool,
    },
}

/// The rules of one base, in one of the two tables.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Chain {
    wild: bool,
    rows: rows::Chain,
}

/// The most specific allow rules that match a name and have ports of one transport: all such rows
/// of one kind in one chain. A rule for datagrams takes nothing from a wider one for connections,
/// nor the other way round.
#[derive(Clone, Copy)]
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
    /// What the rules say about this canonical name on this port. Allocates nothing.
    pub fn verdict(&self, name: &str, transport: Transport, port: u16) -> NameVerdict {
        let mut levels = Levels::default();
        for (chain, own) in self.chains(name) {
            for row in self.chain(chain).filter(|row| row.covers(own)) {
                if row.denies() {
                    if self.ports(row).on(transport).contains(port) {
                        return NameVerdict::Denied(row.id);
                    }
                } else if own || name != HOST_NAME {
                    self.offer(&mut levels, chain, row);
                }
            }
        }
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
            Some(row) => NameVerdict::Allowed {
                rule: row.id,
                no_sni,
            },
            None => NameVerdict::OtherPort(self.first_of(level)),
        }
    }

    /// What the rules say about looking this name up: allowed if at least one of its ports is open.
    /// Allocates nothing.
    pub fn lookup_verdict(&self, name: &str) -> NameVerdict {
        let mut levels = Levels::default();
        let mut deny = None;
        for (chain, own) in self.chains(name) {
            for row in self.chain(chain).filter(|row| row.covers(own)) {
                if row.denies() && self.ports(row).is_any() {
                    return NameVerdict::Denied(row.id);
                } else if row.denies() {
                    deny.get_or_insert(row);
                } else if own || name != HOST_NAME {
                    self.offer(&mut levels, chain, row);
                }
            }
        }
        let Some(level) = levels.first() else {
            return NameVerdict::Unlisted;
        };
        match deny {
            Some(row) if !levels.iter().any(|level| self.some_port_open(name, level)) => {
                NameVerdict::Denied(row.id)
            }
            _ => NameVerdict::Allowed {
                rule: self.first_of(level),
                no_sni: false,
            },
        }
    }

    /// The ports on which the name is allowed.
    pub fn ports_for(&self, name: &str, transport: Transport) -> PortSet {
        let (mut levels, mut denied) = (Levels::default(), PortSet::EMPTY);
        for (chain, own) in self.chains(name) {
            for row in self.chain(chain).filter(|row| row.covers(own)) {
                if row.denies() {
                    denied = denied.union(self.ports(row).on(transport));
                } else if own || name != HOST_NAME {
                    self.offer(&mut levels, chain, row);
                }
            }
        }
        self.level_ports(levels.on(transport)).difference(&denied)
    }

    /// The ports that the most specific allow supplies, whatever is denied.
    pub fn listed_ports(&self, name: &str, transport: Transport) -> PortSet {
        self.level_ports(self.levels(name).on(transport))
    }

    /// The most specific allows, whatever is denied.
    fn levels(&self, name: &str) -> Levels {
        let mut levels = Levels::default();
        for (chain, own) in self.chains(name) {
            for row in self
                .chain(chain)
                .filter(|row| row.covers(own) && !row.denies())
            {
                if own || name != HOST_NAME {
                    self.offer(&mut levels, chain, row);
                }
            }
        }
        levels
    }

    /// The types that the most specific allow serves: those of its rules that say, together.
    /// Allocates nothing.
    pub fn types_for(&self, name: &str) -> Option<TypeSet> {
        let level = self.used.types.then(|| self.levels(name).first());
        let said = self
            .level_rows(level.flatten()?)
            .filter_map(|row| self.scope(row).types);
        said.reduce(TypeSet::union)
    }

    /// Whether any rule sends its names elsewhere.
    pub fn sends_some(&self) -> bool {
        self.used.to
    }

    /// Where the most specific allow sends connections to this port.
    pub fn sent_to(&self, name: &str, port: u16) -> Option<SocketAddr> {
        let level = self.used.to.then(|| self.levels(name).tcp).flatten()?;
        let rows = self.level_rows(level).map(|row| self.scope(row));
        // two that differ for one port do not load
        rows.filter(|scope| scope.ports.tcp.contains(port))
            .find_map(|scope| scope.to)
    }

    /// Where the most specific allow sends the name, on its lowest port if ports differ.
    pub fn lookup_sent_to(&self, name: &str) -> Option<SocketAddr> {
        let level = self.used.to.then(|| self.levels(name).tcp).flatten()?;
        let rows = self.level_rows(level).map(|row| self.scope(row));
        let sent = rows.filter_map(|scope| Some((&scope.ports, scope.to?)));
        sent.min().map(|(_, to)| to)
    }

    /// What the rules that allow this port say about its flows, in an order of their own. Allocates
    /// nothing.
    pub fn says(
        &self,
        name: &str,
        transport: Transport,
        port: u16,
    ) -> impl Iterator<Item = (RuleId, &Says)> {
        let level = self.used.says.then(|| self.levels(name).on(transport));
        let rows = level.flatten().into_iter();
        rows.flat_map(move |level| self.rows_with(level, port))
            .filter_map(|row| Some((row.id, self.scope(row).says.as_deref()?)))
    }

    /// The pattern and ports of a rule that allows this name, in canonical form.
    pub fn key(&self, name: &str, transport: Transport, rule: RuleId) -> Option<Box<str>> {
        let level = self.levels(name).on(transport)?;
        let row = self.level_rows(level).find(|row| row.id == rule)?;
        let base = self.table(level.chain).base(level.chain.rows);
        let (wild, ports) = (level.kind.prefix(), self.ports(row).text());
        Some(format!("{wild}{base}:{ports}").into())
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
            says: self.scope(row).says.as_deref(),
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
            if let NameVerdict::Denied(deny) = self.lookup_verdict(base) {
                found(row.id, deny);
            }
        }
    }

    /// Calls `found` with the rules of each pattern that has several, those that allow first.
    pub fn patterns(&self, mut found: impl FnMut(&[Said<'_>])) {
        let mut seen: Option<(&str, Kind)> = None;
        let mut group: Vec<Said<'_>> = Vec::new();
        for (base, row) in self.all() {
            let pattern = (base, row.kind());
            if seen != Some(pattern) {
                if group.len() > 1 {
                    found(&group);
                }
                group.clear();
                seen = Some(pattern);
            }
            let scope = self.scope(row);
            group.push(Said {
                rule: row.id,
                denies: row.denies(),
                ports: &scope.ports,
                to: scope.to,
                says: scope.says.as_deref(),
            });
        }
        if group.len() > 1 {
            found(&group);
        }
    }

    /// The text that stands at a place that [`NamesBuilder::build`] has told.
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
                rest = base.split_once('.').map(|(_, above)| above);
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
    pub says: Option<&'t Says>,
}

/// Collects name rules.
#[derive(Default)]
pub(crate) struct NamesBuilder {
    exact: RowsBuilder,
    wild: RowsBuilder,
    scopes: Vec<Scope>,
    scope_numbers: HashMap<Scope, u16>,
    /// Whether any rule lets datagrams through.
    udp: bool,
}

impl NamesBuilder {
    /// Adds a rule for a pattern whose base stands at `at` among the texts.
    ///
    /// # Errors
    /// There are too many different sets of terms.
    pub fn push(
        &mut self,
        id: RuleId,
        (at, pattern): (u32, &Pattern),
        ports: Ports,
        terms: Terms,
    ) -> Result<(), String> {
        let (denies, allow_no_sni) = (terms.denies, terms.allow_no_sni);
        self.udp |= !denies && !ports.udp.is_empty();
        let saying = Saying {
            id,
            scope: self.scope_number(ports, terms)?,
            kind: match pattern {
                Pattern::Exact(_) => Kind::Exact,
                Pattern::Below(_) => Kind::Below,
                Pattern::ApexAndBelow(_) => Kind::ApexAndBelow,
            },
            denies,
            allow_no_sni,
        };
        let table = match saying.kind {
            Kind::Exact => &mut self.exact,
            Kind::Below | Kind::ApexAndBelow => &mut self.wild,
        };
        Ok(table.push((at, pattern.base().as_str()), saying)?)
    }

    fn scope_number(&mut self, ports: Ports, terms: Terms) -> Result<u16, String> {
        // most rules say what the rule before them said
        let scope = Scope {
            ports,
            types: terms.types,
            to: terms.to,
            says: terms.says,
        };
        if let Some(&number) = self.scope_numbers.get(&scope) {
            return Ok(number);
        }
        let number = u16::try_from(self.scopes.len()).map_err(|_| {
            format!("a policy may use {MAX_SCOPES} different sets of ports and terms at most")
        })?;
        self.scopes.push(scope.clone());
        self.scope_numbers.insert(scope, number);
        Ok(number)
    }

    /// Compiles the rules. `order` compares what two rules are called and where they stand; `place`
    /// is told where the name of each rule for one name lies ([`NameTable::text`]).
    ///
    /// # Errors
    /// The names of all rules together are too long.
    pub fn build(
        self,
        texts: &str,
        order: impl Fn(RuleId, RuleId) -> Ordering,
        place: impl FnMut(RuleId, u32),
    ) -> Result<NameTable, String> {
        let scopes = self.scopes;
        let scope = |number: u16| scopes.get(usize::from(number));
        let by_content = |a: (RuleId, u16), b: (RuleId, u16)| {
            // the fewest ports first: that rule explains a decision best
            let ports = |number| scope(number).map_or(0, |scope| scope.ports.len());
            ports(a.1)
                .cmp(&ports(b.1))
                .then_with(|| scope(a.1).cmp(&scope(b.1)))
                .then_with(|| order(a.0, b.0))
        };
        let exact = self.exact.build(texts, by_content, place)?;
        let wild = self.wild.build(texts, by_content, |_, _| {})?;
        Ok(NameTable {
            used: Used {
                types: scopes.iter().any(|scope| scope.types.is_some()),
                to: scopes.iter().any(|scope| scope.to.is_some()),
                says: scopes.iter().any(|scope| scope.says.is_some()),
                udp: self.udp,
            },
            exact,
            wild,
            scopes,
        })
    }
}
