//! Folders that the sandboxed program cannot write in, by any path, from before it started.
//!
//! Answers *failing open* (docs/threats.md). What is made in such a folder is the operator's, however it
//! is saved: written in place, by a new file, or by a rename within the folder. What is moved there from
//! another folder may have been the program's, which may still have it open: that is not read.

use super::identity::Identity;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// What is read of events at once, bytes.
const EVENT_BYTES: usize = 8 * 1024;
/// Names in one folder that are known to have come from elsewhere; with more, all count as such.
const MAX_FOREIGN: usize = 1024;

/// One such folder, and what was moved there since.
#[derive(Debug)]
pub(super) struct Covered {
    identity: Identity,
    /// Names come and go in it.
    events: OwnedFd,
    /// Files that came from another folder, by their names here.
    foreign: BTreeSet<Vec<u8>>,
    /// The rename of which only the first half was heard: its number, and whether its file is foreign.
    moving: Option<(u32, bool)>,
    /// Set once something was missed.
    lost: bool,
}

impl Covered {
    /// Listens from now on; call it while no program runs yet.
    pub(super) fn new(folder: BorrowedFd<'_>) -> io::Result<Covered> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
        let kinds = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&events, path.as_str(), kinds)?;
        Ok(Covered {
            identity: Identity::of(folder)?,
            events,
            foreign: BTreeSet::new(),
            moving: None,
            lost: false,
        })
    }

    /// Whether this is that folder.
    pub(super) fn is(&self, folder: Identity) -> bool {
        self.identity == folder
    }

    /// Whether what has this name by now may have come from another folder.
    pub(super) fn came_from_elsewhere(&mut self, name: &[u8]) -> bool {
        self.listen();
        self.lost || self.foreign.contains(name)
    }

    fn listen(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut reader = Reader::new(&self.events, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.lost = true;
                    break;
                }
            };
            let kind = event.events();
            if kind.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED) {
                self.lost = true;
            }
            let Some(name) = event.file_name().map(|name| name.to_bytes().to_vec()) else {
                continue;
            };
            // The halves of a rename within the folder come one after the other. Where something comes
            // between them, it counts as one from elsewhere.
            if kind.contains(ReadFlags::MOVED_FROM) {
                let foreign = self.foreign.remove(&name);
                self.moving = Some((event.cookie(), foreign));
            } else if kind.contains(ReadFlags::MOVED_TO) {
                let from_here = self.moving.take();
                let from_here = from_here.filter(|(cookie, _)| *cookie == event.cookie());
                let foreign = from_here.is_none_or(|(_, foreign)| foreign);
                self.foreign.remove(&name);
                if foreign {
                    self.foreign.insert(name);
                }
            } else {
                self.foreign.remove(&name);
            }
        }
        self.lost |= self.foreign.len() > MAX_FOREIGN;
    }
}
