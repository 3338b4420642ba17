//! Who is at the other end of a Unix socket.
//!
//! Answers *around the gateway* (docs/threats.md): a control socket asks this before it takes a request,
//! so that a process in a sandbox that found a way to the socket's file gets nothing from it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use crate::sys;

/// The most groups that a process can have (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;
/// Groups that fit without a second call.
const USUAL_GROUPS: usize = 32;

/// A process that has connected, as it was when it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// The process, as this one sees it.
    pub pid: u32,
    /// The number of the network namespace that it connected in.
    network: u64,
}

impl Peer {
    /// The process that made this connection (`SO_PEERCRED`, `SO_PEERGROUPS`; unix(7)).
    ///
    /// # Errors
    /// It is no Unix socket, or the process is in a PID namespace that this one cannot see.
    pub fn of(socket: impl AsFd) -> io::Result<Peer> {
        let socket = socket.as_fd();
        let credentials = credentials(socket)?;
        Ok(Peer {
            uid: credentials.uid,
            gid: credentials.gid,
            groups: groups(socket)?,
            network: network(socket)?,
            pid: u32::try_from(credentials.pid).map_err(io::Error::other)?,
        })
    }

    /// Whether its end of the connection was made in this process's own network namespace, and so in no
    /// sandbox. A socket of a Unix connection has the namespace of whoever connected.
    ///
    /// # Errors
    /// There is no socket to compare with, or the kernel is older than 5.14.
    pub fn shares_network(&self) -> io::Result<bool> {
        Ok(self.network == own_network()?)
    }
}

/// The number of the network namespace that this thread is in.
pub(crate) fn own_network() -> io::Result<u64> {
    network(UnixDatagram::unbound()?.as_fd())
}

/// Read as the kernel writes it: the process is 0 where this one's PID namespace does not have it.
fn credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut found = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut bytes = libc::socklen_t::try_from(size_of_val(&found)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most the bytes of a live value, and how many.
    sys::check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut bytes,
        )
    })?;
    match found.pid {
        0 => Err(io::Error::other(
            "it is in a process namespace that cannot be seen from here",
        )),
        _ => Ok(found),
    }
}

/// The number of the network namespace in which a socket was made (`SO_NETNS_COOKIE`).
pub(crate) fn network(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut bytes = libc::socklen_t::try_from(size_of_val(&cookie)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most the eight bytes of a live number, and how many.
    sys::check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut bytes,
        )
    })?;
    Ok(cookie)
}

fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; USUAL_GROUPS];
    loop {
        let mut bytes =
            libc::socklen_t::try_from(size_of_val(&*groups)).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `bytes` bytes into the live vector, and their number.
        let read = sys::check(unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        });
        let count = usize::try_from(bytes).map_err(io::Error::other)? / size_of::<u32>();
        match read {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count <= MAX_GROUPS => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn this_process_is_its_own_peer() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        assert_eq!(peer.pid, std::process::id());
        assert!(peer.shares_network().unwrap());
        let mut groups: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .iter()
            .map(|group| group.as_raw())
            .collect();
        let mut seen = peer.groups.clone();
        groups.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, groups);
    }
}
