//! Unix sockets of the host that a program inside asked for, as the supervisor tells them to the gateway,
//! which records them.
//!
//! The supervisor never waits for the gateway: what finds no room is counted and told with the next.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::channel::{Channel, MAX_MESSAGE_BYTES};

/// How many were lost comes before the path.
const HEAD_BYTES: usize = size_of::<u32>();

/// A socket that was not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixRefusal {
    /// Where it is, as the program sees it.
    pub path: PathBuf,
    /// Whether the program found a socket there; otherwise it found nothing, as behind a mask.
    pub found: bool,
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
        let mut message = self.lost.to_ne_bytes().to_vec();
        message.push(found.into());
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
        let (found, path) = rest.split_first().unwrap_or((&0, &[]));
        Ok(Some(UnixRefusal {
            path: Path::new(&OsString::from_vec(path.to_vec())).to_owned(),
            found: *found != 0,
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
        assert_eq!((first.path, first.lost), ("/run/a.sock".into(), 0));
        teller.tell(b"/run/b.sock", false);
        let mut last = None;
        while let Some(refusal) = refusals.next().unwrap() {
            last = Some(refusal);
        }
        let expected = UnixRefusal {
            path: "/run/b.sock".into(),
            found: false,
            lost: 2,
        };
        assert_eq!(last, Some(expected));
        drop(teller);
        assert!(refusals.next().is_err());
    }
}
