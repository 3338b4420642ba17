//! Header blocks of HTTP/2 (HPACK, RFC 7541), looked through for a raw `#` in a `:path`.
//!
//! The libraries behind this cut a path off at its `#` before anybody sees it. Answers *a raw `#` in a
//! path* (docs/threats.md): what HTTP/1.1 refuses, HTTP/2 must not repair. So a block is followed as
//! far as that takes: which names are `:path`, which values have a `#`, and what the connection's
//! dynamic table remembers of both.

use std::collections::VecDeque;

use super::limits::MAX_FIELDS_BYTES;

/// What a program's dynamic table may take (RFC 7541 section 4.2; the default of RFC 9113), in bytes.
const MAX_TABLE_BYTES: usize = 4096;
/// What an entry counts beside its name and value (RFC 7541 section 4.1), in bytes.
const ENTRY_BYTES: usize = 32;
/// Bytes of an integer (RFC 7541 section 5.1); more would be more than any block has.
const MAX_INTEGER_BYTES: usize = 5;
/// The entries of the static table (RFC 7541 appendix A) that are named `:path`.
const STATIC_PATHS: [usize; 2] = [4, 5];
/// Most fields of one block: with more it is longer than [`MAX_FIELDS_BYTES`] whatever they are.
const MAX_BLOCK_FIELDS: usize = MAX_FIELDS_BYTES as usize / ENTRY_BYTES;
/// How long the names of the static table are; see [`STATIC_PATHS`].
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];
/// How many symbols of Huffman's code (RFC 7541 appendix B) have 5, 6, 7 and more bits. The code is
/// canonical, so that these numbers tell where each symbol ends.
const HUFFMAN_LENGTHS: [u8; 26] = [
    10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4,
];
/// The shortest symbol, in bits.
const HUFFMAN_SHORTEST: u32 = 5;
/// `#` in that code.
const HUFFMAN_HASH: Symbol = (0xffa, 12);
/// `:path` in that code.
const HUFFMAN_PATH: [Symbol; 5] = [(0x5c, 7), (0x2b, 6), (0x3, 5), (0x9, 5), (0x27, 6)];

/// A symbol of Huffman's code, and its bits.
type Symbol = (u32, u32);

/// One program's header blocks, in their order.
#[derive(Debug)]
pub(super) struct Blocks {
    /// The newest entry first.
    table: VecDeque<Entry>,
    bytes: usize,
    max_bytes: usize,
}

/// One that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Text,
    value: Text,
}

/// What is known of a name or a value.
#[derive(Clone, Copy, Debug, Default)]
struct Text {
    /// Decoded, in bytes.
    len: usize,
    is_path: bool,
    has_hash: bool,
}

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks {
            table: VecDeque::new(),
            bytes: 0,
            max_bytes: MAX_TABLE_BYTES,
        }
    }
}

impl Blocks {
    /// Reads the connection's next block; whether a `:path` in it has a raw `#`.
    ///
    /// # Errors
    /// It is no block, and nothing behind it can be understood.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Result<bool, Unreadable> {
        let mut found = false;
        let mut fields = 0;
        while let Some(first) = block.first() {
            fields += 1;
            if fields > MAX_BLOCK_FIELDS {
                return Err(Unreadable);
            }
            let (prefix, indexed) = match first {
                0x80.. => (7, false),
                0x40.. => (6, true),
                0x20.. => {
                    self.max_bytes = integer(&mut block, 5)?;
                    if self.max_bytes > MAX_TABLE_BYTES {
                        return Err(Unreadable);
                    }
                    self.evict(0);
                    continue;
                }
                _ => (4, false),
            };
            let index = integer(&mut block, prefix)?;
            let entry = if prefix == 7 {
                self.entry(index)?
            } else {
                let name = match index {
                    0 => text(&mut block)?,
                    index => self.entry(index)?.name,
                };
                let value = text(&mut block)?;
                Entry { name, value }
            };
            found |= entry.name.is_path && entry.value.has_hash;
            if indexed {
                self.insert(entry);
            }
        }
        Ok(found)
    }

    /// What an index means. The values of the static table are known to be harmless.
    fn entry(&self, index: usize) -> Result<Entry, Unreadable> {
        let position = index.checked_sub(1).ok_or(Unreadable)?;
        match STATIC_NAMES.get(position) {
            Some(len) => {
                let name = Text {
                    len: usize::from(*len),
                    is_path: STATIC_PATHS.contains(&index),
                    has_hash: false,
                };
                let value = Text::default();
                Ok(Entry { name, value })
            }
            None => {
                let entry = self.table.get(position - STATIC_NAMES.len());
                entry.copied().ok_or(Unreadable)
            }
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.evict(entry.bytes());
        if entry.bytes() <= self.max_bytes {
            self.bytes += entry.bytes();
            self.table.push_front(entry);
        }
    }

    /// Drops the oldest entries until there is room for so many bytes, or none is left.
    fn evict(&mut self, room: usize) {
        while self.bytes + room > self.max_bytes
            && let Some(oldest) = self.table.pop_back()
        {
            self.bytes -= oldest.bytes();
        }
    }
}

impl Entry {
    fn bytes(self) -> usize {
        self.name.len + self.value.len + ENTRY_BYTES
    }
}

/// Takes an integer whose first byte has so many bits of it.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Unreadable> {
    let mask = (1 << prefix) - 1;
    let mut value = 0;
    for at in 0..MAX_INTEGER_BYTES {
        let (byte, rest) = block.split_first().ok_or(Unreadable)?;
        *block = rest;
        let byte = usize::from(*byte);
        if at == 0 {
            value = byte & mask;
            if value < mask {
                return Ok(value);
            }
        } else {
            value += (byte & 0x7f) << (7 * (at - 1));
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }
    Err(Unreadable)
}

/// Takes a string.
fn text(block: &mut &[u8]) -> Result<Text, Unreadable> {
    let coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let len = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(len).ok_or(Unreadable)?;
    *block = rest;
    Ok(match coded {
        false => Text {
            len,
            is_path: bytes == b":path",
            has_hash: bytes.contains(&b'#'),
        },
        true => decoded(bytes),
    })
}

/// The same of a string in Huffman's code. What is wrong with its end is the library's to say.
fn decoded(bytes: &[u8]) -> Text {
    let mut text = Text {
        is_path: true,
        ..Text::default()
    };
    let mut code = 0;
    let mut bits: u32 = 0;
    // The first code with as many bits.
    let mut first = 0;
    for bit in bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
    {
        code = code << 1 | u32::from(bit);
        bits += 1;
        let Some(longer) = bits.checked_sub(HUFFMAN_SHORTEST) else {
            continue;
        };
        let of_length = HUFFMAN_LENGTHS.get(longer as usize);
        let symbols = of_length.copied().map_or(u32::MAX, u32::from);
        if code - first < symbols {
            let symbol = (code, bits);
            text.has_hash |= symbol == HUFFMAN_HASH;
            text.is_path &= HUFFMAN_PATH.get(text.len) == Some(&symbol);
            text.len += 1;
            (code, bits, first) = (0, 0, 0);
        } else {
            first = (first + symbols) << 1;
        }
    }
    text.is_path &= text.len == HUFFMAN_PATH.len();
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_the_table_keeps_its_size(
            blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8),
        ) {
            let mut read = Blocks::default();
            for block in blocks {
                let _ = read.read(&block);
                let counted: usize = read.table.iter().map(|entry| entry.bytes()).sum();
                prop_assert_eq!(read.bytes, counted);
                prop_assert!(counted <= read.max_bytes.min(MAX_TABLE_BYTES));
            }
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text
            .chars()
            .filter_map(|c| c.to_digit(16).map(|digit| digit as u8))
            .collect();
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    }

    /// RFC 7541 appendices C.3 and C.4, and how large the table is after each.
    #[test]
    fn the_examples_of_the_rfc_are_read_to_the_byte() {
        for blocks in [
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            let mut read = Blocks::default();
            for (block, bytes) in blocks.iter().zip([57, 110, 164]) {
                assert_eq!(read.read(&hex(block)), Ok(false));
                assert_eq!(read.bytes, bytes);
            }
        }
    }

    /// `/a#b`, plain and in Huffman's code.
    const PLAIN: &[u8] = b"\x04/a#b";
    const CODED: &[u8] = &[0x84, 0x60, 0x7f, 0xf5, 0x1f];

    #[test]
    fn a_hash_is_found_however_the_path_is_written() {
        for value in [PLAIN, CODED] {
            for name in [
                &[0x04][..],
                &[0x05],
                &[0x14],
                &[0x44],
                b"\x00\x05:path",
                &[0x00, 0x84, 0xb9, 0x58, 0xd3, 0x3f],
                b"\x40\x05:path",
            ] {
                let block = [name, value].concat();
                assert_eq!(Blocks::default().read(&block), Ok(true), "{block:x?}");
            }
            // Other fields may have one.
            let other = [b"\x00\x05:patj", value].concat();
            assert_eq!(Blocks::default().read(&other), Ok(false));
        }
    }

    #[test]
    fn what_the_table_remembers_is_found_again_until_it_is_dropped() {
        let mut blocks = Blocks::default();
        assert_eq!(blocks.read(&[&[0x44], CODED].concat()), Ok(true));
        assert_eq!(blocks.bytes, 5 + 4 + ENTRY_BYTES);
        assert_eq!(blocks.read(&[0xbe]), Ok(true), "by its index");
        assert_eq!(blocks.read(b"\x7e\x02/c"), Ok(false), "its name alone");
        assert_eq!(blocks.read(&[0xbe]), Ok(false));
        assert_eq!(blocks.read(&[0xbf]), Ok(true), "moved on by one");
        // The table is made too small, and large again.
        assert_eq!(blocks.read(&[0x3f, 0x0b, 0x3f, 0xe1, 0x1f]), Ok(false));
        assert_eq!(blocks.bytes, 5 + 2 + ENTRY_BYTES);
        assert_eq!(blocks.read(&[0xbf]), Err(Unreadable));
        assert_eq!(
            Blocks::default().read(&[0x20, 0x44, 0x02, b'/', b'#']),
            Ok(true)
        );
    }

    #[test]
    fn what_is_no_block_is_said_to_be_none() {
        for block in [
            &[0x80][..],
            &[0xbe],
            &[0x04],
            &[0x04, 0x05, b'/'],
            &[0x3f, 0xe2, 0x1f],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x00, 0x7f, 0xff, 0xff, 0xff, 0x7f],
            &[0x82; MAX_BLOCK_FIELDS + 1],
        ] {
            assert_eq!(Blocks::default().read(block), Err(Unreadable), "{block:x?}");
        }
    }
}
