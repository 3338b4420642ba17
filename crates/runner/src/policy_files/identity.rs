//! Which file or folder something is, whatever it is called at the moment.

use rustix::fs::{AtFlags, Stat, statat};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// A file system's number for one file, as long as somebody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The identity of an open file or folder.
    pub(crate) fn of(file: impl AsFd) -> io::Result<Identity> {
        Ok(rustix::fs::fstat(file)?.into())
    }
}

impl From<Stat> for Identity {
    fn from(found: Stat) -> Identity {
        Identity {
            device: found.st_dev,
            inode: found.st_ino,
        }
    }
}

/// What tells a file that was touched from one that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    identity: Identity,
    size: i64,
    changed: (i64, u64),
    modified: (i64, u64),
}

impl Stamp {
    /// The stamp of what a path leads to, where there is something. Mounts no folder on demand.
    pub(crate) fn at(folder: BorrowedFd<'_>, path: &Path) -> Option<Stamp> {
        let found = statat(folder, path, AtFlags::NO_AUTOMOUNT).ok()?;
        Some(found.into())
    }
}

impl From<Stat> for Stamp {
    fn from(found: Stat) -> Stamp {
        Stamp {
            size: found.st_size,
            changed: (found.st_ctime, found.st_ctime_nsec),
            modified: (found.st_mtime, found.st_mtime_nsec),
            identity: found.into(),
        }
    }
}
