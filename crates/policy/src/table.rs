//! Name rules, compiled: a hash lookup for each suffix of the name, from the whole name to the TLD.
//!
//! A rule is a row of sixteen bytes and its base name in one shared string; the hash table holds row
//! numbers only. So a blocklist of a million names costs some fifty bytes a name, and a decision
//! allocates nothing and costs as many lookups as the name has labels, however many rules there are.
//!
//! The host's own loopback has a name ([`HOST_NAME`]), and only a rule for that very name lists it:
//! `*.internal` must not open the host.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::SocketAddr;

use hashbrown::{DefaultHashBuilder, HashTable};
use portcullis_names::{Pattern, PortSet};

use crate::HOST_NAME;
use crate::rules::{MAX_PORT_SETS, RuleId, Terms};
use crate::types::TypeSet;

/// No further row.
const END: u32 = u32::MAX;

const KIND_EXACT: u8 = 0;
const KIND_BELOW: u8 = 1;
const KIND_APEX_AND_BELOW: u8 = 2;
const KIND_BITS: u8 = 0b11;
const FLAG_DENIES: u8 = 0b100;
const FLAG_NO_SNI: u8 = 0b1000;

/// One rule, as the table keeps it.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Where its base name begins in the arena.
    at: u32,
    /// The next row with the same base name.
    next: u32,
    /// The rule's number in the whole set.
    id: u32,
    /// The number of its ports, types and `to`.
    scope: u16,
    len: u8,
    flags: u8,
}

/// What many rows have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Scope {
    ports: PortSet,
    types: Option<TypeSet>,
    to: Option<SocketAddr>,
}

const _: () = assert!(size_of::<Row>() == 16, "a million rules should stay small");

impl Row {
    fn kind(self) -> u8 {
        self.flags & KIND_BITS
    }

    fn denies(self) -> bool {
        self.flags & FLAG_DENIES != 0
    }

    /// Whether the row matches a name, given that the name is the row's base (`own`) or below it.
    fn covers(self, own: bool) -> bool {
        match self.kind() {
            KIND_EXACT => own,
            KIND_BELOW => !own,
            _ => true,
        }
    }
}

/// The name rules of a policy.
#[derive(Debug, Default)]
pub(crate) struct NameTable {
    bases: String,
    rows: Vec<Row>,
    heads: HashTable<u32>,
    hasher: DefaultHashBuilder,
    scopes: Vec<Scope>,
    /// Whether any rule says which types are served, and whether any sends a name elsewhere:
    /// without, nobody needs to look.
    some_types: bool,
    some_to: bool,
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

/// The most specific allow rules that match a name: all rows of one kind in one chain.
#[derive(Clone, Copy)]
struct Level {
    head: u32,
    kind: u8,
}

impl NameTable {
    /// What the rules say about this canonical name on this port. Allocates nothing.
    pub fn verdict(&self, name: &str, port: u16) -> NameVerdict {
        let mut level = None;
        for (head, own) in self.chains(name) {
            for row in self.chain(head).filter(|row| row.covers(own)) {
                if row.denies() {
                    if self.ports(row).contains(port) {
                        return NameVerdict::Denied(self.narrowest_deny(head, own, port, row));
                    }
                } else if own || name != HOST_NAME {
                    Self::offer(&mut level, head, row);
                }
            }
        }
        let Some(level) = level else {
            return NameVerdict::Unlisted;
        };
        let mut best: Option<Row> = None;
        let mut no_sni = false;
        for row in self
            .level_rows(level)
            .filter(|row| self.ports(*row).contains(port))
        {
            no_sni |= row.flags & FLAG_NO_SNI != 0;
            // of several rows with this port, the one with fewest ports explains it best
            if best.is_none_or(|b| self.ports(row).len() < self.ports(b).len()) {
                best = Some(row);
            }
        }
        match best {
            Some(row) => NameVerdict::Allowed {
                rule: RuleId(row.id),
                no_sni,
            },
            None => NameVerdict::OtherPort(self.first_of(level)),
        }
    }

    /// What the rules say about looking this name up: allowed if at least one of its ports is open.
    /// Allocates nothing.
    pub fn lookup_verdict(&self, name: &str) -> NameVerdict {
        let mut level = None;
        let mut deny = None;
        for (head, own) in self.chains(name) {
            for row in self.chain(head).filter(|row| row.covers(own)) {
                if row.denies() && self.ports(row).is_any() {
                    return NameVerdict::Denied(RuleId(row.id));
                } else if row.denies() {
                    deny.get_or_insert(row);
                } else if own || name != HOST_NAME {
                    Self::offer(&mut level, head, row);
                }
            }
        }
        let Some(level) = level else {
            return NameVerdict::Unlisted;
        };
        match deny {
            Some(row) if !self.some_port_open(name, level) => NameVerdict::Denied(RuleId(row.id)),
            _ => NameVerdict::Allowed {
                rule: self.first_of(level),
                no_sni: false,
            },
        }
    }

    /// The ports on which the name is allowed.
    pub fn ports_for(&self, name: &str) -> PortSet {
        let (mut level, mut denied) = (None, PortSet::EMPTY);
        for (head, own) in self.chains(name) {
            for row in self.chain(head).filter(|row| row.covers(own)) {
                if row.denies() {
                    denied = denied.union(self.ports(row));
                } else if own || name != HOST_NAME {
                    Self::offer(&mut level, head, row);
                }
            }
        }
        self.level_ports(level).difference(&denied)
    }

    /// The ports that the most specific allow supplies, whatever is denied.
    pub fn listed_ports(&self, name: &str) -> PortSet {
        self.level_ports(self.level(name))
    }

    /// The most specific allow, whatever is denied.
    fn level(&self, name: &str) -> Option<Level> {
        let mut level = None;
        for (head, own) in self.chains(name) {
            for row in self
                .chain(head)
                .filter(|row| row.covers(own) && !row.denies())
            {
                if own || name != HOST_NAME {
                    Self::offer(&mut level, head, row);
                }
            }
        }
        level
    }

    /// The types that the most specific allow serves: those of its rules that say, together.
    /// Allocates nothing.
    pub fn types_for(&self, name: &str) -> Option<TypeSet> {
        let level = self.some_types.then(|| self.level(name)).flatten()?;
        let said = self
            .level_rows(level)
            .filter_map(|row| self.scope(row).types);
        said.reduce(TypeSet::union)
    }

    /// Where the most specific allow sends connections to this port.
    pub fn sent_to(&self, name: &str, port: u16) -> Option<SocketAddr> {
        let level = self.some_to.then(|| self.level(name)).flatten()?;
        let rows = self.level_rows(level).map(|row| self.scope(row));
        // two that differ for one port do not load
        rows.filter(|scope| scope.ports.contains(port))
            .find_map(|scope| scope.to)
    }

    /// Where the most specific allow sends the name, on its lowest port if ports differ.
    pub fn lookup_sent_to(&self, name: &str) -> Option<SocketAddr> {
        let level = self.some_to.then(|| self.level(name)).flatten()?;
        let rows = self.level_rows(level).map(|row| self.scope(row));
        let sent = rows.filter_map(|scope| Some((&scope.ports, scope.to?)));
        sent.min().map(|(_, to)| to)
    }

    /// Whether an allow rule lists this very name, without a wildcard.
    pub fn lists_exactly(&self, name: &str) -> bool {
        let rows = self
            .find(name)
            .into_iter()
            .flat_map(|head| self.chain(head));
        rows.into_iter()
            .any(|row| !row.denies() && row.kind() == KIND_EXACT)
    }

    /// A deny rule for this name or for names below it.
    pub fn denies_within(&self, base: &str) -> Option<RuleId> {
        let within = |row: &&Row| {
            let own = self.base(**row);
            row.denies()
                && (own == base
                    || own
                        .strip_suffix(base)
                        .is_some_and(|labels| labels.ends_with('.')))
        };
        self.rows.iter().find(within).map(|row| RuleId(row.id))
    }

    fn level_ports(&self, level: Option<Level>) -> PortSet {
        let rows = level.into_iter().flat_map(|level| self.level_rows(level));
        rows.fold(PortSet::EMPTY, |all, row| all.union(self.ports(row)))
    }

    /// Takes the row's level, unless a more specific one was seen: chains come from the longest base
    /// to the shortest, and kinds are numbered from the narrowest.
    fn offer(level: &mut Option<Level>, head: u32, row: Row) {
        match level {
            Some(seen) if seen.head != head || seen.kind <= row.kind() => {}
            _ => {
                *level = Some(Level {
                    head,
                    kind: row.kind(),
                })
            }
        }
    }

    fn first_of(&self, level: Level) -> RuleId {
        // a level exists because a row of it was seen
        RuleId(self.level_rows(level).next().map_or(END, |row| row.id))
    }

    fn narrowest_deny(&self, head: u32, own: bool, port: u16, found: Row) -> RuleId {
        let same = self
            .chain(head)
            .filter(|row| row.covers(own) && row.denies() && self.ports(*row).contains(port));
        RuleId(
            same.min_by_key(|row| (row.kind(), row.id))
                .unwrap_or(found)
                .id,
        )
    }

    /// Whether a port of the level is left when every deny is taken away; walks from gap to gap.
    fn some_port_open(&self, name: &str, level: Level) -> bool {
        self.level_rows(level).any(|row| {
            self.ports(row).ranges().iter().any(|range| {
                let mut port = range.first;
                loop {
                    match self.denied_until(name, port) {
                        None => return true,
                        Some(last) if last >= range.last => return false,
                        Some(last) => port = last + 1,
                    }
                }
            })
        })
    }

    /// The last port of a denied range that holds this port.
    fn denied_until(&self, name: &str, port: u16) -> Option<u16> {
        self.chains(name)
            .flat_map(|(head, own)| {
                self.chain(head)
                    .filter(move |row| row.denies() && row.covers(own))
            })
            .flat_map(|row| self.ports(row).ranges())
            .filter(|range| range.first <= port && port <= range.last)
            .map(|range| range.last)
            .max()
    }

    /// The chains for the name itself and for each name above it, most specific first.
    fn chains<'t>(&'t self, name: &'t str) -> impl Iterator<Item = (u32, bool)> + 't {
        let mut rest = Some(name);
        std::iter::from_fn(move || {
            while let Some(base) = rest {
                rest = base.split_once('.').map(|(_, above)| above);
                if let Some(head) = self.find(base) {
                    return Some((head, base.len() == name.len()));
                }
            }
            None
        })
    }

    fn find(&self, base: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(base);
        let same = |&head: &u32| self.base(self.rows[head as usize]) == base;
        self.heads.find(hash, same).copied()
    }

    fn chain(&self, head: u32) -> impl Iterator<Item = Row> + '_ {
        let mut next = head;
        std::iter::from_fn(move || {
            let row = *self.rows.get(next as usize)?;
            next = row.next;
            Some(row)
        })
    }

    fn level_rows(&self, level: Level) -> impl Iterator<Item = Row> + '_ {
        self.chain(level.head)
            .filter(move |row| !row.denies() && row.kind() == level.kind)
    }

    fn base(&self, row: Row) -> &str {
        &self.bases[row.at as usize..row.at as usize + usize::from(row.len)]
    }

    fn scope(&self, row: Row) -> &Scope {
        &self.scopes[usize::from(row.scope)]
    }

    fn ports(&self, row: Row) -> &PortSet {
        &self.scope(row).ports
    }
}

/// Collects name rules.
#[derive(Default)]
pub(crate) struct NamesBuilder {
    table: NameTable,
    tails: HashMap<u32, u32>,
    scope_numbers: HashMap<Scope, u16>,
}

impl NamesBuilder {
    pub fn push(
        &mut self,
        id: RuleId,
        pattern: &Pattern,
        ports: &PortSet,
        terms: Terms,
    ) -> Result<(), String> {
        let scope = self.scope_number(Scope {
            ports: ports.clone(),
            types: terms.types,
            to: terms.to,
        })?;
        self.table.some_types |= terms.types.is_some();
        self.table.some_to |= terms.to.is_some();
        let kind = match pattern {
            Pattern::Exact(_) => KIND_EXACT,
            Pattern::Below(_) => KIND_BELOW,
            Pattern::ApexAndBelow(_) => KIND_APEX_AND_BELOW,
        };
        let flag = |set, bit| if set { bit } else { 0 };
        let flags = kind | flag(terms.denies, FLAG_DENIES) | flag(terms.allow_no_sni, FLAG_NO_SNI);
        let too_many = |_| "the names of all rules together are too long".to_owned();
        let number = u32::try_from(self.table.rows.len()).map_err(too_many)?;
        let base = pattern.base().as_str();
        let head = self.table.find(base);
        let at = match head {
            Some(head) => self.table.rows[head as usize].at,
            None => {
                let at = u32::try_from(self.table.bases.len()).map_err(too_many)?;
                self.table.bases.push_str(base);
                at
            }
        };
        let len = u8::try_from(base.len()).map_err(too_many)?;
        self.table.rows.push(Row {
            at,
            next: END,
            id: id.0,
            scope,
            len,
            flags,
        });
        match head {
            Some(head) => {
                let tail = self.tails.insert(head, number).unwrap_or(head);
                self.table.rows[tail as usize].next = number;
            }
            None => {
                let NameTable {
                    bases,
                    rows,
                    heads,
                    hasher,
                    ..
                } = &mut self.table;
                let hash = hasher.hash_one(base);
                heads.insert_unique(hash, number, |&row: &u32| {
                    let row = rows[row as usize];
                    let from = row.at as usize;
                    hasher.hash_one(&bases[from..from + usize::from(row.len)])
                });
            }
        }
        Ok(())
    }

    fn scope_number(&mut self, scope: Scope) -> Result<u16, String> {
        if let Some(&number) = self.scope_numbers.get(&scope) {
            return Ok(number);
        }
        let number = u16::try_from(self.table.scopes.len()).map_err(|_| {
            format!(
                "a policy may use {MAX_PORT_SETS} different sets of ports, types and `to` at most"
            )
        })?;
        self.table.scopes.push(scope.clone());
        self.scope_numbers.insert(scope, number);
        Ok(number)
    }

    pub fn build(mut self) -> NameTable {
        self.table.bases.shrink_to_fit();
        self.table.rows.shrink_to_fit();
        self.table
    }
}
