//! The loopback inside: addresses, and the routes that make every address land here (AnyIP).
//!
//! There is no other device, so no packet can leave; a destination that no rule catches is
//! refused by the sandbox's own kernel tables.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use crate::netlink::{self, Batch};
use crate::spec::Addresses;

/// Loopback is the first device of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
const NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// Brings loopback up with the sandbox's addresses and catches every destination.
///
/// With a TAP the gateway's and the resolver's addresses are on that device (`tap`), and the
/// catching routes give way to its network.
pub(crate) fn configure(addresses: &Addresses, tap: Option<Device>) -> io::Result<()> {
    let socket = netlink::open(netlink::ROUTE)?;
    let mut batch = Batch::with_capacity(1024);
    up(&mut batch, LOOPBACK_INDEX, None);
    let lo = |address: IpAddr, prefix, scope| Assigned {
        index: LOOPBACK_INDEX,
        address,
        prefix,
        scope,
    };
    let on_tap = |index, address: IpAddr, prefix| Assigned {
        index,
        address,
        prefix,
        scope: AddressScope::Universe,
    };
    lo(addresses.own4.into(), 32, AddressScope::Host).add(&mut batch);
    lo(addresses.own6.into(), 128, AddressScope::Universe).add(&mut batch);
    let table = if let Some(Device { index, mtu }) = tap {
        up(&mut batch, index, Some(mtu));
        on_tap(index, addresses.gateway4.into(), crate::tap::PREFIX).add(&mut batch);
        on_tap(index, addresses.resolver4.into(), 32).add(&mut batch);
        let link = Assigned {
            scope: AddressScope::Link,
            ..on_tap(index, Addresses::GATEWAY_LINK6.into(), crate::tap::PREFIX6)
        };
        link.add(&mut batch);
        on_tap(index, addresses.gateway6.into(), crate::tap::PREFIX6).add(&mut batch);
        libc::RT_TABLE_MAIN
    } else {
        lo(addresses.gateway4.into(), 32, AddressScope::Host).add(&mut batch);
        lo(addresses.resolver4.into(), 32, AddressScope::Host).add(&mut batch);
        libc::RT_TABLE_LOCAL
    };
    catch_all(&mut batch, table, addresses.own4.into());
    catch_all(&mut batch, table, addresses.own6.into());
    batch.acknowledge();
    netlink::transact(socket.as_fd(), batch)
}

/// Adds an address to the loopback.
pub(crate) fn add_to_loopback(batch: &mut Batch, address: IpAddr) {
    let assigned = Assigned {
        index: LOOPBACK_INDEX,
        address,
        prefix: if address.is_ipv4() { 32 } else { 128 },
        scope: AddressScope::Host,
    };
    assigned.add(batch);
}

/// Takes the addresses and the catching routes away again; the kernel's own address of the loopback
/// too, unless it was up before.
pub(crate) fn remove(addresses: &Addresses, was_up: bool) {
    let Ok(socket) = netlink::open(netlink::ROUTE) else {
        return;
    };
    // One by one: what is missing must not keep the rest.
    let each = |build: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::default();
        build(&mut batch);
        batch.acknowledge();
        let _ = netlink::transact(socket.as_fd(), batch);
    };
    for source in [addresses.own4.into(), addresses.own6.into()] {
        each(&|batch| {
            let route = catching_route(libc::RT_TABLE_LOCAL, source);
            batch.emit(libc::RTM_DELROUTE, 0, &route);
        });
    }
    let own: [(IpAddr, u8); 5] = [
        (addresses.own4.into(), 32),
        (addresses.gateway4.into(), 32),
        (addresses.resolver4.into(), 32),
        (addresses.own6.into(), 128),
        (Ipv4Addr::LOCALHOST.into(), 8),
    ];
    let count = if was_up { own.len() - 1 } else { own.len() };
    for (address, prefix) in own.into_iter().take(count) {
        let assigned = Assigned {
            index: LOOPBACK_INDEX,
            address,
            prefix,
            scope: AddressScope::Host,
        };
        each(&|batch| batch.emit(libc::RTM_DELADDR, 0, &assigned.message()));
    }
}

/// A TAP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device {
    pub(crate) index: u32,
    /// In bytes.
    pub(crate) mtu: u16,
}

fn up(batch: &mut Batch, index: u32, mtu: Option<u16>) {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mtu = mtu.map(|mtu| LinkAttribute::Mtu(mtu.into()));
    link.attributes.extend(mtu);
    batch.emit(libc::RTM_NEWLINK, 0, &link);
}

/// An address of a device.
struct Assigned {
    index: u32,
    address: IpAddr,
    /// The length of its network's prefix, in bits.
    prefix: u8,
    scope: AddressScope,
}

impl Assigned {
    fn add(self, batch: &mut Batch) {
        batch.emit(libc::RTM_NEWADDR, NEW, &self.message());
    }

    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(self.address);
        message.header.prefix_len = self.prefix;
        message.header.scope = self.scope;
        message.header.index = self.index;
        if self.address.is_ipv6() {
            // No duplicate address detection: there is nobody else, and it would take seconds.
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes = vec![
            AddressAttribute::Local(self.address),
            AddressAttribute::Address(self.address),
        ];
        message
    }
}

/// `ip route add local 0.0.0.0/0 dev lo src OWN`, or the same for IPv6.
fn catch_all(batch: &mut Batch, table: u8, source: IpAddr) {
    batch.emit(libc::RTM_NEWROUTE, NEW, &catching_route(table, source));
}

fn catching_route(table: u8, source: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family(source);
    route.header.table = table;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Host;
    route.header.kind = RouteType::Local;
    route.attributes = vec![
        RouteAttribute::Oif(LOOPBACK_INDEX),
        RouteAttribute::PrefSource(source.into()),
    ];
    route
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}
