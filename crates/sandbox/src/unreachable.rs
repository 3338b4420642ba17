//! Errors for programs inside whose datagrams were not taken: ICMP messages, written outside and sent
//! inside.
//!
//! A datagram that reaches the gateway has left its program without an error. What the network says
//! when nobody takes it, the gateway says here, so that a program fails at once and does not wait for
//! an answer. The kernel shows it as it does everywhere: to a socket that is connected, and to one that
//! asks for errors (`IP_RECVERR`).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

use crate::sockets::Family;

const UDP: u8 = 17;
const UDP_HEADER_BYTES: u16 = 8;
const HEADER4_BYTES: u16 = 20;
const HEADER6_BYTES: u16 = 40;
/// An ICMP header, before the header of the packet that it is about.
const ICMP_HEADER_BYTES: u16 = 8;
const HOP_LIMIT: u8 = 64;

/// What a program is told of a datagram that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Nobody takes it there: `ECONNREFUSED`.
    Port,
    /// No way leads there: `ENETUNREACH`. The kernel shows it to every connected IPv4 socket, and to an
    /// IPv6 one that asks for errors.
    Network,
    /// It may not go there: `EHOSTUNREACH` (IPv4) or `EACCES` (IPv6).
    Prohibited,
}

impl Unreachable {
    /// Type and code of the ICMP message (RFC 792, RFC 1812 section 5.2.7.1; RFC 4443 section 3.1).
    fn code(self, family: Family) -> [u8; 2] {
        match (family, self) {
            (Family::V4, Self::Port) => [3, 3],
            // "Network unknown": of those that say so, the one that the kernel shows (icmp(7)).
            (Family::V4, Self::Network) => [3, 6],
            (Family::V4, Self::Prohibited) => [3, 13],
            (Family::V6, Self::Port) => [1, 4],
            (Family::V6, Self::Network) => [1, 0],
            (Family::V6, Self::Prohibited) => [1, 1],
        }
    }
}

/// Sends the errors. May be shared by threads.
#[derive(Debug)]
pub struct DatagramErrors {
    v4: OwnedFd,
    v6: OwnedFd,
}

/// Makes a socket that sends whole IP packets and receives none. Needs `CAP_NET_RAW`.
pub(crate) fn make_socket(family: Family) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    Ok(socket_with(
        family,
        SocketType::RAW,
        flags,
        Some(ipproto::RAW),
    )?)
}

impl DatagramErrors {
    pub(crate) fn new(v4: OwnedFd, v6: OwnedFd) -> Self {
        Self { v4, v6 }
    }

    /// Tells the socket at `client` that what it sent to `server` was not taken. Never blocks.
    ///
    /// # Errors
    /// The two are of different families, or the kernel has no memory for the message.
    pub fn send(&self, why: Unreachable, client: SocketAddr, server: SocketAddr) -> io::Result<()> {
        match (plain(client), plain(server)) {
            (SocketAddr::V4(client), SocketAddr::V4(server)) => {
                let packet = packet4(why, client, server);
                let to = SocketAddrV4::new(*client.ip(), 0);
                sendto(self.v4.as_fd(), &packet, SendFlags::DONTWAIT, &to)?;
            }
            (SocketAddr::V6(client), SocketAddr::V6(server)) => {
                let packet = packet6(why, client, server);
                let to = SocketAddrV6::new(*client.ip(), 0, 0, 0);
                sendto(self.v6.as_fd(), &packet, SendFlags::DONTWAIT, &to)?;
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }
}

fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An IPv4 packet that says so of a datagram from `client` to `server`.
fn packet4(why: Unreachable, client: SocketAddrV4, server: SocketAddrV4) -> Vec<u8> {
    let about = [
        header4(UDP, *client.ip(), *server.ip(), UDP_HEADER_BYTES).as_slice(),
        &udp_header(client.port(), server.port()),
    ]
    .concat();
    let mut message = icmp(why.code(Family::V4), &about);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    const ICMP: u8 = 1;
    let header = header4(ICMP, *server.ip(), *client.ip(), message.len() as u16);
    [header.as_slice(), &message].concat()
}

/// An IPv6 packet that says so of a datagram from `client` to `server`.
fn packet6(why: Unreachable, client: SocketAddrV6, server: SocketAddrV6) -> Vec<u8> {
    const ICMP6: u8 = 58;
    let about = [
        header6(UDP, *client.ip(), *server.ip(), UDP_HEADER_BYTES).as_slice(),
        &udp_header(client.port(), server.port()),
    ]
    .concat();
    let mut message = icmp(why.code(Family::V6), &about);
    let length = message.len() as u16;
    // The pseudo-header of RFC 8200, section 8.1.
    let summed = [
        server.ip().octets().as_slice(),
        &client.ip().octets(),
        &u32::from(length).to_be_bytes(),
        &[0, 0, 0, ICMP6],
        &message,
    ]
    .concat();
    message[2..4].copy_from_slice(&checksum(&summed));
    let header = header6(ICMP6, *server.ip(), *client.ip(), length);
    [header.as_slice(), &message].concat()
}

/// An ICMP message without its checksum.
fn icmp([kind, code]: [u8; 2], about: &[u8]) -> Vec<u8> {
    let mut message = vec![0; usize::from(ICMP_HEADER_BYTES)];
    message[0] = kind;
    message[1] = code;
    message.extend_from_slice(about);
    message
}

fn header4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: u16) -> [u8; 20] {
    const VERSION_AND_WORDS: u8 = 0x45;
    let mut header = [0; HEADER4_BYTES as usize];
    header[0] = VERSION_AND_WORDS;
    header[2..4].copy_from_slice(&(HEADER4_BYTES + payload).to_be_bytes());
    header[8] = HOP_LIMIT;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    header
}

fn header6(protocol: u8, from: Ipv6Addr, to: Ipv6Addr, payload: u16) -> [u8; 40] {
    const VERSION: u8 = 0x60;
    let mut header = [0; HEADER6_BYTES as usize];
    header[0] = VERSION;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[6] = protocol;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());
    header
}

fn udp_header(from: u16, to: u16) -> [u8; 8] {
    let mut header = [0; UDP_HEADER_BYTES as usize];
    header[..2].copy_from_slice(&from.to_be_bytes());
    header[2..4].copy_from_slice(&to.to_be_bytes());
    header[4..6].copy_from_slice(&UDP_HEADER_BYTES.to_be_bytes());
    header
}

/// The Internet checksum (RFC 1071) of a few bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::sys;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn a_checksum_makes_the_sum_of_all_words_zero() {
        let header = header4(
            UDP,
            Ipv4Addr::new(10, 0, 2, 15),
            Ipv4Addr::new(192, 0, 2, 1),
            8,
        );
        assert_ne!(header[10..12], [0, 0]);
        assert_eq!(checksum(&header), [0, 0]);
        assert_eq!(checksum(&[]), [0xff, 0xff]);
        assert_eq!(checksum(&[1]), [0xfe, 0xff]);
    }

    /// Runs itself once more in a network namespace, where whoever made it may make raw sockets.
    #[test]
    fn a_connected_socket_sees_the_error_and_another_does_not() {
        const INSIDE: &str = "PORTCULLIS_TEST_INSIDE";
        const NAME: &str = "a_connected_socket_sees_the_error_and_another_does_not";
        if std::env::var_os(INSIDE).is_none() {
            let own = std::env::current_exe().unwrap();
            let script = "ip link set lo up && exec \"$0\" --exact \"$1\"";
            let mut command = std::process::Command::new("unshare");
            command.args(["-Urn", "sh", "-c", script]).arg(own);
            command.arg(format!("unreachable::tests::{NAME}"));
            let ran = command.env(INSIDE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success() && said.contains("1 passed"), "{ran:?}");
            return;
        }
        let errors = DatagramErrors::new(
            make_socket(Family::V4).unwrap(),
            make_socket(Family::V6).unwrap(),
        );
        for at in ["127.0.0.1:0", "[::1]:0"] {
            // Somebody takes the datagrams, so that the kernel itself says nothing.
            let server = UdpSocket::bind(at).unwrap();
            let at_server = server.local_addr().unwrap();
            let errno = |why, recverr| {
                let client = UdpSocket::bind(at).unwrap();
                let other = UdpSocket::bind(at).unwrap();
                if recverr {
                    let (level, option) = (libc::SOL_IPV6, libc::IPV6_RECVERR);
                    sys::set_option(client.as_fd(), level, option, 1).unwrap();
                }
                for socket in [&client, &other] {
                    socket.connect(at_server).unwrap();
                    socket.send(b"x").unwrap();
                }
                errors
                    .send(why, client.local_addr().unwrap(), at_server)
                    .unwrap();
                other.set_nonblocking(true).unwrap();
                let heard = other.recv(&mut [0; 8]).unwrap_err();
                assert_eq!(heard.kind(), io::ErrorKind::WouldBlock);
                client.set_read_timeout(Some(LIMIT)).unwrap();
                client.recv(&mut [0; 8]).unwrap_err().raw_os_error()
            };
            let v4 = at_server.is_ipv4();
            let prohibited = if v4 { libc::EHOSTUNREACH } else { libc::EACCES };
            for (why, recverr, expected) in [
                (Unreachable::Port, false, libc::ECONNREFUSED),
                (Unreachable::Network, !v4, libc::ENETUNREACH),
                (Unreachable::Prohibited, false, prohibited),
            ] {
                assert_eq!(errno(why, recverr), Some(expected), "{at}");
            }
        }
        let mixed = errors.send(
            Unreachable::Port,
            ([127, 0, 0, 1], 1).into(),
            "[::1]:1".parse().unwrap(),
        );
        assert!(mixed.is_err());
    }
}
