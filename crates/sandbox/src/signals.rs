//! Signals as readable descriptors, and the dispositions that the command starts with.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use crate::sys;

/// The signals that the parent passes on. The terminal's own reach the command by themselves.
const PASSED_ON: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGTSTP,
    libc::SIGCONT,
];

/// The signal state of the caller, for the command to start with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Saved {
    mask: libc::sigset_t,
    child: libc::sigaction,
}

/// Blocks what is going to be read from a descriptor, and makes children waitable.
pub(crate) fn take_over() -> io::Result<Saved> {
    let set = set_of(
        PASSED_ON
            .iter()
            .chain(&[libc::SIGCHLD, libc::SIGTTOU, libc::SIGTTIN]),
    );
    // SAFETY: all pointers are to live values of the right type; a zeroed sigaction is the
    // default action.
    unsafe {
        let mut mask: libc::sigset_t = mem::zeroed();
        sys::check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const set,
            &raw mut mask,
        ))?;
        let mut child: libc::sigaction = mem::zeroed();
        let default: libc::sigaction = mem::zeroed();
        sys::check(libc::sigaction(
            libc::SIGCHLD,
            &raw const default,
            &raw mut child,
        ))?;
        Ok(Saved { mask, child })
    }
}

/// Whether the caller has this signal ignored (`nohup`, a shell's background job): what is blocked
/// is read all the same.
pub(crate) fn is_ignored(signal: i32) -> bool {
    // SAFETY: a zeroed sigaction is a valid value, and the call only writes to it.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

impl Saved {
    /// Gives the caller its state back.
    pub(crate) fn restore(&self) {
        // SAFETY: both values came from the kernel.
        unsafe {
            libc::sigaction(libc::SIGCHLD, &raw const self.child, ptr::null_mut());
            libc::sigprocmask(libc::SIG_SETMASK, &raw const self.mask, ptr::null_mut());
        }
    }

    /// The state a command expects: the caller's, but with SIGPIPE as the kernel has it, since
    /// the Rust runtime ignores it in this process.
    pub(crate) fn restore_for_command(&self) {
        // SAFETY: SIG_DFL is a valid disposition.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        self.restore();
    }
}

/// Signals read from a descriptor.
#[derive(Debug)]
pub(crate) struct SignalFd(OwnedFd);

/// One signal that arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) number: i32,
    /// Sent by the kernel (a key on the terminal), not by a process.
    pub(crate) from_kernel: bool,
}

impl SignalFd {
    /// Reads what [`take_over`] blocks.
    pub(crate) fn for_parent() -> io::Result<Self> {
        Self::of(&set_of(PASSED_ON.iter().chain(&[libc::SIGCHLD])))
    }

    /// Reads SIGCHLD only.
    pub(crate) fn for_children() -> io::Result<Self> {
        Self::of(&set_of(&[libc::SIGCHLD]))
    }

    fn of(set: &libc::sigset_t) -> io::Result<Self> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: set is live; the call makes a new descriptor or fails.
        unsafe { sys::own(libc::signalfd(-1, ptr::from_ref(set), flags)).map(Self) }
    }

    /// The next signal, if one is there.
    pub(crate) fn next(&self) -> Option<Arrived> {
        // SAFETY: an all-zero signalfd_siginfo is valid, read fills at most its size.
        unsafe {
            let mut info: libc::signalfd_siginfo = mem::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            let got = libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size);
            (got == size as isize).then_some(Arrived {
                number: info.ssi_signo as i32,
                from_kernel: info.ssi_code > 0,
            })
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set_of<'a>(signals: impl IntoIterator<Item = &'a i32>) -> libc::sigset_t {
    // SAFETY: sigemptyset makes the zeroed set valid; the numbers are signals.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// How a child changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Exited(i32),
    Signaled(i32),
    Stopped,
    Continued,
}

impl Change {
    /// Whether the child is gone.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::Exited(_) | Self::Signaled(_))
    }
}

/// Reaps one child (`-1`: any), without waiting; none when there is nothing to reap.
pub(crate) fn reap(pid: libc::pid_t) -> Option<(libc::pid_t, Change)> {
    let mut status = 0;
    let what = libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED;
    // SAFETY: status is live.
    let found = unsafe { libc::waitpid(pid, &raw mut status, what) };
    if found <= 0 {
        return None;
    }
    let change = if libc::WIFEXITED(status) {
        Change::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        Change::Signaled(libc::WTERMSIG(status))
    } else if libc::WIFCONTINUED(status) {
        Change::Continued
    } else {
        Change::Stopped
    };
    Some((found, change))
}
