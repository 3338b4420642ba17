//! The sandbox's mounts: a `/proc` of its own, and out of reach whatever resolves or fetches for
//! others (Unix sockets of resolvers, caches, buses, container engines, agents).
//!
//! Files are otherwise as the user sees them. Nothing made here propagates to the host, and
//! nothing that the host mounts later shows up inside.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::{At, SandboxError, Step};
use crate::sys;

/// The folder that is masked as a whole.
pub(crate) const RUN: &str = "/run";
/// Where the sandbox's own files live, inside the masked [`RUN`].
pub(crate) const OWN: &str = "/run/portcullis";
/// The most links of `/run` that are made again in the mask (NixOS keeps its system there).
const MAX_RUN_LINKS: usize = 256;
/// Options of the masking file systems: small, and their folders are the user's.
const MASK_OPTIONS: &CStr = c"mode=0755,size=64m,nr_inodes=65536";
/// What real root could write in `/proc` without any capability, to have the kernel start a
/// program outside (core_pattern, modprobe) or to disturb the host.
const KERNEL_KNOBS: [&str; 5] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
];
/// The host's settings and, below them, the control groups: a user who owns theirs (as under
/// systemd) could leave the sandbox's group and freeze the rest of it, gateway and parent included.
const SYS: &CStr = c"/sys";
/// Devices that reach the host's own vsock services without a socket of that family.
const DOORS_TO_THE_HOST: [&str; 2] = ["/dev/vsock", "/dev/vhost-vsock"];

/// What is to be done to the mounts.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The user's runtime folder, if it is not below `/run`.
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Files and folders the command must not change.
    pub(crate) read_only: Vec<PathBuf>,
    /// Files the command must not see.
    pub(crate) hidden: Vec<PathBuf>,
    /// Root of the host, not only of a user namespace.
    pub(crate) real_root: bool,
}

/// Cuts the tree off from the host's and mounts the new `/proc`.
pub(crate) fn begin() -> Result<(), SandboxError> {
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None).at(Step::Mount, "/")?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, None).at(Step::Proc, "")
}

/// Masks, and protects what must not change. Ids must be mapped by now.
pub(crate) fn arrange(plan: &Plan) -> Result<(), SandboxError> {
    if plan.real_root {
        for path in KERNEL_KNOBS {
            skip_missing(read_only_bind(Path::new(path))).at(Step::Mount, path)?;
        }
    }
    skip_missing(settings_read_only()).at(Step::Mount, "/sys")?;
    for device in DOORS_TO_THE_HOST {
        skip_missing(cover(Path::new(device))).at(Step::Mount, device)?;
    }
    mask_run().at(Step::Mount, RUN)?;
    if let Some(folder) = &plan.runtime_dir {
        mask_runtime_dir(folder).at(Step::Mount, "XDG_RUNTIME_DIR")?;
    }
    Ok(())
}

/// Protects the files that the command must not change or see; the last step.
pub(crate) fn protect(plan: &Plan) -> Result<(), SandboxError> {
    for path in &plan.read_only {
        keep_as_it_is(path).at(Step::Mount, &path.to_string_lossy())?;
    }
    for path in &plan.hidden {
        skip_missing(cover(path)).at(Step::Mount, &path.to_string_lossy())?;
    }
    Ok(())
}

fn settings_read_only() -> io::Result<()> {
    match set_read_only(libc::AT_FDCWD, SYS, libc::AT_RECURSIVE) {
        // A plain folder, which may have mounts below.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            read_only_bind(Path::new("/sys"))
        }
        result => result,
    }
}

/// Makes what a path leads to read-only; where the path is a symbolic link, under both names.
fn keep_as_it_is(path: &Path) -> io::Result<()> {
    let real = fs::canonicalize(path)?;
    read_only_bind(&real)?;
    // Nobody can point a link of `/proc` (`/dev/fd/3`) elsewhere.
    let folder = fs::canonicalize(path.parent().unwrap_or(path))?;
    if folder.starts_with("/proc") || !fs::symlink_metadata(path)?.is_symlink() {
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
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    mount(
        Some(c"tmpfs"),
        &c_path(folder)?,
        Some(c"tmpfs"),
        flags,
        Some(MASK_OPTIONS),
    )
}

/// Puts `/dev/null` over a file or socket: nothing is behind its name any more.
pub(crate) fn cover(path: &Path) -> io::Result<()> {
    mount(
        Some(c"/dev/null"),
        &c_path(path)?,
        None,
        libc::MS_BIND,
        None,
    )
}

/// Binds a file or folder over itself, read-only. All other flags stay as they are.
fn read_only_bind(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let tree = open_tree(&path, libc::AT_RECURSIVE as u32)?;
    set_read_only(
        tree.as_raw_fd(),
        c"",
        libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
    )?;
    move_mount(&tree, &path)
}

/// Shows `source` in the place of `target`, read-only; a symbolic link is replaced, not followed.
pub(crate) fn show(source: &Path, target: &Path) -> io::Result<()> {
    let tree = open_tree(&c_path(source)?, 0)?;
    set_read_only(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH)?;
    move_mount(&tree, &c_path(target)?)
}

/// What is missing needs no protection.
pub(crate) fn skip_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: all strings are NUL-terminated or null, and live for the call.
    sys::check(unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(kind),
            flags,
            pointer(options).cast(),
        )
    })
    .map(drop)
}

/// A detached copy of what is mounted at a path.
fn open_tree(path: &CStr, flags: u32) -> io::Result<OwnedFd> {
    const CLONE: u32 = 1;
    let flags = flags | CLONE | libc::O_CLOEXEC as u32;
    // SAFETY: path is NUL-terminated; the call makes a new descriptor or fails.
    unsafe {
        sys::own(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) as i32)
    }
}

/// Attaches a detached tree at a path, which is not followed if it is a symbolic link.
fn move_mount(tree: &OwnedFd, target: &CStr) -> io::Result<()> {
    const FROM_EMPTY_PATH: u32 = 4;
    // SAFETY: both strings are NUL-terminated and live for the call.
    sys::check_long(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            FROM_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn set_read_only(folder: i32, path: &CStr, flags: i32) -> io::Result<()> {
    const READ_ONLY: u64 = 1;
    let attributes = MountAttributes {
        set: READ_ONLY,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: path is NUL-terminated, attributes is live and of the size given.
    sys::check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            folder,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}
