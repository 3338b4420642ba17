//! The sockets made inside and served from outside: the sandbox's only doors.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::gateway_side::{Family, Sockets};
use crate::spec::Addresses;
use crate::sys;

/// Connections that may wait to be accepted, per listener.
const BACKLOG: i32 = 1024;
/// The most UDP ports with a socket of their own in one sandbox.
pub const MAX_DATAGRAM_PORTS: usize = 32;
/// The resolver's port.
pub(crate) const DNS_PORT: u16 = 53;

/// Makes the sockets, in the order of [`Sockets`].
pub(crate) fn make(addresses: &Addresses) -> io::Result<[OwnedFd; Sockets::COUNT]> {
    let any4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DNS_PORT);
    let any6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DNS_PORT);
    let catch4 = SocketAddr::new(addresses.gateway4.into(), addresses.catch_all_port);
    let catch6 = SocketAddr::new(addresses.gateway6.into(), addresses.catch_all_port);
    Ok([
        bound(any4, libc::SOCK_DGRAM)?,
        bound(any6, libc::SOCK_DGRAM)?,
        bound(any4, libc::SOCK_STREAM)?,
        bound(any6, libc::SOCK_STREAM)?,
        bound(addresses.http(), libc::SOCK_STREAM)?,
        bound(addresses.socks(), libc::SOCK_STREAM)?,
        bound(catch4, libc::SOCK_STREAM)?,
        bound(catch6, libc::SOCK_STREAM)?,
        crate::socket_diag::make_socket()?,
        crate::netlink::open(libc::NETLINK_NETFILTER)?,
        crate::refused::make_socket()?,
    ])
}

/// A socket of each family for each UDP port: whatever address a datagram is sent to, it arrives
/// there, and what is sent back may leave from any address.
pub(crate) fn datagrams(ports: &[u16]) -> io::Result<Vec<OwnedFd>> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let all = ports.iter().take(MAX_DATAGRAM_PORTS);
    all.flat_map(|port| any.map(|any| SocketAddr::new(any, *port)))
        .map(|at| bound(at, libc::SOCK_DGRAM))
        .collect()
}

/// A fresh TCP socket of the sandbox, for the gateway to connect.
pub(crate) fn unconnected(family: Family) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    sys::socket(domain, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)
}

/// A non-blocking socket at an address, listening if it is a stream.
///
/// All are transparent: they answer from whatever address was asked, and may be bound before the
/// address exists.
fn bound(address: SocketAddr, kind: i32) -> io::Result<OwnedFd> {
    let v4 = address.is_ipv4();
    let domain = if v4 { libc::AF_INET } else { libc::AF_INET6 };
    let socket = sys::socket(domain, kind | libc::SOCK_NONBLOCK, 0)?;
    let fd = socket.as_fd();
    if v4 {
        sys::set_option(fd, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
        if kind == libc::SOCK_DGRAM {
            sys::set_option(fd, libc::SOL_IP, libc::IP_PKTINFO, 1)?;
        }
    } else {
        sys::set_option(fd, libc::SOL_IPV6, libc::IPV6_V6ONLY, 1)?;
        sys::set_option(fd, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
        if kind == libc::SOCK_DGRAM {
            sys::set_option(fd, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        }
    }
    bind(fd, address)?;
    if kind == libc::SOCK_STREAM {
        // SAFETY: plain system call on a live descriptor.
        sys::check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    }
    Ok(socket)
}

fn bind(fd: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    let (storage, length) = raw_address(address);
    // SAFETY: storage is live and holds `length` bytes of address.
    sys::check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const storage).cast(), length) }).map(drop)
}

/// Connects, or says that a non-blocking connection is under way (`EINPROGRESS`).
pub(crate) fn connect(fd: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    let (storage, length) = raw_address(address);
    // SAFETY: storage is live and holds `length` bytes of address.
    sys::check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const storage).cast(), length) })
        .map(drop)
}

/// An address as the kernel takes it.
fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: an all-zero sockaddr_storage is valid.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let pointer = &raw mut storage;
    let length = match address.ip() {
        IpAddr::V4(ip) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(ip.octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large and aligned enough for any address.
            unsafe { pointer.cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        IpAddr::V6(ip) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: ip.octets(),
                },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { pointer.cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}
