//! How much of the kernel's objects that are counted by user namespace the sandbox may have.
//!
//! Answers *around the gateway* and *exhaustion* (docs/threats.md). The limits are those of the outer
//! user namespace: they hold for all that is nested in it, and nobody inside has a capability over
//! it.
//!
//! No control group namespace: its root could mount control groups anew, writable, with the group
//! that the parent and the gateway are in, and stop or kill them. Of everything else a part, so that
//! the same user's next sandbox finds some.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};

use crate::mounts::skip_missing;

/// The limits of the user namespace of whoever writes.
const FOLDER: &str = "/proc/sys/user";
const CGROUP_NAMESPACES: &str = "max_cgroup_namespaces";
/// The most namespaces of each of the other kinds. A small machine has some 8,000 for a user.
const MAX_NAMESPACES: u64 = 1024;
const NAMESPACES: [&str; 7] = [
    "max_ipc_namespaces",
    "max_mnt_namespaces",
    "max_net_namespaces",
    "max_pid_namespaces",
    "max_time_namespaces",
    "max_user_namespaces",
    "max_uts_namespaces",
];
/// Limits, and where the user's own are read, of which the sandbox gets one half.
const HALVED: [(&str, &str); 4] = [
    (
        "max_inotify_instances",
        "/proc/sys/fs/inotify/max_user_instances",
    ),
    (
        "max_inotify_watches",
        "/proc/sys/fs/inotify/max_user_watches",
    ),
    (
        "max_fanotify_groups",
        "/proc/sys/fs/fanotify/max_user_groups",
    ),
    ("max_fanotify_marks", "/proc/sys/fs/fanotify/max_user_marks"),
];

/// The open folder of limits: it can be written through after `/proc/sys` has been made read-only.
#[derive(Debug)]
pub(crate) struct NamespaceLimits(OwnedFd);

impl NamespaceLimits {
    /// Opens the limits of this process's user namespace, in the sandbox's own `/proc`.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(File::open(FOLDER)?.into()))
    }

    /// Sets them.
    pub(crate) fn set(&self) -> io::Result<()> {
        let folder = self.0.as_fd();
        write(folder, CGROUP_NAMESPACES, 0)?;
        // An older kernel does not count everything.
        for name in NAMESPACES {
            skip_missing(write(folder, name, MAX_NAMESPACES))?;
        }
        for (name, of_user) in HALVED {
            skip_missing(half(of_user).and_then(|half| write(folder, name, half)))?;
        }
        Ok(())
    }
}

fn half(path: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let all: u64 = text.trim().parse().map_err(io::Error::other)?;
    Ok(all / 2)
}

fn write(folder: BorrowedFd<'_>, name: &str, limit: u64) -> io::Result<()> {
    let file = openat(
        folder,
        name,
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::io::write(&file, limit.to_string().as_bytes())?;
    Ok(())
}
