//! What the terminal's parent and the sandbox's first process tell each other.

use std::io;
use std::time::Duration;

use crate::channel;
use crate::error::{SandboxError, Step};

/// The first process's exit code when the gateway is gone; the parent knows it by that.
pub(crate) const EXIT_GATEWAY_GONE: i32 = 3;
/// How long the command may take to end after SIGTERM when its time is over.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// From the parent to the sandbox's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The id maps are written.
    Mapped,
    /// Send this signal to the command.
    Signal(i32),
    /// Continue the command if it still stands in the stop of this number: its job's shell has
    /// usually done so, and it may have stopped again.
    Continue(i32),
    /// The stop of this number has been followed: the next one may be reported.
    Followed(i32),
}

impl Order {
    pub(crate) fn encode(self) -> [u8; 5] {
        let (kind, value) = match self {
            Self::Mapped => (1, 0),
            Self::Signal(signal) => (2, signal),
            Self::Continue(stop) => (3, stop),
            Self::Followed(stop) => (4, stop),
        };
        let [a, b, c, d] = value.to_ne_bytes();
        [kind, a, b, c, d]
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let value = i32::from_ne_bytes(bytes.get(1..5)?.try_into().ok()?);
        match bytes[0] {
            1 => Some(Self::Mapped),
            2 => Some(Self::Signal(value)),
            3 => Some(Self::Continue(value)),
            4 => Some(Self::Followed(value)),
            _ => None,
        }
    }
}

/// From the sandbox's first process to the parent.
#[derive(Debug)]
pub(crate) enum Report {
    /// The sandbox could not be made.
    Failed(SandboxError),
    /// The command could not be executed.
    NoExec(i32),
    /// The sandbox stands and is proven: the command is about to be executed.
    Starting,
    /// The command stands still, in the stop of this number.
    Stopped(i32),
    /// The command exited.
    Exited(i32),
    /// A signal ended the command.
    Signaled(i32),
}

const FAILED_SETUP: u8 = 1;
const FAILED_REFUSED: u8 = 2;
const NO_EXEC: u8 = 3;
const STOPPED: u8 = 4;
const EXITED: u8 = 5;
const SIGNALED: u8 = 6;
const STARTING: u8 = 7;
/// Kind, step, errno.
const HEAD_BYTES: usize = 6;

/// Marks a failure on the command's own channel; distinct from its one-byte messages.
const FAILURE_MARK: u8 = 0xff;

impl Report {
    /// A failure as the command's process reports it to the first process.
    pub(crate) fn encode_failure(error: &SandboxError) -> Vec<u8> {
        let copy = match error {
            SandboxError::Setup {
                step,
                detail,
                source,
            } => SandboxError::setup(
                *step,
                detail.as_str(),
                io::Error::from_raw_os_error(source.raw_os_error().unwrap_or(libc::EIO)),
            ),
            SandboxError::Refused {
                step,
                detail,
                errno,
            } => SandboxError::refused_for(*step, detail.as_str(), *errno),
            SandboxError::Invalid(text) => SandboxError::Invalid(text.clone()),
        };
        let mut out = vec![FAILURE_MARK];
        out.extend(Self::Failed(copy).encode());
        out
    }

    /// Reads what [`Report::encode_failure`] wrote.
    pub(crate) fn decode_failure(bytes: &[u8]) -> Option<SandboxError> {
        match (bytes.split_first()?, Self::decode(bytes.get(1..)?)?) {
            ((&FAILURE_MARK, _), Self::Failed(error)) => Some(error),
            _ => None,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, step, value, text) = match self {
            Self::Failed(SandboxError::Setup {
                step,
                detail,
                source,
            }) => (
                FAILED_SETUP,
                *step as u8,
                source.raw_os_error().unwrap_or(libc::EIO),
                detail.as_str(),
            ),
            Self::Failed(SandboxError::Refused {
                step,
                detail,
                errno,
            }) => (FAILED_REFUSED, *step as u8, *errno, detail.as_str()),
            Self::Failed(SandboxError::Invalid(text)) => {
                (FAILED_REFUSED, Step::Prepare as u8, 0, text.as_str())
            }
            Self::NoExec(errno) => (NO_EXEC, 0, *errno, ""),
            Self::Starting => (STARTING, 0, 0, ""),
            Self::Stopped(stop) => (STOPPED, 0, *stop, ""),
            Self::Exited(code) => (EXITED, 0, *code, ""),
            Self::Signaled(signal) => (SIGNALED, 0, *signal, ""),
        };
        let mut out = vec![kind, step];
        out.extend_from_slice(&value.to_ne_bytes());
        out.extend_from_slice(channel::cut(text).as_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let head = bytes.get(..HEAD_BYTES)?;
        let step = Step::from_code(head[1]);
        let value = i32::from_ne_bytes(head[2..].try_into().ok()?);
        let text = String::from_utf8_lossy(&bytes[HEAD_BYTES..]).into_owned();
        Some(match head[0] {
            FAILED_SETUP => Self::Failed(SandboxError::setup(
                step?,
                text,
                io::Error::from_raw_os_error(value),
            )),
            FAILED_REFUSED => Self::Failed(SandboxError::refused_for(step?, text, value)),
            NO_EXEC => Self::NoExec(value),
            STARTING => Self::Starting,
            STOPPED => Self::Stopped(value),
            EXITED => Self::Exited(value),
            SIGNALED => Self::Signaled(value),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_read_back() {
        for order in [
            Order::Mapped,
            Order::Signal(15),
            Order::Continue(2),
            Order::Followed(3),
        ] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        assert_eq!(Order::decode(&[9, 0, 0, 0, 0]), None);
        assert_eq!(Order::decode(&[]), None);
        for report in [
            Report::NoExec(2),
            Report::Starting,
            Report::Stopped(7),
            Report::Exited(-1),
            Report::Signaled(9),
            Report::Failed(SandboxError::refused_for(Step::Gateway, "no", libc::EAGAIN)),
            Report::Failed(SandboxError::setup(
                Step::Proc,
                "x",
                io::Error::from_raw_os_error(libc::EPERM),
            )),
        ] {
            let bytes = report.encode();
            let read = Report::decode(&bytes).unwrap();
            assert_eq!(format!("{report:?}"), format!("{read:?}"));
            assert!(Report::decode(&bytes[..HEAD_BYTES - 1]).is_none());
        }
    }
}
