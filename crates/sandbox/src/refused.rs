//! What the kernel refused, read from NFLOG: a refusal at `connect()` becomes a record too.
//!
//! Answers *exhaustion* (docs/threats.md). The kernel bounds the log's queue. A flood overflows it.
//! The kernel numbers refusals, so that those that found no room are counted here all the same.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use rustix::net::sockopt;

use crate::netlink::{self, Batch};
use crate::rules::LOG_GROUP;

/// The kernel's queue for one sandbox, in bytes.
const QUEUE_BYTES: usize = 1024 * 1024;
/// The most packets of messages one [`RefusedLog::read`] takes.
const MAX_READS: usize = 64;
/// Room for one packet of messages, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// The most refusals that are counted as lost between two that were not.
const MAX_LOST: u32 = 1_000_000;

const SUBSYSTEM_LOG: u16 = 4;
const MESSAGE_PACKET: u16 = SUBSYSTEM_LOG << 8;
const MESSAGE_CONFIG: u16 = SUBSYSTEM_LOG << 8 | 1;
const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const CONFIG_FLAGS: u16 = 6;
/// Each message has a number.
const FLAG_NUMBERED: u16 = 1;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const ATTR_HEADER: u16 = 1;
const ATTR_HARDWARE: u16 = 8;
const ATTR_PREFIX: u16 = 10;
const ETHER_TYPE_VLAN: u16 = 0x8100;
const ATTR_PAYLOAD: u16 = 9;
const ATTR_UID: u16 = 11;
const ATTR_NUMBER: u16 = 12;
/// `struct nfgenmsg`, before the attributes; it begins with the family of the rule.
const GENERAL_BYTES: usize = 4;
/// Rules of a device (`NFPROTO_NETDEV`).
const FAMILY_DEVICE: u8 = 5;

/// The protocol of a refused packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedProtocol {
    /// TCP: a connection attempt.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
    /// Another IP protocol, by number.
    Other(u8),
    /// A frame that is not IP, by its type (EtherType).
    Frame(u16),
}

/// One packet the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Its protocol.
    pub protocol: RefusedProtocol,
    /// Where it came from; port 0 for protocols without ports.
    pub source: SocketAddr,
    /// Where it wanted to go; port 0 for protocols without ports.
    pub destination: SocketAddr,
    /// The hardware address under which a guest's device took the packet in, only to drop it: it is not
    /// the guest's, or the packet's source is not, or the guest may not send such frames at all.
    pub spoofed: Option<[u8; 6]>,
    /// The sender's user id, as the sandbox's owner sees it; none for a guest's packets.
    pub uid: Option<u32>,
    /// How many refusals before this one found no room in the log.
    pub lost_before: u32,
}

/// What one read brought.
#[derive(Debug, Default)]
pub struct RefusedBatch {
    /// The refusals, oldest first.
    pub refused: Vec<Refused>,
    /// Whether the kernel's queue had overflowed: how many were lost shows at the next refusal.
    pub overflowed: bool,
    /// Whether more may be waiting.
    pub more: bool,
}

/// The log of refused packets of one sandbox.
///
/// the start-up check's own refused probe is not in it: logging begins after the proof.
#[derive(Debug)]
pub struct RefusedLog {
    socket: OwnedFd,
    /// The number that the next refusal has if none is lost.
    next: AtomicU32,
}

impl RefusedLog {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            next: AtomicU32::new(0),
        }
    }

    /// The descriptor to wait on; it is non-blocking.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what is there, at most a bounded batch. Never blocks: an empty batch says that there
    /// is nothing to read.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn read(&self) -> io::Result<RefusedBatch> {
        let mut batch = RefusedBatch::default();
        let mut buffer = [0_u8; READ_BYTES];
        for _ in 0..MAX_READS {
            match netlink::receive(self.socket.as_fd(), &mut buffer) {
                Ok(length) => self.parse(&buffer[..length], &mut batch.refused)?,
                Err(Errno::AGAIN) => return Ok(batch),
                Err(Errno::NOBUFS) => batch.overflowed = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        batch.more = true;
        Ok(batch)
    }

    pub(crate) fn parse(&self, mut bytes: &[u8], found: &mut Vec<Refused>) -> io::Result<()> {
        while let Some((header, body, rest)) = netlink::next_message(bytes) {
            if header.kind == libc::NLMSG_ERROR as u16 {
                netlink::result(body)?;
            }
            if header.kind == MESSAGE_PACKET
                && let Some((general, attributes)) = body.split_at_checked(GENERAL_BYTES)
            {
                let at_device = general[0] == FAMILY_DEVICE;
                found.extend(
                    packet(attributes, at_device).map(|(number, refused)| Refused {
                        lost_before: number.map_or(0, |number| self.lost_before(number)),
                        ..refused
                    }),
                );
            }
            bytes = rest;
        }
        Ok(())
    }

    /// How many were lost before the refusal with this number.
    fn lost_before(&self, number: u32) -> u32 {
        let next = self.next.swap(number.wrapping_add(1), Ordering::Relaxed);
        number.wrapping_sub(next).min(MAX_LOST)
    }
}

impl AsFd for RefusedLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for RefusedLog {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Makes the log's socket; it hears nothing before [`begin`].
pub(crate) fn make_socket() -> io::Result<OwnedFd> {
    let socket = netlink::open(Some(NETFILTER))?;
    // Needs CAP_NET_ADMIN over the namespace; without it the system's limit applies.
    if sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, QUEUE_BYTES)?;
    }
    Ok(socket)
}

/// Begins logging to [`crate::SocketName::RefusalLog`]; the kernel has it when this returns. Needs
/// `CAP_NET_ADMIN` over the socket's namespace.
///
/// The gateway reads the socket already, so no answer is waited for here: it would be taken by the
/// gateway. The kernel only answers when it refuses, and [`RefusedLog::read`] then fails, which
/// ends the sandbox.
///
/// # Errors
/// The message cannot be sent.
pub fn begin_refusal_log(socket: BorrowedFd<'_>) -> io::Result<()> {
    let [high, low] = LOG_GROUP.to_be_bytes();
    let mut batch = Batch::with_capacity(64);
    batch.message(MESSAGE_CONFIG, 0, &[0, 0, high, low]);
    batch.attr(CONFIG_COMMAND, &[COMMAND_BIND]);
    // The rule says how much is copied; 0 means no further limit.
    batch.attr(CONFIG_MODE, &[0, 0, 0, 0, COPY_PACKET, 0]);
    batch.attr(CONFIG_FLAGS, &FLAG_NUMBERED.to_be_bytes());
    netlink::send_batch(socket, batch)
}

/// A refusal with its number, if it has one.
fn packet(mut attributes: &[u8], at_device: bool) -> Option<(Option<u32>, Refused)> {
    let (mut payload, mut header, mut hardware) = (None, None, None);
    let mut by_type = false;
    let (mut uid, mut number) = (None, None);
    let word = |value: &[u8]| value.try_into().ok().map(u32::from_be_bytes);
    while let Some((kind, value, rest)) = netlink::next_attr(attributes) {
        match kind {
            ATTR_HEADER => header = Some(value),
            ATTR_PREFIX => by_type = value.len() > 1,
            ATTR_HARDWARE => hardware = Some(value),
            ATTR_PAYLOAD => payload = Some(value),
            ATTR_UID => uid = word(value),
            ATTR_NUMBER => number = word(value),
            _ => {}
        }
        attributes = rest;
    }
    // What a device took in need not be IP, whatever its bytes look like.
    let header = header.filter(|_| at_device);
    let other = header.and_then(|header| frame(header, by_type));
    let refused = other.or_else(|| ip_packet(payload?))?;
    let spoofed = at_device.then(|| hardware.and_then(hardware_address).unwrap_or_default());
    let refused = Refused {
        uid,
        spoofed,
        ..refused
    };
    Some((number, refused))
}

/// The sender's address in a `struct nfulnl_msg_packet_hw`.
fn hardware_address(hardware: &[u8]) -> Option<[u8; 6]> {
    hardware.get(4..10)?.try_into().ok()
}

/// A frame that is not IP, by its `struct nfulnl_msg_packet_hdr`. Where the type is why it was refused and
/// shows as IP, the kernel has taken off a VLAN's tag.
fn frame(header: &[u8], by_type: bool) -> Option<Refused> {
    const IP: [u16; 2] = [0x0800, 0x86dd];
    let kind = u16::from_be_bytes(header.get(..2)?.try_into().ok()?);
    let kind = match (IP.contains(&kind), by_type) {
        (true, true) => ETHER_TYPE_VLAN,
        (true, false) => return None,
        (false, _) => kind,
    };
    let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    Some(Refused {
        protocol: RefusedProtocol::Frame(kind),
        source: nowhere,
        destination: nowhere,
        spoofed: None,
        uid: None,
        lost_before: 0,
    })
}

/// Reads addresses, protocol and ports of an IP packet's first bytes.
fn ip_packet(bytes: &[u8]) -> Option<Refused> {
    let (source, destination, number, transport): (IpAddr, IpAddr, u8, &[u8]) =
        match bytes.first()? >> 4 {
            4 => {
                let header = usize::from(bytes[0] & 0x0f) * 4;
                let source: [u8; 4] = bytes.get(12..16)?.try_into().ok()?;
                let destination: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
                (
                    Ipv4Addr::from(source).into(),
                    Ipv4Addr::from(destination).into(),
                    *bytes.get(9)?,
                    bytes.get(header..).unwrap_or_default(),
                )
            }
            6 => {
                let source: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
                let destination: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
                (
                    Ipv6Addr::from(source).into(),
                    Ipv6Addr::from(destination).into(),
                    *bytes.get(6)?,
                    bytes.get(40..).unwrap_or_default(),
                )
            }
            _ => return None,
        };
    let port = |at: usize| match transport.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    };
    let (protocol, ports) = match number {
        6 => (RefusedProtocol::Tcp, (port(0), port(2))),
        17 => (RefusedProtocol::Udp, (port(0), port(2))),
        1 | 58 => (RefusedProtocol::Icmp, (0, 0)),
        other => (RefusedProtocol::Other(other), (0, 0)),
    };
    Some(Refused {
        protocol,
        source: SocketAddr::new(source, ports.0),
        destination: SocketAddr::new(destination, ports.1),
        spoofed: None,
        uid: None,
        lost_before: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN4: [u8; 24] = [
        0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 192, 0, 2, 1, 0x9c, 0x40, 0x01,
        0xbb,
    ];

    #[test]
    fn a_syn_is_read_with_addresses_and_ports() {
        let refused = ip_packet(&SYN4).unwrap();
        assert_eq!(refused.protocol, RefusedProtocol::Tcp);
        assert_eq!(refused.source, "10.0.2.15:40000".parse().unwrap());
        assert_eq!(refused.destination, "192.0.2.1:443".parse().unwrap());
    }

    #[test]
    fn what_found_no_room_is_counted_by_the_numbers_that_are_missing() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let log = RefusedLog::new(socket.into());
        let lost = [0, 1, 5, 6, 4_000_000_000].map(|number| log.lost_before(number));
        assert_eq!(lost, [0, 0, 3, 0, MAX_LOST]);
        log.lost_before(u32::MAX);
        assert_eq!([1, 2].map(|number| log.lost_before(number)), [1, 0]);
    }

    #[test]
    fn every_prefix_of_a_packet_is_harmless() {
        for end in 0..SYN4.len() {
            let refused = ip_packet(&SYN4[..end]);
            assert_eq!(refused.is_some(), end >= 20, "{end}");
        }
        let mut v6 = [0_u8; 48];
        v6[0] = 0x60;
        v6[6] = 58;
        for end in 0..v6.len() {
            assert_eq!(ip_packet(&v6[..end]).is_some(), end >= 40, "{end}");
        }
        assert_eq!(ip_packet(&v6).unwrap().protocol, RefusedProtocol::Icmp);
        assert!(ip_packet(&[0x55; 40]).is_none(), "neither IPv4 nor IPv6");
    }
}
