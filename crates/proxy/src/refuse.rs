//! What a program is told when policy or upstream says no over HTTP.
//!
//! It learns the class of the reason, the name it asked for, the line that would allow it and the
//! decision's id. Addresses inside the company, other rules and file paths stay in the operator's
//! record: nothing of a rule or of a dialler's error text gets here.

use std::fmt::Write as _;
use std::time::Duration;

use portcullis_policy::{Asked, Reason};
use portcullis_record::DecisionId;
use serde_json::json;

use crate::open_error::OpenError;
use crate::target::Target;

/// The name under which the gateway speaks in `Proxy-Status` (RFC 9209) and `Via`.
pub(crate) const GATEWAY: &str = "portcullis";
/// The least that a client over a limit is told to wait.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How the body is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

impl Format {
    /// JSON for clients that ask for it by name, text for all others.
    pub(crate) fn wanted(accept: Option<&[u8]>) -> Format {
        let asks = |part: &[u8]| {
            let kind = part
                .split(|b| *b == b';')
                .next()
                .unwrap_or_default()
                .trim_ascii();
            kind.eq_ignore_ascii_case(b"application/json")
                || kind.eq_ignore_ascii_case(b"application/problem+json")
        };
        match accept {
            Some(accept) if accept.split(|b| *b == b',').any(asks) => Format::Json,
            _ => Format::Text,
        }
    }
}

/// One answer.
pub(crate) struct Refusal<'a> {
    pub(crate) reason: Reason,
    pub(crate) id: DecisionId,
    /// `host:port` as the program asked for it.
    pub(crate) target: Option<&'a str>,
    /// The policy line that would allow it.
    pub(crate) suggestion: Option<&'a str>,
    /// A few words in place of the reason's own sentence.
    pub(crate) help: Option<&'a str>,
    /// The status with which the upstream proxy refused (RFC 9209 section 2.1.5).
    pub(crate) received_status: Option<u16>,
    /// What a client over a limit is told to wait, where more than [`MIN_RETRY_AFTER`].
    pub(crate) retry_after: Duration,
}

impl<'a> Refusal<'a> {
    pub(crate) fn new(reason: Reason, id: DecisionId) -> Refusal<'a> {
        Refusal {
            reason,
            id,
            target: None,
            suggestion: None,
            help: None,
            received_status: None,
            retry_after: MIN_RETRY_AFTER,
        }
    }

    /// The answer where a connection could not be opened.
    pub(crate) fn failed(error: &OpenError, id: DecisionId) -> Refusal<'a> {
        Refusal {
            received_status: error.received_status(),
            retry_after: error.retry_after().unwrap_or(MIN_RETRY_AFTER),
            ..Refusal::new(error.reason(), id)
        }
    }

    /// The whole response. The connection ends with it: what the client sent behind the refused
    /// request is never read as another one.
    pub(crate) fn response(&self, format: Format, with_body: bool) -> Vec<u8> {
        let (kind, body) = match format {
            Format::Text => ("text/plain; charset=utf-8", self.text()),
            Format::Json => ("application/json", self.json()),
        };
        let status = self.reason.http_status();
        let mut head = String::with_capacity(512);
        let _ = write!(head, "HTTP/1.1 {status} {}\r\n", phrase(status));
        if let Some(error) = self.reason.http_error() {
            let _ = write!(head, "x-proxy-error: {error}\r\n");
        }
        let error = self.reason.proxy_status();
        let _ = write!(head, "proxy-status: {GATEWAY}; error={error}");
        if let Some(status) = self.received_status {
            let _ = write!(head, "; received-status={status}");
        }
        let (code, id) = (self.reason.code(), self.id);
        let _ = write!(head, "; details=\"{code}; id={id}\"\r\n");
        if status == 429 {
            let wait = self.retry_after.max(MIN_RETRY_AFTER);
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let _ = write!(head, "retry-after: {seconds}\r\n");
        }
        let _ = write!(
            head,
            "content-type: {kind}\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
             connection: close\r\n\r\n",
            body.len()
        );
        let mut response = head.into_bytes();
        if with_body {
            response.extend_from_slice(body.as_bytes());
        }
        response
    }

    fn sentence(&self) -> &str {
        self.help.unwrap_or(self.reason.sentence())
    }

    fn text(&self) -> String {
        let mut text = format!("{GATEWAY}: {}\n", self.sentence());
        let _ = writeln!(text, "reason: {}", self.reason.code());
        if let Some(target) = self.target {
            let _ = writeln!(text, "target: {target}");
        }
        if let Some(line) = self.suggestion {
            let _ = writeln!(text, "to allow it: {line}");
        }
        let _ = writeln!(text, "decision: {}", self.id);
        text
    }

    fn json(&self) -> String {
        let mut body = json!({
            "error": self.reason.http_error().unwrap_or(self.reason.code()),
            "reason": self.reason.code(),
            "message": self.sentence(),
            "target": self.target,
            "suggestion": self.suggestion,
            "decision": self.id.to_string(),
        })
        .to_string();
        body.push('\n');
        body
    }
}

/// `host:port` as the program asked for it.
pub(crate) fn authority(target: &Target) -> String {
    let port = target.port;
    match &target.asked {
        Asked::Name(name) => format!("{name}:{port}"),
        Asked::Synthetic {
            name: Some(name), ..
        } => format!("{name}:{port}"),
        Asked::Address { address, .. } | Asked::Synthetic { address, .. } => {
            std::net::SocketAddr::new(*address, port).to_string()
        }
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        504 => "Gateway Timeout",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use portcullis_record::{Event, Recorder};

    use super::*;

    fn id() -> DecisionId {
        Recorder::null().decision(Event::default())
    }

    #[test]
    fn json_only_when_asked_for() {
        assert_eq!(Format::wanted(None), Format::Text);
        assert_eq!(Format::wanted(Some(b"*/*")), Format::Text);
        assert_eq!(
            Format::wanted(Some(b"text/html, application/JSON;q=0.9")),
            Format::Json
        );
        assert_eq!(Format::wanted(Some(b"application/jsonp")), Format::Text);
    }

    #[test]
    fn every_reason_makes_a_response_of_its_class() {
        for &reason in Reason::ALL {
            if reason.proxy_status().is_empty() {
                continue;
            }
            let text = Refusal::new(reason, id()).response(Format::Text, true);
            let text = String::from_utf8(text).unwrap();
            assert!(
                text.starts_with(&format!("HTTP/1.1 {} ", reason.http_status())),
                "{text}"
            );
            assert!(
                text.contains(&format!("error={};", reason.proxy_status())),
                "{text}"
            );
            assert!(!text.contains("200"), "never a 200: {text}");
            assert!(
                !text.contains(" Refused\r\n"),
                "a status without a phrase: {text}"
            );
        }
    }

    #[test]
    fn a_limit_says_when_to_try_again_in_whole_seconds() {
        for (wait, said) in [(0, 1), (250, 1), (1_000, 1), (1_001, 2), (60_000, 60)] {
            let mut refusal = Refusal::new(Reason::RateLimited, id());
            refusal.retry_after = Duration::from_millis(wait);
            let text = String::from_utf8(refusal.response(Format::Text, true)).unwrap();
            assert!(
                text.starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
                "{text}"
            );
            assert!(
                text.contains(&format!("\r\nretry-after: {said}\r\n")),
                "{text}"
            );
        }
    }

    #[test]
    fn the_body_tells_the_reason_the_line_and_the_id() {
        let mut refusal = Refusal::new(Reason::NotListed, id());
        refusal.target = Some("evil.example:443");
        refusal.suggestion = Some("\"evil.example\" = \"allow\"");
        let text = String::from_utf8(refusal.response(Format::Text, true)).unwrap();
        assert!(text.contains("x-proxy-error: blocked-by-allowlist\r\n"));
        assert!(text.contains("\nto allow it: \"evil.example\" = \"allow\"\n"));
        let json = String::from_utf8(refusal.response(Format::Json, true)).unwrap();
        let body = json.split_once("\r\n\r\n").unwrap().1;
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["reason"], "not-in-allowlist");
        assert_eq!(body["error"], "blocked-by-allowlist");
        assert_eq!(body["decision"], refusal.id.to_string());
    }
}
