//! Address rules, compiled: a lookup for each prefix length in use, from the longest to the shortest.
//!
//! An address rule is the only thing that lifts the guard over private and local addresses, so what
//! it covers is decided here and nowhere else.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_names::{PortSet, Transport};

use super::ports::Ports;
use super::rule::{AddressRule, GroupedRule, RuleId, Terms};
use super::terms::{Cell, RuleFlow, RuleTerms};

/// One address rule.
#[derive(Clone, Debug)]
struct Row {
    rule: RuleId,
    ports: Ports,
    denies: bool,
    flow: Option<Arc<RuleTerms>>,
}

/// The rules of one range.
#[derive(Debug, Default)]
struct Rules {
    rows: Vec<Row>,
    /// What they say together about their flows.
    terms: Vec<Cell>,
}

/// The address rules of a policy.
#[derive(Debug, Default)]
pub(crate) struct NetTable {
    ranges: Vec<Rules>,
    /// Where the rules of a range stand.
    by_net: HashMap<IpNet, usize>,
    /// Prefix lengths in use, longest first.
    v4_lengths: Vec<u8>,
    v6_lengths: Vec<u8>,
    allows: Vec<AddressRule>,
    denials: Vec<AddressRule>,
}

/// What the rules say about an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetVerdict {
    Unlisted,
    /// Listed by the rule named, but not on this port.
    OtherPort(RuleId),
    Denied(RuleId),
    Allowed(NetMatch),
}

/// The rules that allow a port of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetMatch {
    /// The rule that explains it best.
    pub rule: RuleId,
    range: usize,
    transport: Transport,
    port: u16,
}

impl NetTable {
    /// What the rules say about this address on this port. Allocates nothing.
    pub fn verdict(&self, address: IpAddr, transport: Transport, port: u16) -> NetVerdict {
        if let Some(rule) = self.denied(address, transport, port) {
            return NetVerdict::Denied(rule);
        }
        let Some(range) = self.allowing(address, transport) else {
            return NetVerdict::Unlisted;
        };
        let rows = || allows(&self.ranges[range].rows, transport);
        match rows().find(|row| row.ports.on(transport).contains(port)) {
            Some(row) => NetVerdict::Allowed(NetMatch {
                rule: row.rule,
                range,
                transport,
                port,
            }),
            None => {
                let other = rows().next();
                other.map_or(NetVerdict::Unlisted, |row| NetVerdict::OtherPort(row.rule))
            }
        }
    }

    /// The rule that lifts the guard for this address and port.
    pub fn lifts(&self, address: IpAddr, transport: Transport, port: u16) -> Option<NetMatch> {
        match self.verdict(address, transport, port) {
            NetVerdict::Allowed(found) => Some(found),
            _ => None,
        }
    }

    /// What each of the rules says about the flows that they allow, in an order of their own.
    pub fn flows(&self, found: &NetMatch) -> impl Iterator<Item = (RuleId, &RuleTerms)> {
        let NetMatch {
            transport, port, ..
        } = *found;
        allows(&self.ranges[found.range].rows, transport)
            .filter(move |row| row.ports.on(transport).contains(port))
            .filter_map(|row| Some((row.rule, row.flow.as_deref()?)))
    }

    /// What the rules say together about the flows that they allow.
    pub fn terms(&self, found: &NetMatch) -> Option<&Arc<RuleTerms>> {
        let terms = &self.ranges[found.range].terms;
        Cell::find(terms, found.transport, found.port)
    }

    /// The same for an address and a port that only passes because the policy watches.
    pub fn watched(
        &self,
        address: IpAddr,
        transport: Transport,
        port: u16,
    ) -> Option<&Arc<RuleTerms>> {
        let range = self.allowing(address, transport)?;
        Cell::find(&self.ranges[range].terms, transport, port)
    }

    /// What one rule says about its flows.
    pub fn flow_of(&self, rule: RuleId) -> Option<&RuleTerms> {
        let mut rows = self.ranges.iter().flat_map(|range| &range.rows);
        rows.find(|row| row.rule == rule)?.flow.as_deref()
    }

    /// The deny rule that covers this address and port, by whatever form the address has: an IPv4
    /// address mapped into IPv6 is still that address to a deny rule.
    pub fn denied(&self, address: IpAddr, transport: Transport, port: u16) -> Option<RuleId> {
        let plain = address.to_canonical();
        let other = (plain != address).then_some(plain);
        std::iter::once(address)
            .chain(other)
            .flat_map(|address| self.matching(address))
            .flat_map(|range| &self.ranges[range].rows)
            .find(|row| row.denies && row.ports.on(transport).contains(port))
            .map(|row| row.rule)
    }

    /// The ports that address rules deny for this address.
    pub fn denied_ports(&self, address: IpAddr, transport: Transport) -> PortSet {
        let rows = self
            .matching(address.to_canonical())
            .flat_map(|range| &self.ranges[range].rows)
            .filter(|row| row.denies);
        rows.fold(PortSet::EMPTY, |all, row| {
            all.union(row.ports.on(transport))
        })
    }

    /// The ports that address rules allow for this address, less those they deny.
    pub fn allowed_ports(&self, address: IpAddr, transport: Transport) -> PortSet {
        let range = self.allowing(address, transport).into_iter();
        let rows = range.flat_map(|range| allows(&self.ranges[range].rows, transport));
        let allowed = rows.fold(PortSet::EMPTY, |all, row| {
            all.union(row.ports.on(transport))
        });
        allowed.difference(&self.denied_ports(address, transport))
    }

    /// The ports that the most specific allow supplies, unless the range is the address itself.
    pub fn listed_ports(&self, address: IpAddr, transport: Transport) -> PortSet {
        let own = self.by_net.get(&IpNet::from(address)).copied();
        let range = self.allowing(address, transport);
        let range = range.filter(|range| own != Some(*range)).into_iter();
        let rows = range.flat_map(|range| allows(&self.ranges[range].rows, transport));
        rows.fold(PortSet::EMPTY, |all, row| {
            all.union(row.ports.on(transport))
        })
    }

    /// A deny rule, or a narrower allow rule, that lies within the range without being the range.
    pub fn narrower(&self, net: IpNet) -> Option<RuleId> {
        let inside = self
            .by_net
            .iter()
            .filter(|(own, _)| **own != net && net.contains(*own));
        let first = inside.min_by_key(|(own, _)| **own)?;
        self.ranges[*first.1].rows.first().map(|row| row.rule)
    }

    /// Calls `found` with the rules of each range that has several.
    pub fn ranges(&self, mut found: impl FnMut(&[GroupedRule<'_>])) {
        for range in self.ranges.iter().filter(|range| range.rows.len() > 1) {
            let group: Vec<GroupedRule<'_>> = range
                .rows
                .iter()
                .map(|row| GroupedRule {
                    rule: row.rule,
                    denies: row.denies,
                    ports: &row.ports,
                    to: None,
                    flow: row.flow.as_deref(),
                })
                .collect();
            found(&group);
        }
    }

    /// The allow rules, in a fixed order.
    pub fn allows(&self) -> &[AddressRule] {
        &self.allows
    }

    /// The deny rules, in a fixed order.
    pub fn denials(&self) -> &[AddressRule] {
        &self.denials
    }

    /// The longest range that holds this address and allows a port of this transport.
    fn allowing(&self, address: IpAddr, transport: Transport) -> Option<usize> {
        let rows = |range: usize| &self.ranges[range].rows;
        self.matching(address)
            .find(|range| allows(rows(*range), transport).next().is_some())
    }

    fn lengths(&self, address: IpAddr) -> &[u8] {
        if address.is_ipv4() {
            &self.v4_lengths
        } else {
            &self.v6_lengths
        }
    }

    /// Every range that holds this address, longest prefix first.
    fn matching(&self, address: IpAddr) -> impl Iterator<Item = usize> + '_ {
        let nets = self.lengths(address).iter();
        nets.filter_map(move |&length| {
            let net = net_of(address, length)?;
            self.by_net.get(&net).copied()
        })
    }
}

fn net_of(address: IpAddr, length: u8) -> Option<IpNet> {
    Some(IpNet::new(address, length).ok()?.trunc())
}

/// The rows that allow a port of this transport.
fn allows(rows: &[Row], transport: Transport) -> impl Iterator<Item = &Row> + Clone {
    let has_some = move |row: &&Row| !row.denies && !row.ports.on(transport).is_empty();
    rows.iter().filter(has_some)
}

/// Collects address rules.
#[derive(Default)]
pub(crate) struct NetsBuilder(NetTable);

impl NetsBuilder {
    pub fn push(&mut self, rule: RuleId, net: IpNet, ports: Ports, terms: Terms) {
        let (net, denies) = (net.trunc(), terms.denies);
        let table = &mut self.0;
        let lengths = if net.addr().is_ipv4() {
            &mut table.v4_lengths
        } else {
            &mut table.v6_lengths
        };
        if !lengths.contains(&net.prefix_len()) {
            lengths.push(net.prefix_len());
        }
        let listed = AddressRule {
            net,
            ports: ports.tcp.clone(),
            udp: ports.udp.clone(),
            rule,
        };
        if denies {
            table.denials.push(listed);
        } else {
            table.allows.push(listed);
        }
        let next = table.ranges.len();
        let range = *table.by_net.entry(net).or_insert(next);
        if range == next {
            table.ranges.push(Rules::default());
        }
        table.ranges[range].rows.push(Row {
            rule,
            ports,
            denies,
            flow: terms.flow,
        });
    }

    /// Compiles the rules. `order` compares what two rules are called and where they stand. In
    /// `limited` mode requests have its methods alone.
    pub fn build(self, limited: bool, order: impl Fn(RuleId, RuleId) -> Ordering) -> NetTable {
        let mut table = self.0;
        for range in &mut table.ranges {
            // the fewest ports first: that rule explains a decision best
            range.rows.sort_by(|a, b| {
                (a.ports.len(), &a.ports, &a.flow)
                    .cmp(&(b.ports.len(), &b.ports, &b.flow))
                    .then_with(|| order(a.rule, b.rule))
            });
        }
        for (net, range) in &table.by_net {
            let range = &mut table.ranges[*range];
            let pattern = format!("[{net}]");
            for transport in [Transport::Tcp, Transport::Udp] {
                let rows = allows(&range.rows, transport);
                let rules = rows.filter_map(|row| {
                    Some(RuleFlow {
                        ports: &row.ports,
                        terms: row.flow.as_deref()?,
                    })
                });
                let cells = Cell::compile(rules, transport, limited, &pattern);
                range.terms.extend(cells);
            }
        }
        table.v4_lengths.sort_unstable_by(|a, b| b.cmp(a));
        table.v6_lengths.sort_unstable_by(|a, b| b.cmp(a));
        for rules in [&mut table.allows, &mut table.denials] {
            rules.sort_by(|a, b| {
                (a.net, &a.ports, &a.udp)
                    .cmp(&(b.net, &b.ports, &b.udp))
                    .then_with(|| order(a.rule, b.rule))
            });
        }
        table
    }
}
