//! Why one exchange with one server brought no usable answer.

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
        ExchangeError::unreachable(error.to_string())
    }
}
