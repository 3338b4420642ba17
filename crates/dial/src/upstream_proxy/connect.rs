//! Asking an upstream proxy for a tunnel: CONNECT (RFC 9110 section 9.3.6).
//!
//! The reply's head is taken off the stream to the very byte: behind it may already stand the first
//! bytes of a server that speaks first (SSH, SMTP), and they belong to the program. The proxy is
//! not trusted to be well behaved: it may hang, close, or send rubbish without end. A line may end in
//! a bare line feed (RFC 9112 section 2.2), so that such a proxy is not waited for in vain.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_policy::{Credentials, Reason};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::target::{ConnectTarget, ProxyFailure};
use crate::error::DialError;
use crate::stream::Stream;

/// Longest head of a reply, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Interim replies (1xx) before the final one.
const MAX_INTERIM_REPLIES: usize = 8;
/// How long the proxy may take to answer; it dials in that time.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest reason phrase kept for the record, in bytes.
const MAX_PHRASE_BYTES: usize = 80;
/// The status of a proxy that wants credentials, or others.
const UNAUTHENTICATED: u16 = 407;
/// How every reply begins.
const BEGINNING: &[u8] = b"HTTP/1.";
/// What is said of one that does not.
const NOT_HTTP: &str = "answered with something other than HTTP";
/// What is said of a head with a carriage return that no line feed follows: which lines such a head
/// has, and where it ends, two readers would see differently.
const BARE_CR: &str = "answered with a carriage return that ends no line";

/// The value of `Proxy-Authorization` (RFC 7617).
pub(crate) fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.user(), credentials.password());
    format!("Basic {}", STANDARD.encode(pair))
}

/// Opens a tunnel to `target` on a fresh connection to the proxy.
///
/// # Errors
/// The proxy's answer with its status, or how it failed.
pub(crate) async fn open(
    stream: &mut Stream,
    target: &ConnectTarget,
    authorization: Option<&str>,
) -> Result<(), ProxyFailure> {
    match timeout(REPLY_TIMEOUT, exchange(stream, target, authorization)).await {
        Ok(result) => result,
        Err(_) => Err(down(
            Reason::UpstreamProxyTimeout,
            "did not answer CONNECT in time",
        )),
    }
}

fn down(reason: Reason, detail: impl Into<String>) -> ProxyFailure {
    ProxyFailure::Down(DialError::new(reason, detail))
}

fn broken(error: io::Error) -> ProxyFailure {
    down(Reason::UpstreamProxyClosed, format!("broke off: {error}"))
}

async fn exchange(
    stream: &mut Stream,
    target: &ConnectTarget,
    authorization: Option<&str>,
) -> Result<(), ProxyFailure> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = authorization {
        // Writing into a String cannot fail.
        let _ = write!(request, "Proxy-Authorization: {authorization}\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    for _ in 0..=MAX_INTERIM_REPLIES {
        let head = read_head(stream).await?;
        let (status, phrase) =
            parse_status(&head).ok_or_else(|| down(Reason::UpstreamProxyProtocol, NOT_HTTP))?;
        match status {
            100 | 102..=199 => {}
            200..=299 => return Ok(()),
            // It would switch to a protocol that nobody asked for.
            101 => {
                let detail = format!("answered {status} {phrase} to CONNECT");
                return Err(down(Reason::UpstreamProxyProtocol, detail));
            }
            _ => {
                let reason = refusal(status);
                let wants = wants_more_than_basic(status, &head);
                let detail = format!("answered {status} {phrase} to CONNECT {target}{wants}");
                let mut error = DialError::new(reason, detail);
                error.received_status = Some(status);
                return Err(ProxyFailure::Answered(error));
            }
        }
    }
    let detail = "answered with interim replies only";
    Err(down(Reason::UpstreamProxyProtocol, detail))
}

/// What a proxy that takes no Basic wants in its place, for the record.
fn wants_more_than_basic(status: u16, head: &[u8]) -> String {
    const FIELD: &[u8] = b"proxy-authenticate:";
    const KNOWN: [&str; 4] = ["Basic", "Digest", "Negotiate", "NTLM"];
    if status != UNAUTHENTICATED {
        return String::new();
    }
    let lines = head.split(|byte| *byte == b'\n');
    let offers: Vec<&[u8]> = lines
        .filter_map(|line| line.split_at_checked(FIELD.len()))
        .filter(|(name, _)| name.eq_ignore_ascii_case(FIELD))
        .filter_map(|(_, value)| {
            let words = value.trim_ascii().split(|byte| matches!(byte, b' ' | b','));
            words.into_iter().next()
        })
        .collect();
    let offered = |scheme: &str| {
        offers
            .iter()
            .any(|own| own.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    let wanted: Vec<&str> = KNOWN.into_iter().filter(|scheme| offered(scheme)).collect();
    match wanted.first() {
        None | Some(&"Basic") => String::new(),
        Some(_) => format!(
            "; it wants {}, and the gateway knows Basic alone",
            wanted.join(" or ")
        ),
    }
}

/// What a status other than 2xx means: 5xx that it could not get there, all others that it will not.
fn refusal(status: u16) -> Reason {
    match status {
        500..=599 => Reason::UpstreamProxyFailed,
        _ => Reason::UpstreamProxyRefused,
    }
}

/// Takes one head off the stream, up to and with its empty line, and not a byte more.
async fn read_head(stream: &mut Stream) -> Result<Vec<u8>, ProxyFailure> {
    let mut head = Vec::new();
    let mut ends = LineEnds::default();
    let mut seen = [0u8; 2048];
    loop {
        let peeked = peek(stream, &mut seen).await.map_err(broken)?;
        if peeked == 0 {
            let when = if head.is_empty() {
                "without an answer"
            } else {
                "in its answer"
            };
            let detail = format!("closed the connection {when}");
            return Err(down(Reason::UpstreamProxyClosed, detail));
        }
        let before = head.len();
        head.extend_from_slice(&seen[..peeked]);
        if head.iter().zip(BEGINNING).any(|(is, should)| is != should) {
            // Told at once: it may never send what would be the end of a head.
            return Err(down(Reason::UpstreamProxyProtocol, NOT_HTTP));
        }
        let complete = match ends.read(&head[before..]) {
            HeadEnd::At(used) => Some(before + used),
            HeadEnd::Later => None,
            HeadEnd::BareCr => return Err(down(Reason::UpstreamProxyProtocol, BARE_CR)),
        };
        head.truncate(complete.unwrap_or(head.len()));
        let taken = head.len() - before;
        let take = stream.read_exact(&mut seen[..taken]).await;
        take.map_err(broken)?;
        if complete.is_some() && head.len() <= MAX_HEAD_BYTES {
            return Ok(head);
        }
        if head.len() > MAX_HEAD_BYTES {
            let detail = format!("sent more than {MAX_HEAD_BYTES} bytes of header");
            return Err(down(Reason::UpstreamProxyProtocol, detail));
        }
    }
}

/// Looks for the empty line that ends a head, over all pieces of it.
#[derive(Default)]
struct LineEnds {
    /// The line has bytes.
    in_line: bool,
    after_cr: bool,
}

/// Where a head ends.
enum HeadEnd {
    /// Behind so many bytes of the piece.
    At(usize),
    /// Not in this piece.
    Later,
    /// Nowhere: there is a carriage return that no line feed follows.
    BareCr,
}

impl LineEnds {
    fn read(&mut self, piece: &[u8]) -> HeadEnd {
        for (at, &byte) in piece.iter().enumerate() {
            match byte {
                b'\n' if !self.in_line => return HeadEnd::At(at + 1),
                b'\n' => *self = LineEnds::default(),
                _ if self.after_cr => return HeadEnd::BareCr,
                b'\r' => self.after_cr = true,
                _ => self.in_line = true,
            }
        }
        HeadEnd::Later
    }
}

/// What stands next on the stream, without taking it; 0 at its end.
async fn peek(stream: &mut Stream, seen: &mut [u8]) -> io::Result<usize> {
    match stream {
        Stream::Tcp(stream) => stream.peek(seen).await,
        Stream::Tls(stream) => {
            let next = stream.fill_buf().await?;
            let length = next.len().min(seen.len());
            seen[..length].copy_from_slice(&next[..length]);
            Ok(length)
        }
    }
}

/// Status and reason phrase of a head.
fn parse_status(head: &[u8]) -> Option<(u16, String)> {
    let line_end = head.iter().position(|byte| *byte == b'\n')? + 1;
    // The status line alone: the fields say nothing that is of use here.
    let mut response = httparse::Response::new(&mut []);
    response.parse(&head[..line_end]).ok()?;
    let status = response.code.filter(|status| (100..600).contains(status))?;
    let phrase = response.reason.unwrap_or_default().chars();
    Some((status, phrase.take(MAX_PHRASE_BYTES).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credentials_of_rfc_7617_section_2() {
        let aladdin = Credentials::parse("Aladdin:open sesame").unwrap();
        assert_eq!(basic(&aladdin), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn what_a_proxy_wants_that_takes_no_basic() {
        let told = |fields: &str| {
            let head = format!("HTTP/1.1 407 no\r\n{fields}Connection: close\r\n\r\n");
            wants_more_than_basic(407, head.as_bytes())
        };
        let both = "Proxy-Authenticate: NTLM\r\nproxy-authenticate:Negotiate\r\n";
        assert_eq!(
            told(both),
            "; it wants Negotiate or NTLM, and the gateway knows Basic alone"
        );
        let digest = "Proxy-Authenticate: Digest realm=\"x\"\r\n";
        assert_eq!(
            told(digest),
            "; it wants Digest, and the gateway knows Basic alone"
        );
        for silent in [
            "",
            "Proxy-Authenticate: basic realm=x\r\nProxy-Authenticate: NTLM\r\n",
            "Proxy-Authenticate: own\r\n",
        ] {
            assert_eq!(told(silent), "", "{silent}");
        }
        assert_eq!(wants_more_than_basic(403, both.as_bytes()), "");
    }

    #[test]
    fn status_lines() {
        for (head, status) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Some((200, "OK"))),
            (
                "HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n",
                Some((200, "Connection established")),
            ),
            ("HTTP/1.1 407\r\n\r\n", Some((407, ""))),
            ("HTTP/1.1 403 \u{1b}[31mno\r\n\r\n", None),
            ("HTTP/1.1 200 OK\nX: y\r\n\r\n", Some((200, "OK"))),
            ("HTTP/1.1 407 no\n\n", Some((407, "no"))),
            ("HTTP/1.1 2000 OK\r\n\r\n", None),
            ("HTTP/1.1 20 OK\r\n\r\n", None),
            ("HTTP/1.1 099 x\r\n\r\n", None),
            ("HTTP/1.1  200 OK\r\n\r\n", None),
            ("HTTP/2 200\r\n\r\n", None),
            ("SSH-2.0-OpenSSH\r\n\r\n", None),
            ("\r\n\r\n", None),
            ("", None),
        ] {
            let got = parse_status(head.as_bytes());
            let wanted = status.map(|(status, phrase): (u16, &str)| (status, phrase.to_owned()));
            assert_eq!(got, wanted, "{head:?}");
        }
    }

    proptest! {
        #[test]
        fn any_head_is_read_without_a_panic(head in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some((status, phrase)) = parse_status(&head) {
                prop_assert!((100..600).contains(&status));
                prop_assert!(phrase.len() <= MAX_PHRASE_BYTES);
            }
        }
    }
}
