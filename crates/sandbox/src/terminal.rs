//! The terminal's foreground job: a command that moved it (an interactive shell) leaves it to a
//! process group that is gone, so it is taken back at the end.

use std::os::fd::BorrowedFd;

use nix::unistd::getpgrp;
use rustix::process::Pid;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The terminal, if this process's job had it at the start.
#[derive(Debug)]
pub(crate) struct Terminal(Option<Foreground>);

#[derive(Debug)]
struct Foreground {
    terminal: BorrowedFd<'static>,
    group: Pid,
}

impl Terminal {
    /// Remembers the terminal if this process's job has it.
    pub(crate) fn remember() -> Self {
        // None where the group was made outside this PID namespace.
        let group = Pid::from_raw(getpgrp().as_raw());
        let job = group.and_then(|group| {
            let mut terminals = [stdin(), stdout(), stderr()].into_iter();
            let terminal = terminals.find(|terminal| tcgetpgrp(terminal) == Ok(group))?;
            Some(Foreground { terminal, group })
        });
        Self(job)
    }

    /// Gives it back to this job. SIGTTOU must be blocked.
    pub(crate) fn take_back(&self) {
        if let Some(Foreground { terminal, group }) = &self.0
            && tcgetpgrp(terminal) != Ok(*group)
        {
            // A terminal that is gone belongs to no job.
            let _ = tcsetpgrp(terminal, *group);
        }
    }
}
