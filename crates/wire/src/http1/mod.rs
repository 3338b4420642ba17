//! HTTP/1 request heads, read so strictly that nobody behind us reads them otherwise.
//!
//! A gateway that takes one Host while the server takes another has decided about the wrong name
//! (THREATS.md, "HTTP framing"). So whatever RFC 9112 lets a lenient reader repair is refused:
//! bare line feeds, folded fields, repeated Host, Content-Length beside Transfer-Encoding.

mod body;
mod head;
mod scan;
mod sniff;
mod target;

pub use body::{BodyScanner, BodyStep};
pub use head::{BodyLength, HeadParse, RequestHead, Upgrade, read_head, read_scanned_head};
pub use scan::{HeadScanner, Scan};
pub use sniff::{MAX_SNIFF_BYTES, Sniff, is_bare_word, sniff};
pub use target::{PathAndQuery, RequestForm, Scheme};

/// Longest request head, in bytes, with the empty line that ends it.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Most header fields in one request.
pub const MAX_HEADERS: usize = 100;

/// Longest method, in bytes.
pub const MAX_METHOD_BYTES: usize = 32;

/// Whether the byte may stand in a token (RFC 9110 section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
