//! Whether a file can be the sandboxed program's work.
//!
//! Answers *failing open* (docs/threats.md). The program runs as the gateway's own user. What that user
//! may not write is the operator's. What it may write is read-only inside by every path that is known,
//! and is believed only where no other path can exist.

use portcullis_sandbox::MountTable;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, Stat, accessat, fchmod, fstat, fstatfs};
use rustix::process::geteuid;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Who owns what belongs to nobody that a user namespace knows (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_UID: u32 = 65_534;
/// File systems on which one file has one device and inode number, and no path but those that the
/// mount table tells.
const PLAIN_FILE_SYSTEMS: [i64; 9] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x3153_464a, // jfs
];
/// Folders in layers: a file is plain where no layer can be reached by a path of its own.
const OVERLAY: i64 = 0x794c_7630;

/// Whether the program's user may write a file, or let itself.
pub(super) fn is_programs(file: BorrowedFd<'_>, found: &Stat) -> bool {
    // Numbers tell little across user namespaces: the overflow id is anybody's that this one does not
    // know. Whose file it is shows in whether its mode may be set, to what it is.
    let own = geteuid().as_raw() == found.st_uid && found.st_uid != OVERFLOW_UID;
    own || fchmod(file, Mode::from_raw_mode(found.st_mode)).is_ok() || may_write(file)
}

/// Whether a file that came in the place of another may be the program's: it was not there to be
/// covered when the program started.
pub(super) fn may_be_planted(file: BorrowedFd<'_>, found: &Stat) -> bool {
    let mode = Mode::from_raw_mode(found.st_mode);
    mode.intersects(Mode::WGRP | Mode::WOTH) || is_programs(file, found)
}

/// Whether nobody of this user can change what is in a folder: another user's, or a read-only mount.
pub(super) fn is_fixed(folder: BorrowedFd<'_>) -> bool {
    accessat(folder, ".", Access::WRITE_OK, AtFlags::EACCESS).is_err()
}

fn may_write(file: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// Why a file that the program's user may write cannot be kept from it by covering the paths that are
/// known; none where it can, or where that user may not write it.
///
/// # Errors
/// The file cannot be looked at.
pub(super) fn doubt(file: impl AsFd) -> io::Result<Option<String>> {
    let file = file.as_fd();
    let found = fstat(file)?;
    if !is_programs(file, &found) {
        return Ok(None);
    }
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Ok(Some("it is not a regular file".to_owned()));
    }
    if found.st_nlink > 1 {
        return Ok(Some(SECOND_NAME.to_owned()));
    }
    #[allow(
        clippy::unnecessary_cast,
        reason = "the field's type differs between machines"
    )]
    let kind = fstatfs(file)?.f_type as i64;
    if PLAIN_FILE_SYSTEMS.contains(&kind) {
        return Ok(None);
    }
    if kind == OVERLAY && !MountTable::read()?.shows_a_layer_of(file)? {
        return Ok(None);
    }
    Ok(Some(
        "the sandboxed program's user may write it, and its file system can show it by further \
         paths (a network or layered file system)"
            .to_owned(),
    ))
}

/// Why a file with two names is not followed.
pub(super) const SECOND_NAME: &str =
    "it has another name (a hard link), by which the sandboxed program could write it";
