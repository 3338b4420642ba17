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

use super::rule::{AddressRule, Ports, RuleId, Said, Terms};
use super::terms::Says;

/// One address rule.
#[derive(Clone, Debug)]
struct Row {
    rule: RuleId,
    ports: Ports,
    denies: bool,
    says: Option<Arc<Says>>,
}

/// The address rules of a policy.
#[derive(Debug, Default)]
pub(crate) struct NetTable {
    by_net: HashMap<IpNet, Vec<Row>>,
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
    Allowed(RuleId),
}

impl NetTable {
    /// What the rules say about this address on this port. Allocates nothing.
    pub fn verdict(&self, address: IpAddr, transport: Transport, port: u16) -> NetVerdict {
        if let Some(rule) = self.denied(address, transport, port) {
            return NetVerdict::Denied(rule);
        }
        let Some(rows) = self.allowing(address, transport) else {
            return NetVerdict::Unlisted;
        };
        match allows(rows, transport).find(|row| row.ports.on(transport).contains(port)) {
            Some(row) => NetVerdict::Allowed(row.rule),
            None => {
                let other = allows(rows, transport).next();
                other.map_or(NetVerdict::Unlisted, |row| NetVerdict::OtherPort(row.rule))
            }
        }
    }

    /// The rule that lifts the guard for this address and port.
    pub fn lifts(&self, address: IpAddr, transport: Transport, port: u16) -> Option<RuleId> {
        match self.verdict(address, transport, port) {
            NetVerdict::Allowed(rule) => Some(rule),
            _ => None,
        }
    }

    /// What the rules that allow this port say about its flows, in an order of their own.
    pub fn says(
        &self,
        address: IpAddr,
        transport: Transport,
        port: u16,
    ) -> impl Iterator<Item = (RuleId, &Says)> {
        let rows = self.allowing(address, transport).unwrap_or_default();
        allows(rows, transport)
            .filter(move |row| row.ports.on(transport).contains(port))
            .filter_map(|row| Some((row.rule, row.says.as_deref()?)))
    }

    /// What one rule says about its flows.
    pub fn says_of(&self, rule: RuleId) -> Option<&Says> {
        let mut rows = self.by_net.values().flatten();
        rows.find(|row| row.rule == rule)?.says.as_deref()
    }

    /// A rule's range and ports, in canonical form.
    pub fn key(&self, address: IpAddr, transport: Transport, rule: RuleId) -> Option<Box<str>> {
        let lengths = self.lengths(address);
        let nets = lengths.iter().filter_map(|&length| net_of(address, length));
        let rows = nets.filter_map(|net| Some((net, self.by_net.get(&net)?)));
        rows.flat_map(|(net, rows)| allows(rows, transport).map(move |row| (net, row)))
            .find(|(_, row)| row.rule == rule)
            .map(|(net, row)| format!("[{net}]:{}", row.ports.text()).into())
    }

    /// The deny rule that covers this address and port, by whatever form the address has: an IPv4
    /// address mapped into IPv6 is still that address to a deny rule.
    pub fn denied(&self, address: IpAddr, transport: Transport, port: u16) -> Option<RuleId> {
        let plain = address.to_canonical();
        let other = (plain != address).then_some(plain);
        std::iter::once(address)
            .chain(other)
            .flat_map(|address| self.matching(address))
            .flatten()
            .find(|row| row.denies && row.ports.on(transport).contains(port))
            .map(|row| row.rule)
    }

    /// The ports that address rules deny for this address.
    pub fn denied_ports(&self, address: IpAddr, transport: Transport) -> PortSet {
        let rows = self
            .matching(address.to_canonical())
            .flatten()
            .filter(|row| row.denies);
        rows.fold(PortSet::EMPTY, |all, row| {
            all.union(row.ports.on(transport))
        })
    }

    /// The ports that address rules allow for this address, less those they deny.
    pub fn allowed_ports(&self, address: IpAddr, transport: Transport) -> PortSet {
        let rows = self.allowing(address, transport).unwrap_or_default();
        let allowed = allows(rows, transport).fold(PortSet::EMPTY, |all, row| {
            all.union(row.ports.on(transport))
        });
        allowed.difference(&self.denied_ports(address, transport))
    }

    /// The ports that the most specific allow supplies, unless the range is the address itself.
    pub fn listed_ports(&self, address: IpAddr, transport: Transport) -> PortSet {
        let own = self.by_net.get(&IpNet::from(address));
        let has_own = own.is_some_and(|rows| allows(rows, transport).next().is_some());
        let rows = self.allowing(address, transport).filter(|_| !has_own);
        let rows = rows.into_iter().flat_map(|rows| allows(rows, transport));
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
        first.1.first().map(|row| row.rule)
    }

    /// Calls `found` with the rules of each range that has several.
    pub fn ranges(&self, mut found: impl FnMut(&[Said<'_>])) {
        for rows in self.by_net.values().filter(|rows| rows.len() > 1) {
            let said: Vec<Said<'_>> = rows
                .iter()
                .map(|row| Said {
                    rule: row.rule,
                    denies: row.denies,
                    ports: &row.ports,
                    to: None,
                    says: row.says.as_deref(),
                })
                .collect();
            found(&said);
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

    /// The rows of the longest range that holds this address and allows a port of this transport.
    fn allowing(&self, address: IpAddr, transport: Transport) -> Option<&[Row]> {
        self.matching(address)
            .find(|rows| allows(rows, transport).next().is_some())
    }

    fn lengths(&self, address: IpAddr) -> &[u8] {
        if address.is_ipv4() {
            &self.v4_lengths
        } else {
            &self.v6_lengths
        }
    }

    /// The rows of every range that holds this address, longest prefix first.
    fn matching(&self, address: IpAddr) -> impl Iterator<Item = &[Row]> + '_ {
        let nets = self.lengths(address).iter();
        nets.filter_map(move |&length| {
            let net = net_of(address, length)?;
            self.by_net.get(&net).map(Vec::as_slice)
        })
    }
}

fn net_of(address: IpAddr, length: u8) -> Option<IpNet> {
    Some(IpNet::new(address, length).ok()?.trunc())
}

/// The rows that allow a port of this transport.
fn allows(rows: &[Row], transport: Transport) -> impl Iterator<Item = &Row> {
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
        table.by_net.entry(net).or_default().push(Row {
            rule,
            ports,
            denies,
            says: terms.says,
        });
    }

    /// Compiles the rules. `order` compares what two rules are called and where they stand.
    pub fn build(self, order: impl Fn(RuleId, RuleId) -> Ordering) -> NetTable {
        let mut table = self.0;
        for rows in table.by_net.values_mut() {
            // the fewest ports first: that rule explains a decision best
            rows.sort_by(|a, b| {
                (a.ports.len(), &a.ports, &a.says)
                    .cmp(&(b.ports.len(), &b.ports, &b.says))
                    .then_with(|| order(a.rule, b.rule))
            });
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
