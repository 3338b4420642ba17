//! The sockets that tell a TAP's guest of its network: DHCPv4, and IPv6 router advertisements.
//!
//! Both are bound to the device when they are made, so that whoever serves them needs no privilege and
//! speaks to that guest alone.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recvfrom, sendto,
    socket_with, sockopt,
};

use crate::sys;

/// The DHCP server's port.
const DHCP_PORT: u16 = 67;
/// Every node on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// What shows that a message is from this link (RFC 4861, section 3.1).
const HOP_LIMIT: i32 = 255;
const ROUTER_SOLICITATION: u32 = 133;
/// `ICMP6_FILTER`: a bit for each type that is not wanted.
const ICMP6_FILTER: i32 = 1;

/// What a guest's set-up is served on.
#[derive(Debug)]
pub struct GuestSockets {
    /// UDP, port 67 of the device; it may send to every address.
    pub dhcp: UdpSocket,
    /// Router solicitations in, advertisements out.
    pub router: RouterSocket,
    /// The TAP itself, non-blocking, where the gateway moves its frames: one read or write is one frame.
    pub device: Option<OwnedFd>,
}

/// An ICMPv6 socket on the guest's device that hears router solicitations alone.
#[derive(Debug)]
pub struct RouterSocket(OwnedFd);

impl RouterSocket {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Reads one message, and from whom. Never blocks.
    ///
    /// # Errors
    /// There is nothing to read, or the socket is broken.
    pub fn receive(&self, message: &mut [u8]) -> io::Result<(usize, Ipv6Addr)> {
        let (length, _, from) = recvfrom(&self.0, &mut *message, RecvFlags::DONTWAIT)?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        match from {
            Some(SocketAddr::V6(from)) => Ok((length.min(message.len()), *from.ip())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Sends an ICMPv6 message to every node on the link; the kernel fills in its checksum.
    ///
    /// # Errors
    /// The guest does not read, or is not there.
    pub fn send_to_all(&self, message: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(ALL_NODES, 0, 0, 0);
        sendto(&self.0, message, SendFlags::DONTWAIT, &to)?;
        Ok(())
    }
}

impl AsFd for RouterSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for RouterSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The DHCP server's socket on a device. Needs `CAP_NET_RAW`.
pub(crate) fn dhcp(device: &str) -> io::Result<OwnedFd> {
    let socket = open(AddressFamily::INET, SocketType::DGRAM, None)?;
    sys::bind_to_device(socket.as_fd(), device)?;
    sockopt::set_socket_broadcast(&socket, true)?;
    let any = SocketAddrV4::new([0; 4].into(), DHCP_PORT);
    bind(&socket, &any)?;
    Ok(socket)
}

/// The router's socket on a device. Needs `CAP_NET_RAW`.
pub(crate) fn router(device: &str, index: u32) -> io::Result<OwnedFd> {
    let socket = open(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6))?;
    let mut unwanted = [u32::MAX; 8];
    unwanted[(ROUTER_SOLICITATION / u32::BITS) as usize] &=
        !(1 << (ROUTER_SOLICITATION % u32::BITS));
    sys::set_option_to(
        socket.as_fd(),
        libc::IPPROTO_ICMPV6,
        ICMP6_FILTER,
        &unwanted,
    )?;
    sys::bind_to_device(socket.as_fd(), device)?;
    let multicast = [
        (libc::IPV6_MULTICAST_HOPS, HOP_LIMIT),
        (libc::IPV6_MULTICAST_LOOP, 0),
        (libc::IPV6_MULTICAST_IF, index as i32),
    ];
    for (option, value) in multicast {
        sys::set_option(socket.as_fd(), libc::SOL_IPV6, option, value)?;
    }
    Ok(socket)
}

fn open(
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, kind, flags, protocol)?)
}
