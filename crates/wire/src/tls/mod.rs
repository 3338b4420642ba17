//! TLS as far as the gateway looks into it: the ClientHello and the alert that refuses it.
//!
//! The gateway never decrypts anything here; it reads the name that the client asks the server
//! for. The reader must see what any server would see: the hello may be split over records and
//! segments, a post-quantum key share makes it larger than a packet, and a server that would
//! accept an odd first record must not be reachable by sending one (*decision and
//! destination differ*, docs/threats.md).

mod alert;
mod hello;
mod record;

pub use alert::{Alert, alert, fatal_alert};
pub use hello::{Alpn, ClientHello, MAX_EXTENSIONS};
pub use record::{MAX_CLIENT_HELLO_BYTES, MAX_CLIENT_HELLO_RECORDS, Sniff, looks_like_tls};

/// What the first bytes of a client's stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one value on the stack of one connection
pub enum Hello {
    /// Too short to tell; at most [`MAX_CLIENT_HELLO_BYTES`] are ever asked for.
    NeedMore,
    /// Not TLS; some other protocol.
    NotTls,
    /// A whole ClientHello.
    ClientHello(ClientHello),
    /// TLS that no honest client sends; the reason is a few words for the record.
    Malformed(&'static str),
}

/// Reads the ClientHello at the front of a client's stream (RFC 8446 section 4.1.2, RFC 5246
/// section 7.4.1.2).
///
/// Call it again with all bytes so far while it says [`Hello::NeedMore`]. Bytes behind the hello's
/// last record (early data) are left alone.
pub fn read_client_hello(stream: &[u8]) -> Hello {
    match looks_like_tls(stream) {
        Sniff::No => return Hello::NotTls,
        Sniff::NeedMore => return Hello::NeedMore,
        Sniff::Yes => {}
    }
    let seen = stream.get(..MAX_CLIENT_HELLO_BYTES).unwrap_or(stream);
    match record::reassemble(seen) {
        Ok(Some(message)) => match hello::parse(&message.body, message.wire_bytes) {
            Ok(hello) => Hello::ClientHello(hello),
            Err(why) => Hello::Malformed(why),
        },
        Ok(None) if seen.len() >= MAX_CLIENT_HELLO_BYTES => {
            Hello::Malformed("the ClientHello is longer than 64 KiB")
        }
        Ok(None) => Hello::NeedMore,
        Err(why) => Hello::Malformed(why),
    }
}

#[cfg(test)]
mod tests;
