//! The folders on the way from the root to a policy's folder, link by link.
//!
//! Answers *failing open* (docs/threats.md). A program of the same user can rename a folder above the
//! policy and make another in its place. What is followed stays where it was, but what the operator
//! saves by the path does not reach it any more, and must not go unsaid. Each folder is held, and each
//! step is compared without following anything, so that no link can lead this look into a file system
//! that never answers.

use super::identity::{Identity, Stamp};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The most folders and links on one way.
const MAX_STEPS: usize = 128;

/// The way to one folder.
#[derive(Debug)]
pub(super) struct FolderPath {
    steps: Vec<Step>,
}

/// One name on the way, in the folder where it is looked up.
#[derive(Debug)]
struct Step {
    folder: OwnedFd,
    name: OsString,
    identity: Identity,
    /// What comes behind it.
    rest: PathBuf,
}

/// A way leads elsewhere by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Detour {
    /// The path that leads elsewhere.
    pub(crate) path: PathBuf,
    /// The first name that is not what it was.
    pub(crate) name: OsString,
    /// What is found now behind it, where that can be told without following links.
    found: Option<Stamp>,
}

impl FolderPath {
    /// Walks to a folder as the kernel would, and holds each folder on the way.
    pub(super) fn to(folder: &Path) -> io::Result<FolderPath> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |at: BorrowedFd<'_>, name: &OsStr| openat(at, name, flags, Mode::empty());
        let absolute = std::path::absolute(folder)?;
        let mut ahead: VecDeque<OsString> = names(&absolute).collect();
        let mut at = open(CWD, OsStr::new("/"))?;
        let mut steps = Vec::new();
        while let Some(name) = ahead.pop_front() {
            if steps.len() == MAX_STEPS {
                return Err(io::Error::other("too many folders and links on the way"));
            }
            let found = statat(&at, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let rest = ahead.iter().collect();
            let next = if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
                let text = rustix::fs::readlinkat(&at, &name, Vec::new())?;
                let text = Path::new(OsStr::from_bytes(text.to_bytes()));
                for name in names(text).collect::<Vec<_>>().into_iter().rev() {
                    ahead.push_front(name);
                }
                if text.is_absolute() {
                    open(CWD, OsStr::new("/"))?
                } else {
                    at.try_clone()?
                }
            } else {
                open(at.as_fd(), &name)?
            };
            steps.push(Step {
                folder: std::mem::replace(&mut at, next),
                name,
                identity: found.into(),
                rest,
            });
        }
        Ok(FolderPath { steps })
    }

    /// Where the way to `file`, a path in the folder, leads elsewhere than at first, if it does. A
    /// change in a folder for which `accepted` holds is no detour.
    pub(super) fn detour(
        &self,
        file: &Path,
        accepted: impl Fn(BorrowedFd<'_>) -> bool,
    ) -> Option<Detour> {
        let stands = |step: &Step| {
            let found = statat(&step.folder, &step.name, AtFlags::SYMLINK_NOFOLLOW);
            found.is_ok_and(|found| Identity::from(found) == step.identity)
        };
        let step = self.steps.iter().find(|step| !stands(step))?;
        if accepted(step.folder.as_fd()) {
            return None;
        }
        let path = Path::new(&step.name).join(&step.rest);
        let path = path.join(file.file_name()?);
        Some(Detour {
            path: file.to_owned(),
            name: step.name.clone(),
            found: found(step.folder.as_fd(), &path),
        })
    }
}

/// What a path leads to, without leaving the file system or following a link.
fn found(folder: BorrowedFd<'_>, path: &Path) -> Option<Stamp> {
    let how = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat2(folder, path, flags, Mode::empty(), how).ok()?;
    Some(rustix::fs::fstat(file).ok()?.into())
}

/// The names of a path, without its root.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}
