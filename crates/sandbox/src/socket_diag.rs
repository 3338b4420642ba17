//! One connection's socket, asked of the kernel by its two addresses (sock_diag(7)).
//!
//! The kernel's TCP table is one for the whole host: reading it as text takes milliseconds, which
//! would use up the time in which a refusal has to arrive. A question for one connection is a look
//! into that table, on a netlink socket that lives inside the sandbox and so sees nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::netlink::SOCK_DIAG;

use crate::netlink::{self, Batch};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// A cookie that matches any socket: `INET_DIAG_NOCOOKIE`, twice.
const ANY_COOKIE: [u8; 8] = [0xFF; 8];
/// Every state of a connection.
const ALL_STATES: [u8; 4] = [0xFF; 4];
/// `TCP_LISTEN`: what answers where there is no such connection.
const LISTEN: u8 = 10;
/// Where the state stands in `struct inet_diag_msg`.
const STATE_AT: usize = 1;
/// Where the inode stands.
const INODE_AT: usize = 68;
/// `struct inet_diag_req_v2`, in bytes.
const REQUEST_BYTES: usize = 56;
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
        let Some(request) = request(local, remote) else {
            return Ok(None);
        };
        let mut batch = Batch::with_capacity(2 * REQUEST_BYTES);
        batch.message(BY_FAMILY, 0, &request);
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        netlink::tell(socket.as_fd(), batch)?;
        let mut buffer = [0_u8; ANSWER_BYTES];
        for _ in 0..MAX_ANSWERS {
            let length = netlink::receive(socket.as_fd(), &mut buffer)?;
            let Some((header, body, _)) = netlink::next_message(&buffer[..length]) else {
                break;
            };
            if header.kind == BY_FAMILY {
                return Ok(inode(body, local));
            }
            match netlink::answer(body) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBADMSG))
    }
}

/// `struct inet_diag_req_v2`; none for ends of different families.
fn request(local: SocketAddr, remote: SocketAddr) -> Option<[u8; REQUEST_BYTES]> {
    let family = match (local.ip(), remote.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => libc::AF_INET,
        (IpAddr::V6(_), IpAddr::V6(_)) => libc::AF_INET6,
        _ => return None,
    };
    let mut request = [0; REQUEST_BYTES];
    request[0] = family as u8;
    request[1] = libc::IPPROTO_TCP as u8;
    request[4..8].copy_from_slice(&ALL_STATES);
    request[8..10].copy_from_slice(&local.port().to_be_bytes());
    request[10..12].copy_from_slice(&remote.port().to_be_bytes());
    put(&mut request[12..28], local.ip());
    put(&mut request[28..44], remote.ip());
    // Any interface, any cookie.
    request[48..56].copy_from_slice(&ANY_COOKIE);
    Some(request)
}

fn put(room: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(address) => room[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => room.copy_from_slice(&address.octets()),
    }
}

/// Reads `struct inet_diag_msg`.
fn inode(answer: &[u8], local: SocketAddr) -> Option<u64> {
    let inode = answer.get(INODE_AT..INODE_AT + 4)?;
    let inode = u32::from_ne_bytes(inode.try_into().ok()?);
    let port = answer.get(4..6)? == local.port().to_be_bytes();
    let connection = *answer.get(STATE_AT)? != LISTEN;
    (port && connection && inode != 0).then_some(inode.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::fs::MetadataExt;

    use super::*;

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
    fn every_prefix_of_an_answer_is_harmless() {
        let local = SocketAddr::from(([10, 0, 2, 15], 4000));
        let mut answer = [0_u8; INODE_AT + 4];
        answer[4..6].copy_from_slice(&4000_u16.to_be_bytes());
        answer[INODE_AT..].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(inode(&answer, local), Some(7));
        for end in 0..answer.len() {
            assert_eq!(inode(&answer[..end], local), None);
        }
        answer[STATE_AT] = LISTEN;
        assert_eq!(inode(&answer, local), None);
    }
}
