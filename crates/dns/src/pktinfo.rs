//! The address that was asked: told with a datagram, replied from.
//!
//! One wildcard socket catches queries to any resolver's address (AnyIP routes them all here), and
//! a client takes only a reply that leaves from the address it asked. The kernel tells that address
//! beside the datagram (`IP_PKTINFO`, `IPV6_PKTINFO`; ip(7), RFC 3542 section 6), and takes it back
//! with the reply.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};

/// The address that a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
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
pub(crate) fn enable(socket: &impl AsFd, v4: bool) -> io::Result<()> {
    if v4 {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(())
}

impl From<in_pktinfo> for Asked {
    fn from(info: in_pktinfo) -> Asked {
        Asked::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()))
    }
}

impl From<in6_pktinfo> for Asked {
    fn from(info: in6_pktinfo) -> Asked {
        let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
        // Only a link-local address needs its interface.
        let link_local = address.is_unicast_link_local();
        Asked::V6(address, if link_local { info.ipi6_ifindex } else { 0 })
    }
}

/// An asked address as the kernel takes it back.
pub(crate) enum Info {
    V4(in_pktinfo),
    V6(in6_pktinfo),
    None,
}

impl Info {
    pub(crate) fn of(asked: Asked) -> Info {
        match asked {
            Asked::V4(address) => {
                let s_addr = u32::from_ne_bytes(address.octets());
                // The address in the header, not the one the route would choose; any interface.
                Info::V4(in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr { s_addr },
                    ipi_addr: in_addr { s_addr },
                })
            }
            Asked::V6(address, ipi6_ifindex) => {
                let s6_addr = address.octets();
                Info::V6(in6_pktinfo {
                    ipi6_addr: in6_addr { s6_addr },
                    ipi6_ifindex,
                })
            }
            Asked::Bound => Info::None,
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
pub(crate) struct Reply {
    pub to: SocketAddr,
    /// The address that it leaves from.
    pub asked: Asked,
    pub payload: Vec<u8>,
}

/// Sends one reply, without waiting.
pub(crate) fn reply(socket: &impl AsFd, reply: &Reply) -> io::Result<()> {
    let parts = [IoSlice::new(&reply.payload)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let info = Info::of(reply.asked);
    let message = info.message();
    let fd = socket.as_fd().as_raw_fd();
    let to = SockaddrStorage::from(reply.to);
    sendmsg(fd, &parts, message.as_slice(), flags, Some(&to))?;
    Ok(())
}
