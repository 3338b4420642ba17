//! The record layer in front of a ClientHello: is this TLS at all, and the hello put together.

use std::borrow::Cow;

/// Longest ClientHello that is read, in bytes on the wire, record headers included.
pub const MAX_CLIENT_HELLO_BYTES: usize = 64 * 1024;
/// Most records that one ClientHello may be split over.
pub const MAX_CLIENT_HELLO_RECORDS: usize = 4096;

/// A record's type, version and length.
const RECORD_HEADER_BYTES: usize = 5;
/// RFC 8446 section 5.1.
const MAX_RECORD_BYTES: usize = 1 << 14;
/// A handshake message's type and length.
const HANDSHAKE_HEADER_BYTES: usize = 4;
/// Longest handshake message that is put together, in bytes.
const MAX_HANDSHAKE_BYTES: usize = MAX_CLIENT_HELLO_BYTES;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The major version of everything from SSL 3.0 to TLS 1.3.
const MAJOR: u8 = 3;

/// Whether a client's first bytes are TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// Cannot be told yet; at most eleven bytes are needed.
    NeedMore,
    /// TLS, or something that some TLS server would answer.
    Yes,
    /// Not TLS.
    No,
}

/// Looks at the first bytes of a client's stream.
///
/// Says yes to more than honest clients send, so that odd forms are refused as malformed TLS
/// rather than relayed as an unknown protocol: OpenSSL lets a warning alert precede the hello and
/// reads the SSLv2-compatible form, and Go does not insist on the record's version.
pub fn looks_like_tls(stream: &[u8]) -> Sniff {
    match *stream {
        [] => Sniff::NeedMore,
        // change_cipher_spec, alert, handshake, application_data, heartbeat
        [20..=24] => Sniff::NeedMore,
        [20..=24, MAJOR, ..] => Sniff::Yes,
        // DTLS, whose epoch stands where a record of TLS has its length
        [HANDSHAKE, 0xfe, 0xfd | 0xff, 0, 0, ..] => Sniff::No,
        // a ClientHello in a record of a version that never was, which rustls takes like any other
        [HANDSHAKE, ..] => match (stream.get(5), stream.get(6)) {
            (Some(&CLIENT_HELLO), Some(0)) => Sniff::Yes,
            (None, _) | (Some(&CLIENT_HELLO), None) => Sniff::NeedMore,
            _ => Sniff::No,
        },
        // up to 20 KiB, more than OpenSSL's buffer; telnet's first byte, 0xff, is not among them
        [0x80..=0xcf, ..] => sslv2_hello(stream),
        _ => Sniff::No,
    }
}

/// The SSLv2-compatible ClientHello (RFC 5246 appendix E.2): a 15-bit length, type 1, a version,
/// three lengths that must add up to the first.
fn sslv2_hello(stream: &[u8]) -> Sniff {
    let field = |at: usize| -> Option<usize> {
        let (&high, &low) = (stream.get(at)?, stream.get(at + 1)?);
        Some(usize::from(u16::from_be_bytes([high, low])))
    };
    let versions = |v: usize| v == 0x0002 || v >> 8 == usize::from(MAJOR);
    if stream.get(2).is_some_and(|kind| *kind != CLIENT_HELLO)
        || stream
            .get(3)
            .is_some_and(|major| *major != 0 && *major != MAJOR)
        || field(3).is_some_and(|v| !versions(v))
    {
        return Sniff::No;
    }
    match (field(0), field(5), field(7), field(9)) {
        (Some(len), Some(ciphers), Some(session), Some(challenge)) => {
            let adds_up = len & 0x7fff == 9 + ciphers + session + challenge;
            if adds_up && ciphers > 0 && ciphers % 3 == 0 {
                Sniff::Yes
            } else {
                Sniff::No
            }
        }
        _ => Sniff::NeedMore,
    }
}

/// A handshake message out of its records.
pub(super) struct Message<'a> {
    /// The message without its header.
    pub(super) body: Cow<'a, [u8]>,
    /// How many bytes of the stream it and its records took.
    pub(super) wire_bytes: usize,
}

/// Puts the first handshake message together; `None` if bytes are missing.
///
/// It first only walks over the records: while the hello is incomplete nothing is copied, so a
/// client that sends a byte at a time costs little.
pub(super) fn reassemble(stream: &[u8]) -> Result<Option<Message<'_>>, &'static str> {
    let mut header = Header::default();
    let mut at = 0;
    let mut gathered = 0;
    for _ in 0..MAX_CLIENT_HELLO_RECORDS {
        let Some((declared, payload)) = read_record(stream.get(at..).unwrap_or_default())? else {
            return Ok(None);
        };
        let message_len = header.read(payload)?;
        if let Some(len) = message_len
            && gathered + declared > len
        {
            return Err("bytes behind the ClientHello in its record");
        }
        if payload.len() < declared {
            return Ok(None);
        }
        gathered += declared;
        at += RECORD_HEADER_BYTES + declared;
        if message_len == Some(gathered) {
            return Ok(Some(Message {
                body: body(stream, at, gathered),
                wire_bytes: at,
            }));
        }
    }
    Err("the ClientHello is split over too many records")
}

/// The message's body, given that its records end at `end` and hold `len` bytes in all.
fn body(stream: &[u8], end: usize, len: usize) -> Cow<'_, [u8]> {
    if end == RECORD_HEADER_BYTES + len {
        let start = RECORD_HEADER_BYTES + HANDSHAKE_HEADER_BYTES;
        return Cow::Borrowed(stream.get(start..end).unwrap_or_default());
    }
    let mut whole = Vec::with_capacity(len);
    let mut at = 0;
    while at < end
        && let Ok(Some((declared, payload))) = read_record(stream.get(at..).unwrap_or_default())
    {
        whole.extend_from_slice(payload);
        at += RECORD_HEADER_BYTES + declared;
    }
    whole.drain(..HANDSHAKE_HEADER_BYTES.min(whole.len()));
    Cow::Owned(whole)
}

/// A record's declared length and as much of its payload as has arrived; `None` if its header has
/// not.
fn read_record(stream: &[u8]) -> Result<Option<(usize, &[u8])>, &'static str> {
    if stream.first().is_some_and(|kind| *kind != HANDSHAKE) {
        return Err("a record that is not a handshake before or inside the ClientHello");
    }
    if stream.get(1).is_some_and(|major| *major != MAJOR) {
        return Err("a record of an unknown TLS version");
    }
    let Some((header, payload)) = stream.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if len == 0 {
        return Err("an empty handshake record");
    }
    if len > MAX_RECORD_BYTES {
        return Err("a record longer than 16 KiB");
    }
    Ok(Some((len, payload.get(..len).unwrap_or(payload))))
}

/// The handshake header, which may itself be split over records.
#[derive(Default)]
struct Header {
    bytes: [u8; HANDSHAKE_HEADER_BYTES],
    len: usize,
}

impl Header {
    /// Takes what it needs of a record's payload; the message's length with its header, once known.
    fn read(&mut self, payload: &[u8]) -> Result<Option<usize>, &'static str> {
        for byte in payload.iter().take(HANDSHAKE_HEADER_BYTES - self.len) {
            self.bytes[self.len] = *byte;
            self.len += 1;
        }
        if self.len > 0 && self.bytes[0] != CLIENT_HELLO {
            return Err("a handshake message that is not a ClientHello");
        }
        if self.len < HANDSHAKE_HEADER_BYTES {
            return Ok(None);
        }
        let [_, high, middle, low] = self.bytes;
        let body = u32::from_be_bytes([0, high, middle, low]) as usize;
        let len = HANDSHAKE_HEADER_BYTES + body;
        if len > MAX_HANDSHAKE_BYTES {
            return Err("the ClientHello is longer than 64 KiB");
        }
        Ok(Some(len))
    }
}
