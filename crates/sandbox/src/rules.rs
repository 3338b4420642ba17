//! The sandbox's packet rules: what is refused at `connect()`, what goes to which listener.
//!
//! Two entrances meet one verdict: programs leave through the output hook, a TAP's guest comes in
//! through the input hook. These rules shape what a program sees; they are not what keeps it in
//! (the namespace has no way out at all), and the gateway decides again on each accept.
//!
//! Only the first packet of a connection is judged, so that a flow outlives its lease.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::netlink::Batch;
use crate::nft::{
    Compare, DESTINATION_PORT, DESTINATION4, DESTINATION6, HOP_LIMIT6, Hook, ICMP_TYPE, Key,
    NFPROTO_IPV4, NFPROTO_IPV6, Rule, SOURCE_PORT, TCP_FLAGS, Transaction, Verdict,
};
use crate::spec::{Addresses, Network, OpenRule, OpenRules};

/// The table's name, as `nft list ruleset` shows it inside.
pub(crate) const TABLE: &str = "portcullis";
/// The group to which refused packets are logged.
pub(crate) const LOG_GROUP: u16 = 1;
/// How much of a refused packet is logged, in bytes: both headers.
pub(crate) const LOG_BYTES: u32 = 96;
/// The most elements in one set of open destinations.
const MAX_OPEN_ELEMENTS: u32 = 65_536;
/// The mark of the gateway's own sockets (`SO_MARK`), in a namespace that it shares with the programs.
pub const GATEWAY_MARK: u32 = 0x706f_7274;
/// The mark of packets there that are to reach the gateway.
pub(crate) const CAUGHT_MARK: u32 = 0x706f_7275;
const LOOPBACK: &str = "lo";
/// Where packets are marked, before they are judged; where they leave, behind everything else.
const PRIORITY_MARK: i32 = -160;
const PRIORITY_LAST: i32 = 300;
/// Before the usual filters.
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_FILTER: i32 = 0;
/// A guess at the transaction's size, in bytes, so that building it does not reallocate.
const TRANSACTION_BYTES: usize = 12 * 1024;

/// Static rules in one transaction: well below the system's default for a socket's send buffer.
const RULES_PER_TRANSACTION: usize = 128;
/// Networks that are closed in the very step in which the earlier ones go; each may have several
/// ranges of ports.
const NETWORKS_IN_ONE_STEP: usize = 32;
/// A guess at a rule's size, in bytes.
const RULE_BYTES: usize = 512;

const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMP: u8 = 1;
pub(crate) const ICMP6: u8 = 58;
const DNS_PORT: [u8; 2] = 53_u16.to_be_bytes();
const SYN: u8 = 0x02;
const SYN_ACK_MASK: u8 = 0x12;
const ICMP_UNREACHABLE: u8 = 3;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMP6_UNREACHABLE: u8 = 1;
const ICMP6_TOO_BIG: u8 = 2;
const ICMP6_ECHO_REQUEST: u8 = 128;
/// Router and neighbour solicitations, and neighbour advertisements.
const DISCOVERY: [u8; 3] = [133, 135, 136];
/// What was sent on this link has lost no hop (RFC 4861, section 3.1).
const FROM_THE_LINK: u8 = 255;
/// At the gateway's own addresses, what tells programs about this network. It is a connection as any other
/// to the catch-all listener.
const STATUS_PORT: u16 = 80;
const DHCP_PORT: [u8; 2] = 67_u16.to_be_bytes();

/// One set of open destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenSet {
    pub(crate) name: &'static str,
    pub(crate) key: Key,
    id: u32,
}

pub(crate) const OPEN4: OpenSet = OpenSet {
    name: "open4",
    key: Key::Address4Port,
    id: 1,
};
pub(crate) const OPEN6: OpenSet = OpenSet {
    name: "open6",
    key: Key::Address6Port,
    id: 2,
};
pub(crate) const ANY4: OpenSet = OpenSet {
    name: "any4",
    key: Key::Address4,
    id: 3,
};
pub(crate) const ANY6: OpenSet = OpenSet {
    name: "any6",
    key: Key::Address6,
    id: 4,
};

/// Where datagrams may go, as [`OPEN4`] and [`OPEN6`].
pub(crate) const DATAGRAMS4: OpenSet = OpenSet {
    name: "datagrams4",
    key: Key::Address4Port,
    id: 5,
};
pub(crate) const DATAGRAMS6: OpenSet = OpenSet {
    name: "datagrams6",
    key: Key::Address6Port,
    id: 6,
};

/// All of them.
pub(crate) const OPEN_SETS: [OpenSet; 6] = [OPEN4, OPEN6, ANY4, ANY6, DATAGRAMS4, DATAGRAMS6];

/// The whole rule set: one transaction, and more only for what would not fit in one message to
/// the kernel. What is not installed yet is refused.
pub(crate) fn transactions(
    addresses: &Addresses,
    open: &OpenRules,
    tap: Option<&str>,
    shared: Option<u32>,
) -> Vec<Batch> {
    let mut all = vec![base(addresses, open, tap, shared)];
    // What is closed comes first, so that at no time more is open than in the end.
    networks(&mut all, "closed", &open.closed, Verdict::Goto("refuse"));
    networks(&mut all, "static", &open.rules, Verdict::Accept);
    networks(&mut all, "datagrams", &open.datagrams, Verdict::Accept);
    all
}

/// Other networks in the place of those that are there. What closes comes first, so that at no time
/// more is open than before or after.
pub(crate) fn replacement(open: &[OpenRule], closed: &[OpenRule]) -> Vec<Batch> {
    let mut tx = Transaction::new(TABLE, RULE_BYTES);
    tx.delete_rules("static");
    let mut all = vec![tx.finish()];
    // The first batch of what is closed now takes the place of what was in one step.
    let mut tx = Transaction::new(TABLE, RULES_PER_TRANSACTION * RULE_BYTES);
    tx.delete_rules("closed");
    let (first, rest) = closed.split_at(closed.len().min(NETWORKS_IN_ONE_STEP));
    for rule in first {
        for ports in &rule.ports {
            network(
                &mut tx,
                "closed",
                rule.network,
                ports,
                Verdict::Goto("refuse"),
            );
        }
    }
    all.push(tx.finish());
    networks(&mut all, "closed", rest, Verdict::Goto("refuse"));
    networks(&mut all, "static", open, Verdict::Accept);
    all
}

fn networks(all: &mut Vec<Batch>, chain: &str, rules: &[OpenRule], verdict: Verdict<'_>) {
    let ranges = rules
        .iter()
        .flat_map(|rule| rule.ports.iter().map(|ports| (rule.network, ports)));
    let ranges: Vec<_> = ranges.collect();
    for some in ranges.chunks(RULES_PER_TRANSACTION) {
        let mut tx = Transaction::new(TABLE, some.len() * RULE_BYTES);
        for (of, ports) in some {
            network(&mut tx, chain, *of, ports, verdict);
        }
        all.push(tx.finish());
    }
}

fn base(addresses: &Addresses, open: &OpenRules, tap: Option<&str>, shared: Option<u32>) -> Batch {
    let mut tx = Transaction::new(TABLE, TRANSACTION_BYTES);
    tx.table();
    if let Some(user) = shared {
        // In the place of what is there, in one step: at no time is more open.
        tx.delete_table();
        tx.table();
        shared_chains(&mut tx, user, addresses);
    }
    for set in OPEN_SETS {
        tx.timeout_set(set.name, set.key, set.id, MAX_OPEN_ELEMENTS);
    }
    // Chains come before the rules that jump to them.
    tx.chain("refuse");
    refuse_chain(&mut tx);
    tx.chain("closed");
    tx.chain("static");
    tx.chain("datagrams");
    for set in [DATAGRAMS4, DATAGRAMS6] {
        in_set(&mut tx, "datagrams", set);
    }
    tx.chain("open");
    open_chain(&mut tx, addresses, open);
    tx.base_chain("output", Hook::Output, PRIORITY_FILTER, Verdict::Drop);
    tx.base_chain(
        "prerouting",
        Hook::Prerouting,
        PRIORITY_MANGLE,
        Verdict::Accept,
    );
    if let Some(user) = shared {
        shared_exceptions(&mut tx, user);
    }
    output_chain(&mut tx, addresses, tap);
    if let Some(tap) = tap {
        groups(&mut tx, tap);
    }
    prerouting_chain(&mut tx, addresses);
    if let Some(tap) = tap {
        tx.chain("guest");
        guest_chain(&mut tx, addresses);
        tx.base_chain("input", Hook::Input, PRIORITY_FILTER, Verdict::Accept);
        tx.rule("input", |rule| {
            rule.input_device(tap).verdict(Verdict::Goto("guest"))
        });
        tx.base_chain("forward", Hook::Forward, PRIORITY_FILTER, Verdict::Drop);
    }
    tx.finish()
}

/// Chains of a namespace that the gateway shares with the programs, besides the usual ones.
fn shared_chains(tx: &mut Transaction, user: u32, addresses: &Addresses) {
    tx.route_chain("catch", PRIORITY_MARK);
    tx.rule("catch", |rule| own_socket(rule, user).accept());
    neighbours(tx, "catch");
    own_addresses(tx, "catch", addresses);
    tx.rule("catch", |rule| {
        rule.set_mark(CAUGHT_MARK);
    });
    tx.base_chain("leave", Hook::Postrouting, PRIORITY_LAST, Verdict::Drop);
    tx.rule("leave", |rule| rule.output_device(LOOPBACK).accept());
    neighbours(tx, "leave");
    // What the kernel sends for a socket that is closing has its mark, and no user.
    tx.rule("leave", |rule| {
        rule.mark(GATEWAY_MARK)
            .user(Compare::NotEqual, user)
            .verdict(Verdict::Drop);
    });
    tx.rule("leave", |rule| rule.mark(GATEWAY_MARK).accept());
    // The gateway's listeners are for programs inside.
    tx.base_chain("enter", Hook::Input, 0, Verdict::Accept);
    tx.rule("enter", |rule| rule.input_device(LOOPBACK).accept());
    for protocol in [TCP, UDP] {
        tx.rule("enter", |rule| {
            rule.transport(protocol)
                .field(DESTINATION_PORT, Compare::Equal, &DNS_PORT)
                .verdict(Verdict::Drop);
        });
    }
    for address in [addresses.gateway4, addresses.resolver4] {
        tx.rule("enter", |rule| {
            rule.network(NFPROTO_IPV4)
                .field(DESTINATION4, Compare::Equal, &address.octets())
                .verdict(Verdict::Drop);
        });
    }
}

/// What goes before the usual rules: the gateway's own packets, and those of other devices, are none of theirs.
fn shared_exceptions(tx: &mut Transaction, user: u32) {
    tx.rule("output", |rule| own_socket(rule, user).accept());
    neighbours(tx, "output");
    tx.rule("prerouting", |rule| {
        rule.not_input_device(LOOPBACK).accept();
    });
}

fn own_socket<'a, 'b>(rule: &'a mut Rule<'b>, user: u32) -> &'a mut Rule<'b> {
    rule.mark(GATEWAY_MARK).user(Compare::Equal, user)
}

/// Neighbour discovery is the kernel's; programs have no raw sockets.
fn neighbours(tx: &mut Transaction, chain: &str) {
    for kind in DISCOVERY {
        tx.rule(chain, |rule| {
            rule.transport(ICMP6)
                .field(ICMP_TYPE, Compare::Equal, &[kind])
                .field(HOP_LIMIT6, Compare::Equal, &[FROM_THE_LINK])
                .accept();
        });
    }
}

/// Logs, then refuses so that the sender sees it at once.
fn refuse_chain(tx: &mut Transaction) {
    tx.rule("refuse", |rule| {
        rule.log(LOG_GROUP, LOG_BYTES);
    });
    tx.rule("refuse", |rule| rule.transport(TCP).reset());
    tx.rule("refuse", |rule| rule.prohibit());
}

/// Judges a first packet to a foreign address. Never returns.
fn open_chain(tx: &mut Transaction, addresses: &Addresses, open: &OpenRules) {
    tx.rule("open", |rule| {
        rule.transport(UDP).verdict(Verdict::Jump("datagrams"));
    });
    tx.rule("open", |rule| {
        rule.transport_is(Compare::NotEqual, TCP)
            .verdict(Verdict::Goto("refuse"));
    });
    // The gateway's own address comes first: what is leased there is the host's loopback by name,
    // which a rule about its network does not mean.
    for port in [addresses.http_port, addresses.socks_port, STATUS_PORT] {
        tx.rule("open", |rule| {
            rule.network(NFPROTO_IPV4)
                .field(DESTINATION4, Compare::Equal, &addresses.gateway4.octets())
                .field(DESTINATION_PORT, Compare::Equal, &port.to_be_bytes())
                .accept();
        });
    }
    tx.rule("open", |rule| {
        rule.network(NFPROTO_IPV6)
            .field(DESTINATION6, Compare::Equal, &addresses.gateway6.octets())
            .field(DESTINATION_PORT, Compare::Equal, &STATUS_PORT.to_be_bytes())
            .accept();
    });
    for set in [OPEN4, ANY4] {
        tx.rule("open", |rule| {
            rule.network(NFPROTO_IPV4)
                .field(DESTINATION4, Compare::Equal, &addresses.gateway4.octets())
                .destination_in(set.name, set.id, set.key)
                .accept();
        });
    }
    // Also while it is empty: another policy may come to fill it.
    tx.rule("open", |rule| rule.verdict(Verdict::Jump("closed")));
    for set in [OPEN4, OPEN6, ANY4, ANY6] {
        in_set(tx, "open", set);
    }
    tx.rule("open", |rule| rule.verdict(Verdict::Jump("static")));
    if open.audit {
        for guarded in &open.guarded {
            tx.rule("open", |rule| {
                destination_within(rule, *guarded);
                rule.verdict(Verdict::Goto("refuse"));
            });
        }
        tx.rule("open", |rule| rule.accept());
    }
    tx.rule("open", |rule| rule.verdict(Verdict::Goto("refuse")));
}

/// Accepts what goes to a destination of the set.
fn in_set(tx: &mut Transaction, chain: &str, set: OpenSet) {
    tx.rule(chain, |rule| {
        let protocol = match set.key {
            Key::Address4 | Key::Address4Port => NFPROTO_IPV4,
            Key::Address6 | Key::Address6Port => NFPROTO_IPV6,
        };
        rule.network(protocol)
            .destination_in(set.name, set.id, set.key)
            .accept();
    });
}

fn network(
    tx: &mut Transaction,
    chain: &str,
    of: Network,
    ports: &RangeInclusive<u16>,
    verdict: Verdict<'_>,
) {
    tx.rule(chain, |rule| {
        destination_within(rule, of);
        match (*ports.start(), *ports.end()) {
            (0, u16::MAX) => {}
            (from, to) if from == to => {
                rule.field(DESTINATION_PORT, Compare::Equal, &from.to_be_bytes());
            }
            (from, to) => {
                rule.between(DESTINATION_PORT, &from.to_be_bytes(), &to.to_be_bytes());
            }
        }
        rule.verdict(verdict);
    });
}

fn destination_within(rule: &mut Rule<'_>, of: Network) {
    match of.address {
        IpAddr::V4(address) => {
            let (mask, network) = network4(address, of.prefix);
            rule.network(NFPROTO_IPV4)
                .masked(DESTINATION4, &mask, Compare::Equal, &network);
        }
        IpAddr::V6(address) => {
            let (mask, network) = network6(address, of.prefix);
            rule.network(NFPROTO_IPV6)
                .masked(DESTINATION6, &mask, Compare::Equal, &network);
        }
    }
}

/// The mask and the masked address, in network order.
fn network4(address: Ipv4Addr, prefix: u8) -> ([u8; 4], [u8; 4]) {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0);
    (mask.to_be_bytes(), (address.to_bits() & mask).to_be_bytes())
}

fn network6(address: Ipv6Addr, prefix: u8) -> ([u8; 16], [u8; 16]) {
    let mask = u128::MAX
        .checked_shl(128 - u32::from(prefix.min(128)))
        .unwrap_or(0);
    (mask.to_be_bytes(), (address.to_bits() & mask).to_be_bytes())
}

/// What programs inside send.
fn output_chain(tx: &mut Transaction, addresses: &Addresses, tap: Option<&str>) {
    if let Some(tap) = tap {
        tx.rule("output", |rule| rule.output_device(tap).accept());
    }
    tx.rule("output", |rule| {
        rule.transport(TCP)
            .masked(TCP_FLAGS, &[SYN_ACK_MASK], Compare::NotEqual, &[SYN])
            .accept();
    });
    own_addresses(tx, "output", addresses);
    dns(tx, "output");
    // The resolver's replies leave from whatever address was asked.
    tx.rule("output", |rule| {
        rule.transport(UDP)
            .field(SOURCE_PORT, Compare::Equal, &DNS_PORT)
            .accept();
    });
    // The kernel's own word on a refused datagram, and the gateway's. Programs have no raw sockets, and
    // their sockets for ping send requests only.
    for (protocol, unreachable) in [(ICMP, ICMP_UNREACHABLE), (ICMP6, ICMP6_UNREACHABLE)] {
        tx.rule("output", |rule| {
            rule.transport(protocol)
                .field(ICMP_TYPE, Compare::Equal, &[unreachable])
                .accept();
        });
    }
    tx.rule("output", |rule| rule.verdict(Verdict::Goto("open")));
}

/// The sandbox's own loopback passes.
fn own_addresses(tx: &mut Transaction, chain: &str, addresses: &Addresses) {
    tx.rule(chain, |rule| {
        rule.network(NFPROTO_IPV4)
            .masked(
                DESTINATION4,
                &[255, 0, 0, 0],
                Compare::Equal,
                &[127, 0, 0, 0],
            )
            .accept();
    });
    tx.rule(chain, |rule| {
        rule.network(NFPROTO_IPV4)
            .field(DESTINATION4, Compare::Equal, &addresses.own4.octets())
            .accept();
    });
    for own in [Ipv6Addr::LOCALHOST, addresses.own6] {
        tx.rule(chain, |rule| {
            rule.network(NFPROTO_IPV6)
                .field(DESTINATION6, Compare::Equal, &own.octets())
                .accept();
        });
    }
}

/// Port 53 of any address is the gateway's resolver.
fn dns(tx: &mut Transaction, chain: &str) {
    for protocol in [TCP, UDP] {
        tx.rule(chain, |rule| {
            rule.transport(protocol)
                .field(DESTINATION_PORT, Compare::Equal, &DNS_PORT)
                .accept();
        });
    }
}

/// Sends TCP to foreign addresses to the catch-all listeners.
fn prerouting_chain(tx: &mut Transaction, addresses: &Addresses) {
    tx.rule("prerouting", |rule| {
        rule.transport_is(Compare::NotEqual, TCP).accept()
    });
    own_addresses(tx, "prerouting", addresses);
    tx.rule("prerouting", |rule| {
        rule.field(DESTINATION_PORT, Compare::Equal, &DNS_PORT)
            .accept();
    });
    for port in [addresses.http_port, addresses.socks_port] {
        tx.rule("prerouting", |rule| {
            rule.network(NFPROTO_IPV4)
                .field(DESTINATION4, Compare::Equal, &addresses.gateway4.octets())
                .field(DESTINATION_PORT, Compare::Equal, &port.to_be_bytes())
                .accept();
        });
    }
    tx.rule("prerouting", |rule| {
        rule.network(NFPROTO_IPV4)
            .transport(TCP)
            .tproxy_to4(addresses.gateway4.octets(), addresses.catch_all_port)
            .accept();
    });
    tx.rule("prerouting", |rule| {
        rule.network(NFPROTO_IPV6)
            .transport(TCP)
            .tproxy_to6(addresses.gateway6.octets(), addresses.catch_all_port)
            .accept();
    });
}

/// What a guest sends to a group of hosts: nobody is there, and the kernel would drop it unrecorded. Reports
/// of who listens to which group are no news.
fn groups(tx: &mut Transaction, tap: &str) {
    tx.rule("prerouting", |rule| {
        rule.input_device(tap)
            .network(NFPROTO_IPV4)
            .transport(UDP)
            .masked(
                DESTINATION4,
                &[0xf0, 0, 0, 0],
                Compare::Equal,
                &[0xe0, 0, 0, 0],
            )
            .log(LOG_GROUP, LOG_BYTES)
            .verdict(Verdict::Drop);
    });
    tx.rule("prerouting", |rule| {
        rule.input_device(tap)
            .network(NFPROTO_IPV6)
            .transport(UDP)
            .field(DESTINATION6.begin(1), Compare::Equal, &[0xff])
            .log(LOG_GROUP, LOG_BYTES)
            .verdict(Verdict::Drop);
    });
}

/// What a TAP's guest sends: the same verdicts as for a program inside.
fn guest_chain(tx: &mut Transaction, addresses: &Addresses) {
    tx.rule("guest", |rule| {
        rule.transport(TCP)
            .masked(TCP_FLAGS, &[SYN_ACK_MASK], Compare::NotEqual, &[SYN])
            .accept();
    });
    dns(tx, "guest");
    for address in [Ipv4Addr::BROADCAST, addresses.gateway4] {
        tx.rule("guest", |rule| {
            rule.network(NFPROTO_IPV4)
                .transport(UDP)
                .field(DESTINATION4, Compare::Equal, &address.octets())
                .field(DESTINATION_PORT, Compare::Equal, &DHCP_PORT)
                .accept();
        });
    }
    for kind in DISCOVERY {
        tx.rule("guest", |rule| {
            rule.network(NFPROTO_IPV6)
                .transport(ICMP6)
                .field(ICMP_TYPE, Compare::Equal, &[kind])
                .field(HOP_LIMIT6, Compare::Equal, &[FROM_THE_LINK])
                .accept();
        });
    }
    for address in [addresses.gateway4, addresses.resolver4] {
        tx.rule("guest", |rule| {
            rule.transport(ICMP)
                .field(ICMP_TYPE, Compare::Equal, &[ICMP_ECHO_REQUEST])
                .field(DESTINATION4, Compare::Equal, &address.octets())
                .accept();
        });
    }
    for address in [addresses.gateway6, Addresses::GATEWAY_LINK6] {
        tx.rule("guest", |rule| {
            rule.transport(ICMP6)
                .field(ICMP_TYPE, Compare::Equal, &[ICMP6_ECHO_REQUEST])
                .field(DESTINATION6, Compare::Equal, &address.octets())
                .accept();
        });
    }
    for (protocol, kind) in [
        (ICMP, ICMP_UNREACHABLE),
        (ICMP6, ICMP6_UNREACHABLE),
        (ICMP6, ICMP6_TOO_BIG),
    ] {
        tx.rule("guest", |rule| {
            rule.transport(protocol)
                .field(ICMP_TYPE, Compare::Equal, &[kind])
                .accept();
        });
    }
    tx.rule("guest", |rule| rule.verdict(Verdict::Goto("open")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cover_every_prefix() {
        assert_eq!(network4(Ipv4Addr::new(10, 1, 2, 3), 0), ([0; 4], [0; 4]));
        assert_eq!(
            network4(Ipv4Addr::new(10, 1, 2, 3), 8),
            ([255, 0, 0, 0], [10, 0, 0, 0])
        );
        assert_eq!(
            network4(Ipv4Addr::new(10, 1, 2, 3), 32),
            ([255; 4], [10, 1, 2, 3])
        );
        assert_eq!(network6(Ipv6Addr::LOCALHOST, 0), ([0; 16], [0; 16]));
        assert_eq!(
            network6(Ipv6Addr::LOCALHOST, 128),
            ([255; 16], Ipv6Addr::LOCALHOST.octets())
        );
    }
}
