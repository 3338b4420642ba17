//! The files that a policy is made of, read again while the sandbox runs.
//!
//! Answers "the sandboxed program writes its own policy", and "the sandboxed program keeps the old
//! one in force". It runs as the same user, so it can rename every folder above the policy, take
//! leases, and use up descriptors. So each file and each folder is held open from before the program
//! starts, and a file is read by the descriptor that is held, which nothing can refuse. The files are
//! read-only mounts inside, by every path that the mount table tells, so that a change in place is the
//! operator's. Where a further path cannot be ruled out, the file is not followed
//! ([`ownership::doubt`]).
//!
//! A file that was put in the place of one of these is not mounted inside, and whoever may write in
//! that folder may have put it there. It counts only where the program's user can neither write nor
//! own it, and, in a folder in which that user may write, only where it was made after the program
//! started: an older one may have been moved there. Where the whole folder is read-only inside
//! ([`PolicyFiles::cover`]), what is made in it is the operator's, however it is saved. A file is not read by a symbolic link that
//! appeared later, nor from a folder that was not held from the start.
//!
//! Under `serve` there is no such program, and paths are followed as they stand.

mod covered;
mod folder_path;
mod identity;
mod ownership;
mod reading;
mod spare;

use covered::Covered;
pub(crate) use folder_path::Detour;
use folder_path::FolderPath;
use identity::{Identity, Stamp};
use ownership::is_fixed;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, readlinkat,
    statat, statx,
};
use rustix::time::{ClockId, clock_gettime};
use spare::Spare;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most folders that are held.
const MAX_FOLDERS: usize = 256;
/// Symbolic links on the way from a policy's path to its file.
const MAX_LINKS: usize = 8;
/// Opened for reading, without waiting for anybody: not for the writer of a pipe, nor for the holder
/// of a lease.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);
const HOLD: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Reads the files of one policy, and knows which those were.
#[derive(Debug, Default)]
pub struct PolicyFiles {
    /// Folders by the path that they were first opened by.
    folders: BTreeMap<PathBuf, OwnedFd>,
    /// What was read last, or that it could not be.
    read: BTreeMap<PathBuf, Option<u64>>,
    /// Where the links on the way led when they were first read.
    led: Vec<PathBuf>,
    /// The files themselves, open since they were first read.
    held: BTreeMap<PathBuf, File>,
    /// Folders that the program cannot write in.
    covered: Vec<Covered>,
    /// Set once a hostile program of the same user may run.
    sealed: Option<Sealed>,
    spare: Spare,
    /// Whether a policy has been made of these files, so that nobody waits for the next one.
    in_force: bool,
    /// Why the latest reading must be tried again, if it must: the first error that time can heal.
    unread: Option<String>,
    /// Largest file that is read, bytes; one more is read of a larger one.
    max_bytes: u64,
}

/// What is known from before the program started.
#[derive(Debug)]
struct Sealed {
    /// When that was, in seconds and nanoseconds, as file systems count.
    at: (i64, i64),
    /// The paths of the held folders.
    folder_paths: BTreeMap<PathBuf, FolderPath>,
    /// Files that are not followed, each with the reason.
    doubtful: BTreeMap<PathBuf, String>,
}

/// What the files' paths lead to at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    files: Vec<Option<Stamp>>,
    folders: Vec<Option<Identity>>,
}

impl PolicyFiles {
    /// Reads at most `max_bytes` of a file, and one more so that its reader sees that it is too large.
    pub fn new(max_bytes: usize) -> PolicyFiles {
        PolicyFiles {
            max_bytes: max_bytes as u64,
            ..PolicyFiles::default()
        }
    }

    /// Relies on this from the time when the files are sealed: inside, this folder is read-only by every
    /// path, so that whatever is made in it is the operator's. Whoever calls it has to see to that.
    ///
    /// # Errors
    /// Nothing can be heard of the folder.
    pub fn cover(&mut self, folder: &Path) -> io::Result<()> {
        let flags = HOLD | OFlags::DIRECTORY;
        let held = openat(CWD, folder, flags, Mode::empty())?;
        self.covered.push(Covered::new(held.as_fd())?);
        Ok(())
    }

    /// From now on a program runs that may want to change the policy: no folder is opened by its path
    /// any more. Call it before anything else is opened that is handed on to the program.
    ///
    /// # Errors
    /// The way to a file cannot be held.
    pub fn seal(&mut self) -> io::Result<()> {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let mut doubtful = BTreeMap::new();
        for (path, file) in &self.held {
            if let Some(why) = ownership::doubt(file)? {
                self.read.insert(path.clone(), None);
                doubtful.insert(path.clone(), why);
            }
        }
        let mut folder_paths = BTreeMap::new();
        for folder in self.folders.keys() {
            folder_paths.insert(folder.clone(), FolderPath::to(folder)?);
        }
        self.spare.refill();
        self.sealed = Some(Sealed {
            at: (now.tv_sec, now.tv_nsec),
            folder_paths,
            doubtful,
        });
        Ok(())
    }

    /// The files that are not followed, and why each is not; known once they are sealed.
    pub fn unfollowed(&self) -> impl Iterator<Item = (&Path, &str)> {
        let doubtful = self.sealed.iter().flat_map(|sealed| &sealed.doubtful);
        doubtful.map(|(path, why)| (path.as_path(), why.as_str()))
    }

    /// Forgets what was read, so that what is read next is what the policy is made of.
    pub fn begin(&mut self) {
        self.read.clear();
        self.unread = None;
        self.in_force = true;
        self.let_go();
    }

    /// Follows paths as they stand from now on, unless they were sealed.
    fn let_go(&mut self) {
        if self.sealed.is_none() {
            self.folders.clear();
            self.led.clear();
            self.held.clear();
        }
    }

    /// Whether anything that can change was read; a pipe cannot.
    pub fn can_change(&self) -> bool {
        self.read.keys().any(|path| self.place(path).is_some())
    }

    /// Whether everything that was read is still what it was.
    pub(crate) fn unchanged(&mut self) -> bool {
        let before = std::mem::take(&mut self.read);
        self.let_go();
        for path in before.keys() {
            // What cannot be read is noted as that.
            let _ = self.read(path);
        }
        let same = self.read == before;
        self.read = before;
        same
    }

    /// Why something could not be read the last time although it may be readable later.
    pub(crate) fn unread(&self) -> Option<&str> {
        self.unread.as_deref()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Those of reading it; `PermissionDenied` for a file that the sandboxed program could have put
    /// there.
    pub fn read(&mut self, path: &Path) -> io::Result<String> {
        let text = self.text(path);
        self.spare.refill();
        if let Err(error) = &text
            && is_passing(error)
            && self.unread.is_none()
        {
            self.unread = Some(error.to_string());
        }
        let digest = text.as_ref().ok().map(|text| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        });
        self.read.insert(path.to_owned(), digest);
        text
    }

    /// How the files stand now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let file = |path: &PathBuf| {
            let (folder, name) = self.place(path)?;
            Stamp::at(folder, name)
        };
        let folder = |path: &PathBuf| {
            let found = statat(CWD, path, AtFlags::NO_AUTOMOUNT).ok()?;
            Some(found.into())
        };
        // Once sealed, folders are the held ones, and where their paths lead is another question.
        let by_path = self.folders.keys().filter(|_| self.sealed.is_none());
        Snapshot {
            files: self.read.keys().map(file).collect(),
            folders: by_path.map(folder).collect(),
        }
    }

    /// The paths by which nobody reaches what is followed any more.
    pub(crate) fn detours(&self) -> Vec<Detour> {
        let Some(sealed) = &self.sealed else {
            return Vec::new();
        };
        let paths = self.read.keys().chain(&self.led);
        paths
            .filter(|path| !sealed.doubtful.contains_key(*path))
            .filter_map(|path| {
                let folder_path = sealed.folder_paths.get(folder_of(path))?;
                // Links that only somebody else can turn are followed by whoever reads.
                let linked = !self.read.contains_key(path);
                folder_path.detour(path, |folder| linked && is_fixed(folder))
            })
            .collect()
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
        if let Some(why) = self.sealed.iter().find_map(|all| all.doubtful.get(path)) {
            return Err(refused(why));
        }
        if !self.hold(path)? {
            let file = self
                .spare
                .open(|| openat(CWD, path, READ - OFlags::NONBLOCK, Mode::empty()));
            return reading::stream(file?.into(), self.max_bytes);
        }
        if self.sealed.is_some() {
            return self.sealed_text(path);
        }
        self.follow_links(path)?;
        let file = self.open_at_start(path)?;
        if !file.metadata()?.is_file() {
            return reading::stream(file, self.max_bytes);
        }
        let text = reading::whole(&file, self.max_bytes);
        self.held.insert(path.to_owned(), file);
        text
    }

    /// Holds the folder of a path; false where it has none, as a pipe has none.
    fn hold(&mut self, path: &Path) -> io::Result<bool> {
        let folder = folder_of(path);
        if self.folders.contains_key(folder) {
            return Ok(true);
        }
        if self.sealed.is_some() || self.folders.len() >= MAX_FOLDERS {
            return Err(refused(
                "it is in a folder of which this run did not know from its start",
            ));
        }
        if is_nameless(path) || path.file_name().is_none() {
            return Ok(false);
        }
        let flags = HOLD | OFlags::DIRECTORY;
        let held = (self.spare).open(|| openat(CWD, folder, flags, Mode::empty()))?;
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

    /// Opens a file by its path, as it stands. Who holds a lease on it has to give it back: that may
    /// take the time that the kernel allows for it (`/proc/sys/fs/lease-break-time`), and is worth it
    /// where nothing is in force yet.
    fn open_at_start(&mut self, path: &Path) -> io::Result<File> {
        let mut open = |flags| {
            let open = || openat(CWD, path, flags, Mode::empty());
            self.spare.open(open)
        };
        match open(READ) {
            Err(rustix::io::Errno::AGAIN) if !self.in_force => {
                Ok(open(READ - OFlags::NONBLOCK)?.into())
            }
            result => Ok(result?.into()),
        }
    }

    /// Reads a file as it was known before the program started, or one that only somebody else can
    /// have put in its place.
    fn sealed_text(&mut self, path: &Path) -> io::Result<String> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let (folder, name) = self.place(&path).ok_or_else(|| {
                refused("it leads to a folder of which this run did not know from its start")
            })?;
            let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
                return self.text_of(&path, found.into(), ResolveFlags::NO_SYMLINKS);
            }
            if is_fixed(folder) {
                // Nobody inside could have made the link, nor what it leads to beside it.
                let found = statat(folder, name, AtFlags::empty())?;
                return self.text_of(&path, found.into(), ResolveFlags::NO_MAGICLINKS);
            }
            let text = readlinkat(folder, name, Vec::new())?;
            let to = Path::new(OsStr::from_bytes(text.to_bytes()));
            path = folder_of(&path).join(to);
        }
        Err(io::Error::other("too many symbolic links"))
    }

    /// Reads what was found at a path: by the descriptor that is held, or by one of its own where it is
    /// another file.
    fn text_of(&mut self, path: &Path, found: Identity, how: ResolveFlags) -> io::Result<String> {
        if let Some(why) = self.sealed.iter().find_map(|all| all.doubtful.get(path)) {
            return Err(refused(why));
        }
        for held in self.held.values() {
            if Identity::of(held)? == found {
                let now = rustix::fs::fstat(held)?;
                if now.st_nlink > 1 && ownership::is_programs(held.as_fd(), &now) {
                    return Err(refused(ownership::SECOND_NAME));
                }
                return reading::whole(held, self.max_bytes);
            }
        }
        let (folder, name) = match self.folders.get(folder_of(path)).zip(path.file_name()) {
            Some((folder, name)) => (folder.as_fd(), name),
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let beneath = ResolveFlags::BENEATH | how;
        let open = || openat2(folder, name, READ, Mode::empty(), beneath);
        let file = File::from(self.spare.open(open)?);
        let here = Identity::of(folder)?;
        match self.covered.iter_mut().find(|covered| covered.is(here)) {
            Some(covered) => made_there(covered, folder, name, &file)?,
            None => self.not_planted(folder, &file)?,
        }
        reading::whole(&file, self.max_bytes)
    }

    /// Refuses what the sandboxed program could have written, or moved there.
    fn not_planted(&self, folder: BorrowedFd<'_>, file: &File) -> io::Result<()> {
        let found = rustix::fs::fstat(file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(refused("it is not a regular file any more"));
        }
        if ownership::may_be_planted(file.as_fd(), &found) {
            return Err(refused(
                "it was replaced by a file that the sandboxed program could have written, which this run \
                 does not read; start it again, and next time save it in place (`cat NEW > FILE`; in \
                 vim, `:set backupcopy=yes`), or keep it in ~/.config/portcullis or a folder called \
                 .portcullis",
            ));
        }
        let start = self.sealed.as_ref().map(|sealed| sealed.at);
        if !is_fixed(folder) && made(file)? < start {
            return Err(refused(
                "it was replaced by an older file, which the sandboxed program could have moved \
                 there; save it in place",
            ));
        }
        Ok(())
    }
}

/// Refuses what was not made in the folder, in which the program cannot write, or has another name.
fn made_there(
    covered: &mut Covered,
    folder: BorrowedFd<'_>,
    name: &OsStr,
    file: &File,
) -> io::Result<()> {
    if let Some(why) = ownership::doubt(file)? {
        return Err(refused(&why));
    }
    let foreign = covered.came_from_elsewhere(name.as_bytes());
    // What was heard is about the file that has the name now.
    let now = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if Identity::from(now) != Identity::of(file)? {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    if foreign {
        return Err(refused(
            "it was moved there from another folder, where the sandboxed program could have written it; \
             copy it there instead",
        ));
    }
    Ok(())
}

/// When a file was made, where its file system knows.
fn made(file: &File) -> io::Result<Option<(i64, i64)>> {
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
    let known = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(known.then_some((found.stx_btime.tv_sec, i64::from(found.stx_btime.tv_nsec))))
}

/// Whether a file that could not be read may be readable a little later: descriptors or memory are
/// short, a lease is held, it is just being renamed. What is refused here, or is no text, stays so
/// until it is changed.
fn is_passing(error: &io::Error) -> bool {
    error.raw_os_error().is_some() || error.kind() == io::ErrorKind::WouldBlock
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

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests;
