//! Who a process and its network namespace are, for whoever takes another's word for their numbers.
//!
//! Answers *around the gateway* (docs/threats.md): a daemon of root attaches for its clients, who must not have
//! it enter what is not theirs, and the number of a process means another once it has ended.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::enter::{Identity, owner};
use crate::sys;

/// `NS_GET_OWNER_UID` (ioctl_nsfs(2)).
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;
/// The number of this start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Where the time of a process's start stands, behind its name (proc_pid_stat(5)).
const START_TIME_FIELD: usize = 19;

/// The user who owns a process's network namespace, and so has every capability over it: the one who made the
/// user namespace that owns it.
///
/// # Errors
/// The process is gone, or this process may not look at it.
pub fn network_owner(pid: u32) -> io::Result<u32> {
    let network = File::open(format!("/proc/{pid}/ns/net"))?;
    let owner = owner(std::os::fd::AsFd::as_fd(&network))?;
    let mut user: libc::uid_t = 0;
    // SAFETY: the call writes one live number.
    sys::check(unsafe { libc::ioctl(owner.as_raw_fd(), NS_GET_OWNER_UID, &raw mut user) })?;
    Ok(user)
}

/// The number of the network namespace that a file names.
///
/// # Errors
/// There is no such file, or this process may not look at it.
pub fn network_number(path: impl AsRef<Path>) -> io::Result<u64> {
    Ok(Identity::at(path)?.inode)
}

/// What no other process ever has, of this start of the machine or another.
///
/// # Errors
/// The process is gone.
pub fn process_mark(pid: u32) -> io::Result<String> {
    let boot = fs::read_to_string(BOOT_ID)?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything, also a closing bracket.
    let behind = stat.rsplit_once(") ").map_or("", |(_, behind)| behind);
    let started = behind.split(' ').nth(START_TIME_FIELD);
    let started = started.ok_or_else(|| io::Error::other("its start is not known"))?;
    Ok(format!("{}/{started}", boot.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_mark_and_another_process_another() {
        let own = process_mark(std::process::id()).unwrap();
        assert_eq!(process_mark(std::process::id()).unwrap(), own);
        std::thread::sleep(std::time::Duration::from_millis(30));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let other = process_mark(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_ne!(own, other);
        assert!(process_mark(child.id()).is_err());
    }

    #[test]
    fn this_namespace_has_an_owner() {
        let owner = network_owner(std::process::id());
        // The machine's own namespace is root's; a container's is its user's.
        assert!(owner.is_ok(), "{owner:?}");
    }
}
