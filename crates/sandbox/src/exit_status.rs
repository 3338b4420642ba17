//! How a sandboxed command ended, and the exit code that says so.

use std::io;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited by itself with this code.
    Exited(i32),
    /// A signal ended it.
    Signaled(Killed),
    /// It was ended after `Spec::timeout`, with all its descendants.
    TimedOut,
    /// The time was over before the command was started, and it never was.
    TimedOutBeforeStart,
    /// The gateway ended first, so everything inside was ended with it.
    GatewayDied {
        /// The signal that ended the gateway, if one did.
        signal: Option<i32>,
        /// Its exit code otherwise.
        code: Option<i32>,
    },
    /// The sandbox's first process was ended from outside, and the tree with it.
    SandboxDied {
        /// The signal that ended it, if one did.
        signal: Option<i32>,
    },
    /// A signal to end came before the command was started, and it never was.
    Interrupted(Killed),
    /// The command was not found; the errno of the last attempt.
    NotFound(i32),
    /// The command was found but cannot be executed; the errno of the attempt.
    NotExecutable(i32),
}

/// The signal that ended something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed {
    /// Its number.
    pub signal: i32,
    /// Whether the terminal sent it, to the whole job.
    pub by_terminal: bool,
}

/// `run` ended the command because its time was over.
pub const EXIT_TIMED_OUT: i32 = 124;
/// Portcullis itself failed.
pub const EXIT_FAILED: i32 = 125;
/// The command cannot be executed.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
/// The command was not found.
pub const EXIT_NOT_FOUND: i32 = 127;
/// Added to the number of the signal that ended the command.
pub const EXIT_SIGNAL_BASE: i32 = 128;

impl ExitStatus {
    /// The exit code of `run`.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(by) | Self::Interrupted(by) => EXIT_SIGNAL_BASE + by.signal,
            Self::TimedOut | Self::TimedOutBeforeStart => EXIT_TIMED_OUT,
            // The kernel has killed whatever ran inside.
            Self::GatewayDied { .. } => EXIT_SIGNAL_BASE + libc::SIGKILL,
            Self::SandboxDied { signal } => EXIT_SIGNAL_BASE + signal.unwrap_or(libc::SIGKILL),
            Self::NotFound(_) => EXIT_NOT_FOUND,
            Self::NotExecutable(_) => EXIT_NOT_EXECUTABLE,
        }
    }

    /// The signal of the terminal that ended the command. The caller dies of it too, so that a shell
    /// stops its loop as it would without the sandbox.
    pub fn terminal_signal(self) -> Option<i32> {
        match self {
            Self::Signaled(by) | Self::Interrupted(by) if by.by_terminal => Some(by.signal),
            _ => None,
        }
    }

    /// What the caller tells its user on stderr; `None` when the command speaks for itself.
    pub fn message(self, command: &str) -> Option<String> {
        match self {
            Self::NotFound(errno) | Self::NotExecutable(errno) => Some(format!(
                "{command}: {}",
                io::Error::from_raw_os_error(errno)
            )),
            Self::GatewayDied {
                signal: Some(signal),
                ..
            } => Some(format!(
                "the gateway was killed by signal {signal}, so the sandbox was ended too"
            )),
            Self::GatewayDied { code, .. } => Some(format!(
                "the gateway exited with code {}, so the sandbox was ended too",
                code.unwrap_or(-1)
            )),
            Self::SandboxDied { signal: Some(_) } => {
                Some("the sandbox's first process was killed from outside".to_owned())
            }
            Self::SandboxDied { signal: None } => Some(
                "a process of the sandbox's own ended, so the sandbox was ended too".to_owned(),
            ),
            Self::TimedOutBeforeStart => Some(format!(
                "the time for {command} was over before it could be started"
            )),
            Self::Exited(_) | Self::Signaled(_) | Self::TimedOut | Self::Interrupted(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_exit_code() {
        assert_eq!(ExitStatus::Exited(7).exit_code(), 7);
        let by = |signal| Killed {
            signal,
            by_terminal: false,
        };
        assert_eq!(ExitStatus::Signaled(by(15)).exit_code(), 143);
        assert_eq!(ExitStatus::Interrupted(by(2)).exit_code(), 130);
        assert_eq!(ExitStatus::TimedOut.exit_code(), 124);
        assert_eq!(ExitStatus::NotExecutable(libc::EACCES).exit_code(), 126);
        assert_eq!(ExitStatus::NotFound(libc::ENOENT).exit_code(), 127);
        // Not 125, which means that the command never started.
        let gateway_died = ExitStatus::GatewayDied {
            signal: Some(11),
            code: None,
        };
        assert_eq!(gateway_died.exit_code(), 137);
        assert_eq!(ExitStatus::SandboxDied { signal: None }.exit_code(), 137);
    }
}
