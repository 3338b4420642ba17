//! Files about names and trust that are shown over a sandbox's own, in a mount namespace that somebody
//! else has made, and that are taken away again.
//!
//! A child process enters it. The files lie in a file system of the child's, which nobody else can
//! reach; only a mount of each is put into place. Nothing of the sandbox's own files is changed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{Gid, Uid, WaitOptions, chroot, getegid, geteuid, waitpid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use super::request::TrustContent;
use crate::channel::Channel;
use crate::masks::{HOSTS, NSSWITCH_CONF, RESOLV_CONF, with_own_hosts};
use crate::mounts::set_read_only;
use crate::spec::{Addresses, NameFiles};
use crate::sys;
use crate::trust::{JAVA_PLACES, PEM_PLACES, real_files};

/// How long the child may take.
const CHILD_TIMEOUT: Duration = Duration::from_secs(10);
/// Where the child's own file system lies, in a mount namespace of the child's: the first that exists.
const ROOMS: [&str; 3] = ["/tmp", "/run", "/mnt"];
/// What is read of a file inside, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// What is read of the list of mounts, in bytes.
const MAX_MOUNTS_BYTES: u64 = 16 * 1024 * 1024;
/// A user and a group that own nothing.
const NOBODY: u32 = 65_534;
/// Permission without which a file is not everybody's to read.
const ALL_READ: u32 = 0o004;

/// What is to be shown.
pub(super) struct Shown<'a> {
    pub(super) addresses: &'a Addresses,
    pub(super) names: Option<&'a NameFiles>,
    pub(super) trust: Option<&'a TrustContent>,
    /// The folder of the mount namespace that is the sandbox's root directory, or becomes it.
    pub(super) root: Option<&'a Path>,
}

/// A file that was put over another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    place: PathBuf,
    device: u64,
    inode: u64,
}

/// Shows the files in a mount namespace.
///
/// # Errors
/// It may not be entered, or a mount failed; then none of them is shown.
pub(super) fn bind(mounts: BorrowedFd<'_>, shown: &Shown<'_>) -> io::Result<Vec<Bound>> {
    in_child(|| bind_here(mounts, shown))
}

/// Takes away what is still where it was put.
pub(super) fn unbind(mounts: BorrowedFd<'_>, bound: &[Bound]) -> io::Result<()> {
    in_child(|| {
        setns(mounts, CloneFlags::CLONE_NEWNS)?;
        for bound in bound.iter().rev() {
            let is_ours = fs::symlink_metadata(&bound.place)
                .is_ok_and(|now| (now.dev(), now.ino()) == (bound.device, bound.inode));
            if is_ours {
                unmount(&bound.place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
            }
        }
        Ok(())
    })
}

fn bind_here(mounts: BorrowedFd<'_>, shown: &Shown<'_>) -> io::Result<Vec<Bound>> {
    let own_proc = openat(
        CWD,
        "/proc/self",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    let room = ROOMS.iter().find(|room| Path::new(room).is_dir());
    let room = Path::new(room.ok_or(io::ErrorKind::NotFound)?);
    mount(
        "tmpfs",
        room,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=0755",
    )?;
    let own = File::open("/proc/self/ns/mnt")?;
    enter(mounts, shown.root)?;
    let shared = shared_mounts(own_proc.as_fd())?;
    let wanted = wanted(shown);
    if let Some((_, place)) = wanted.iter().find(|(_, place)| is_below(place, &shared)) {
        return Err(io::Error::other(format!(
            "mounts at {} are shared with other mount namespaces",
            place.to_string_lossy().escape_debug()
        )));
    }
    setns(&own, CloneFlags::CLONE_NEWNS)?;
    let mut made = Vec::new();
    for (number, (content, place)) in wanted.into_iter().enumerate() {
        made.push(make(&room.join(number.to_string()), &content, place)?);
    }
    enter(mounts, shown.root)?;
    let mut bound: Vec<Bound> = Vec::new();
    for (tree, one) in made {
        let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        if let Err(error) = move_mount(&tree, c"", CWD, &one.place, whole) {
            for bound in bound.iter().rev() {
                unmount(&bound.place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
            }
            return Err(error.into());
        }
        bound.push(one);
    }
    Ok(bound)
}

/// Enters a mount namespace, and the folder in it that becomes the sandbox's root directory: every path, and every
/// link on it, then leads where it will lead for the sandbox's programs.
fn enter(mounts: BorrowedFd<'_>, root: Option<&Path>) -> io::Result<()> {
    setns(mounts, CloneFlags::CLONE_NEWNS)?;
    if let Some(root) = root.filter(|root| root.exists()) {
        chroot(root)?;
        std::env::set_current_dir("/")?;
    }
    Ok(())
}

/// The contents, and where each belongs in the mount namespace that this process is in. What a sandbox
/// does not have, it is not given.
fn wanted(shown: &Shown<'_>) -> Vec<(Vec<u8>, PathBuf)> {
    let mut wanted = Vec::new();
    if let Some(names) = shown.names {
        let resolver = shown.addresses.resolver4;
        let text = format!("nameserver {resolver}\n{}", names.resolv_conf);
        // A link that leads nowhere is a place all the same; one that leads somewhere is two.
        let link = fs::symlink_metadata(RESOLV_CONF).map(|_| PathBuf::from(RESOLV_CONF));
        let mut places: Vec<_> = link.into_iter().collect();
        places.extend(real_files(&[RESOLV_CONF]));
        places.dedup();
        wanted.extend(
            places
                .into_iter()
                .map(|place| (text.clone().into_bytes(), place)),
        );
        if let Some(hosts) = &names.hosts {
            let places = real_files(&[HOSTS]).into_iter();
            wanted.extend(places.map(|place| (hosts.clone().into_bytes(), place)));
        }
        for place in real_files(&[NSSWITCH_CONF]) {
            let text = read_open(&place)
                .ok()
                .and_then(|text| with_own_hosts(&text));
            wanted.extend(text.map(|text| (text.into_bytes(), place)));
        }
    }
    if let Some(trust) = shown.trust {
        for (content, places) in [
            (&trust.bundle, &PEM_PLACES[..]),
            (&trust.java, &JAVA_PLACES),
        ] {
            let places = real_files(places).into_iter();
            wanted.extend(places.map(|place| (content.clone(), place)));
        }
    }
    wanted
}

/// Reads a file that is everybody's to read, as nobody: what is read here is shown to the sandbox, whose programs may
/// change every link on the way meanwhile.
fn read_open(path: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = as_nobody(|| Ok(openat(CWD, path, flags, Mode::empty())?))?;
    let file = File::from(opened);
    let found = file.metadata()?;
    if !found.is_file() || found.mode() & ALL_READ == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Does something without root's rights, if this process has them. An ordinary user enters only what is its own.
fn as_nobody<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (user, group) = (geteuid(), getegid());
    let nobody = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    if !user.is_root() {
        return work();
    }
    match set_thread_res_gid(group, nobody.1, group) {
        // A user namespace that has no other user: its root is an ordinary user's.
        Err(Errno::INVAL) => return work(),
        set => set?,
    }
    // This process is a child that needs no group afterwards.
    set_thread_groups(&[])?;
    set_thread_res_uid(user, nobody.0, user)?;
    let done = work();
    set_thread_res_uid(user, user, user)?;
    set_thread_res_gid(group, group, group)?;
    done
}

/// A mount of a new file, not attached anywhere yet.
fn make(path: &Path, content: &[u8], place: PathBuf) -> io::Result<(OwnedFd, Bound)> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))?;
    let file = fs::metadata(path)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags)?;
    set_read_only(tree.as_fd(), c"", libc::AT_EMPTY_PATH)?;
    let bound = Bound {
        place,
        device: file.dev(),
        inode: file.ino(),
    };
    Ok((tree, bound))
}

/// The places of mounts from which a further one would spread to other namespaces. `own_proc` is this
/// process's folder: the sandbox may have no `/proc`.
fn shared_mounts(own_proc: BorrowedFd<'_>) -> io::Result<Vec<(PathBuf, bool)>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = File::from(openat(own_proc, "mountinfo", flags, Mode::empty())?);
    let mut text = Vec::new();
    file.take(MAX_MOUNTS_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = |line: &str| {
        let (mount, _) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let at = PathBuf::from(fields.nth(4)?);
        Some((at, fields.any(|field| field.starts_with("shared:"))))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Whether the mount that a place lies on is shared: the deepest above it, the latest of several.
fn is_below(place: &Path, mounts: &[(PathBuf, bool)]) -> bool {
    let mut above = mounts.iter().filter(|(at, _)| place.starts_with(at));
    let first = above.next();
    let deeper = |a: &'_ &(PathBuf, bool)| a.0.components().count();
    let deepest = above.fold(first, |deepest, next| match deepest {
        Some(deepest) if deeper(&deepest) > deeper(&next) => Some(deepest),
        _ => Some(next),
    });
    deepest.is_some_and(|(_, shared)| *shared)
}

/// Carries something out in a child process, whose namespaces are its own.
fn in_child<T: Serialize + for<'d> Deserialize<'d>>(
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let (ours, childs) = Channel::pair()?;
    // SAFETY: the holder has a single thread.
    let Some(child) = (unsafe { sys::fork() })? else {
        let result = catch_unwind(AssertUnwindSafe(work));
        let result = result.unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        let result = result.map_err(|error| (error.raw_os_error(), error.to_string()));
        let sent = serde_json::to_vec(&result)
            .map_err(io::Error::other)
            .and_then(|bytes| childs.send(&bytes, &[]));
        sys::exit(i32::from(sent.is_err()))
    };
    drop(childs);
    let answer = ours.receive(CHILD_TIMEOUT);
    if answer.is_err() {
        let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
    }
    let _ = waitpid(Some(child), WaitOptions::empty());
    let result: Result<T, (Option<i32>, String)> =
        serde_json::from_slice(&answer?.bytes).map_err(io::Error::other)?;
    result.map_err(|(errno, text)| match errno {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shared_where_its_own_mount_is() {
        let mounts = [
            ("/", true),
            ("/etc", false),
            ("/etc", true),
            ("/etc/x", false),
        ]
        .map(|(at, shared)| (PathBuf::from(at), shared));
        assert!(is_below(Path::new("/usr/lib"), &mounts));
        assert!(is_below(Path::new("/etc/resolv.conf"), &mounts));
        assert!(!is_below(Path::new("/etc/x/y"), &mounts));
        assert!(!is_below(Path::new("/etc/resolv.conf"), &mounts[..2]));
        assert!(!is_below(Path::new("/"), &[]));
    }
}
