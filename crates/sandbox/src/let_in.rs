//! Unix sockets of the host that the command may reach, in their own places.
//!
//! A socket is mounted where it is, so that it is there although its folder is masked, and stays the
//! same file as long as the sandbox lives.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::error::{At, SandboxError, Step};

const STEP: Step = Step::LetInSocket;

/// The place of a socket that is to be let in, without links.
pub(crate) fn place(path: &Path) -> Result<PathBuf, SandboxError> {
    let text = path.to_string_lossy();
    let place = fs::canonicalize(path).at(STEP, &text)?;
    let found = fs::metadata(&place).at(STEP, &text)?;
    if found.file_type().is_socket() {
        Ok(place)
    } else {
        Err(SandboxError::refused(
            STEP,
            format!("{text} is not a socket"),
        ))
    }
}

/// Takes the sockets up, before their folders are masked.
pub(crate) fn take_up(places: &[PathBuf]) -> Result<Vec<OwnedFd>, SandboxError> {
    let copy = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let taken = places
        .iter()
        .map(|place| open_tree(CWD, place, copy).at(STEP, &place.to_string_lossy()));
    taken.collect()
}

/// Puts them back in their places.
pub(crate) fn put_back(places: &[PathBuf], sockets: &[OwnedFd]) -> Result<(), SandboxError> {
    for (place, socket) in places.iter().zip(sockets) {
        mount(place, socket).at(STEP, &place.to_string_lossy())?;
    }
    Ok(())
}

fn mount(place: &Path, socket: &OwnedFd) -> io::Result<()> {
    if !place.try_exists()? {
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::File::create(place)?;
    }
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(socket, c"", CWD, place, whole)?)
}
