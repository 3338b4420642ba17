//! The address that was asked: received with a datagram, replied from.
//!
//! One wildcard socket catches queries to any resolver's address (AnyIP routes them all here), and
//! a client takes only a reply that leaves from the address it asked. The kernel tells that address
//! beside the datagram (`IP_PKTINFO`, `IPV6_PKTINFO`; ip(7), RFC 3542 section 6), and takes it back
//! with the reply.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use nix::cmsg_space;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// The address that a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// The address.
    V4(Ipv4Addr),
    /// The address, and its interface where it means nothing without one.
    V6(Ipv6Addr, u32),
    /// The socket is bound to one address, or does not tell.
    Bound,
}

/// Asks the kernel to tell the asked address. An IPv6 socket tells it of IPv4 datagrams too, as a
/// mapped address, and would tell it twice if it were asked by the other option as well.
///
/// # Errors
/// Those of setsockopt(2).
pub fn enable(socket: &impl AsFd, v4: bool) -> io::Result<()> {
    if v4 {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(())
}

impl From<in_pktinfo> for LocalAddress {
    fn from(info: in_pktinfo) -> LocalAddress {
        LocalAddress::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()))
    }
}

impl From<in6_pktinfo> for LocalAddress {
    fn from(info: in6_pktinfo) -> LocalAddress {
        let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
        // Only a link-local address needs its interface.
        let link_local = address.is_unicast_link_local();
        LocalAddress::V6(address, if link_local { info.ipi6_ifindex } else { 0 })
    }
}

/// An asked address as the kernel takes it back.
pub(crate) enum Info {
    V4(in_pktinfo),
    V6(in6_pktinfo),
    None,
}

impl Info {
    pub(crate) fn of(local: LocalAddress) -> Info {
        match local {
            LocalAddress::V4(address) => {
                let s_addr = u32::from_ne_bytes(address.octets());
                // The address in the header, not the one the route would choose; any interface.
                Info::V4(in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr { s_addr },
                    ipi_addr: in_addr { s_addr },
                })
            }
            LocalAddress::V6(address, ipi6_ifindex) => {
                let s6_addr = address.octets();
                Info::V6(in6_pktinfo {
                    ipi6_addr: in6_addr { s6_addr },
                    ipi6_ifindex,
                })
            }
            LocalAddress::Bound => Info::None,
        }
    }

    /// The control message to send with a reply.
    pub(crate) fn message(&self) -> Option<ControlMessage<'_>> {
        match self {
            Info::V4(info) => Some(ControlMessage::Ipv4PacketInfo(info)),
            Info::V6(info) => Some(ControlMessage::Ipv6PacketInfo(info)),
            Info::None => None,
        }
    }
}

/// One reply and where it goes.
#[derive(Debug)]
pub struct Reply {
    /// Who asked.
    pub to: SocketAddr,
    /// The address that it leaves from.
    pub from: LocalAddress,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// What is known of a datagram besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Its length, in bytes.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address that it was sent to.
    pub to: LocalAddress,
}

/// Takes one datagram, without waiting. What is longer than the buffer is cut.
///
/// # Errors
/// Those of recvmsg(2); [`io::ErrorKind::InvalidData`] if the kernel does not tell the sender.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut space = cmsg_space!(in6_pktinfo, in_pktinfo);
    let fd = socket.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), flags)?;
    let local = message.cmsgs()?.find_map(|told| match told {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(LocalAddress::from(info)),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(LocalAddress::from(info)),
        _ => None,
    });
    let from = message.address.as_ref().and_then(|from| {
        let v4 = from
            .as_sockaddr_in()
            .map(|v4| SocketAddrV4::from(*v4).into());
        v4.or_else(|| {
            from.as_sockaddr_in6()
                .map(|v6| SocketAddrV6::from(*v6).into())
        })
    });
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Received {
        length: message.bytes,
        from,
        to: local.unwrap_or(LocalAddress::Bound),
    })
}

/// Sends one reply, without waiting.
///
/// # Errors
/// Those of sendmsg(2).
pub fn reply(socket: &impl AsFd, reply: &Reply) -> io::Result<()> {
    let parts = [IoSlice::new(&reply.payload)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let info = Info::of(reply.from);
    let message = info.message();
    let fd = socket.as_fd().as_raw_fd();
    let to = SockaddrStorage::from(reply.to);
    sendmsg(fd, &parts, message.as_slice(), flags, Some(&to))?;
    Ok(())
}
