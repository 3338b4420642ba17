//! Signals as readable descriptors, and the dispositions that the command starts with.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;

use nix::sys::signal::{SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::signalfd::{self, SfdFlags};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait, waitpid};

/// The signals that the parent passes on. The terminal's own reach the command by themselves.
const PASSED_ON: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// The signal state of the caller, for the command to start with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Saved {
    mask: SigSet,
    child: SigAction,
}

/// Blocks what is going to be read from a descriptor, and makes children waitable.
pub(crate) fn take_over() -> io::Result<Saved> {
    let own = [Signal::SIGCHLD, Signal::SIGTTOU, Signal::SIGTTIN];
    let blocked: SigSet = PASSED_ON.into_iter().chain(own).collect();
    let mask = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    // SAFETY: the default action runs no code of this process.
    let child = unsafe { sigaction(Signal::SIGCHLD, &default_action())? };
    Ok(Saved { mask, child })
}

fn default_action() -> SigAction {
    SigAction::new(
        SigHandler::SigDfl,
        nix::sys::signal::SaFlags::empty(),
        SigSet::empty(),
    )
}

/// Lets a write beyond the limit of a file's size (`ulimit -f`) fail with an error, as on a full disk,
/// and not end this process. Its children inherit that, so call it in a process that starts none.
pub fn ignore_file_size_limit() {
    let ignore = SigAction::new(
        SigHandler::SigIgn,
        nix::sys::signal::SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: an ignored signal runs no code of this process.
    let _ = unsafe { sigaction(Signal::SIGXFSZ, &ignore) };
}

/// Has the kernel reap children at once: nobody waits for them.
pub(crate) fn forget_children() -> io::Result<()> {
    let ignore = SigAction::new(
        SigHandler::SigIgn,
        nix::sys::signal::SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: an ignored signal runs no code of this process.
    unsafe { sigaction(Signal::SIGCHLD, &ignore)? };
    Ok(())
}

/// Makes children waitable, in one that [`forget_children`] has made.
pub(crate) fn wait_for_children() -> io::Result<()> {
    // SAFETY: the default action runs no code of this process.
    unsafe { sigaction(Signal::SIGCHLD, &default_action())? };
    Ok(())
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
        // SAFETY: the action is the caller's own.
        let _ = unsafe { sigaction(Signal::SIGCHLD, &self.child) };
        let _ = self.mask.thread_set_mask();
    }

    /// The state a command expects: the caller's, but with SIGPIPE as the kernel has it, since
    /// the Rust runtime ignores it in this process.
    pub(crate) fn restore_for_command(&self) {
        // SAFETY: the default action runs no code of this process.
        let _ = unsafe { sigaction(Signal::SIGPIPE, &default_action()) };
        self.restore();
    }
}

/// Signals read from a descriptor.
#[derive(Debug)]
pub(crate) struct SignalFd(signalfd::SignalFd);

/// A signal that arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) number: i32,
    /// Sent by the kernel (a key at the terminal, a child) and not by another process.
    pub(crate) from_kernel: bool,
}

impl SignalFd {
    /// Reads what [`take_over`] blocks.
    pub(crate) fn for_parent() -> io::Result<Self> {
        Self::of(PASSED_ON.into_iter().chain([Signal::SIGCHLD]).collect())
    }

    /// Reads SIGCHLD only.
    pub(crate) fn for_children() -> io::Result<Self> {
        Self::of(SigSet::from(Signal::SIGCHLD))
    }

    fn of(set: SigSet) -> io::Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(signalfd::SignalFd::with_flags(&set, flags)?))
    }

    /// The next signal, if one is there.
    pub(crate) fn next(&self) -> Option<Arrived> {
        let info = self.0.read_signal().ok()??;
        Some(Arrived {
            number: info.ssi_signo as i32,
            from_kernel: info.ssi_code > 0,
        })
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
    fn of(status: WaitStatus) -> Self {
        if let Some(code) = status.exit_status() {
            Self::Exited(code)
        } else if let Some(signal) = status.terminating_signal() {
            Self::Signaled(signal)
        } else if status.continued() {
            Self::Continued
        } else {
            Self::Stopped
        }
    }

    /// Whether the child is gone.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::Exited(_) | Self::Signaled(_))
    }
}

/// What is looked for at children: any change, without waiting for one.
const CHANGES: WaitOptions = WaitOptions::NOHANG
    .union(WaitOptions::UNTRACED)
    .union(WaitOptions::CONTINUED);

/// Reaps one child, without waiting; none when there is nothing to reap.
pub(crate) fn reap(child: Pid) -> Option<Change> {
    let (_, status) = waitpid(Some(child), CHANGES).ok()??;
    Some(Change::of(status))
}

/// The same for whichever child has changed.
pub(crate) fn reap_any() -> Option<(Pid, Change)> {
    let (pid, status) = wait(CHANGES).ok()??;
    Some((pid, Change::of(status)))
}
