//! The frames of HTTP/2 on their way to hyper: how long a head has been under way, and what it has
//! that hyper would not show.
//!
//! Answers *HTTP framing* (docs/threats.md). Framing itself leaves no choice in HTTP/2; a raw `#` in a
//! path does. A header block is held until it is complete, and where its path has one, a field is
//! added by which the request is refused ([`super::fields::is_marked`]).

use super::hpack::{Blocks, Unreadable};

/// The field by which a request is marked whose path has a raw `#`.
pub(super) const MARK: &str = "portcullis-raw-fragment";

/// The connection preface (RFC 9113 section 3.4), in bytes.
const PREFACE_BYTES: usize = 24;
/// The head of a frame (RFC 9113 section 4.1), in bytes.
const HEAD_BYTES: usize = 9;
/// The longest frame that is not an error (RFC 9113 section 4.2), in bytes.
const MAX_FRAME_BYTES: usize = 16 * 1024;
/// The most frames of one header block; hyper takes no more either.
const MAX_BLOCK_FRAMES: usize = 8;

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The frames of one program.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the preface that came.
    preface: usize,
    /// Bytes that are to come of a frame that passes.
    left: usize,
    blocks: Blocks,
}

/// What is known of bytes at whose front a header block may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// So many may pass: a block.
    Pass(usize),
    /// More are needed of a block.
    More,
    /// More are needed to say what it is.
    Unknown,
}

/// A head of a frame.
struct Head {
    len: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Head> {
        let bytes = bytes.first_chunk::<HEAD_BYTES>()?;
        let [high, middle, low, kind, flags, stream @ ..] = *bytes;
        let len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        Some(Head {
            len,
            kind,
            flags,
            stream,
        })
    }

    /// With the head.
    fn bytes(&self) -> usize {
        HEAD_BYTES + self.len
    }
}

impl Frames {
    /// How many bytes may pass at the front of these, which may be followed by a header block or a
    /// part of a frame's head.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = bytes.len().min(PREFACE_BYTES - self.preface);
        self.preface += at;
        loop {
            let taken = self.left.min(bytes.len() - at);
            at += taken;
            self.left -= taken;
            match Head::read(&bytes[at..]) {
                Some(head) if self.left == 0 && !head.begins_block() => {
                    self.left = head.len;
                    at += HEAD_BYTES;
                }
                _ => return at,
            }
        }
    }

    /// Looks at a header block, or a part of a frame's head, at the front of what is held. A block
    /// that is complete may pass, perhaps with more in it than came.
    ///
    /// # Errors
    /// What is wrong with it; hyper must not see it.
    pub(super) fn block(&mut self, held: &mut Vec<u8>) -> Result<Front, &'static str> {
        let mut fragments = Vec::new();
        let mut at = 0;
        for _ in 0..MAX_BLOCK_FRAMES {
            let Some(head) = Head::read(&held[at..]) else {
                return Ok(match at {
                    0 => Front::Unknown,
                    _ => Front::More,
                });
            };
            if head.kind == PUSH_PROMISE {
                return Err("a promise, which no client may make");
            }
            if at > 0 && head.kind != CONTINUATION {
                return Err("a header block that is broken off");
            }
            if head.len > MAX_FRAME_BYTES {
                return Err("a frame of a header block that is too long");
            }
            let end = at + head.bytes();
            let Some(payload) = held.get(at + HEAD_BYTES..end) else {
                return Ok(Front::More);
            };
            let fragment = head.fragment(payload).ok_or(UNREADABLE)?;
            let is_last = head.flags & END_HEADERS != 0;
            // Most blocks are one frame, which need not be copied.
            let block = match is_last && fragments.is_empty() {
                true => fragment,
                false => {
                    fragments.extend_from_slice(fragment);
                    &fragments
                }
            };
            if !is_last {
                at = end;
                continue;
            }
            let marked = self.blocks.read(block);
            if !marked.map_err(|Unreadable| UNREADABLE)? {
                return Ok(Front::Pass(end));
            }
            held[at + 4] &= !END_HEADERS;
            let mark = head.mark();
            let passing = end + mark.len();
            held.splice(end..end, mark);
            return Ok(Front::Pass(passing));
        }
        Err("a header block in too many frames")
    }
}

const UNREADABLE: &str = "a header block that cannot be read";

impl Head {
    fn begins_block(&self) -> bool {
        matches!(self.kind, HEADERS | PUSH_PROMISE)
    }

    /// What is of the header block in a frame; `None` where that cannot be said.
    fn fragment<'p>(&self, payload: &'p [u8]) -> Option<&'p [u8]> {
        let mut rest = payload;
        let mut padding = 0;
        if self.kind == HEADERS && self.flags & PADDED != 0 {
            let (first, behind) = rest.split_first()?;
            (padding, rest) = (usize::from(*first), behind);
        }
        if self.kind == HEADERS && self.flags & PRIORITY != 0 {
            let (on, behind) = rest.split_first_chunk::<4>()?;
            // Of a stream that depends on itself hyper skips the block, and its table with it.
            if u32::from_be_bytes(*on) << 1 == u32::from_be_bytes(self.stream) << 1 {
                return None;
            }
            rest = behind.get(1..)?;
        }
        rest.get(..rest.len().checked_sub(padding)?)
    }

    /// One more frame of this block: the field [`MARK`], which no table remembers.
    fn mark(&self) -> Vec<u8> {
        let field = [&[0, MARK.len() as u8], MARK.as_bytes(), &[1, b'1']].concat();
        let mut frame = vec![0, 0, field.len() as u8, CONTINUATION, END_HEADERS];
        frame.extend_from_slice(&self.stream);
        frame.extend_from_slice(&field);
        frame
    }
}

/// The first of the gateway's own frames, its settings, without its offer to let streams become
/// WebSockets (RFC 8441 section 3): the library takes such requests only where it makes the offer,
/// and one that comes without it shall be refused in words, and recorded.
pub(super) fn without_websockets(bytes: &[u8]) -> Vec<u8> {
    const ENABLE_CONNECT_PROTOCOL: [u8; 2] = [0, 8];
    let len = Head::read(bytes).map_or(0, |head| head.bytes());
    let mut settings = bytes[..len.min(bytes.len())].to_vec();
    for setting in settings
        .get_mut(HEAD_BYTES..)
        .unwrap_or_default()
        .chunks_mut(6)
    {
        if setting.starts_with(&ENABLE_CONNECT_PROTOCOL) {
            setting[2..].fill(0);
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_no_more_passes_than_there_is(
            mut held in proptest::collection::vec(prop_oneof![0u8..10, any::<u8>()], 0..300),
            preface in any::<bool>(),
        ) {
            let mut frames = Frames::default();
            if preface {
                frames.preface = PREFACE_BYTES;
            }
            loop {
                let passing = match frames.pass(&held) {
                    0 => match frames.block(&mut held) {
                        Ok(Front::Pass(passing)) => passing,
                        _ => break,
                    },
                    passing => passing,
                };
                prop_assert!(passing > 0 && passing <= held.len());
                held.drain(..passing);
            }
        }
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    /// `GET https:/a#b`, no more.
    const BLOCK: &[u8] = b"\x82\x87\x04\x04/a#b";

    #[test]
    fn a_block_with_a_raw_fragment_is_marked_however_it_is_cut() {
        let padded = [b"\x03", BLOCK, b"pad"].concat();
        let priority = [b"\x00\x00\x00\x03\x10", BLOCK].concat();
        let (one, two) = BLOCK.split_at(5);
        for came in [
            frame(HEADERS, END_HEADERS | 1, BLOCK),
            frame(HEADERS, END_HEADERS | PADDED, &padded),
            frame(HEADERS, END_HEADERS | PRIORITY, &priority),
            [
                frame(HEADERS, 0, one),
                frame(CONTINUATION, 0, b""),
                frame(CONTINUATION, END_HEADERS, two),
            ]
            .concat(),
        ] {
            let mut frames = Frames {
                preface: PREFACE_BYTES,
                ..Frames::default()
            };
            for part in 0..came.len() {
                let mut held = came[..part].to_vec();
                assert_eq!(frames.pass(&held), 0);
                let more = match part {
                    ..HEAD_BYTES => Front::Unknown,
                    _ => Front::More,
                };
                assert_eq!(frames.block(&mut held), Ok(more));
            }
            let mut held = [&came[..], b"behind"].concat();
            let Ok(Front::Pass(passing)) = frames.block(&mut held) else {
                panic!("{came:x?}")
            };
            let marked = &held[..passing];
            assert!(
                marked.ends_with(b"\x17portcullis-raw-fragment\x011"),
                "{marked:x?}"
            );
            assert_eq!(&held[passing..], b"behind");
            // It is still one block: the flag stands in its last frame alone.
            let mut at = 0;
            while let Some(head) = Head::read(&marked[at..]) {
                at += head.bytes();
                assert_eq!(head.flags & END_HEADERS != 0, at == passing);
            }
            assert_eq!(at, passing);
        }
    }

    #[test]
    fn a_block_that_hyper_would_read_otherwise_is_refused() {
        let itself = [b"\x00\x00\x00\x01\x10", BLOCK].concat();
        for came in [
            frame(HEADERS, END_HEADERS | PRIORITY, &itself),
            frame(HEADERS, END_HEADERS | PADDED, b"\xff\x82"),
            frame(HEADERS, END_HEADERS | PADDED, b""),
            frame(HEADERS, END_HEADERS, b"\xbe"),
            frame(PUSH_PROMISE, END_HEADERS, BLOCK),
            [frame(HEADERS, 0, BLOCK), frame(0, 0, b"")].concat(),
            [
                frame(HEADERS, 0, b"\x82"),
                frame(CONTINUATION, 0, b"").repeat(7),
            ]
            .concat(),
            vec![0, 0x40, 1, HEADERS, END_HEADERS, 0, 0, 0, 1],
        ] {
            let mut held = came.clone();
            let read = Frames::default().block(&mut held);
            assert!(read.is_err(), "{came:x?}: {read:?}");
        }
    }
}
