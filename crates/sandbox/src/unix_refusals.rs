//! Unix sockets of the host, and raw sockets, that a program inside asked for, as the supervisor tells
//! them to the gateway, which records them.
//!
//! The supervisor never waits for the gateway: what finds no room is counted and told with the next.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::channel::{Channel, MAX_MESSAGE_BYTES};

/// How many were lost comes before what it was.
const HEAD_BYTES: usize = size_of::<u32>();
/// What it was: a Unix socket behind a mask, one that was found, a raw socket.
const MASKED: u8 = 0;
const FOUND: u8 = 1;
const RAW: u8 = 2;

/// A socket that a program did not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusedSocket {
    /// A Unix socket.
    Unix {
        /// Where it is, as the program sees it.
        path: PathBuf,
        /// Whether the program found a socket there; otherwise it found nothing, as behind a mask.
        found: bool,
    },
    /// A raw Internet socket.
    Raw,
}

/// A socket that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixRefusal {
    /// Which one.
    pub socket: RefusedSocket,
    /// How many others were not told before it.
    pub lost: u32,
}

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct Teller {
    channel: Channel,
    lost: u32,
}

impl Teller {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel, lost: 0 }
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.channel.as_fd().as_raw_fd()
    }

    pub(crate) fn tell(&mut self, path: &[u8], found: bool) {
        self.send(if found { FOUND } else { MASKED }, path);
    }

    pub(crate) fn tell_raw(&mut self) {
        self.send(RAW, &[]);
    }

    fn send(&mut self, what: u8, path: &[u8]) {
        let mut message = self.lost.to_ne_bytes().to_vec();
        message.push(what);
        let room = MAX_MESSAGE_BYTES - message.len();
        message.extend_from_slice(&path[..path.len().min(room)]);
        match self.channel.send(&message, &[]) {
            Ok(()) => self.lost = 0,
            Err(_) => self.lost = self.lost.saturating_add(1),
        }
    }
}

/// The gateway's end. Readable when something was refused, and at the sandbox's end.
#[derive(Debug)]
pub struct UnixRefusals(Channel);

impl UnixRefusals {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(channel)
    }

    /// The next refusal; none where there is none yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] once nobody can tell any more.
    pub fn next(&self) -> io::Result<Option<UnixRefusal>> {
        let Some(message) = self.0.receive_now()? else {
            return Ok(None);
        };
        let Some((lost, rest)) = message.bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let socket = match rest.split_first() {
            Some((&RAW, _)) => RefusedSocket::Raw,
            told => {
                let (what, path) = told.unwrap_or((&MASKED, &[]));
                RefusedSocket::Unix {
                    path: OsString::from_vec(path.to_vec()).into(),
                    found: *what == FOUND,
                }
            }
        };
        Ok(Some(UnixRefusal {
            socket,
            lost: u32::from_ne_bytes(*lost),
        }))
    }
}

impl AsFd for UnixRefusals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for UnixRefusals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_and_what_finds_no_room_is_counted() {
        let (ours, theirs) = Channel::pair().unwrap();
        let (mut teller, refusals) = (Teller::new(ours), UnixRefusals::new(theirs));
        assert_eq!(refusals.next().unwrap(), None);
        for _ in 0..100_000 {
            teller.tell(b"/run/a.sock", true);
            if teller.lost > 1 {
                break;
            }
        }
        assert_eq!(teller.lost, 2);
        let first = refusals.next().unwrap().unwrap();
        let unix = |path: &str, found| RefusedSocket::Unix {
            path: path.into(),
            found,
        };
        assert_eq!((first.socket, first.lost), (unix("/run/a.sock", true), 0));
        teller.tell(b"/run/b.sock", false);
        let mut last = None;
        while let Some(refusal) = refusals.next().unwrap() {
            last = Some(refusal);
        }
        let expected = UnixRefusal {
            socket: unix("/run/b.sock", false),
            lost: 2,
        };
        assert_eq!(last, Some(expected));
        teller.tell_raw();
        let raw = refusals.next().unwrap().unwrap();
        assert_eq!((raw.socket, raw.lost), (RefusedSocket::Raw, 0));
        drop(teller);
        assert!(refusals.next().is_err());
    }
}
