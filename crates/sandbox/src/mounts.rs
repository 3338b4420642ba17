//! The sandbox's mounts: a `/proc` of its own, and out of sight the folders where resolvers, caches,
//! buses, container engines and agents have their sockets.
//!
//! Answers *around the gateway* (docs/threats.md). Files are otherwise as the user sees them. Nothing made here propagates to the host, and
//! nothing that the host mounts later shows up inside.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, move_mount, open_tree,
};

use crate::error::{At, SandboxError, Step};
use crate::mount_table::MountTable;
use crate::{let_in, sys};

/// The folder that is masked as a whole.
pub(crate) const RUN: &str = "/run";
/// Where the sandbox's own files live, inside the masked [`RUN`].
pub(crate) const OWN: &str = "/run/portcullis";
/// The most links of `/run` that are made again in the mask (NixOS keeps its system there).
const MAX_RUN_LINKS: usize = 256;
/// Options of the masking file systems: small, and their folders are the user's.
const MASK_OPTIONS: &CStr = c"mode=0755,size=64m,nr_inodes=65536";
/// What real root could write in `/proc` without any capability, to have the kernel start a
/// program outside (core_pattern, modprobe), to disturb the host, or to change the sandbox's first
/// process.
const KERNEL_SETTINGS: [&str; 6] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
    "/proc/1",
];
/// The lists of keys that root may see: all of them. What another user sees cannot be hidden without
/// forbidding a new `/proc` to every sandbox inside the sandbox.
const KEYS: [&str; 2] = ["/proc/keys", "/proc/key-users"];
/// The host's settings and, below them, the control groups: a user who owns theirs (as under
/// systemd) could leave the sandbox's group and freeze the rest of it, gateway and parent included.
const SYS: &CStr = c"/sys";
/// Devices that reach the host's own vsock services without a socket of that family.
const VSOCK_DEVICES: [&str; 2] = ["/dev/vsock", "/dev/vhost-vsock"];

/// What is to be done to the mounts.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The user's runtime folder, if it is not below `/run`.
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Files and folders the command must not change.
    pub(crate) read_only: Vec<PathBuf>,
    /// Files the command must not see.
    pub(crate) hidden: Vec<PathBuf>,
    /// Sockets of the host that the command may reach, by their places without links.
    pub(crate) let_in: Vec<PathBuf>,
    /// Root of the host, not only of a user namespace.
    pub(crate) real_root: bool,
}

/// Cuts the tree off from the host's and mounts the new `/proc`.
pub(crate) fn begin() -> Result<(), SandboxError> {
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change(c"/", private).at(Step::Mount, "/")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"proc", c"/proc", c"proc", flags, None).at(Step::Proc, "")
}

/// Masks, and protects what must not change. Ids must be mapped by now.
pub(crate) fn arrange(plan: &Plan) -> Result<(), SandboxError> {
    if plan.real_root {
        for path in KERNEL_SETTINGS {
            skip_missing(read_only_bind(Path::new(path))).at(Step::Mount, path)?;
        }
        for path in KEYS {
            skip_missing(cover(Path::new(path))).at(Step::Mount, path)?;
        }
    }
    skip_missing(settings_read_only()).at(Step::Mount, "/sys")?;
    protect_elsewhere(&MountTable::read().at(Step::Mount, "the mount table")?)?;
    for device in VSOCK_DEVICES {
        skip_missing(cover(Path::new(device))).at(Step::Mount, device)?;
    }
    let let_in = let_in::take_up(&plan.let_in)?;
    mask_run().at(Step::Mount, RUN)?;
    if let Some(folder) = &plan.runtime_dir {
        mask_runtime_dir(folder).at(Step::Mount, "XDG_RUNTIME_DIR")?;
    }
    let_in::put_back(&plan.let_in, &let_in)
}

/// Protects the files that the command must not change or see, by every path that leads to them; the
/// last step.
pub(crate) fn protect(plan: &Plan) -> Result<(), SandboxError> {
    if plan.read_only.is_empty() && plan.hidden.is_empty() {
        return Ok(());
    }
    let table = MountTable::read().at(Step::Mount, "the mount table")?;
    let others = |path: &PathBuf| {
        let found = fs::canonicalize(path).and_then(|real| table.other_paths(&real));
        found.at(Step::Mount, &path.to_string_lossy())
    };
    // All are looked for before anything is mounted, which the table would not know.
    let mut read_only = Vec::new();
    for path in &plan.read_only {
        read_only.extend(others(path)?);
    }
    let mut hidden = Vec::new();
    for path in plan.hidden.iter().filter(|path| path.exists()) {
        hidden.extend(others(path)?);
    }
    for path in &read_only {
        read_only_bind(path).at(Step::Mount, &path.to_string_lossy())?;
    }
    for path in &plan.read_only {
        make_read_only(path).at(Step::Mount, &path.to_string_lossy())?;
    }
    for path in hidden.iter().chain(&plan.hidden) {
        skip_missing(cover(path)).at(Step::Mount, &path.to_string_lossy())?;
    }
    Ok(())
}

/// Where `/proc` and `/sys`, or parts of them, are mounted a second time, they are as in the first place.
fn protect_elsewhere(table: &MountTable) -> Result<(), SandboxError> {
    for path in table.other_procs() {
        unless_unreachable(mount_bind_recursive(c"/proc", path))
            .at(Step::Mount, &path.to_string_lossy())?;
    }
    for path in table.other_settings() {
        let shown = path.to_string_lossy();
        let name = CString::new(path.as_os_str().as_bytes()).at(Step::Mount, &shown)?;
        unless_unreachable(set_read_only(CWD, &name, 0)).at(Step::Mount, &shown)?;
    }
    Ok(())
}

/// What another mount hides, or what is in a folder that this user may not enter, is not reached.
fn unless_unreachable(result: Result<(), impl Into<io::Error>>) -> io::Result<()> {
    match result.map_err(Into::into) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::EINVAL)
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn settings_read_only() -> io::Result<()> {
    match set_read_only(CWD, SYS, libc::AT_RECURSIVE) {
        // A plain folder, which may have mounts below.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            read_only_bind(Path::new("/sys"))
        }
        result => result,
    }
}

/// Makes what a path leads to read-only; where the path is a symbolic link, under both names.
fn make_read_only(path: &Path) -> io::Result<()> {
    let real = fs::canonicalize(path)?;
    read_only_bind(&real)?;
    if !fs::symlink_metadata(path)?.is_symlink() {
        return Ok(());
    }
    show(&real, path)
}

fn mask_run() -> io::Result<()> {
    let mut links = Vec::new();
    for entry in fs::read_dir(RUN)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink()
            && let Ok(target) = fs::read_link(entry.path())
            && target.is_absolute()
            && !target.starts_with(RUN)
            && links.len() < MAX_RUN_LINKS
        {
            links.push((entry.path(), target));
        }
    }
    mask_folder(Path::new(RUN))?;
    for (link, target) in links {
        symlink(target, link)?;
    }
    fs::create_dir(OWN)
}

fn mask_runtime_dir(folder: &Path) -> io::Result<()> {
    if folder.starts_with(RUN) {
        return fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder);
    }
    match fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() => mask_folder(folder)?,
        // Nothing there to reach.
        _ => return Ok(()),
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

fn mask_folder(folder: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount(c"tmpfs", folder, c"tmpfs", flags, MASK_OPTIONS)?)
}

/// Puts `/dev/null` over a file or socket: nothing is behind its name any more.
pub(crate) fn cover(path: &Path) -> io::Result<()> {
    Ok(mount_bind(c"/dev/null", path)?)
}

/// Binds a file or folder over itself, read-only. All other flags stay as they are.
fn read_only_bind(path: &Path) -> io::Result<()> {
    mount_read_only(path, path, true)
}

/// Shows `source` in the place of `target`, read-only; a symbolic link is replaced, not followed.
pub(crate) fn show(source: &Path, target: &Path) -> io::Result<()> {
    mount_read_only(source, target, false)
}

/// Mounts a read-only copy of what is at `source`, with all mounts below it or without, on `target`,
/// which is not followed if it is a symbolic link.
fn mount_read_only(source: &Path, target: &Path, recursive: bool) -> io::Result<()> {
    let mut copy = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        copy |= OpenTreeFlags::AT_RECURSIVE;
        flags |= libc::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, copy)?;
    set_read_only(tree.as_fd(), c"", flags)?;
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&tree, c"", CWD, target, whole)?)
}

/// What is missing needs no protection.
pub(crate) fn skip_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Sets what `path`, below `folder`, is mounted by to read-only (mount_setattr(2)).
pub(crate) fn set_read_only(folder: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: path is NUL-terminated, attributes is live and of the size given.
    sys::check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            folder.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    })
    .map(drop)
}
