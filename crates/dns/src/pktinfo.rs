//! Datagrams with the address that was asked: received with it, answered from it.
//!
//! One wildcard socket catches queries to any resolver's address (AnyIP routes them all here), and
//! a client takes only a reply that leaves from the address it asked. The kernel tells that address
//! beside the datagram (`IP_PKTINFO`, `IPV6_PKTINFO`; ip(7), RFC 3542 section 6), and takes it back
//! with the reply.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use nix::{cmsg_space, errno::Errno};
use std::io::{IoSlice, IoSliceMut};

/// The address that a datagram was sent to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    V4(in_pktinfo),
    V6(in6_pktinfo),
    /// The socket is bound to one address, or does not tell.
    Bound,
}

/// A datagram in the caller's buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    pub length: usize,
    pub from: SockaddrStorage,
    pub asked: Asked,
    /// It was longer than the buffer.
    pub cut: bool,
}

/// Room for the control messages of one datagram, used again for each.
pub(crate) struct Control(Vec<u8>);

impl Control {
    pub(crate) fn new() -> Control {
        Control(cmsg_space!(in_pktinfo, in6_pktinfo))
    }
}

/// Asks the kernel to tell the asked address; an option of the other family is refused, which is
/// fine, as is a socket on which the sandbox's first process did this already.
pub(crate) fn enable(socket: &impl AsFd) {
    let _ = setsockopt(socket, sockopt::Ipv4PacketInfo, &true);
    let _ = setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true);
}

/// Receives one datagram, without waiting.
pub(crate) fn receive(
    socket: &impl AsFd,
    buffer: &mut [u8],
    control: &mut Control,
) -> io::Result<Datagram> {
    let fd: RawFd = socket.as_fd().as_raw_fd();
    let mut parts = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control.0), MsgFlags::MSG_DONTWAIT)?;
    let mut asked = Asked::Bound;
    for message in received.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => asked = Asked::V4(info),
            ControlMessageOwned::Ipv6PacketInfo(info) => asked = Asked::V6(info),
            _ => {}
        }
    }
    let from = received.address.ok_or(Errno::EDESTADDRREQ)?;
    let cut = received.flags.contains(MsgFlags::MSG_TRUNC);
    Ok(Datagram {
        length: received.bytes,
        from,
        asked,
        cut,
    })
}

/// An IP socket's address.
pub(crate) fn address(from: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || Some(SocketAddrV4::from(*from.as_sockaddr_in()?).into());
    let v6 = || Some(SocketAddrV6::from(*from.as_sockaddr_in6()?).into());
    v4().or_else(v6)
}

/// Sends one datagram back from the address that was asked, without waiting.
pub(crate) fn reply(socket: &impl AsFd, to: &Datagram, payload: &[u8]) -> io::Result<()> {
    let fd: RawFd = socket.as_fd().as_raw_fd();
    let parts = [IoSlice::new(payload)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let from4;
    let from6;
    let control: &[ControlMessage<'_>] = match to.asked {
        Asked::V4(info) => {
            // The address in the header, not the one the route would choose; any interface.
            from4 = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: info.ipi_addr,
                ..info
            };
            &[ControlMessage::Ipv4PacketInfo(&from4)]
        }
        Asked::V6(info) => {
            // Only a link-local address needs its interface.
            let [a, b, ..] = info.ipi6_addr.s6_addr;
            let link_local = a == 0xFE && b & 0xC0 == 0x80;
            let ipi6_ifindex = if link_local { info.ipi6_ifindex } else { 0 };
            from6 = in6_pktinfo {
                ipi6_ifindex,
                ..info
            };
            &[ControlMessage::Ipv6PacketInfo(&from6)]
        }
        Asked::Bound => &[],
    };
    sendmsg(fd, &parts, control, flags, Some(&to.from))?;
    Ok(())
}
