//! What a client is told when a request is not carried out (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::Finding;

/// The media type of a problem (RFC 9457 section 3).
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The request is not understood.
    BadRequest,
    /// The caller may not do that.
    Forbidden,
    /// There is no such sandbox, as far as this caller may know.
    NotFound,
    /// The name is taken, or what the sandbox is does not allow it now.
    Conflict,
    /// It is understood, and what it says has errors: in the policy, for instance.
    Invalid,
    /// There are too many sandboxes or followers.
    TooMany,
    /// The kernel, or a part of the daemon, failed.
    Failed,
}

impl ProblemKind {
    fn status(self) -> StatusCode {
        match self {
            ProblemKind::BadRequest => StatusCode::BAD_REQUEST,
            ProblemKind::Forbidden => StatusCode::FORBIDDEN,
            ProblemKind::NotFound => StatusCode::NOT_FOUND,
            ProblemKind::Conflict => StatusCode::CONFLICT,
            ProblemKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ProblemKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ProblemKind::Failed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A request was not carried out (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What happened, in one sentence.
    pub title: String,
    /// The status, as in the response's first line.
    pub status: u16,
    /// What would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What is wrong with the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

impl Problem {
    /// A problem with what happened, as one sentence without a full stop.
    pub fn new(kind: ProblemKind, title: impl Into<String>) -> Problem {
        Problem {
            title: title.into(),
            status: kind.status().as_u16(),
            detail: None,
            findings: Vec::new(),
        }
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: ProblemKind) -> bool {
        self.status == kind.status().as_u16()
    }

    /// The same with what would help.
    #[must_use]
    pub fn help(mut self, detail: impl Into<String>) -> Problem {
        self.detail = Some(detail.into());
        self
    }

    /// A policy that does not load.
    pub fn policy(findings: Vec<Finding>) -> Problem {
        Problem {
            findings,
            ..Problem::new(
                ProblemKind::Invalid,
                "the policy has errors, and nothing was changed",
            )
        }
    }

    pub(crate) fn not_found(name: &str) -> Problem {
        let title = format!("there is no sandbox `{name}` of yours");
        Problem::new(ProblemKind::NotFound, title).help("`portcullis ps` lists them")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, MEDIA_TYPE);
        response
    }
}
