//! Response heads: read strictly enough that their end is certain, and written anew.
//!
//! Upstream is not trusted: a response whose length two readers could see differently would put
//! the next answer on the connection in the wrong place, so it is a failure of upstream. What merely is
//! sloppy, as servers are, is set right on the way: white space before a colon, folded lines, lines that
//! are no field, one framing said twice.

use std::borrow::Cow;
use std::fmt::Write as _;

use portcullis_wire::http1::BodyLength;

use super::request_head::field;
use crate::limits::{MAX_RESPONSE_FIELDS, MAX_RESPONSE_HEAD_BYTES};
use crate::request::{Passing, Section};

/// A response head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    /// How the body ends, if there is one.
    pub(crate) body: ResponseBody,
    /// Whether upstream means to keep the connection.
    pub(crate) keep_alive: bool,
    /// Length of the head in the buffer.
    pub(crate) len: usize,
    /// Whoever answered says that it is a proxy and that this is its own error.
    pub(crate) by_a_proxy: bool,
    /// The protocols that upstream changes to, as it names them.
    pub(crate) upgrade: Option<Vec<u8>>,
    /// The head as it goes to the client, without `Connection` and the empty line.
    pub(crate) rewritten: Vec<u8>,
}

/// How a response's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseBody {
    /// As these say; `BodyLength::None` is no body at all.
    Framed(BodyLength),
    /// With the connection.
    UntilClose,
}

/// The outcome of reading a head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    NeedMore,
    Head(ResponseHead),
    Malformed(&'static str),
}

/// What the request says about its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answers {
    /// It was HEAD.
    pub(crate) head: bool,
    /// It came in HTTP/1.0, whose clients know no chunks.
    pub(crate) old: bool,
}

/// Reads the head at the front of upstream's stream (RFC 9112 sections 4 to 6).
pub(crate) fn read(stream: &[u8], answers: Answers) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; MAX_RESPONSE_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let seen = stream.get(..MAX_RESPONSE_HEAD_BYTES).unwrap_or(stream);
    let mut reader = httparse::ParserConfig::default();
    reader
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .ignore_invalid_headers_in_responses(true);
    let len = match reader.parse_response(&mut response, seen) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if seen.len() >= MAX_RESPONSE_HEAD_BYTES => {
            return Parsed::Malformed("the response head is longer than 64 KiB");
        }
        Ok(httparse::Status::Partial) => return Parsed::NeedMore,
        Err(error) => return Parsed::Malformed(describe(error)),
    };
    match head(&response, len, answers) {
        Ok(head) => Parsed::Head(head),
        Err(why) => Parsed::Malformed(why),
    }
}

fn describe(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::TooManyHeaders => "the response head has more than 200 fields",
        httparse::Error::Status => "the response's status line has no valid status",
        httparse::Error::HeaderName | httparse::Error::HeaderValue => {
            "the response head has a bad field"
        }
        httparse::Error::NewLine => "the response head has a bad line end",
        _ => "the response head is not HTTP/1",
    }
}

/// The value of a field in one line (RFC 9112 section 5.2).
fn unfolded(value: &[u8]) -> Cow<'_, [u8]> {
    let folds = |byte: &u8| matches!(byte, b'\r' | b'\n');
    match value.iter().any(folds) {
        false => Cow::Borrowed(value),
        true => {
            let lines = value.split(folds).map(<[u8]>::trim_ascii);
            let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
            Cow::Owned(lines.join(&b' '))
        }
    }
}

fn head(
    response: &httparse::Response<'_, '_>,
    len: usize,
    answers: Answers,
) -> Result<ResponseHead, &'static str> {
    let status = response.code.ok_or("no status")?;
    if !(100..=999).contains(&status) {
        return Err("a status of no meaning");
    }
    let minor = response.version.unwrap_or(0);
    let mut framing = Framing::default();
    for field in response.headers.iter() {
        framing.add(field.name, &unfolded(field.value))?;
    }
    if framing.chunked && framing.length.is_some() {
        return Err("the response has a length beside chunks");
    }
    // Its version knows no chunks: what follows is not waited for (RFC 9112 section 6.1).
    framing.close |= framing.chunked && minor == 0;
    let interim = status < 200;
    let bodiless = interim || answers.head || matches!(status, 204 | 304);
    let body = match framing.length {
        _ if bodiless => ResponseBody::Framed(BodyLength::None),
        _ if framing.chunked => ResponseBody::Framed(BodyLength::Chunked),
        Some(length) => ResponseBody::Framed(BodyLength::Length(length)),
        None => ResponseBody::UntilClose,
    };
    let mut start = String::with_capacity(len + 64);
    let reason = response.reason.unwrap_or_default();
    let _ = write!(start, "HTTP/1.1 {status} {reason}\r\n");
    let mut rewritten = start.into_bytes();
    let fields = || {
        response
            .headers
            .iter()
            .map(|field| (field.name, field.value))
    };
    let passing = Passing::of(Section::Response, fields());
    for (name, value) in fields().filter(|(name, _)| passing.lets(name)) {
        field(&mut rewritten, name, &unfolded(value));
    }
    match framing.length {
        // A HEAD or 304 tells the length of a body that does not follow.
        Some(length) if !interim && status != 204 => {
            field(
                &mut rewritten,
                "Content-Length",
                length.to_string().as_bytes(),
            );
        }
        _ if body == ResponseBody::Framed(BodyLength::Chunked) && !answers.old => {
            field(&mut rewritten, "Transfer-Encoding", b"chunked");
        }
        _ => {}
    }
    let keep_alive = !framing.close && (minor > 0 || framing.keep_alive);
    Ok(ResponseHead {
        status,
        body,
        keep_alive,
        by_a_proxy: framing.by_a_proxy,
        upgrade: framing.upgrade,
        len,
        rewritten,
    })
}

/// The fields that decide where a response ends.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    by_a_proxy: bool,
    upgrade: Option<Vec<u8>>,
}

impl Framing {
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), &'static str> {
        if name.eq_ignore_ascii_case("content-length") {
            // A list of one and the same number is that number (RFC 9110 section 8.6).
            for length in value.split(|byte| *byte == b',') {
                let length = digits(length).ok_or("the response has a bad Content-Length")?;
                if self.length.is_some_and(|other| other != length) {
                    return Err("the response has two lengths");
                }
                self.length = Some(length);
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            for coding in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                match coding {
                    coding if coding.eq_ignore_ascii_case(b"chunked") => self.chunked = true,
                    coding if coding.eq_ignore_ascii_case(b"identity") => {}
                    b"" => {}
                    _ => return Err("the response has a Transfer-Encoding other than chunked"),
                }
            }
        } else if name.eq_ignore_ascii_case("upgrade") {
            self.upgrade = Some(value.to_vec());
        } else if name.eq_ignore_ascii_case("x-squid-error") {
            self.by_a_proxy = true;
        } else if name.eq_ignore_ascii_case("proxy-status") {
            // RFC 9209, section 2.1.1: a member has `error` only where the proxy made the response.
            self.by_a_proxy |= value.windows(6).any(|part| part == b"error=");
        } else if name.eq_ignore_ascii_case("connection") {
            for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }
}

fn digits(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Answers = Answers {
        head: false,
        old: false,
    };

    fn parsed(text: &str, answers: Answers) -> ResponseHead {
        match read(text.as_bytes(), answers) {
            Parsed::Head(head) => head,
            other => panic!("{other:?}: {text}"),
        }
    }

    #[test]
    fn every_prefix_asks_for_more() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(
                read(&text.as_bytes()[..end], GET),
                Parsed::NeedMore,
                "{end}"
            );
        }
        assert_eq!(parsed(text, GET).len, text.len());
    }

    #[test]
    fn rfc_9112_section_6_3_the_body_of_a_response() {
        use ResponseBody::{Framed, UntilClose};
        let sized = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(parsed(sized, GET).body, Framed(BodyLength::Length(5)));
        let head = parsed(sized, Answers { head: true, ..GET });
        assert_eq!(head.body, Framed(BodyLength::None));
        assert!(
            String::from_utf8(head.rewritten)
                .unwrap()
                .contains("Content-Length: 5")
        );
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parsed(chunked, GET).body, Framed(BodyLength::Chunked));
        assert_eq!(parsed("HTTP/1.1 200 OK\r\n\r\n", GET).body, UntilClose);
        for status in [100, 103, 204, 304] {
            let text = format!("HTTP/1.1 {status} X\r\n\r\n");
            assert_eq!(
                parsed(&text, GET).body,
                Framed(BodyLength::None),
                "{status}"
            );
        }
    }

    #[test]
    fn response_splitting_by_two_framings_is_upstreams_failure() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5, 6\r\n",
            "Content-Length: 5,\r\n",
            "Content-Length: 5\r\n 6\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\n ,gzip\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert!(
                matches!(read(text.as_bytes(), GET), Parsed::Malformed(_)),
                "{fields}"
            );
        }
        assert!(matches!(
            read(b"SSH-2.0-OpenSSH_9\r\n\r\n", GET),
            Parsed::Malformed(_)
        ));
    }

    #[test]
    fn sloppy_servers_are_set_right() {
        let chunked = ResponseBody::Framed(BodyLength::Chunked);
        let five = ResponseBody::Framed(BodyLength::Length(5));
        for (text, body, keep_alive, sent) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
                five,
                true,
                "Content-Length: 5\r\n",
            ),
            (
                "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
                five,
                true,
                "Content-Length: 5\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
                five,
                true,
                "Content-Length: 5\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                five,
                true,
                "Content-Length: 5\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nX: a\r\n  b\r\n\tc\r\nContent-Length: 5\r\n\r\n",
                five,
                true,
                "X: a b c\r\nContent-Length: 5\r\n",
            ),
            (
                "HTTP/1.1  200  OK\r\nno field\r\nContent-Length: 5\r\n\r\n",
                five,
                true,
                "Content-Length: 5\r\n",
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n",
                five,
                true,
                "Content-Length: 5\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
                chunked,
                true,
                "Transfer-Encoding: chunked\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: Chunked\r\n\r\n",
                chunked,
                true,
                "Transfer-Encoding: chunked\r\n",
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
                chunked,
                false,
                "Transfer-Encoding: chunked\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n",
                five,
                true,
                "Content-Length: 5\r\n",
            ),
        ] {
            let head = parsed(text, GET);
            assert_eq!(
                (head.body, head.keep_alive, head.len),
                (body, keep_alive, text.len()),
                "{text}"
            );
            let read = String::from_utf8(head.rewritten).unwrap();
            assert_eq!(read, format!("HTTP/1.1 200 OK\r\n{sent}"), "{text}");
        }
        for text in [
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.1 200 \r\n\r\n",
            "\r\nHTTP/1.1 200\n\n",
        ] {
            assert_eq!(parsed(text, GET).status, 200, "{text}");
        }
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let head = parsed(text, Answers { old: true, ..GET });
        assert_eq!(
            (head.body, &*head.rewritten),
            (chunked, &b"HTTP/1.1 200 OK\r\n"[..])
        );
    }

    #[test]
    fn upstream_does_not_speak_as_the_gateway() {
        let text = "HTTP/1.1 403 Forbidden\r\nX-Proxy-Error: blocked-by-allowlist\r\n\
                    Proxy-Status: portcullis\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
                    Server: x\r\nContent-Length: 0\r\n\r\n";
        let head = parsed(text, GET);
        let sent = String::from_utf8(head.rewritten).unwrap();
        assert_eq!(
            sent,
            "HTTP/1.1 403 Forbidden\r\nServer: x\r\nContent-Length: 0\r\n"
        );
        assert!(!head.keep_alive);
    }
}
