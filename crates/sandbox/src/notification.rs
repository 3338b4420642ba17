//! The kernel's questions about supervised system calls (seccomp_unotify(2)).
//!
//! Answers *around the gateway* (docs/threats.md). A call that the filter marks stands still until
//! somebody answers for it. What is received here are numbers that the kernel has copied: neither
//! the caller nor its threads can change them any more. What a number points to, they can.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::sys;

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`: the waiting side runs next, on the same processor.
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// Where a filter's questions arrive.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

/// One call that stands still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    /// What an answer refers to.
    pub(crate) id: u64,
    /// The calling thread, as this process sees it.
    pub(crate) thread: u32,
    /// The entry by which the call came.
    pub(crate) architecture: u32,
    /// The call's number on that entry.
    pub(crate) number: u32,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has been carried out, with this result.
    Done(Result<(), Errno>),
    /// The kernel carries it out after all. Whatever was looked at may be another thing by then.
    Continue,
}

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        // An older kernel does not know it and is only slower.
        // SAFETY: the descriptor is live; the argument is a number.
        let _ = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
                SYNC_WAKE_UP,
            )
        };
        Self(fd)
    }

    /// Waits for the next call.
    ///
    /// # Errors
    /// `EINTR` after a signal; `ENOENT` when the caller is gone.
    pub(crate) fn receive(&self) -> Result<Notification, Errno> {
        // SAFETY: zero is a value of the struct, which the kernel demands here.
        let mut got: libc::seccomp_notif = unsafe { zeroed() };
        // SAFETY: the struct is live and of the size that the request's number holds.
        let done = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut got,
            )
        };
        errno(sys::check(done))?;
        Ok(Notification {
            id: got.id,
            thread: got.pid,
            architecture: got.data.arch,
            number: got.data.nr as u32,
            arguments: got.data.args,
        })
    }

    /// Whether nobody is under the filter any more.
    pub(crate) fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec::default();
        let polled = rustix::event::poll(&mut fds, Some(&now));
        polled.is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    /// Answers for a call. A caller that is gone needs no answer.
    pub(crate) fn answer(&self, id: u64, verdict: Verdict) {
        let (error, flags) = match verdict {
            Verdict::Done(Ok(())) => (0, 0),
            Verdict::Done(Err(errno)) => (-errno.raw_os_error(), 0),
            Verdict::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        };
        let answer = libc::seccomp_notif_resp {
            id,
            val: 0,
            error,
            flags,
        };
        // SAFETY: the struct is live and of the size that the request's number holds.
        let _ = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw const answer,
            )
        };
    }

    /// Whether the call still stands: its caller has neither ended nor given up.
    pub(crate) fn stands(&self, id: u64) -> bool {
        // SAFETY: the number is live and of the size that the request's number holds.
        let done = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const id,
            )
        };
        done == 0
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The errno of a failed call.
pub(crate) fn errno<T>(result: io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
