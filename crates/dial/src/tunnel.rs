//! Asking the company's proxy for a tunnel: CONNECT (RFC 9110, section 9.3.6).
//!
//! The reply's head is taken off the stream to the very byte: behind it may already stand the first
//! bytes of a server that speaks first (SSH, SMTP), and they belong to the program. The proxy is
//! not trusted to be well behaved: it may hang, close, or send rubbish without end.

use std::io;
use std::time::Duration;

use portcullis_policy::Reason;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

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
/// The end of a head. Bare line feeds do not end one.
const END: &[u8] = b"\r\n\r\n";

/// Opens a tunnel to `authority` (`name:port`, `[v6]:port`) on a fresh connection to the proxy.
///
/// `authority` is made from a canonical name or an address: it holds no byte that could end the
/// line.
///
/// # Errors
/// `upstream-proxy-failed`, with the proxy's status in the detail.
pub(crate) async fn open(stream: &mut Stream, authority: &str) -> Result<(), DialError> {
    match timeout(REPLY_TIMEOUT, exchange(stream, authority)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(detail)) => Err(failed(&detail)),
        Err(_) => Err(failed("did not answer CONNECT in time")),
    }
}

fn failed(detail: &str) -> DialError {
    DialError::new(Reason::UpstreamProxyFailed, detail)
}

async fn exchange(stream: &mut Stream, authority: &str) -> Result<(), String> {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let broken = |error: io::Error| format!("broke off: {error}");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    for _ in 0..=MAX_INTERIM_REPLIES {
        let head = read_head(stream).await?;
        let (status, phrase) =
            parse_status(&head).ok_or("answered with something else than HTTP")?;
        match status {
            // 101 would switch to a protocol that nobody asked for.
            100 | 102..=199 => {}
            200..=299 => return Ok(()),
            _ => return Err(format!("answered {status} {phrase} to CONNECT {authority}")),
        }
    }
    Err("answered with interim replies only".to_owned())
}

/// Takes one head off the stream, up to and with its empty line, and not a byte more.
async fn read_head(stream: &mut Stream) -> Result<Vec<u8>, String> {
    let mut head = Vec::new();
    let mut seen = [0u8; 2048];
    loop {
        let peeked = peek(stream, &mut seen)
            .await
            .map_err(|error| format!("broke off: {error}"))?;
        if peeked == 0 {
            let when = if head.is_empty() {
                "without an answer"
            } else {
                "in its answer"
            };
            return Err(format!("closed the connection {when}"));
        }
        let before = head.len();
        head.extend_from_slice(&seen[..peeked]);
        // The end may have begun in what was taken before.
        let from = before.saturating_sub(END.len() - 1);
        let end = head[from..]
            .windows(END.len())
            .position(|window| window == END);
        let complete = end.map(|at| from + at + END.len());
        head.truncate(complete.unwrap_or(head.len()));
        let taken = head.len() - before;
        stream
            .read_exact(&mut seen[..taken])
            .await
            .map_err(|error| format!("broke off: {error}"))?;
        if complete.is_some() && head.len() <= MAX_HEAD_BYTES {
            return Ok(head);
        }
        if head.len() > MAX_HEAD_BYTES {
            return Err(format!("sent more than {MAX_HEAD_BYTES} bytes of header"));
        }
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

/// Status and printable reason phrase of `HTTP/1.x NNN phrase`.
fn parse_status(head: &[u8]) -> Option<(u16, String)> {
    let line = &head[..head.windows(2).position(|window| window == b"\r\n")?];
    let rest = line
        .strip_prefix(b"HTTP/1.0 ")
        .or_else(|| line.strip_prefix(b"HTTP/1.1 "))?;
    let (digits, rest) = rest.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !(rest.is_empty() || rest[0] == b' ') {
        return None;
    }
    let status = digits
        .iter()
        .fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let printable = rest
        .iter()
        .filter(|b| (0x20..0x7f).contains(*b))
        .map(|&b| char::from(b));
    let phrase: String = printable.take(MAX_PHRASE_BYTES).collect();
    (100..=599)
        .contains(&status)
        .then(|| (status, phrase.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn status_lines() {
        for (head, status) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Some((200, "OK"))),
            (
                "HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n",
                Some((200, "Connection established")),
            ),
            ("HTTP/1.1 407\r\n\r\n", Some((407, ""))),
            ("HTTP/1.1 403 \u{1b}[31mno\r\n\r\n", Some((403, "[31mno"))),
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
