//! What a program is told when policy or upstream says no over HTTP.
//!
//! It learns the class of the reason, the name it asked for, the line that would allow it and the
//! decision's id. Internal addresses, other rules and file paths stay in the operator's
//! record: nothing of a rule or of a dialler's error text gets here.

use std::borrow::Cow;
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
/// The status of a proxy that wants other credentials than it got, or some at all (RFC 9110 section 15.5.8).
pub(crate) const PROXY_WANTS_CREDENTIALS: u16 = 407;
/// What that means.
pub(crate) const WRONG_CREDENTIALS: &str = "the upstream proxy answered 407: the credentials that the gateway has for it are missing or wrong";
/// Fields of an answer; there are fewer.
const MAX_FIELDS: usize = 8;

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

/// A refusal, or the failure of what was allowed.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) id: DecisionId,
    /// The status of the answer; the reason's own unless something fits better.
    pub(crate) status: u16,
    /// `host:port` as the program asked for it.
    pub(crate) target: Option<String>,
    /// The policy line that would allow it.
    pub(crate) suggestion: Option<Box<str>>,
    /// A few words in place of the reason's own sentence.
    pub(crate) help: Option<&'static str>,
    /// What exactly failed upstream, in a few words.
    pub(crate) cause: Option<&'static str>,
    /// What the operator of the sandbox could do about it, where that is known.
    pub(crate) hint: Option<String>,
    /// The status with which the upstream proxy refused (RFC 9209 section 2.1.5).
    pub(crate) received_status: Option<u16>,
    /// What a client over a limit is told to wait, where more than [`MIN_RETRY_AFTER`].
    pub(crate) retry_after: Duration,
}

/// A refusal in words, for a codec to write.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'static str, Cow<'static, str>)>,
    /// Of the length that `content-length` says; not sent in answer to HEAD.
    pub(crate) body: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, id: DecisionId) -> Refusal {
        Refusal {
            reason,
            id,
            status: reason.http_status(),
            target: None,
            suggestion: None,
            help: None,
            cause: None,
            hint: None,
            received_status: None,
            retry_after: MIN_RETRY_AFTER,
        }
    }

    /// The refusal where a connection could not be opened.
    pub(crate) fn failed(error: &OpenError, id: DecisionId) -> Refusal {
        Refusal {
            received_status: error.received_status(),
            retry_after: error.retry_after().unwrap_or(MIN_RETRY_AFTER),
            ..Refusal::new(error.reason(), id)
        }
    }

    /// What the client is told.
    pub(crate) fn answer(&self, format: Format) -> Answer {
        let (kind, body) = match format {
            Format::Text => ("text/plain; charset=utf-8", self.text()),
            Format::Json => ("application/json", self.json()),
        };
        let mut fields: Vec<(&'static str, Cow<'static, str>)> = Vec::with_capacity(MAX_FIELDS);
        if let Some(error) = self.reason.http_error() {
            fields.push(("x-proxy-error", error.into()));
        }
        let mut said = format!("{GATEWAY}; error={}", self.reason.proxy_status());
        if let Some(status) = self.received_status {
            let _ = write!(said, "; received-status={status}");
        }
        let _ = write!(said, "; details=\"{}; id={}\"", self.reason.code(), self.id);
        fields.push(("proxy-status", said.into()));
        if self.status == 429 {
            let wait = self.retry_after.max(MIN_RETRY_AFTER);
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            fields.push(("retry-after", seconds.to_string().into()));
        }
        fields.push(("content-type", kind.into()));
        fields.push(("content-length", body.len().to_string().into()));
        fields.push(("cache-control", "no-store".into()));
        Answer {
            status: self.status,
            fields,
            body,
        }
    }

    /// What exactly failed.
    fn cause(&self) -> Option<Cow<'static, str>> {
        let told = |status: u16| match status {
            PROXY_WANTS_CREDENTIALS => WRONG_CREDENTIALS.into(),
            status => format!("the upstream proxy answered {status}").into(),
        };
        let cause = self.cause.map(Cow::Borrowed);
        cause.or_else(|| self.received_status.map(told))
    }

    fn sentence(&self) -> &str {
        self.help.unwrap_or(self.reason.sentence())
    }

    fn text(&self) -> String {
        let mut text = format!("{GATEWAY}: {}\n", self.sentence());
        let _ = writeln!(text, "reason: {}", self.reason.code());
        if let Some(cause) = self.cause() {
            let _ = writeln!(text, "cause: {cause}");
        }
        if let Some(target) = &self.target {
            let _ = writeln!(text, "target: {target}");
        }
        if let Some(line) = &self.suggestion {
            let _ = writeln!(text, "to allow it: {line}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        let _ = writeln!(text, "decision: {}", self.id);
        text
    }

    fn json(&self) -> String {
        let mut body = json!({
            "error": self.reason.http_error().unwrap_or(self.reason.code()),
            "reason": self.reason.code(),
            "message": self.sentence(),
            "cause": self.cause(),
            "target": self.target,
            "suggestion": self.suggestion,
            "hint": self.hint,
            "decision": self.id.to_string(),
        })
        .to_string();
        body.push('\n');
        body
    }
}

impl Answer {
    /// The answer in HTTP/1.1. The connection ends with it: what the client sent behind the refused
    /// request is never read as another one.
    pub(crate) fn http1(&self, with_body: bool) -> Vec<u8> {
        let mut text = String::with_capacity(512 + self.body.len());
        let _ = write!(text, "HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        for (name, value) in &self.fields {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("connection: close\r\n\r\n");
        if with_body {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

/// `host:port` as the program asked for it.
pub(crate) fn authority(target: &Target) -> String {
    let port = target.port;
    match &target.asked {
        Asked::Name(name) => {
            let name = target.written().unwrap_or(name.as_ref());
            format!("{name}:{port}")
        }
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
        408 => "Request Timeout",
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
            let text = Refusal::new(reason, id()).answer(Format::Text).http1(true);
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
            let text = String::from_utf8(refusal.answer(Format::Text).http1(true)).unwrap();
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
        refusal.target = Some("evil.example:443".to_owned());
        refusal.suggestion = Some("\"evil.example\" = \"allow\"".into());
        let text = String::from_utf8(refusal.answer(Format::Text).http1(true)).unwrap();
        assert!(text.contains("x-proxy-error: blocked-by-allowlist\r\n"));
        assert!(text.contains("\nto allow it: \"evil.example\" = \"allow\"\n"));
        let json = String::from_utf8(refusal.answer(Format::Json).http1(true)).unwrap();
        let body = json.split_once("\r\n\r\n").unwrap().1;
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["reason"], "not-in-allowlist");
        assert_eq!(body["error"], "blocked-by-allowlist");
        assert_eq!(body["decision"], refusal.id.to_string());
    }
}
