//! What a TAP's guest may send at all: frames under its own addresses.
//!
//! Answers *around the gateway* and *exhaustion* (docs/threats.md). The rules look at each frame as the
//! device takes it in, before ARP, neighbour discovery or IP see it. A guest speaks under one hardware
//! address, the first that is seen (another may follow after a minute of silence, as when a machine is
//! replaced), and under the one IPv4 address that it is given. It makes IPv6 addresses by itself, so of
//! those there may be a few: each costs an entry in a table that all namespaces of the host share.

use std::net::Ipv6Addr;

use crate::netlink::Batch;
use crate::nft::{
    ARP_KINDS, ARP_SOURCE, ARP_SOURCE4, Compare, DESTINATION_PORT, DESTINATION4, ETHER_ADDRESSES,
    ETHER_SOURCE, ETHER_TYPE, Field, IPV6_ADDRESSES, SOURCE4, SOURCE6, SeenSet, Transaction,
    Verdict,
};
use crate::rules::{ICMP6, LOG_BYTES, LOG_GROUP, UDP};
use crate::spec::Addresses;

/// The table's name, as `nft list ruleset` shows it inside.
const TABLE: &str = "portcullis_guest";
/// A guess at the transaction's size, in bytes.
const TRANSACTION_BYTES: usize = 8 * 1024;

/// The guest's hardware address.
const GUEST: SeenSet = SeenSet {
    name: "guest",
    shape: ETHER_ADDRESSES,
    id: 1,
    size: 1,
    timeout_ms: 60_000,
};
/// The guest's IPv6 addresses: link-local, stable and temporary ones (RFC 8981).
const GUEST6: SeenSet = SeenSet {
    name: "guest6",
    shape: IPV6_ADDRESSES,
    id: 2,
    size: 16,
    timeout_ms: 300_000,
};

const IPV4: [u8; 2] = 0x0800_u16.to_be_bytes();
const ARP: [u8; 2] = 0x0806_u16.to_be_bytes();
const IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();
/// Ethernet and IPv4, and the lengths of their addresses.
const ARP_OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const DHCP_PORT: [u8; 2] = 67_u16.to_be_bytes();
/// The prefix of link-local addresses in use, and of each network in which a guest makes addresses.
const PREFIX6_BYTES: usize = 8;
const LINK_LOCAL: [u8; PREFIX6_BYTES] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];

/// The first byte of the sender's address says whether it is a group's.
const ETHER_SOURCE_BEGIN: Field = ETHER_SOURCE.begin(1);
const GROUP: u8 = 1;

/// The rules, in one transaction.
pub(crate) fn transaction(addresses: &Addresses, device: &str) -> Batch {
    let mut tx = Transaction::of_device(TABLE, TRANSACTION_BYTES);
    tx.table();
    tx.seen_set(GUEST);
    tx.seen_set(GUEST6);
    for chain in ["arp", "ip4", "ip6", "known"] {
        tx.chain(chain);
    }
    arp(&mut tx, addresses);
    ip4(&mut tx, addresses);
    ip6(&mut tx, addresses);
    for (kind, chain) in [(IPV4, "ip4"), (IPV6, "ip6"), (ARP, "arp")] {
        tx.rule("known", |rule| {
            rule.field(ETHER_TYPE, Compare::Equal, &kind)
                .verdict(Verdict::Goto(chain));
        });
    }
    tx.rule("known", |rule| {
        rule.log_type(LOG_GROUP, LOG_BYTES).verdict(Verdict::Drop);
    });
    tx.ingress_chain("frames", device);
    tx.rule("frames", |rule| {
        rule.masked(ETHER_SOURCE_BEGIN, &[GROUP], Compare::Equal, &[0])
            .seen_in(ETHER_SOURCE, GUEST)
            .verdict(Verdict::Goto("known"));
    });
    // What the gateway sends to everybody comes back without an Ethernet header, and is no news.
    tx.rule("frames", |rule| {
        rule.field(ETHER_TYPE, Compare::AtLeast, &[0; 2])
            .log(LOG_GROUP, LOG_BYTES)
            .verdict(Verdict::Drop);
    });
    tx.finish()
}

/// Empties the sets of what was seen.
pub(crate) fn forget() -> Batch {
    let mut tx = Transaction::of_device(TABLE, 512);
    tx.flush_set(GUEST.name);
    tx.flush_set(GUEST6.name);
    tx.finish()
}

/// Records a frame and drops it.
fn drop(tx: &mut Transaction, chain: &str) {
    tx.rule(chain, |rule| {
        rule.log(LOG_GROUP, LOG_BYTES).verdict(Verdict::Drop);
    });
}

/// A guest asks and answers for its own address, or asks whether anybody has it (RFC 5227).
fn arp(tx: &mut Transaction, addresses: &Addresses) {
    for address in [addresses.guest4().octets(), [0; 4]] {
        tx.rule("arp", |rule| {
            rule.field(ARP_KINDS, Compare::Equal, &ARP_OF_IPV4)
                .field_in(ARP_SOURCE, GUEST)
                .field(ARP_SOURCE4, Compare::Equal, &address)
                .accept();
        });
    }
    drop(tx, "arp");
}

fn ip4(tx: &mut Transaction, addresses: &Addresses) {
    tx.rule("ip4", |rule| {
        rule.field(SOURCE4, Compare::Equal, &addresses.guest4().octets())
            .accept();
    });
    // A guest without an address asks for one.
    tx.rule("ip4", |rule| {
        rule.transport(UDP)
            .field(SOURCE4, Compare::Equal, &[0; 4])
            .field(DESTINATION4, Compare::Equal, &[255; 4])
            .field(DESTINATION_PORT, Compare::Equal, &DHCP_PORT)
            .accept();
    });
    drop(tx, "ip4");
}

fn ip6(tx: &mut Transaction, addresses: &Addresses) {
    // What is sent under an address of ours would be answered to ourselves.
    let [own, gateway] = [addresses.own6, addresses.gateway6].map(|own| own.octets());
    for own in [own, gateway, Addresses::GATEWAY_LINK6.octets()] {
        tx.rule("ip6", |rule| {
            rule.field(SOURCE6, Compare::Equal, &own)
                .log(LOG_GROUP, LOG_BYTES)
                .verdict(Verdict::Drop);
        });
    }
    // Whoever has no address yet asks whether anybody has it, or for routers.
    tx.rule("ip6", |rule| {
        rule.transport(ICMP6)
            .field(SOURCE6, Compare::Equal, &Ipv6Addr::UNSPECIFIED.octets())
            .accept();
    });
    for prefix in [LINK_LOCAL.as_slice(), &gateway[..PREFIX6_BYTES]] {
        tx.rule("ip6", |rule| {
            rule.field(SOURCE6.begin(PREFIX6_BYTES as u32), Compare::Equal, prefix)
                .seen_in(SOURCE6, GUEST6)
                .accept();
        });
    }
    drop(tx, "ip6");
}
