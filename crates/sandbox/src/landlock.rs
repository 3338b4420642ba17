//! Signals of the command end at the sandbox: Landlock's scope, where the kernel has it (Linux 6.12).
//!
//! Answers *around the gateway* (docs/threats.md). The command is in its caller's process group, as
//! every command of a shell is, and a signal to the group would reach the sandbox's parent and the
//! caller's own processes. Nothing else of Landlock is used: a rule about files would forbid mounts,
//! and with them a sandbox inside the sandbox.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::thread::set_no_new_privs;

use crate::sys;

/// `LANDLOCK_SCOPE_SIGNAL`
const SCOPE_SIGNAL: u64 = 1 << 1;

/// `struct landlock_ruleset_attr` of the first version with scopes.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Keeps the signals of the calling process, and of all that it will start, from processes that are
/// not below it; false where the kernel has no such scope, which leaves things as they are.
pub(crate) fn scope_signals() -> io::Result<bool> {
    let Some(ruleset) = create()? else {
        return Ok(false);
    };
    set_no_new_privs(true)?;
    // SAFETY: the descriptor is live, and the call takes numbers alone.
    let restricted =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    sys::check(restricted).map(|_| true)
}

fn create() -> io::Result<Option<OwnedFd>> {
    let ruleset = Ruleset {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: SCOPE_SIGNAL,
    };
    // SAFETY: the attributes are live and of the size given; the kernel only reads them.
    let created = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size_of::<Ruleset>(),
            0,
        )
    };
    match sys::check(created) {
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })),
        Err(error) => match error.raw_os_error() {
            // No Landlock, switched off, an older one, one without scopes.
            Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::E2BIG | libc::EINVAL) => Ok(None),
            // A filter around us forbids it.
            Some(libc::EPERM) => Ok(None),
            _ => Err(error),
        },
    }
}
