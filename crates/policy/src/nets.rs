//! Address rules, compiled: a lookup for each prefix length in use, from the longest to the shortest.
//!
//! An address rule is the only thing that lifts the guard over private and local addresses, so what
//! it covers is decided here and nowhere else.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_names::PortSet;

use crate::rules::{AddressRule, RuleId};
use crate::table::Said;

/// One address rule.
#[derive(Clone, Debug)]
struct Row {
    rule: RuleId,
    ports: PortSet,
    denies: bool,
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
    pub fn verdict(&self, address: IpAddr, port: u16) -> NetVerdict {
        if let Some(rule) = self.denied(address, port) {
            return NetVerdict::Denied(rule);
        }
        let Some(rows) = self.allowing(address) else {
            return NetVerdict::Unlisted;
        };
        let mut with_port = rows
            .iter()
            .filter(|row| !row.denies && row.ports.contains(port));
        match with_port.next() {
            Some(row) => NetVerdict::Allowed(row.rule),
            None => {
                let other = rows.iter().find(|row| !row.denies);
                other.map_or(NetVerdict::Unlisted, |row| NetVerdict::OtherPort(row.rule))
            }
        }
    }

    /// The deny rule that covers this address and port, by whatever form the address has: an IPv4
    /// address mapped into IPv6 is still that address to a deny rule.
    pub fn denied(&self, address: IpAddr, port: u16) -> Option<RuleId> {
        let plain = address.to_canonical();
        let other = (plain != address).then_some(plain);
        std::iter::once(address)
            .chain(other)
            .flat_map(|address| self.matching(address))
            .flatten()
            .find(|row| row.denies && row.ports.contains(port))
            .map(|row| row.rule)
    }

    /// The ports that address rules deny for this address.
    pub fn denied_ports(&self, address: IpAddr) -> PortSet {
        let rows = self
            .matching(address.to_canonical())
            .flatten()
            .filter(|row| row.denies);
        rows.fold(PortSet::EMPTY, |all, row| all.union(&row.ports))
    }

    /// The ports that address rules allow for this address, less those they deny.
    pub fn allowed_ports(&self, address: IpAddr) -> PortSet {
        let rows = self
            .allowing(address)
            .into_iter()
            .flatten()
            .filter(|row| !row.denies);
        let allowed = rows.fold(PortSet::EMPTY, |all, row| all.union(&row.ports));
        allowed.difference(&self.denied_ports(address))
    }

    /// The ports that the most specific allow supplies, unless the range is the address itself.
    pub fn listed_ports(&self, address: IpAddr) -> PortSet {
        let own = IpNet::from(address);
        let has_own = self
            .by_net
            .get(&own)
            .is_some_and(|rows| rows.iter().any(|row| !row.denies));
        let rows = self
            .allowing(address)
            .filter(|_| !has_own)
            .into_iter()
            .flatten();
        let allows = rows.filter(|row| !row.denies);
        allows.fold(PortSet::EMPTY, |all, row| all.union(&row.ports))
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

    /// The rows of the longest range with an allow that holds this address.
    fn allowing(&self, address: IpAddr) -> Option<&[Row]> {
        self.matching(address)
            .find(|rows| rows.iter().any(|row| !row.denies))
    }

    /// The rows of every range that holds this address, longest prefix first.
    fn matching(&self, address: IpAddr) -> impl Iterator<Item = &[Row]> + '_ {
        let lengths = if address.is_ipv4() {
            &self.v4_lengths
        } else {
            &self.v6_lengths
        };
        lengths.iter().filter_map(move |&length| {
            let net = IpNet::new(address, length).ok()?.trunc();
            self.by_net.get(&net).map(Vec::as_slice)
        })
    }
}

/// Collects address rules.
#[derive(Default)]
pub(crate) struct NetsBuilder(NetTable);

impl NetsBuilder {
    pub fn push(&mut self, rule: RuleId, net: IpNet, ports: PortSet, denies: bool) {
        let net = net.trunc();
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
            ports: ports.clone(),
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
        });
    }

    /// Compiles the rules. `order` compares what two rules are called and where they stand.
    pub fn build(self, order: impl Fn(RuleId, RuleId) -> Ordering) -> NetTable {
        let mut table = self.0;
        for rows in table.by_net.values_mut() {
            // the fewest ports first: that rule explains a decision best
            rows.sort_by(|a, b| {
                (a.ports.len(), &a.ports)
                    .cmp(&(b.ports.len(), &b.ports))
                    .then_with(|| order(a.rule, b.rule))
            });
        }
        table.v4_lengths.sort_unstable_by(|a, b| b.cmp(a));
        table.v6_lengths.sort_unstable_by(|a, b| b.cmp(a));
        for rules in [&mut table.allows, &mut table.denials] {
            rules.sort_by(|a, b| {
                (a.net, &a.ports)
                    .cmp(&(b.net, &b.ports))
                    .then_with(|| order(a.rule, b.rule))
            });
        }
        table
    }
}
