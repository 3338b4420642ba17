//! Is a client's stream HTTP, judging by its first bytes?
//!
//! Leans towards yes: what some HTTP server would serve must go through the head's checks. Text
//! protocols whose first line merely has two words (SMTP, FTP, IRC, SSH) are not HTTP.

use super::token::{MAX_METHOD_BYTES, is_token_byte};

/// Longest first line that is waited for, in bytes; a longer one that looked like HTTP so far
/// counts as HTTP, and is then refused by the head's limit.
pub const MAX_SNIFF_BYTES: usize = 8 * 1024;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// Cannot be told yet; at most [`MAX_SNIFF_BYTES`] are needed.
    NeedMore,
    /// HTTP/1, good or bad: read its head.
    Http,
    /// HTTP/2 without TLS (RFC 9113 section 3.3): its host is inside a compressed header.
    Http2,
    /// Something else.
    Other,
}

/// Whether so far there is one word at most: no target, no end of a line that has one, no Host.
///
/// A program that waits for an answer to such a word (`ruok`) may be let through, as long as what
/// follows is looked at together with it: no server can take a word for a request.
pub fn is_bare_word(stream: &[u8]) -> bool {
    let blank = |b: &u8| matches!(b, b'\r' | b'\n');
    let word = stream.iter().skip_while(|b| blank(b));
    word.copied().all(is_token_byte)
}

/// The first line of HTTP/2's preface (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Looks at the first bytes of a client's stream.
pub fn sniff(stream: &[u8]) -> Sniff {
    if stream.starts_with(HTTP2_PREFACE) {
        return Sniff::Http2;
    }
    if HTTP2_PREFACE.starts_with(stream) {
        return Sniff::NeedMore;
    }
    let seen = stream.get(..MAX_SNIFF_BYTES).unwrap_or(stream);
    match sniff_line(seen) {
        Sniff::NeedMore if seen.len() >= MAX_SNIFF_BYTES => Sniff::Http,
        found => found,
    }
}

fn sniff_line(seen: &[u8]) -> Sniff {
    // Servers skip empty lines in front of a request (RFC 9112 section 2.2); the head's reader
    // refuses them, so here they are looked through.
    let start = seen
        .iter()
        .position(|b| *b != b'\r' && *b != b'\n')
        .unwrap_or(seen.len());
    let line = seen.get(start..).unwrap_or_default();
    let method_len = line
        .iter()
        .position(|b| !is_token_byte(*b))
        .unwrap_or(line.len());
    if method_len > MAX_METHOD_BYTES {
        return Sniff::Other;
    }
    let (method, rest) = line.split_at(method_len);
    let gap = rest
        .iter()
        .position(|b| *b != b' ' && *b != b'\t')
        .unwrap_or(rest.len());
    let (gap, target) = rest.split_at(gap);
    if gap.is_empty() && rest.is_empty() {
        return Sniff::NeedMore; // still in the method, or nothing yet
    }
    if method.is_empty() || gap.is_empty() {
        return Sniff::Other;
    }
    // An upper-case word and a path or URL: no need to see the line's end.
    let shouted = !method.iter().any(u8::is_ascii_lowercase);
    if shouted && (method == b"CONNECT" || starts_like_target(target)) {
        return Sniff::Http;
    }
    let end = target.iter().position(|b| *b == b'\n');
    let line = end.and_then(|end| target.get(..end)).unwrap_or(target);
    let text = line.iter().all(|b| matches!(b, b'\t' | b'\r' | 0x20..));
    match end {
        _ if !text => Sniff::Other,
        Some(_) if names_http(line) => Sniff::Http,
        Some(_) => Sniff::Other,
        None => Sniff::NeedMore,
    }
}

/// A path, or a URL with one of HTTP's schemes.
fn starts_like_target(target: &[u8]) -> bool {
    target.first() == Some(&b'/')
        || [b"http://".as_slice(), b"https://"].iter().any(|s| {
            target
                .get(..s.len())
                .is_some_and(|t| t.eq_ignore_ascii_case(s))
        })
}

/// Whether ` HTTP/` stands behind some white space of the line, in any case.
fn names_http(line: &[u8]) -> bool {
    line.windows(6).any(
        |w| matches!(w, [b' ' | b'\t', protocol @ ..] if protocol.eq_ignore_ascii_case(b"HTTP/")),
    )
}
