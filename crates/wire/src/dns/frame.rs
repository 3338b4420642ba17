//! DNS over TCP: messages behind a length of two bytes (RFC 1035 section 4.2.2, RFC 7766).
//!
//! A frame too short to be a message ends the connection: whoever sent it does not speak DNS, and
//! reading on would mean guessing where the next frame begins.

/// Longest frame a client may send, in bytes, without its length: a query is one name and a
/// few options.
pub const MAX_FRAME_BYTES: usize = 4096;

/// The DNS header.
const MIN_FRAME_BYTES: usize = 12;

/// What stands at the front of a client's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Bytes are missing.
    NeedMore,
    /// A whole message.
    Message {
        /// The message.
        message: &'a [u8],
        /// How many bytes it took, length included.
        used: usize,
    },
    /// A length that no query has: close the connection.
    Bad,
}

/// Reads one frame.
pub fn read_frame(stream: &[u8]) -> Frame<'_> {
    let Some((len, rest)) = stream.split_first_chunk::<2>() else {
        return Frame::NeedMore;
    };
    let len = usize::from(u16::from_be_bytes(*len));
    if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&len) {
        return Frame::Bad;
    }
    match rest.get(..len) {
        Some(message) => Frame::Message {
            message,
            used: 2 + len,
        },
        None => Frame::NeedMore,
    }
}
