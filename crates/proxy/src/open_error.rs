//! Why a connection could not be opened: denied, above a limit, not dialled, or not what it should be.
//!
//! One type for all entrances, so that each tells the record and the program the same.

use std::net::IpAddr;
use std::time::Duration;

use portcullis_dial::DialError;
use portcullis_policy::Reason;
use portcullis_record::{CloseReason, Timings};

use crate::meter::OverLimit;

/// A connection to upstream that could not be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The ruling permits nothing, so nothing was dialled.
    Denied(Reason),
    /// It would be one too many.
    Limited(OverLimit),
    /// The dialler could not reach it.
    Dial(DialError),
    /// It is open, but upstream did not prove who it is, or speaks another protocol.
    Upstream { reason: Reason, detail: String },
}

impl From<DialError> for OpenError {
    fn from(error: DialError) -> OpenError {
        OpenError::Dial(error)
    }
}

impl From<OverLimit> for OpenError {
    fn from(limit: OverLimit) -> OpenError {
        OpenError::Limited(limit)
    }
}

impl OpenError {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            OpenError::Denied(reason) | OpenError::Upstream { reason, .. } => *reason,
            OpenError::Limited(limit) => limit.reason,
            OpenError::Dial(error) => error.reason,
        }
    }

    /// What happened, for the operator's record. Never for the sandbox.
    pub(crate) fn detail(&self) -> &str {
        match self {
            OpenError::Denied(_) => "not permitted",
            OpenError::Limited(limit) => limit.detail,
            OpenError::Dial(error) => &error.detail,
            OpenError::Upstream { detail, .. } => detail,
        }
    }

    /// The addresses that were tried or refused.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        match self {
            OpenError::Dial(error) => &error.addresses,
            _ => &[],
        }
    }

    /// How long the stages took that were reached.
    pub(crate) fn timings(&self) -> Timings {
        match self {
            OpenError::Dial(error) => error.timings,
            _ => Timings::default(),
        }
    }

    /// The status with which an upstream proxy refused.
    pub(crate) fn received_status(&self) -> Option<u16> {
        match self {
            OpenError::Dial(error) => error.received_status,
            _ => None,
        }
    }

    /// When a connection that a limit refused may be tried again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            OpenError::Limited(limit) => Some(limit.retry_after),
            _ => None,
        }
    }

    /// How the flow ends that the connection was for.
    pub(crate) fn close_reason(&self) -> CloseReason {
        match self {
            OpenError::Denied(_) => CloseReason::Denied,
            OpenError::Limited(_) => CloseReason::Limit,
            OpenError::Upstream {
                reason: Reason::CertificateInvalid | Reason::TlsFailed,
                ..
            } => CloseReason::UpstreamProtocol,
            OpenError::Upstream { .. } | OpenError::Dial(_) => CloseReason::UpstreamClosed,
        }
    }
}
