//! User and group id maps of the sandbox's two nested user namespaces.
//!
//! The outer one owns the network and the mounts; the program lives in the inner one and so has
//! no capability over either, even as root with every id mapped. Both maps are the identity: as
//! root all ids (package managers chown), otherwise the caller's own two.

use std::fs;
use std::io;

use rustix::process::{Pid, getegid, geteuid};

/// Which groups of a network namespace may make sockets for ping (icmp(7)), IPv6 included.
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
/// Writing a map's file takes one `write`, so a map is at most a page, in bytes.
const MAX_MAP_BYTES: usize = 4096;
/// The most lines that the kernel takes in a map.
const MAX_EXTENTS: usize = 340;

/// The maps for a new namespace.
#[derive(Debug, Clone)]
pub(crate) struct IdMaps {
    uid: String,
    gid: String,
    /// Whether the maps must be written from the parent namespace, by one with capabilities there.
    privileged: bool,
    /// Whether id 0 is the host's root, not only a namespace's.
    real_root: bool,
}

impl IdMaps {
    /// The maps that the caller may give: all ids as root, its own otherwise.
    pub(crate) fn of_caller() -> io::Result<Self> {
        let (uid, gid) = (geteuid(), getegid());
        if uid.is_root() {
            let users = fs::read_to_string("/proc/self/uid_map")?;
            let groups = fs::read_to_string("/proc/self/gid_map")?;
            if let (Some(uid), Some(gid)) = (identity(&users), identity(&groups)) {
                let real_root = root_is_root(&users);
                return Ok(Self {
                    uid,
                    gid,
                    privileged: true,
                    real_root,
                });
            }
        }
        Ok(Self {
            uid: format!("{uid} {uid} 1\n"),
            gid: format!("{gid} {gid} 1\n"),
            privileged: false,
            real_root: false,
        })
    }

    /// Whether someone in the parent namespace must write the maps.
    pub(crate) fn privileged(&self) -> bool {
        self.privileged
    }

    /// Whether files of the host's root, such as the kernel's settings, are this user's own.
    pub(crate) fn real_root(&self) -> bool {
        self.real_root
    }

    /// Lets programs of every mapped group make sockets for ping, in the calling process's network
    /// namespace. The maps must be written by now.
    ///
    /// Whatever they send there meets the packet rules: such a socket sends echo requests only.
    pub(crate) fn permit_ping(&self) -> io::Result<()> {
        let (first, last) = groups(&self.gid).ok_or(io::ErrorKind::InvalidData)?;
        fs::write(PING_GROUPS, format!("{first} {last}"))
    }

    /// Writes the maps of the calling process, which has just made its namespace. Only for maps
    /// that are not privileged.
    pub(crate) fn write_own(&self) -> io::Result<()> {
        // Without this an unprivileged process may not map a group: it could drop one that
        // denies it something.
        fs::write("/proc/self/setgroups", "deny")?;
        self.write_files("self")
    }

    /// Writes the maps of another process, from the parent namespace.
    pub(crate) fn write_for(&self, pid: Pid) -> io::Result<()> {
        self.write_files(&pid.as_raw_pid().to_string())
    }

    fn write_files(&self, who: &str) -> io::Result<()> {
        fs::write(format!("/proc/{who}/uid_map"), &self.uid)?;
        fs::write(format!("/proc/{who}/gid_map"), &self.gid)
    }
}

/// The identity map over every id that a map knows inside; none where the map is unusual.
fn identity(map: &str) -> Option<String> {
    let mut lines = String::new();
    for line in map.lines().take(MAX_EXTENTS) {
        let mut words = line.split_ascii_whitespace();
        let inside: u32 = words.next()?.parse().ok()?;
        let count: u32 = words.nth(1)?.parse().ok()?;
        lines.push_str(&format!("{inside} {inside} {count}\n"));
    }
    (!lines.is_empty() && lines.len() < MAX_MAP_BYTES).then_some(lines)
}

/// The lowest and the highest id inside that a map knows.
fn groups(map: &str) -> Option<(u32, u32)> {
    let extents = map.lines().take(MAX_EXTENTS).filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let first: u32 = words.next()?.parse().ok()?;
        let count: u32 = words.nth(1)?.parse().ok()?;
        Some((first, first.saturating_add(count.checked_sub(1)?)))
    });
    extents.reduce(|(low, high), (first, last)| (low.min(first), high.max(last)))
}

/// Whether a map says that id 0 inside is id 0 outside.
fn root_is_root(map: &str) -> bool {
    map.lines()
        .any(|line| line.split_ascii_whitespace().take(2).eq(["0", "0"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_a_map_reach_from_its_lowest_to_its_highest_id() {
        assert_eq!(groups("1000 1000 1\n"), Some((1000, 1000)));
        assert_eq!(groups("0 0 4294967295\n"), Some((0, u32::MAX - 1)));
        assert_eq!(groups("1 100000 65536\n0 1000 1\n"), Some((0, 65_536)));
        assert_eq!(groups(""), None);
    }

    #[test]
    fn every_id_inside_maps_to_itself() {
        assert_eq!(
            identity("         0          0 4294967295\n").as_deref(),
            Some("0 0 4294967295\n")
        );
        assert_eq!(
            identity("0 1000 1\n1 100000 65536\n").as_deref(),
            Some("0 0 1\n1 1 65536\n")
        );
        assert!(root_is_root("0 0 4294967295\n"));
        assert!(!root_is_root("0 1000 1\n1 100000 65536\n"));
        assert_eq!(identity(""), None);
        assert_eq!(identity("x y z"), None);
    }
}
