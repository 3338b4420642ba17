//! Which Unix sockets were made inside: those that a program of this sandbox listens on.
//!
//! Answers *around the gateway* (docs/threats.md). A socket is known by the file that the kernel says
//! it is bound to, never by a path, so it may be moved, linked or reached through any mount and
//! network namespace. It is known as long as it lives: a file keeps its number while its socket lives,
//! but not longer, and the number may then be that of a socket of the host.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use rustix::event::epoll;
use rustix::fs::{Stat, fstat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, getpeername, sockopt};

use crate::notification::errno;
use crate::sys;

/// The most sockets that are known at a time; one more is not, and nobody can connect to it.
const MAX_LISTENERS: usize = 4096;
/// The longest line of the list of watched sockets, in bytes.
const MAX_LINE_BYTES: usize = 128;
/// The longest list of watched sockets, in bytes.
const MAX_LIST_BYTES: usize = MAX_LISTENERS * MAX_LINE_BYTES;
/// A usual length of that list, in bytes.
const USUAL_LIST_BYTES: usize = 4096;
/// `SIOCUNIXFILE`: opens the file that a socket is bound to.
const OPEN_BOUND_FILE: libc::Ioctl = 0x89e0;

/// A file, by its file system and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }
}

/// The sockets that programs inside listen on.
///
/// The kernel's own list of what an epoll instance watches says which of them live: it drops a socket
/// by itself when its last descriptor is closed, and watching keeps none open.
#[derive(Debug)]
pub(crate) struct InsideSockets {
    watched: OwnedFd,
    /// The list of what is watched, as text.
    list: File,
    text: Vec<u8>,
    /// The mark by which each is watched.
    marks: HashMap<FileId, u64>,
    next: u64,
}

impl InsideSockets {
    pub(crate) fn new() -> Result<Self, Errno> {
        let watched = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let list = format!("/proc/self/fdinfo/{}", watched.as_raw_fd());
        Ok(Self {
            list: errno(File::open(list))?,
            watched,
            text: vec![0; USUAL_LIST_BYTES],
            marks: HashMap::new(),
            next: 0,
        })
    }

    /// Takes note of a socket on which a program inside is about to listen.
    ///
    /// A descriptor of the program's may be one that it was given. Only a socket that is not connected
    /// counts: one that a listener of the host has accepted bears that listener's path.
    pub(crate) fn add(&mut self, socket: OwnedFd) -> Result<(), Errno> {
        if sockopt::socket_domain(&socket)? != AddressFamily::UNIX {
            return Ok(());
        }
        match getpeername(&socket) {
            Err(Errno::NOTCONN) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error),
        }
        // One without a path needs no permission.
        let Some(file) = bound_file(&socket)? else {
            return Ok(());
        };
        let file = FileId::of(&fstat(file)?);
        if self.lives(file) {
            return Ok(());
        }
        if self.marks.len() >= MAX_LISTENERS {
            self.forget_dead();
        }
        if self.marks.len() >= MAX_LISTENERS {
            return Err(Errno::NOBUFS);
        }
        let mark = self.next;
        self.next += 1;
        // Nothing is waited for.
        let data = epoll::EventData::new_u64(mark);
        epoll::add(&self.watched, &socket, data, epoll::EventFlags::empty())?;
        self.marks.insert(file, mark);
        Ok(())
    }

    /// Whether this is the file of a socket that was made inside and lives.
    pub(crate) fn lives(&mut self, file: FileId) -> bool {
        let Some(mark) = self.marks.get(&file).copied() else {
            return false;
        };
        let lives = self.living().any(|living| living == mark);
        if !lives {
            self.marks.remove(&file);
        }
        lives
    }

    fn forget_dead(&mut self) {
        let living: std::collections::HashSet<u64> = self.living().collect();
        self.marks.retain(|_, mark| living.contains(mark));
    }

    /// The marks of the sockets that live. What cannot be read does not live.
    fn living(&mut self) -> impl Iterator<Item = u64> {
        let length = loop {
            match self.list.read_at(&mut self.text, 0) {
                Ok(length) if length == self.text.len() && length < MAX_LIST_BYTES => {
                    let longer = (self.text.len() * 2).min(MAX_LIST_BYTES);
                    self.text.resize(longer, 0);
                }
                Ok(length) => break length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break 0,
            }
        };
        marks_in(&self.text[..length])
    }
}

/// The marks in lines like `tfd: 5 events: 18 data: 7 pos:0 ino:1c2 sdev:9`.
pub(crate) fn marks_in(list: &[u8]) -> impl Iterator<Item = u64> {
    list.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
        words.find(|word| *word == "data:")?;
        u64::from_str_radix(words.next()?, 16).ok()
    })
}

/// The file that a socket is bound to; none where it is bound to no path.
fn bound_file(socket: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    // SAFETY: the descriptor is live, and the request takes no argument.
    let opened = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), OPEN_BOUND_FILE, 0) };
    match errno(sys::check(opened)) {
        // SAFETY: the kernel has just opened this descriptor, and nobody else has it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })),
        Err(Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn id(path: &std::path::Path) -> FileId {
        FileId::of(&rustix::fs::stat(path).unwrap())
    }

    fn copy(socket: impl AsFd) -> OwnedFd {
        socket.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_listener_is_known_as_long_as_it_lives_and_wherever_it_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let mut known = InsideSockets::new().unwrap();
        let path = folder.path().join("a");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(!known.lives(id(&path)), "nobody has said so");
        known.add(copy(&listener)).unwrap();
        let moved = folder.path().join("b");
        std::fs::rename(&path, &moved).unwrap();
        assert!(known.lives(id(&moved)));
        let second = listener.try_clone().unwrap();
        drop(listener);
        assert!(known.lives(id(&moved)), "a copy is open");
        drop(second);
        assert!(
            !known.lives(id(&moved)),
            "its file is left, but nothing else"
        );
    }

    #[test]
    fn what_a_listener_has_accepted_does_not_stand_for_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let mut known = InsideSockets::new().unwrap();
        known.add(copy(&accepted)).unwrap();
        drop(client);
        known.add(copy(&accepted)).unwrap();
        assert!(!known.lives(id(&path)));
    }

    #[test]
    fn many_listeners_are_known_and_the_dead_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut known = InsideSockets::new().unwrap();
        let mut listeners = Vec::new();
        for number in 0..200 {
            let path = folder.path().join(number.to_string());
            let listener = UnixListener::bind(&path).unwrap();
            known.add(copy(&listener)).unwrap();
            listeners.push((listener, path));
        }
        assert!(listeners.iter().all(|(_, path)| known.lives(id(path))));
        let (_, dead) = listeners.remove(0);
        known.forget_dead();
        assert_eq!(known.marks.len(), 199);
        assert!(!known.lives(id(&dead)));
        // Sockets of other families, and those without a path, are no matter.
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        known.add(copy(&tcp)).unwrap();
        let (pair, _other) = UnixStream::pair().unwrap();
        known.add(copy(&pair)).unwrap();
        assert_eq!(known.marks.len(), 199);
    }

    #[test]
    fn lines_without_a_mark_are_passed_over() {
        let list = b"pos:\t0\nflags:\t02\ntfd:        5 events:       18 data:              1f  pos:0 ino:1 sdev:9\n";
        assert_eq!(marks_in(list).collect::<Vec<_>>(), [31]);
        assert_eq!(marks_in(b"data: x\ndata:\n\xff\n").count(), 0);
    }
}
