//! Frames on a stream, as QEMU's `-netdev stream`, passt and libkrun have them: the length in four bytes,
//! the most significant first, and the frame.
//!
//! Both ends of a connection live in a buffer of a fixed size. A frame that no guest may send is counted
//! and left out, and a length that can only be an error ends the connection.

/// The longest frame, in bytes: an Ethernet header, a tag, and the largest packet.
pub const MAX_FRAME_BYTES: usize = 14 + 4 + crate::MAX_MTU as usize;
/// The shortest one, in bytes: the header.
pub const MIN_FRAME_BYTES: usize = 14;
/// A longer frame is not waited for, in bytes.
const MAX_SKIPPED_BYTES: usize = 1024 * 1024;
/// What is held of one direction, in bytes: some frames of any size.
const BUFFER_BYTES: usize = 256 * 1024;
const LENGTH_BYTES: usize = 4;

/// The stream is not one of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// Frames out of a stream.
#[derive(Debug)]
pub struct Unframer {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// What is still to come of a frame that is left out, in bytes.
    skip: usize,
    dropped: u32,
}

impl Default for Unframer {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
            skip: 0,
            dropped: 0,
        }
    }
}

impl Unframer {
    /// Room for what comes next; never empty once [`Unframer::frame`] has given none.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < LENGTH_BYTES + MAX_FRAME_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes came into [`Unframer::space`].
    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// What stands for a length is none.
    pub fn frame(&mut self) -> Result<Option<&[u8]>, Broken> {
        loop {
            let skipped = self.skip.min(self.end - self.start);
            self.start += skipped;
            self.skip -= skipped;
            let Some(length) = self.buffer[self.start..self.end].first_chunk() else {
                return Ok(None);
            };
            if self.skip > 0 {
                return Ok(None);
            }
            let length = u32::from_be_bytes(*length) as usize;
            if length > MAX_SKIPPED_BYTES {
                return Err(Broken);
            }
            if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&length) {
                self.dropped += 1;
                self.start += LENGTH_BYTES;
                self.skip = length;
                continue;
            }
            let from = self.start + LENGTH_BYTES;
            if self.end - from < length {
                return Ok(None);
            }
            self.start = from + length;
            return Ok(Some(&self.buffer[from..from + length]));
        }
    }

    /// How many frames were left out since the last look.
    pub fn take_dropped(&mut self) -> u32 {
        std::mem::take(&mut self.dropped)
    }
}

/// Frames into a stream.
#[derive(Debug)]
pub struct Framer {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Framer {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
        }
    }
}

impl Framer {
    /// Room for one more frame of any size, if there is some.
    pub fn space(&mut self) -> Option<&mut [u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let from = self.end + LENGTH_BYTES;
        self.buffer.get_mut(from..from + MAX_FRAME_BYTES)
    }

    /// A frame of so many bytes was put into [`Framer::space`].
    pub fn filled(&mut self, bytes: usize) {
        let bytes = bytes.min(MAX_FRAME_BYTES);
        let from = self.end + LENGTH_BYTES;
        let length = (bytes as u32).to_be_bytes();
        self.buffer[self.end..from].copy_from_slice(&length);
        self.end = from + bytes;
    }

    /// What is to be sent.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// So many bytes of it were.
    pub fn sent(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(frames: &[&[u8]]) -> Vec<u8> {
        let mut stream = Vec::new();
        for frame in frames {
            stream.extend((frame.len() as u32).to_be_bytes());
            stream.extend(*frame);
        }
        stream
    }

    /// Reads a stream that comes in pieces.
    fn read(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, u32, bool) {
        let mut unframer = Unframer::default();
        let (mut frames, mut dropped) = (Vec::new(), 0);
        let mut rest = stream;
        while !rest.is_empty() {
            let space = unframer.space();
            let taken = piece.min(space.len()).min(rest.len());
            assert!(taken > 0, "there is room");
            space[..taken].copy_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            unframer.filled(taken);
            loop {
                match unframer.frame() {
                    Ok(Some(frame)) => frames.push(frame.to_vec()),
                    Ok(None) => break,
                    Err(Broken) => return (frames, dropped + unframer.take_dropped(), true),
                }
            }
            dropped += unframer.take_dropped();
        }
        (frames, dropped, false)
    }

    #[test]
    fn frames_of_a_wrong_length_are_counted_and_the_others_arrive() {
        let (short, good) = ([1; 13], [2; 60]);
        let (long, longest) = (vec![3; MAX_FRAME_BYTES + 1], vec![4; MAX_FRAME_BYTES]);
        let stream = framed(&[&[], &short, &good, &long, &longest, &good]);
        for piece in [1, 7, 4096, usize::MAX] {
            let (frames, dropped, broken) = read(&stream, piece);
            assert_eq!(frames, [good.to_vec(), longest.clone(), good.to_vec()]);
            assert_eq!((dropped, broken), (3, false), "{piece}");
        }
    }

    #[test]
    fn half_a_length_is_waited_for_and_a_length_that_is_none_ends_the_stream() {
        assert_eq!(read(&[0, 0], 1), (Vec::new(), 0, false));
        assert_eq!(read(&[0xff; 8], 8), (Vec::new(), 0, true));
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n", 5), (Vec::new(), 0, true));
    }

    #[test]
    fn what_was_framed_reads_back() {
        let mut framer = Framer::default();
        let mut stream = Vec::new();
        let mut sent = Vec::new();
        for number in 0..50_usize {
            let frame = vec![number as u8; 14 + number * 1_300];
            match framer.space() {
                Some(space) => space[..frame.len()].copy_from_slice(&frame),
                None => {
                    stream.extend_from_slice(framer.pending());
                    framer.sent(framer.pending().len());
                    framer.space().unwrap()[..frame.len()].copy_from_slice(&frame);
                }
            }
            framer.filled(frame.len());
            sent.push(frame);
        }
        stream.extend_from_slice(framer.pending());
        assert_eq!(read(&stream, 70_000), (sent, 0, false));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_frames(
            stream in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..400),
            piece in 1_usize..40,
        ) {
            prop_assert_eq!(read(&stream, piece), read(&stream, usize::MAX));
        }
    }
}
