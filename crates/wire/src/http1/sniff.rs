//! Is a client's stream HTTP, judging by its first bytes?
//!
//! Answers *HTTP framing* (docs/threats.md): a server may take for HTTP what RFC 9112 does not, and
//! what any of them serves must go through the head's checks. So a first line that names HTTP is
//! HTTP, whatever stands before it: Python's servers split it at every white space of Latin-1, WSGI
//! takes any word for a method, and Node serves `RTSP/` and `ICE/` lines as well. Requests
//! without a version (HTTP/0.9) are known by their method and what follows. Text protocols whose first
//! line merely has two words (SMTP, FTP, IRC, SSH) are not HTTP.

use super::token::is_token_byte;

/// How much is looked at before a first line that is plain text so far is let through, in bytes.
pub const MAX_SNIFF_BYTES: usize = 8 * 1024;
/// Longest first line that some server reads, in bytes (Go's `net/http`: 1 MiB and some). What comes
/// behind so many bytes without a line's end is no request's head.
pub const MAX_WATCHED_BYTES: usize = 1024 * 1024 + 64 * 1024;
/// What has to be kept of a watched line, in bytes: a protocol's name may come in pieces.
pub const WATCHED_TAIL_BYTES: usize = 8;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// Cannot be told yet; at most [`MAX_SNIFF_BYTES`] are needed.
    NeedMore,
    /// HTTP/1, good or bad: read its head.
    Http,
    /// HTTP/2 without TLS (RFC 9113 section 3.3): its host is inside a compressed header.
    Http2,
    /// No request as far as it goes, in a line that has not ended: it may pass, and what follows of the
    /// line is to be looked at with [`watch`].
    Watch,
    /// Something else.
    Other,
}

/// The first line of HTTP/2's preface (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
/// What stands before a request for a server that expects a load balancer's word on its client
/// (PROXY protocol, versions 1 and 2).
const PROXY_V1: &[u8] = b"PROXY ";
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Protocols that servers of HTTP take in a request line.
const PROTOCOLS: [&[u8]; 3] = [b"HTTP/", b"RTSP/", b"ICE/"];

/// Methods that some server takes in a request without a version.
const METHODS: [&[u8]; 44] = [
    b"ACL",
    b"ANNOUNCE",
    b"BIND",
    b"CHECKOUT",
    b"CONNECT",
    b"COPY",
    b"DELETE",
    b"DESCRIBE",
    b"FLUSH",
    b"GET",
    b"GET_PARAMETER",
    b"HEAD",
    b"LINK",
    b"LOCK",
    b"M-SEARCH",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"NOTIFY",
    b"OPTIONS",
    b"PATCH",
    b"PAUSE",
    b"PLAY",
    b"POST",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"PUT",
    b"QUERY",
    b"REBIND",
    b"RECORD",
    b"REDIRECT",
    b"REPORT",
    b"SEARCH",
    b"SETUP",
    b"SET_PARAMETER",
    b"SOURCE",
    b"SUBSCRIBE",
    b"TEARDOWN",
    b"TRACE",
    b"UNBIND",
    b"UNLOCK",
];

/// Looks at the first bytes of a client's stream.
pub fn sniff(stream: &[u8]) -> Sniff {
    if stream.starts_with(HTTP2_PREFACE) {
        return Sniff::Http2;
    }
    if stream.starts_with(PROXY_V1) || stream.starts_with(PROXY_V2) {
        return Sniff::Http;
    }
    let begun = |whole: &&[u8]| whole.starts_with(stream);
    if [HTTP2_PREFACE, PROXY_V1, PROXY_V2].iter().any(begun) {
        return Sniff::NeedMore;
    }
    let seen = stream.get(..MAX_SNIFF_BYTES).unwrap_or(stream);
    match sniff_line(seen) {
        Sniff::NeedMore if seen.len() < MAX_SNIFF_BYTES => Sniff::NeedMore,
        // The head's reader refuses so many blank lines, and fields of a request that had no version.
        Sniff::NeedMore if first_line(seen).1.is_some() => Sniff::Http,
        Sniff::NeedMore => Sniff::Watch,
        found => found,
    }
}

/// Looks at more of a first line that was [`Sniff::Watch`]: from its last [`WATCHED_TAIL_BYTES`] bytes
/// on. No server has seen a request before the line ends.
pub fn watch(stream: &[u8]) -> Sniff {
    // What is kept of a short line has the blank lines in front of it, which end nothing.
    let skipped = |b: &u8| *b == b'\n' || is_white(*b);
    let start = stream.iter().position(|b| !skipped(b));
    let stream = stream.get(start.unwrap_or(stream.len())..);
    let stream = stream.unwrap_or_default();
    let end = stream.iter().position(|b| *b == b'\n');
    match stream.get(..end.unwrap_or(stream.len())) {
        Some(line) if names_http(line) => Sniff::Http,
        _ if end.is_some() => Sniff::Other,
        _ => Sniff::Watch,
    }
}

/// How long a stream is worth holding that cannot be told yet. What is let through is no request to
/// any server, as long as what follows is looked at together with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// For a moment: a word that begins like a method, or a line that is a request only if fields follow it.
    Short,
    /// A little: a part of a line of several words.
    Long,
    /// Until it can be told: the beginning of a request.
    Firm,
}

/// How long to hold a stream of which [`sniff`] needs more.
pub fn hold(stream: &[u8]) -> Hold {
    let (line, rest) = first_line(stream);
    let (method, target) = split_word(line);
    let target_may_come = [b"http://".as_slice(), b"https://"]
        .iter()
        .any(|scheme| begins(scheme, target));
    if names_http(line) {
        Hold::Firm
    } else if rest.is_some() || method.len() == line.len() {
        Hold::Short
    } else if HTTP2_PREFACE.starts_with(stream) || shouted(method) && target_may_come {
        Hold::Firm
    } else {
        Hold::Long
    }
}

/// The first line that is not blank, without its end, and what stands behind it if it has ended.
/// Servers skip blank lines in front of a request (RFC 9112 section 2.2), some of them white space too.
fn first_line(stream: &[u8]) -> (&[u8], Option<&[u8]>) {
    let skipped = |b: &u8| *b == b'\n' || is_white(*b);
    let start = stream.iter().position(|b| !skipped(b));
    let line = start.and_then(|start| stream.get(start..));
    let Some(line) = line else {
        return match stream.len() >= MAX_SNIFF_BYTES {
            true => (&[], Some(&[])),
            false => (&[], None),
        };
    };
    match line.iter().position(|b| *b == b'\n') {
        Some(end) => {
            let (line, rest) = line.split_at(end);
            (line, rest.get(1..))
        }
        None => (line, None),
    }
}

fn sniff_line(seen: &[u8]) -> Sniff {
    let (line, rest) = first_line(seen);
    if names_http(line) {
        return Sniff::Http;
    }
    let (method, target) = split_word(line);
    let is_method = !method.is_empty() && method.iter().copied().all(is_token_byte);
    if is_method && shouted(method) && starts_like_target(target) {
        return Sniff::Http; // no need to see the line's end
    }
    let Some(rest) = rest else {
        // Another word may only become a request that names its protocol: that shows while the line is
        // watched, so nobody has to wait for an answer to it.
        return match METHODS.iter().any(|known| begins(known, method)) {
            true => Sniff::NeedMore,
            false => Sniff::Watch,
        };
    };
    let one_target = !target.is_empty() && !target.trim_ascii_end().iter().any(|b| is_white(*b));
    match line.is_empty() || one_target && METHODS.contains(&method) {
        true => sniff_fields(rest),
        false => Sniff::Other,
    }
}

/// What stands behind a first line that may be a request without a version. With a field it is one:
/// Node and Python read fields there too, as they do elsewhere.
fn sniff_fields(mut rest: &[u8]) -> Sniff {
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let (line, behind) = rest.split_at(end);
        rest = behind.get(1..).unwrap_or_default();
        if has_field(line) {
            return Sniff::Http;
        }
        // Readers pass over these two (RFC 5322, mail's header parser).
        if !matches!(line, [b' ' | b'\t', ..]) && !line.starts_with(b"From ") {
            return Sniff::Other;
        }
    }
    // The end of the stream ends a line too.
    match has_field(rest) {
        true => Sniff::Http,
        false => Sniff::NeedMore,
    }
}

/// Whether a field begins in a line, which mail's header parser also ends at a carriage return.
fn has_field(line: &[u8]) -> bool {
    let is_name = |name: &[u8]| name.trim_ascii_end().iter().all(u8::is_ascii_graphic);
    line.split(|b| *b == b'\r').any(|line| {
        let name = line.iter().position(|b| *b == b':');
        name.and_then(|end| line.get(..end)).is_some_and(is_name)
    })
}

/// Whether some server splits a request line here: white space of ASCII and Latin-1.
const fn is_white(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0)
}

/// The line's first word, and what stands behind the white space that ends it.
fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|b| is_white(*b));
    let (word, rest) = line.split_at(end.unwrap_or(line.len()));
    let start = rest.iter().position(|b| !is_white(*b));
    let rest = rest.split_at(start.unwrap_or(rest.len())).1;
    (word, rest)
}

fn shouted(word: &[u8]) -> bool {
    !word.iter().any(u8::is_ascii_lowercase)
}

/// A path, all of the server, or a URL with one of HTTP's schemes.
fn starts_like_target(target: &[u8]) -> bool {
    matches!(target, [b'/' | b'*', ..]) || begins(target, b"http://") || begins(target, b"https://")
}

/// In any case.
fn begins(text: &[u8], start: &[u8]) -> bool {
    text.get(..start.len())
        .is_some_and(|text| text.eq_ignore_ascii_case(start))
}

/// Whether the line names a protocol that servers take for HTTP: at the start of a word in any case, and
/// HTTP itself wherever it stands.
fn names_http(line: &[u8]) -> bool {
    let named = |rest: &[u8]| PROTOCOLS.iter().any(|protocol| begins(rest, protocol));
    let at = |at: usize| line.get(at..).unwrap_or_default();
    named(line)
        || (0..line.len()).any(|n| {
            let rest = at(n);
            rest.starts_with(b"HTTP/")
                || line.get(n).is_some_and(|b| is_white(*b)) && named(at(n + 1))
        })
}
