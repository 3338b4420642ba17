//! The socket of one connection or flow, asked of the kernel by its two addresses (sock_diag(7)).
//!
//! The kernel's TCP table is one for the whole host: reading it as text takes milliseconds, which
//! would use up the time in which a refusal has to arrive. Any table read as text may miss a socket
//! while others come and go. A question for one socket is a look into the table, as for a packet that
//! arrives, on a netlink socket that lives inside the sandbox and so sees nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::Parseable;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DIAG_BY_FAMILY, TCP_LISTEN,
};
use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;

use crate::netlink::{self, Batch};

/// A cookie that matches any socket: `INET_DIAG_NOCOOKIE`, twice.
const ANY_COOKIE: [u8; 8] = [0xFF; 8];
/// The loopback, by which every packet comes: a socket that is bound to a device is bound to this one.
const LOOPBACK_INDEX: u32 = 1;
/// Room for a question, in bytes.
const REQUEST_BYTES: usize = 128;
/// Room for one answer, in bytes.
const ANSWER_BYTES: usize = 1024;
/// The most packets read for one question: its answer, and what an earlier one left.
const MAX_ANSWERS: usize = 4;

/// The sandbox's sockets, to be asked one by one. May be shared by threads.
#[derive(Debug)]
pub(crate) struct SocketDiag(Mutex<OwnedFd>);

/// Makes the netlink socket.
pub(crate) fn make_socket() -> io::Result<OwnedFd> {
    netlink::open(Some(SOCK_DIAG))
}

impl SocketDiag {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket))
    }

    /// The inode of the TCP socket with these ends; none where there is no such connection or no
    /// program has it any more.
    ///
    /// # Errors
    /// The kernel does not answer such questions.
    pub(crate) fn tcp(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u64>> {
        let Some(request) = request(IPPROTO_TCP, local, remote) else {
            return Ok(None);
        };
        self.ask(&request, |answer| inode(answer, local))
            .map(Option::flatten)
    }

    /// Whether there is a UDP socket that a datagram from `remote` to `local` would reach. Where the
    /// kernel does not know such questions, there is none.
    ///
    /// # Errors
    /// The kernel did not answer.
    pub(crate) fn has_udp(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
        // The kernel looks for the receiver of a datagram that has these ends.
        let Some(mut request) = request(IPPROTO_UDP, remote, local) else {
            return Ok(false);
        };
        request.socket_id.interface_id = LOOPBACK_INDEX;
        let found = self.ask(&request, |_| ())?;
        Ok(found.is_some())
    }

    /// What an answer to one question says; none where there is no such socket.
    fn ask<T>(&self, request: &InetRequest, read: impl Fn(&[u8]) -> T) -> io::Result<Option<T>> {
        let mut batch = Batch::with_capacity(REQUEST_BYTES);
        batch.emit(SOCK_DIAG_BY_FAMILY, 0, request);
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        netlink::send_batch(socket.as_fd(), batch)?;
        let mut buffer = [0_u8; ANSWER_BYTES];
        for _ in 0..MAX_ANSWERS {
            let length = netlink::receive(socket.as_fd(), &mut buffer)?;
            let Some((header, body, _)) = netlink::next_message(&buffer[..length]) else {
                break;
            };
            if header.kind == SOCK_DIAG_BY_FAMILY {
                return Ok(Some(read(body)));
            }
            match netlink::result(body) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        Err(Errno::BADMSG.into())
    }
}

/// The question for one socket; none for ends of different families.
fn request(protocol: u8, source: SocketAddr, destination: SocketAddr) -> Option<InetRequest> {
    let family = match (source.ip(), destination.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => AF_INET,
        (IpAddr::V6(_), IpAddr::V6(_)) => AF_INET6,
        _ => return None,
    };
    Some(InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: source.port(),
            destination_port: destination.port(),
            source_address: source.ip(),
            destination_address: destination.ip(),
            interface_id: 0,
            cookie: ANY_COOKIE,
        },
    })
}

/// The inode that an answer tells. A listener answers where there is no such connection, and a
/// connection that its program has closed has none.
pub(crate) fn inode(answer: &[u8], local: SocketAddr) -> Option<u64> {
    let found = InetResponseHeader::parse(answer).ok()?;
    let it_is = found.socket_id.source_port == local.port() && found.state != TCP_LISTEN;
    (it_is && found.inode != 0).then_some(found.inode.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::linux::fs::MetadataExt;

    use super::*;
    use crate::sys;

    fn inode_of(stream: &TcpStream) -> u64 {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(stream));
        std::fs::metadata(path).unwrap().st_ino()
    }

    #[test]
    fn each_end_of_a_connection_is_found_and_nothing_after_its_end() {
        let diag = SocketDiag::new(make_socket().unwrap());
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let server = listener.local_addr().unwrap();
            let stream = TcpStream::connect(server).unwrap();
            let (accepted, client) = listener.accept().unwrap();
            let found = diag.tcp(client, server).unwrap();
            assert_eq!(found, Some(inode_of(&stream)));
            let found = diag.tcp(server, client).unwrap();
            assert_eq!(found, Some(inode_of(&accepted)));
            drop(stream);
            assert_eq!(diag.tcp(client, server).unwrap(), None, "closed");
            drop(accepted);
            assert_eq!(diag.tcp(server, client).unwrap(), None, "the listener");
        }
        let mixed = diag.tcp(([127, 0, 0, 1], 1).into(), "[::1]:1".parse().unwrap());
        assert_eq!(mixed.unwrap(), None);
    }

    #[test]
    fn a_datagram_socket_is_found_by_whatever_it_may_receive_and_not_after_its_end() {
        let diag = SocketDiag::new(make_socket().unwrap());
        let server = |text: &str| text.parse().unwrap();
        for (at, as_seen, one, other) in [
            ("127.0.0.1:0", "127.0.0.1", "192.0.2.1:53", "192.0.2.2:53"),
            ("0.0.0.0:0", "127.0.0.1", "192.0.2.1:53", "192.0.2.2:53"),
            ("[::]:0", "127.0.0.1", "192.0.2.1:53", "192.0.2.2:53"),
            ("[::1]:0", "::1", "[2001:db8::1]:53", "[2001:db8::2]:53"),
        ] {
            let socket = UdpSocket::bind(at).unwrap();
            let port = socket.local_addr().unwrap().port();
            let local = SocketAddr::new(as_seen.parse().unwrap(), port);
            for from in [one, other] {
                assert!(diag.has_udp(local, server(from)).unwrap(), "{at} {from}");
            }
            drop(socket);
            assert!(!diag.has_udp(local, server(one)).unwrap(), "{at} closed");
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let option = libc::SO_BINDTOIFINDEX;
        sys::set_option(
            socket.as_fd(),
            libc::SOL_SOCKET,
            option,
            LOOPBACK_INDEX as i32,
        )
        .unwrap();
        assert!(diag.has_udp(local, server("192.0.2.1:53")).unwrap());
        socket.connect("127.0.0.1:9").unwrap();
        assert!(diag.has_udp(local, server("127.0.0.1:9")).unwrap());
        assert!(!diag.has_udp(local, server("192.0.2.1:53")).unwrap());
    }

    #[test]
    fn every_prefix_of_an_answer_is_harmless() {
        let local = SocketAddr::from(([10, 0, 2, 15], 4000));
        // `struct inet_diag_msg`: family, state, two bytes, the local port; the inode comes last.
        let mut answer = [0_u8; 72];
        answer[0] = AF_INET;
        answer[4..6].copy_from_slice(&4000_u16.to_be_bytes());
        answer[68..].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(inode(&answer, local), Some(7));
        for end in 0..answer.len() {
            assert_eq!(inode(&answer[..end], local), None);
        }
        answer[1] = TCP_LISTEN;
        assert_eq!(inode(&answer, local), None);
    }
}
