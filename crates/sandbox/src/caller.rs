//! The program whose system call stands still: its memory, its descriptors, its view of the files.
//!
//! Answers *around the gateway* (docs/threats.md). Whatever is read here is a copy. Another thread of
//! the program may change memory, descriptors, links and folders at any moment; what has been copied
//! stays what it was, and only that is acted on.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Gid, Pid, PidfdFlags, PidfdGetfdFlags, Uid, chroot, fchdir, pidfd_getfd,
    pidfd_open, set_dumpable_behavior,
};

use crate::notification::errno;
use crate::sys;

/// `PIDFD_THREAD` (Linux 6.9): the thread itself, which may have descriptors of its own.
const OF_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());
/// The longest line of `/proc/PID/status` that is of use here, with all else that comes before, in bytes.
const MAX_STATUS_BYTES: u64 = 64 * 1024;
/// How often a lookup that a signal cut short is begun again.
const MAX_LOOKUPS: usize = 100;
/// Paths that mean another thing to each process that looks them up.
const OWN_FOLDERS: [(&[u8], &str); 3] = [
    (b"/proc/self/", ""),
    (b"/proc/thread-self/", ""),
    (b"/dev/fd/", "/fd"),
];

/// A thread inside the sandbox.
#[derive(Debug)]
pub(crate) struct Caller {
    thread: u32,
    handle: OwnedFd,
}

/// As whom a program acts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) groups: Vec<u32>,
}

impl Caller {
    pub(crate) fn new(thread: u32) -> Result<Self, Errno> {
        let pid = i32::try_from(thread).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(Errno::SRCH)?;
        let handle = match pidfd_open(pid, OF_THREAD) {
            // A kernel that has handles on processes only: its threads share their descriptors.
            Err(Errno::INVAL) => pidfd_open(process_of(thread)?, PidfdFlags::empty())?,
            result => result?,
        };
        Ok(Self { thread, handle })
    }

    pub(crate) fn thread(&self) -> u32 {
        self.thread
    }

    /// A copy of a descriptor, which stays what it is whatever the program puts in its place.
    pub(crate) fn descriptor(&self, number: u64) -> Result<OwnedFd, Errno> {
        // A call takes the low 32 bits.
        let number = number as u32 as i32;
        if number < 0 {
            return Err(Errno::BADF);
        }
        pidfd_getfd(&self.handle, number, PidfdGetfdFlags::empty())
    }

    /// Copies from the program's memory.
    pub(crate) fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let local = libc::iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        };
        let remote = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: into.len(),
        };
        // SAFETY: the local range is live and writable; the remote one is the kernel's to check.
        let read = unsafe {
            libc::process_vm_readv(
                self.thread as i32,
                &raw const local,
                1,
                &raw const remote,
                1,
                0,
            )
        };
        match errno(sys::check(read as i64)) {
            Ok(read) if read as usize == into.len() => Ok(()),
            Ok(_) => Err(Errno::FAULT),
            Err(error) => Err(error),
        }
    }

    /// As whom the program acts: its effective ids and its groups.
    pub(crate) fn identity(&self) -> Result<Identity, Errno> {
        let status = status(self.thread)?;
        let effective = |field: &str| {
            let ids = field_of(&status, field)?;
            ids.split_ascii_whitespace().nth(1)?.parse().ok()
        };
        let groups = field_of(&status, "Groups:").unwrap_or_default();
        Ok(Identity {
            user: effective("Uid:").ok_or(Errno::SRCH)?,
            group: effective("Gid:").ok_or(Errno::SRCH)?,
            groups: groups
                .split_ascii_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect(),
        })
    }
}

/// Whether a signal waits for a thread that does not block it.
pub(crate) fn has_signal(thread: u32) -> bool {
    let Ok(status) = status(thread) else {
        return false;
    };
    let mask = |field: &str| {
        let mask = field_of(&status, field).unwrap_or_default();
        u64::from_str_radix(mask.trim(), 16).unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}

fn process_of(thread: u32) -> Result<Pid, Errno> {
    let status = status(thread)?;
    let process = field_of(&status, "Tgid:").and_then(|id| id.trim().parse().ok());
    process.and_then(Pid::from_raw).ok_or(Errno::SRCH)
}

fn status(thread: u32) -> Result<String, Errno> {
    let mut text = String::new();
    let file = errno(File::open(format!("/proc/{thread}/status")))?;
    errno(file.take(MAX_STATUS_BYTES).read_to_string(&mut text))?;
    Ok(text)
}

fn field_of<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// Looks paths up as other programs see them, whatever their root, working folder and mounts.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// This process's own root and `/proc`, to come back to.
    root: OwnedFd,
    proc: OwnedFd,
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Lookup {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self {
            root: open("/", FOLDER, Mode::empty())?,
            proc: open("/proc", FOLDER, Mode::empty())?,
        })
    }

    /// What a path leads to for the caller.
    ///
    /// The lookup is the kernel's own, with the caller's root and working folder as this process's,
    /// so links, `..` and mounts mean what they mean to the caller. `/proc/self` does not; the
    /// spellings of it that programs use are led to the caller's.
    pub(crate) fn find(&self, caller: &Caller, path: &[u8]) -> Result<OwnedFd, Errno> {
        let of_caller = |name: &str| {
            let path = format!("{}/{name}", caller.thread());
            openat(&self.proc, path, FOLDER, Mode::empty())
        };
        let own = OWN_FOLDERS.iter().find_map(|(prefix, below)| {
            let rest = path.strip_prefix(*prefix)?;
            Some((rest, *below))
        });
        let (from, path) = match own {
            Some((rest, below)) => (of_caller(below.trim_start_matches('/'))?, rest),
            None => (of_caller("cwd")?, path),
        };
        let root = of_caller("root")?;
        enter(root.as_fd())?;
        let found = self.open_at(from.as_fd(), path);
        // Nothing is looked up from the wrong place: without a way back this process ends, and the
        // sandbox with it.
        if enter(self.root.as_fd()).is_err() {
            sys::exit(1);
        }
        found
    }

    fn open_at(&self, from: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        for _ in 0..MAX_LOOKUPS {
            match openat(from, path, flags, Mode::empty()) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::INTR)
    }
}

/// Makes a folder this process's root and working folder.
fn enter(root: BorrowedFd<'_>) -> Result<(), Errno> {
    fchdir(root)?;
    chroot(".")
}

/// Acts as somebody else from now on, with the groups that they have.
pub(crate) fn act_as(who: &Identity) -> Result<(), Errno> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let groups: Vec<Gid> = who.groups.iter().map(|id| Gid::from_raw(*id)).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(None, Gid::from_raw(who.group), None)?;
    set_thread_res_uid(None, Uid::from_raw(who.user), None)?;
    // The kernel may be told to have another user's process looked at.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
