//! The loopback inside: addresses, and the routes that make every address land here (AnyIP).
//!
//! There is no other device, so no packet can leave; a destination that no rule catches is
//! refused by the sandbox's own kernel tables.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use crate::netlink::{self, Batch};
use crate::spec::Addresses;

/// Loopback is the first device of every network namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

const FLAG_UP: u32 = libc::IFF_UP as u32;
const SCOPE_HOST: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_LOCAL: u8 = 2;
const TABLE_LOCAL: u8 = 255;
const TABLE_MAIN: u8 = 254;

/// Brings loopback up with the sandbox's addresses and catches every destination.
///
/// With a TAP the gateway's and the resolver's addresses are on that device (`tap_index`), and the
/// catching routes give way to its network.
pub(crate) fn configure(addresses: &Addresses, tap_index: Option<u32>) -> io::Result<()> {
    let socket = netlink::open(netlink::ROUTE)?;
    let mut batch = Batch::with_capacity(1024);
    up(&mut batch, LOOPBACK_INDEX);
    address(
        &mut batch,
        LOOPBACK_INDEX,
        addresses.own4.into(),
        32,
        SCOPE_HOST,
    );
    address(
        &mut batch,
        LOOPBACK_INDEX,
        addresses.own6.into(),
        128,
        SCOPE_UNIVERSE,
    );
    let table = if let Some(index) = tap_index {
        up(&mut batch, index);
        let prefix = crate::tap::PREFIX;
        address(
            &mut batch,
            index,
            addresses.gateway4.into(),
            prefix,
            SCOPE_UNIVERSE,
        );
        address(
            &mut batch,
            index,
            addresses.resolver4.into(),
            32,
            SCOPE_UNIVERSE,
        );
        TABLE_MAIN
    } else {
        address(
            &mut batch,
            LOOPBACK_INDEX,
            addresses.gateway4.into(),
            32,
            SCOPE_HOST,
        );
        address(
            &mut batch,
            LOOPBACK_INDEX,
            addresses.resolver4.into(),
            32,
            SCOPE_HOST,
        );
        TABLE_LOCAL
    };
    catch_all(&mut batch, table, addresses.own4.into());
    catch_all(&mut batch, table, addresses.own6.into());
    batch.acknowledge();
    netlink::transact(socket.as_fd(), batch)
}

fn up(batch: &mut Batch, index: u32) {
    let mut fixed = [0_u8; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&FLAG_UP.to_ne_bytes());
    fixed[12..16].copy_from_slice(&FLAG_UP.to_ne_bytes());
    batch.message(libc::RTM_NEWLINK, 0, &fixed);
}

fn address(batch: &mut Batch, index: u32, address: IpAddr, prefix: u8, scope: u8) {
    // No duplicate address detection: there is nobody else, and it would take seconds.
    let flags = if address.is_ipv6() {
        libc::IFA_F_NODAD as u8
    } else {
        0
    };
    let mut fixed = [family(address), prefix, flags, scope, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.message(
        libc::RTM_NEWADDR,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &fixed,
    );
    with_octets(address, |octets| {
        batch.attr(libc::IFA_LOCAL, octets);
        batch.attr(libc::IFA_ADDRESS, octets);
    });
}

/// `ip route add local 0.0.0.0/0 dev lo src OWN`, or the same for IPv6.
fn catch_all(batch: &mut Batch, table: u8, source: IpAddr) {
    let fixed = [
        family(source),
        0,
        0,
        0,
        table,
        PROTOCOL_STATIC,
        SCOPE_HOST,
        TYPE_LOCAL,
        0,
        0,
        0,
        0,
    ];
    batch.message(
        libc::RTM_NEWROUTE,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &fixed,
    );
    batch.attr(libc::RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
    with_octets(source, |octets| batch.attr(libc::RTA_PREFSRC, octets));
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }) as u8
}

fn with_octets<R>(address: IpAddr, use_octets: impl FnOnce(&[u8]) -> R) -> R {
    match address {
        IpAddr::V4(address) => use_octets(&address.octets()),
        IpAddr::V6(address) => use_octets(&address.octets()),
    }
}
