//! One request head as typed values.

use std::ops::Range;

use portcullis_names::Host;

use super::scan::{HeadScanner, MAX_HEADERS, Scan};
use super::target::{self, RequestForm};
use super::token::{MAX_METHOD_BYTES, is_token_byte};

/// The outcome of reading a head.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one value on the stack of one request
pub enum HeadParse {
    /// The empty line has not arrived.
    NeedMore,
    /// A whole head.
    Head(RequestHead),
    /// A head that two readers could take differently; a few words for the record.
    Malformed(&'static str),
}

/// What a request says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestHead {
    /// The method, a token of at most [`MAX_METHOD_BYTES`].
    pub method: Box<str>,
    /// The request target.
    pub form: RequestForm,
    /// The Host field; always there in HTTP/1.1 requests with an [`RequestForm::Origin`] target.
    pub host: Option<(Host, Option<u16>)>,
    /// 0 or 1.
    pub minor_version: u8,
    /// Whether the client means to send another request.
    pub keep_alive: bool,
    /// How long the body is.
    pub body: BodyLength,
    /// Whether the client wants to change to another protocol.
    pub upgrade: Upgrade,
    /// Whether it waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// Length of the head, in bytes, with the empty line.
    pub head_len: usize,
    fields: Vec<FieldPlace>,
}

/// Where a header field stands in the head.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldPlace {
    name: Range<usize>,
    value: Range<usize>,
}

/// How long a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    None,
    /// This many bytes.
    Length(u64),
    /// As long as its chunks say.
    Chunked,
}

/// The protocol a client wants to change to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// None.
    None,
    /// WebSocket (RFC 6455).
    WebSocket,
    /// HTTP/2 without TLS, another HTTP, or TLS (RFC 2817): later requests there could name other hosts.
    Http,
    /// Some other.
    Other,
}

impl RequestHead {
    /// The header fields, in the buffer that the head was read from.
    pub fn headers<'b>(&self, head: &'b [u8]) -> impl Iterator<Item = (&'b str, &'b [u8])> {
        self.fields
            .iter()
            .filter_map(move |FieldPlace { name, value }| {
                let name = std::str::from_utf8(head.get(name.clone())?).ok()?;
                Some((name, head.get(value.clone())?))
            })
    }

    /// Whether the Host field of a CONNECT, if there is one, names its target. Clients leave out the
    /// port there, or write it, as they please.
    pub fn names_host_port(&self, host: &Host, port: u16) -> bool {
        let host_field = self.host.as_ref();
        host_field.is_none_or(|(field, field_port)| {
            field == host && field_port.is_none_or(|field_port| field_port == port)
        })
    }
}

/// Reads the head at the front of a client's stream (RFC 9112 sections 2 to 6).
pub fn read_head(stream: &[u8]) -> HeadParse {
    match HeadScanner::new().scan(stream) {
        Scan::NeedMore => HeadParse::NeedMore,
        Scan::Malformed(why) => HeadParse::Malformed(why),
        Scan::End(len) => match parse(stream.get(..len).unwrap_or_default()) {
            Ok(head) => HeadParse::Head(head),
            Err(why) => HeadParse::Malformed(why),
        },
    }
}

/// A head whose target has bytes beyond ASCII written as a URL has them (RFC 3986 section 2.1), so that
/// what is decided on is what upstream gets. A method or a version with such bytes stays as it is, for the
/// reader to refuse.
pub fn with_ascii_target(raw: Vec<u8>) -> Vec<u8> {
    let Some(target) = target_of(&raw) else {
        return raw;
    };
    let (before, target, rest) = (
        &raw[..target.start],
        &raw[target.clone()],
        &raw[target.end..],
    );
    let mut head = Vec::with_capacity(raw.len() + 2 * target.len());
    head.extend_from_slice(before);
    for byte in target {
        match byte {
            0x80.. => head.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            byte => head.push(*byte),
        }
    }
    head.extend_from_slice(rest);
    head
}

/// Where the target of the first line stands, if it has bytes beyond ASCII.
fn target_of(raw: &[u8]) -> Option<Range<usize>> {
    let end = raw.iter().position(|byte| *byte == b'\n')?;
    let line = &raw[..end];
    if line.is_ascii() {
        return None;
    }
    let start = line.iter().position(|byte| *byte == b' ')? + 1;
    let end = line.iter().rposition(|byte| *byte == b' ')?;
    (start < end).then_some(start..end)
}

fn parse(head: &[u8]) -> Result<RequestHead, &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Ok(_) => return Err("the request head does not end where its lines do"),
        Err(e) => return Err(describe(e)),
    }
    let method = request.method.unwrap_or_default();
    check_method(method)?;
    let minor_version = request.version.ok_or("no HTTP version")?;
    let form = target::read(method, request.path.unwrap_or_default())?;
    let mut seen = Fields::default();
    for field in request.headers.iter() {
        seen.add(field.name, field.value)?;
    }
    seen.check(&form, minor_version)?;
    Ok(RequestHead {
        method: method.into(),
        form,
        minor_version,
        keep_alive: !seen.close && (minor_version == 1 || seen.keep_alive),
        body: match (seen.chunked, seen.length) {
            (true, _) => BodyLength::Chunked,
            (false, Some(length)) => BodyLength::Length(length),
            (false, None) => BodyLength::None,
        },
        upgrade: if seen.wants_upgrade {
            seen.upgrade
        } else {
            Upgrade::None
        },
        expect_continue: seen.expect_continue,
        host: seen.host,
        head_len: head.len(),
        fields: request
            .headers
            .iter()
            .map(|field| FieldPlace {
                name: place(head, field.name.as_bytes()),
                value: place(head, field.value),
            })
            .collect(),
    })
}

fn check_method(method: &str) -> Result<(), &'static str> {
    if method.is_empty() || method.len() > MAX_METHOD_BYTES {
        return Err("a method of no bytes or too many");
    }
    if !method.bytes().all(is_token_byte) {
        return Err("a method that is not a token");
    }
    Ok(())
}

/// Holds a method and a path that came in HTTP/2 to what a request line in HTTP/1.1 is held to.
///
/// # Errors
/// What is wrong with them, in a few words for the record.
pub fn check_line(method: &str, path: &str) -> Result<(), &'static str> {
    check_method(method)?;
    match target::read(method, path)? {
        RequestForm::Origin { .. } | RequestForm::Asterisk => Ok(()),
        _ => Err("a path that does not begin with a slash"),
    }
}

/// Where a part stands in its whole.
fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0; // an empty value may point anywhere
    }
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    start..start.wrapping_add(part.len())
}

fn describe(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a bad header name",
        httparse::Error::HeaderValue => "a bad header value",
        httparse::Error::TooManyHeaders => "more than 100 header fields",
        httparse::Error::Version => "not HTTP/1.0 or HTTP/1.1",
        httparse::Error::NewLine => "a bad line end",
        _ => "a bad request line",
    }
}

/// The fields that decide about host and framing; all others are passed over.
struct Fields {
    host: Option<(Host, Option<u16>)>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    wants_upgrade: bool,
    upgrade: Upgrade,
    expect_continue: bool,
}

impl Default for Fields {
    fn default() -> Fields {
        Fields {
            host: None,
            length: None,
            chunked: false,
            close: false,
            keep_alive: false,
            wants_upgrade: false,
            upgrade: Upgrade::None,
            expect_continue: false,
        }
    }
}

impl Fields {
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), &'static str> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("host") {
            if self.host.is_some() {
                return Err("two Host fields");
            }
            let text = std::str::from_utf8(value).map_err(|_| "a Host field that is not ASCII")?;
            self.host = Some(target::authority(text)?);
        } else if is("content-length") {
            if self.length.is_some() {
                return Err("two Content-Length fields");
            }
            self.length = Some(content_length(value).ok_or("a bad Content-Length")?);
        } else if is("transfer-encoding") {
            if self.chunked {
                return Err("two Transfer-Encoding fields");
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err("a Transfer-Encoding other than chunked");
            }
            self.chunked = true;
        } else if is("connection") {
            return self.connection(value);
        } else if is("upgrade") {
            self.upgrade = match self.upgrade {
                // HTTP wins over whatever else is offered: it is the one to be careful with.
                Upgrade::Http => Upgrade::Http,
                _ if tokens(value).any(is_http) => Upgrade::Http,
                Upgrade::None if value.eq_ignore_ascii_case(b"websocket") => Upgrade::WebSocket,
                _ => Upgrade::Other,
            };
        } else if is("expect") {
            self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
        }
        Ok(())
    }

    /// Connection names fields that each hop drops; a client that names one of the fields that
    /// decide would have the next hop drop it.
    fn connection(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for token in tokens(value) {
            let is = |other: &[u8]| token.eq_ignore_ascii_case(other);
            if is(b"host") || is(b"content-length") || is(b"transfer-encoding") {
                return Err("a Connection field that names a field of the message itself");
            }
            self.close |= is(b"close");
            self.keep_alive |= is(b"keep-alive");
            self.wants_upgrade |= is(b"upgrade");
        }
        Ok(())
    }

    /// What only the fields together tell.
    fn check(&self, form: &RequestForm, minor_version: u8) -> Result<(), &'static str> {
        if self.chunked && self.length.is_some() {
            return Err("Content-Length beside Transfer-Encoding");
        }
        if self.chunked && minor_version == 0 {
            return Err("Transfer-Encoding in HTTP/1.0");
        }
        match form {
            RequestForm::Connect { .. } if self.chunked || self.length.is_some_and(|n| n > 0) => {
                Err("CONNECT with a body")
            }
            RequestForm::Origin { .. } | RequestForm::Asterisk
                if minor_version == 1 && self.host.is_none() =>
            {
                Err("no Host field")
            }
            _ => Ok(()),
        }
    }
}

/// Digits and nothing else (RFC 9112 section 6.2); lists, signs and overflow are refused.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Whether a protocol of an Upgrade field, which may have a version, is HTTP with or without TLS.
fn is_http(protocol: &[u8]) -> bool {
    // A draft has its number behind a hyphen, such as `h2c-14`.
    let name = protocol.split(|byte| b"/-".contains(byte)).next();
    let name = name.unwrap_or_default().trim_ascii();
    [&b"h2c"[..], b"h2", b"h3", b"http", b"https", b"tls"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

/// The tokens of a comma-separated list.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|t| !t.is_empty())
}
