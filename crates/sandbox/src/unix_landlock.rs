//! The host's Unix sockets out of reach by the kernel itself: Landlock's right to resolve them
//! (Linux 7.1).
//!
//! Answers *around the gateway* (docs/threats.md). The kernel refuses every lookup of a socket's path,
//! for connections and for datagrams, unless the socket was made inside. It costs nothing for each
//! call. But a rule about files forbids mounts as well, and with them a sandbox inside the sandbox.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr::null;

use rustix::fs::{Mode, OFlags, open};
use rustix::thread::set_no_new_privs;

use crate::sys;

/// The first version that has the right.
const RESOLVE_UNIX_VERSION: i64 = 9;
/// `LANDLOCK_ACCESS_FS_RESOLVE_UNIX`
const RESOLVE_UNIX: u64 = 1 << 16;
/// `LANDLOCK_ACCESS_FS_REFER`: every set of rules takes it away unless it gives it.
const REFER: u64 = 1 << 13;
/// `LANDLOCK_CREATE_RULESET_VERSION`
const ASK_VERSION: u32 = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`
const PATH_BENEATH: u32 = 1;

/// `struct landlock_ruleset_attr` of the first version.
#[repr(C)]
struct Handled {
    files: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: RawFd,
}

/// Restricts the calling thread and all that it will start; false where the kernel cannot.
pub(crate) fn restrict(let_in: &[PathBuf]) -> io::Result<bool> {
    if version() < RESOLVE_UNIX_VERSION {
        return Ok(false);
    }
    take_away(RESOLVE_UNIX, let_in).map(|()| true)
}

fn version() -> i64 {
    // SAFETY: without attributes the call only returns a number.
    unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            null::<Handled>(),
            0,
            ASK_VERSION,
        )
    }
}

/// Takes a right to files away everywhere but at some paths.
fn take_away(right: u64, but_at: &[PathBuf]) -> io::Result<()> {
    let handled = Handled {
        files: right | REFER,
    };
    // SAFETY: the attributes are live and of the size given; the kernel only reads them.
    let made = sys::check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const handled,
            size_of::<Handled>(),
            0,
        )
    })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let rules = unsafe { OwnedFd::from_raw_fd(made as RawFd) };
    give(rules.as_fd(), Path::new("/"), REFER)?;
    for path in but_at {
        give(rules.as_fd(), path, right)?;
    }
    set_no_new_privs(true)?;
    // SAFETY: the descriptor is live, and the call takes numbers alone.
    sys::check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) })
        .map(drop)
}

fn give(rules: BorrowedFd<'_>, path: &Path, allowed: u64) -> io::Result<()> {
    let place = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let beneath = Beneath {
        allowed,
        parent: place.as_raw_fd(),
    };
    // SAFETY: the rule is live and of the kind named; the kernel only reads it.
    sys::check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules.as_raw_fd(),
            PATH_BENEATH,
            &raw const beneath,
            0,
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// `LANDLOCK_ACCESS_FS_MAKE_SOCK`: a right that older kernels have too.
    const MAKE_SOCKET: u64 = 1 << 9;

    #[test]
    fn a_right_is_taken_away_but_at_some_paths_and_files_can_still_be_moved() {
        let folder = tempfile::tempdir().unwrap();
        let allowed = folder.path().join("allowed");
        fs::create_dir(&allowed).unwrap();
        let other = folder.path().to_owned();
        // The restriction is the thread's.
        thread::spawn(move || {
            take_away(MAKE_SOCKET, std::slice::from_ref(&allowed)).unwrap();
            let refused = UnixListener::bind(other.join("s")).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            UnixListener::bind(allowed.join("s")).unwrap();
            fs::write(other.join("file"), "text").unwrap();
            fs::rename(other.join("file"), allowed.join("file")).unwrap();
            fs::hard_link(allowed.join("file"), other.join("link")).unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_kernel_without_the_right_changes_nothing() {
        let can = version() >= RESOLVE_UNIX_VERSION;
        thread::spawn(move || assert_eq!(restrict(&[]).unwrap(), can))
            .join()
            .unwrap();
    }
}
