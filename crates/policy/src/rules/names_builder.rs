//! Collects name rules, and compiles them.

use std::cmp::Ordering;
use std::collections::HashMap;

use portcullis_names::Pattern;

use super::names::{NameTable, Scope};
use super::ports::Ports;
use super::rows::{Kind, NewRow, PendingRow, RowsBuilder};
use super::rule::{RuleId, Terms};

/// Most different sets of ports and terms of one policy: rows keep their number in 16 bits.
pub const MAX_SCOPES: usize = 65_536;

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
        at: u32,
        pattern: &Pattern,
        ports: Ports,
        terms: Terms,
    ) -> Result<(), String> {
        let (denies, allow_no_sni) = (terms.denies, terms.allow_no_sni);
        self.udp |= !denies && !ports.udp.is_empty();
        let row = NewRow {
            at,
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
        let table = match row.kind {
            Kind::Exact => &mut self.exact,
            Kind::Below | Kind::ApexAndBelow => &mut self.wild,
        };
        Ok(table.push(pattern.base().as_str(), row)?)
    }

    fn scope_number(&mut self, ports: Ports, terms: Terms) -> Result<u16, String> {
        // most rules say what the rule before them said
        let scope = Scope {
            ports,
            types: terms.types,
            to: terms.to,
            flow: terms.flow,
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
    /// is told where the name of each rule for one name lies ([`NameTable::text`]). In `limited`
    /// mode requests have its methods alone.
    ///
    /// # Errors
    /// The names of all rules together are too long.
    pub fn build(
        self,
        texts: &str,
        limited: bool,
        order: impl Fn(RuleId, RuleId) -> Ordering,
        place: impl FnMut(RuleId, u32),
    ) -> Result<NameTable, String> {
        let scopes = self.scopes;
        let scope = |number: u16| scopes.get(usize::from(number));
        let by_content = |a: &PendingRow, b: &PendingRow| {
            // the fewest ports first: that rule explains a decision best
            let ports = |row: &PendingRow| scope(row.scope).map_or(0, |scope| scope.ports.len());
            ports(a)
                .cmp(&ports(b))
                .then_with(|| scope(a.scope).cmp(&scope(b.scope)))
                .then_with(|| order(a.id, b.id))
        };
        let exact = self.exact.build(texts, by_content, place)?;
        let wild = self.wild.build(texts, by_content, |_, _| {})?;
        Ok(NameTable::new(exact, wild, scopes, self.udp, limited))
    }
}
