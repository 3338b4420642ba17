//! Why one exchange with one server brought no usable answer, and why a whole query did not.

use std::io;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use portcullis_policy::Reason;

/// One exchange's failure. Cheap to clone: questions that share a connection share its end.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// No connection, or it broke; ECONNREFUSED is the server's port unreachable.
    #[error("{0}")]
    Unreachable(Arc<str>),
    /// The connection ended before the answer; another one may bring it.
    #[error("it closed the connection before it answered")]
    Closed,
    /// The server is there, but is not what it should be: its certificate, its HTTP.
    #[error("{0}")]
    Refused(Arc<str>),
    /// More questions wait for this server than may.
    #[error("too many questions wait for it")]
    Crowded,
    /// This process has no descriptor left for a socket: no fault of the server.
    #[error("{0}")]
    Exhausted(Arc<str>),
    /// The server answered with an error.
    #[error("it answered {0}")]
    Code(ResponseCode),
    /// The answer could not be read.
    #[error("its answer is not well formed")]
    Malformed,
    /// What arrived did not answer the question.
    #[error("its answers did not match the question")]
    Mismatch,
}

impl ExchangeError {
    /// A failure of which nothing but a sentence is known.
    pub(super) fn refused(why: impl Into<String>) -> ExchangeError {
        ExchangeError::Refused(why.into().into())
    }

    /// A server that cannot be reached, in a sentence.
    pub(super) fn unreachable(why: impl Into<String>) -> ExchangeError {
        ExchangeError::Unreachable(why.into().into())
    }

    /// The reason that record and program are told; `others_silent`: other attempts had no answer.
    pub(super) fn reason(&self, others_silent: bool) -> Reason {
        match self {
            ExchangeError::Unreachable(_) | ExchangeError::Closed if others_silent => {
                Reason::DnsTimeout
            }
            ExchangeError::Unreachable(_) | ExchangeError::Closed => Reason::DnsUnreachable,
            ExchangeError::Exhausted(_) => Reason::RateLimited,
            ExchangeError::Refused(_)
            | ExchangeError::Crowded
            | ExchangeError::Code(_)
            | ExchangeError::Malformed
            | ExchangeError::Mismatch => Reason::DnsFailed,
        }
    }
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> ExchangeError {
        /// No kinds of their own: too many open files of this process, or of the host.
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        match error.raw_os_error() {
            Some(EMFILE | ENFILE) => ExchangeError::Exhausted(error.to_string().into()),
            _ => ExchangeError::unreachable(error.to_string()),
        }
    }
}

/// What nobody's answer says of the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unanswered {
    /// Nothing: a server answered with an error, or none can be reached.
    #[default]
    Failed,
    /// Every server that can be reached was silent, or said that it does not answer such a question
    /// (NOTIMP, FORMERR).
    Ignored,
    /// Every server said so.
    Unable,
}

/// An attempt that failed.
pub(super) struct FailedAttempt {
    pub server: Arc<str>,
    pub error: ExchangeError,
}

/// Why no upstream answered.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct UpstreamError {
    /// `dns-timeout`, `dns-unreachable`, `dns-failed`, or `rate-limited` where no descriptor was free.
    pub reason: Reason,
    /// What happened, for the operator's record.
    pub detail: String,
    /// The resolver that failed last, where one was asked.
    pub server: Option<Arc<str>>,
    /// Attempts made.
    pub attempts: u32,
    /// What that says of the question.
    pub unanswered: Unanswered,
}

impl UpstreamError {
    /// A server's answer that cannot be used.
    pub(super) fn failed(detail: String, server: Arc<str>, attempts: u32) -> UpstreamError {
        UpstreamError {
            reason: Reason::DnsFailed,
            detail,
            server: Some(server),
            attempts,
            unanswered: Unanswered::Failed,
        }
    }

    /// Nobody to ask.
    pub(super) fn no_server() -> UpstreamError {
        UpstreamError {
            reason: Reason::DnsUnreachable,
            detail: "no upstream resolver is configured".to_owned(),
            server: None,
            attempts: 0,
            unanswered: Unanswered::Failed,
        }
    }

    /// From what failed last; `silent`: other attempts had no answer.
    pub(super) fn after(last: FailedAttempt, attempts: u32, silent: bool) -> UpstreamError {
        let FailedAttempt { server, error } = last;
        UpstreamError {
            reason: error.reason(silent),
            detail: format!("resolver {server}: {error} (attempts: {attempts})"),
            server: Some(server),
            attempts,
            unanswered: Unanswered::Failed,
        }
    }

    /// Every attempt was met with silence, the first one at `server`.
    pub(super) fn timeout(server: Arc<str>, attempts: u32) -> UpstreamError {
        UpstreamError {
            reason: Reason::DnsTimeout,
            detail: format!("resolver {server}: no answer in time (attempts: {attempts})"),
            server: Some(server),
            attempts,
            unanswered: Unanswered::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        let server: Arc<str> = "192.0.2.1:53".into();
        let of = |error: ExchangeError, silent| {
            let server = server.clone();
            UpstreamError::after(FailedAttempt { server, error }, 4, silent).reason
        };
        let refused = || ExchangeError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(of(refused(), false), Reason::DnsUnreachable);
        assert_eq!(of(refused(), true), Reason::DnsTimeout);
        assert_eq!(
            of(ExchangeError::Code(ResponseCode::Refused), false),
            Reason::DnsFailed
        );
        let ours = ExchangeError::from(io::Error::from_raw_os_error(24));
        assert_eq!(of(ours, true), Reason::RateLimited);
        let wrong = ExchangeError::refused("TLS: the certificate is for another name");
        assert_eq!(of(wrong, true), Reason::DnsFailed);
        assert_eq!(UpstreamError::timeout(server, 4).reason, Reason::DnsTimeout);
    }
}
