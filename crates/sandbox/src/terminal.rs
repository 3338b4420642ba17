//! The terminal's foreground job: a command that moved it (an interactive shell) leaves it to a
//! process group that is gone, so it is taken back at the end.

use std::os::fd::RawFd;

/// Whose job had the terminal at the start.
#[derive(Debug)]
pub(crate) struct Terminal {
    foreground: Option<(RawFd, libc::pid_t)>,
}

impl Terminal {
    /// Remembers the terminal if this process's job has it.
    pub(crate) fn remember() -> Self {
        // SAFETY: these calls only ask.
        let foreground = unsafe {
            let group = libc::getpgrp();
            (0..=2)
                .find(|fd| libc::tcgetpgrp(*fd) == group)
                .map(|fd| (fd, group))
        };
        Self { foreground }
    }

    /// Gives it back to this job. SIGTTOU must be blocked.
    pub(crate) fn take_back(&self) {
        if let Some((fd, group)) = self.foreground {
            // SAFETY: plain calls on a descriptor that was a terminal.
            unsafe {
                if libc::tcgetpgrp(fd) != group {
                    libc::tcsetpgrp(fd, group);
                }
            }
        }
    }
}
