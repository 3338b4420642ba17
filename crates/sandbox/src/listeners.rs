//! The sockets inside that programs reach, served from outside: the sandbox's only doors.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, listen, shutdown, socket_with, sockopt,
};

use crate::channel::{Channel, FromInit};
use crate::sockets::{Family, NamedSockets, SocketName};
use crate::spec::{Addresses, MAX_DATAGRAM_PORTS};
use crate::sys;

/// Connections that may wait to be accepted, per listener.
const BACKLOG: i32 = 1024;
/// Datagrams of one port that wait for the gateway, in bytes; the kernel counts some 800 for a short
/// one, and drops what finds no room.
const BURST_BYTES: usize = 1024 * 1024;
/// The resolver's port.
pub(crate) const DNS_PORT: u16 = 53;

/// Makes the sockets that every sandbox has, and gives each to `add`.
pub(crate) fn make(
    addresses: &Addresses,
    mut add: impl FnMut(SocketName, OwnedFd),
) -> io::Result<()> {
    let gateways = [addresses.gateway4.into(), addresses.gateway6.into()];
    for (family, gateway) in [Family::V4, Family::V6].into_iter().zip(gateways) {
        let dns = SocketAddr::new(any(family), DNS_PORT);
        let catch_all = SocketAddr::new(gateway, addresses.catch_all_port);
        add(SocketName::DnsUdp(family), bound(dns, SocketType::DGRAM)?);
        add(SocketName::DnsTcp(family), listener(dns)?);
        add(SocketName::CatchAll(family), listener(catch_all)?);
    }
    add(SocketName::HttpProxy, listener(addresses.http())?);
    add(SocketName::SocksProxy, listener(addresses.socks())?);
    Ok(())
}

/// A socket of each family for each UDP port: whatever address a datagram is sent to, it arrives
/// there, and what is sent back may leave from any address.
pub(crate) fn datagrams(ports: &[u16], mut add: impl FnMut(SocketName, OwnedFd)) -> io::Result<()> {
    for port in ports.iter().copied().take(MAX_DATAGRAM_PORTS) {
        for family in [Family::V4, Family::V6] {
            let socket = bound(SocketAddr::new(any(family), port), SocketType::DGRAM)?;
            // Beyond the system's limit only with CAP_NET_ADMIN outside.
            if sockopt::set_socket_recv_buffer_size_force(&socket, BURST_BYTES).is_err() {
                sockopt::set_socket_recv_buffer_size(&socket, BURST_BYTES)?;
            }
            add(SocketName::Datagrams(family, port), socket);
        }
    }
    Ok(())
}

/// Has the kernel refuse connections to the listeners, and reset those that wait: nobody serves them. Their ports stay
/// taken.
pub(crate) fn close(sockets: &NamedSockets) {
    for socket in sockets.listeners() {
        // One that does not listen would share its port.
        let _ = sockopt::set_socket_reuseaddr(socket, false);
        let _ = shutdown(socket, Shutdown::Read);
    }
}

/// Has them listen again after [`close`].
pub(crate) fn open_again(sockets: &NamedSockets) -> io::Result<()> {
    for socket in sockets.listeners() {
        sockopt::set_socket_reuseaddr(socket, true)?;
        listen(socket, BACKLOG)?;
    }
    Ok(())
}

/// A fresh TCP socket of the sandbox, for the gateway to connect.
fn unconnected(family: Family) -> io::Result<OwnedFd> {
    open(family == Family::V4, SocketType::STREAM)
}

/// Answers a gateway that has asked for such a socket, under its number; false when it is gone.
pub(crate) fn answer_new_socket(gateway: &Channel, family: u8, number: &[u8]) -> bool {
    let answer = |code: FromInit| [&[code as u8], number].concat();
    let family = if family == 6 { Family::V6 } else { Family::V4 };
    let sent = match unconnected(family) {
        Ok(fd) => gateway.send(&answer(FromInit::TcpSocket), &[fd.as_fd()]),
        Err(_) => gateway.send(&answer(FromInit::NoSocket), &[]),
    };
    // One that does not read does not wait for an answer either.
    sent.map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |()| true)
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A non-blocking, close-on-exec socket.
pub(crate) fn open(v4: bool, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if v4 {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, kind, flags, None)?)
}

fn listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = bound(address, SocketType::STREAM)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A socket at an address.
///
/// All are transparent: they answer from whatever address was asked, and may be bound before the
/// address exists.
fn bound(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let v4 = address.is_ipv4();
    let socket = open(v4, kind)?;
    let (level, transparent, destination) = if v4 {
        (libc::SOL_IP, libc::IP_TRANSPARENT, libc::IP_PKTINFO)
    } else {
        sockopt::set_ipv6_v6only(&socket, true)?;
        (
            libc::SOL_IPV6,
            libc::IPV6_TRANSPARENT,
            libc::IPV6_RECVPKTINFO,
        )
    };
    sys::set_option(socket.as_fd(), level, transparent, 1)?;
    if kind == SocketType::STREAM {
        // Connections of a gateway that was here before may still be closing. What listens is never shared.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if kind == SocketType::DGRAM {
        sys::set_option(socket.as_fd(), level, destination, 1)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}
