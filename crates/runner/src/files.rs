//! The files that a policy is made of, read again while the sandbox runs.
//!
//! Answers "the sandboxed program writes its own policy". It runs as the same user, so it can rename
//! every folder above the policy and put others in their place. So each folder is held by a
//! descriptor from before the program starts, and files are read from the held folder whatever its
//! path leads to by then. The files themselves are read-only mounts inside, so that a change in place
//! is the operator's. A file that was put in their place is not mounted inside any more, and whoever
//! may write in that folder may have put it there: it counts only where the program's user can
//! neither write nor own it. A file is not read by a symbolic link that appeared later, not where it
//! has a second name by which it could be written, and not from a folder that was not held from the
//! start.
//!
//! Under `serve` there is no such program, and paths are followed as they stand.

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most folders that are held.
const MAX_FOLDERS: usize = 256;
/// Who owns what belongs to nobody that a user namespace knows (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_UID: u32 = 65_534;
/// Symbolic links on the way from a policy's path to its file.
const MAX_LINKS: usize = 8;

/// Reads the files of one policy, and knows which those were.
#[derive(Debug, Default)]
pub struct PolicyFiles {
    /// Folders by the path that they were first opened by.
    folders: BTreeMap<PathBuf, OwnedFd>,
    /// Whether a hostile program of the same user runs by now.
    sealed: bool,
    /// What was read last, or that it could not be.
    read: BTreeMap<PathBuf, Option<u64>>,
    /// Where the links on the way led when they were first read.
    led: Vec<PathBuf>,
    /// The files that are read-only inside: those that were there when the program started. Held, so
    /// that no other file gets the number of one that is gone.
    kept: BTreeMap<PathBuf, OwnedFd>,
    /// Largest file that is read, bytes; one more is read of a larger one.
    max_bytes: u64,
}

/// What tells a file that was touched from one that was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    changed: (i64, u64),
    modified: (i64, u64),
}

impl PolicyFiles {
    /// Reads at most `max_bytes` of a file, and one more so that its reader sees that it is too large.
    pub fn new(max_bytes: usize) -> PolicyFiles {
        PolicyFiles {
            max_bytes: max_bytes as u64,
            ..PolicyFiles::default()
        }
    }

    /// From now on a program runs that may want to change the policy: no folder is opened by its path
    /// any more.
    pub fn seal(&mut self) {
        let kept = |path: &PathBuf| {
            let (folder, name) = self.place(path)?;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let held = rustix::fs::openat(folder, name, flags, Mode::empty()).ok()?;
            Some((path.clone(), held))
        };
        let paths = self.read.keys().chain(&self.led);
        self.kept = paths.filter_map(kept).collect();
        self.sealed = true;
    }

    /// Forgets what was read, so that what is read next is what the policy is made of.
    pub fn begin(&mut self) {
        self.read.clear();
    }

    /// Whether anything that can change was read; a pipe cannot.
    pub fn can_change(&self) -> bool {
        self.read.keys().any(|path| self.place(path).is_some())
    }

    /// Whether everything that was read is still what it was.
    pub(crate) fn unchanged(&mut self) -> bool {
        let before = std::mem::take(&mut self.read);
        for path in before.keys() {
            // What cannot be read is noted as that.
            let _ = self.read(path);
        }
        let same = self.read == before;
        self.read = before;
        same
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Those of reading it; `PermissionDenied` for a file that the sandboxed program could have put
    /// there.
    pub fn read(&mut self, path: &Path) -> io::Result<String> {
        let text = self.text(path);
        let digest = text.as_ref().ok().map(|text| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        });
        self.read.insert(path.to_owned(), digest);
        text
    }

    /// How the files stand now.
    pub(crate) fn stamps(&self) -> Vec<Option<Stamp>> {
        let stamp = |path: &PathBuf| {
            let (folder, name) = self.place(path)?;
            // Of a link itself too: it may have been replaced by one to an equal file.
            let found = rustix::fs::statat(folder, name, AtFlags::empty()).ok()?;
            Some(Stamp {
                device: found.st_dev,
                inode: found.st_ino,
                size: found.st_size,
                changed: (found.st_ctime, found.st_ctime_nsec),
                modified: (found.st_mtime, found.st_mtime_nsec),
            })
        };
        self.read.keys().map(stamp).collect()
    }

    /// The held folders, and the names in them that the policy is made of.
    pub(crate) fn places(&self) -> Vec<(BorrowedFd<'_>, &Path)> {
        let paths = self.read.keys().chain(&self.led);
        paths.filter_map(|path| self.place(path)).collect()
    }

    fn place<'a>(&'a self, path: &'a Path) -> Option<(BorrowedFd<'a>, &'a Path)> {
        let folder = self.folders.get(folder_of(path))?;
        Some((folder.as_fd(), Path::new(path.file_name()?)))
    }

    fn text(&mut self, path: &Path) -> io::Result<String> {
        if !self.hold(path)? {
            return self.take(File::open(path)?);
        }
        if !self.sealed {
            self.follow_links(path)?;
        }
        let file = self.open(path)?;
        self.take(file)
    }

    /// Holds the folder of a path; false where it has none, as a pipe has none.
    fn hold(&mut self, path: &Path) -> io::Result<bool> {
        let folder = folder_of(path);
        if self.folders.contains_key(folder) {
            return Ok(true);
        }
        if self.sealed || self.folders.len() >= MAX_FOLDERS {
            return Err(refused(
                "it is in a folder of which this run did not know from its start",
            ));
        }
        if is_nameless(path) || path.file_name().is_none() {
            return Ok(false);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
        self.folders.insert(folder.to_owned(), held);
        Ok(true)
    }

    /// Holds what a path's links lead to, while nobody hostile is there yet.
    fn follow_links(&mut self, path: &Path) -> io::Result<()> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let Ok(text) = std::fs::read_link(&path) else {
                return Ok(());
            };
            let to = folder_of(&path).join(&text);
            if !self.hold(&to)? {
                return Ok(());
            }
            if !self.led.contains(&to) {
                self.led.push(to.clone());
            }
            path = to;
        }
        Err(io::Error::other("too many symbolic links"))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if !self.sealed {
            let (folder, name) = self.place(path).ok_or(io::ErrorKind::NotFound)?;
            return Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?.into());
        }
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let (folder, name) = self.place(&path).ok_or_else(|| {
                refused("it leads to a folder of which this run did not know from its start")
            })?;
            match rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(file) => {
                    let file = File::from(file);
                    self.not_the_program_s(&path, &file)?;
                    return Ok(file);
                }
                Err(rustix::io::Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
            let text = rustix::fs::readlinkat(folder, name, Vec::new())?;
            if is_fixed(folder) {
                // Nobody inside could have made the link, nor what it leads to beside it.
                let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let file = rustix::fs::openat2(folder, name, flags, Mode::empty(), beneath)?;
                let file = File::from(file);
                self.not_the_program_s(&path, &file)?;
                return Ok(file);
            }
            let to = Path::new(OsStr::from_bytes(text.to_bytes()));
            path = folder_of(&path).join(to);
        }
        Err(io::Error::other("too many symbolic links"))
    }

    /// Refuses what the sandboxed program could have written.
    fn not_the_program_s(&self, path: &Path, file: &File) -> io::Result<()> {
        let found = rustix::fs::fstat(file)?;
        // The overflow id is anybody's that this user namespace does not know.
        let user = rustix::process::geteuid().as_raw();
        let own = user == found.st_uid && user != OVERFLOW_UID;
        if own && found.st_nlink > 1 {
            return Err(refused(
                "it has another name (a hard link), by which the sandboxed program could write it",
            ));
        }
        if let Some(kept) = self.kept.get(path) {
            let kept = rustix::fs::fstat(kept)?;
            if (kept.st_dev, kept.st_ino) == (found.st_dev, found.st_ino) {
                return Ok(());
            }
        }
        // Numbers tell little across user namespaces: whose file it is shows in whether its mode may
        // be set, to what it is.
        let mode = Mode::from_raw_mode(found.st_mode);
        let ours = rustix::fs::fchmod(file, mode).is_ok();
        if own || ours || mode.intersects(Mode::WGRP | Mode::WOTH) {
            return Err(refused(
                "it was replaced by a file that the sandboxed program could have written; save it in \
                 place, or keep it where that program's user cannot write",
            ));
        }
        Ok(())
    }

    fn take(&self, file: File) -> io::Result<String> {
        let mut text = String::new();
        file.take(self.max_bytes + 1).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Whether this leads to something without a place among the files: a pipe or a socket that is open
/// under `/dev/fd`, as `/dev/stdin` often is.
pub fn is_nameless(path: &Path) -> bool {
    path.exists() && path.canonicalize().is_err()
}

/// The folder that a path's last name is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Whether nobody of this user can change what is in a folder: another user's, or a read-only mount.
fn is_fixed(folder: BorrowedFd<'_>) -> bool {
    rustix::fs::accessat(folder, ".", Access::WRITE_OK, AtFlags::EACCESS).is_err()
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
