//! HTTP/1 request heads, read so strictly that nobody behind us reads them otherwise.
//!
//! A gateway that takes one Host while the server takes another has decided about the wrong name
//! (*HTTP framing*, docs/threats.md). So whatever RFC 9112 lets a lenient reader repair is refused:
//! bare line feeds, folded fields, repeated Host, Content-Length beside Transfer-Encoding.

mod body;
mod head;
mod scan;
mod sniff;
mod target;
mod token;

pub use body::{BodyScanner, BodyStep};
pub use head::{
    BodyLength, HeadParse, RequestHead, Upgrade, check_line, read_head, with_ascii_target,
};
pub use scan::{HeadScanner, MAX_EMPTY_LINES, MAX_HEAD_BYTES, MAX_HEADERS, Scan};
pub use sniff::{
    Hold, MAX_SNIFF_BYTES, MAX_WATCHED_BYTES, Sniff, WATCHED_TAIL_BYTES, hold, sniff, watch,
};
pub use target::{PathAndQuery, RequestForm, Scheme};
pub use token::{MAX_METHOD_BYTES, is_token_byte};

#[cfg(test)]
mod tests;
