//! Finds the end of a request head, and refuses ambiguous line structure on the way.
//!
//! Keeps its place, so that a client that sends a byte a second costs one look at each byte.

/// Longest request head, in bytes, with the empty line that ends it.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Most empty lines that are passed over in front of a request (RFC 9112 section 2.2): some clients send
/// one behind a body.
pub const MAX_EMPTY_LINES: usize = 4;

/// Most header fields in one request.
pub const MAX_HEADERS: usize = 100;

/// Where a head ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Not yet.
    NeedMore,
    /// After this many bytes, the empty line included.
    End(usize),
    /// It never will; a few words for the record.
    Malformed(&'static str),
}

/// Scans one head over several reads. Give [`HeadScanner::scan`] the same buffer each time, with
/// more bytes at its end; after [`Scan::End`] start a new one.
#[derive(Debug, Clone, Default)]
pub struct HeadScanner {
    at: usize,
    line_start: usize,
    lines: usize,
    after_cr: bool,
}

impl HeadScanner {
    /// A scanner at the start of a head.
    pub fn new() -> HeadScanner {
        HeadScanner::default()
    }

    /// Looks at the bytes that are new since the last call.
    pub fn scan(&mut self, head: &[u8]) -> Scan {
        let seen = head.get(..MAX_HEAD_BYTES).unwrap_or(head);
        for (at, &byte) in seen.iter().enumerate().skip(self.at) {
            match self.step(at, byte) {
                Ok(false) => self.at = at + 1,
                Ok(true) => return Scan::End(at + 1),
                // `at` stays, so that asking again gives the same answer.
                Err(why) => return Scan::Malformed(why),
            }
        }
        if seen.len() >= MAX_HEAD_BYTES {
            return Scan::Malformed("the request head is longer than 64 KiB");
        }
        Scan::NeedMore
    }

    /// Takes one byte; true at the end of the head.
    fn step(&mut self, at: usize, byte: u8) -> Result<bool, &'static str> {
        if self.after_cr && byte != b'\n' {
            return Err("a carriage return without a line feed");
        }
        match byte {
            b'\r' if at == 0 => return Err("an empty line before the request"),
            b'\r' => self.after_cr = true,
            b'\n' if !self.after_cr => return Err("a line feed without a carriage return"),
            b'\n' => {
                self.after_cr = false;
                let empty = at == self.line_start + 1;
                self.line_start = at + 1;
                self.lines += 1;
                if empty {
                    return Ok(true);
                }
                if self.lines > MAX_HEADERS + 1 {
                    return Err("more than 100 header fields");
                }
            }
            b' ' | b'\t' if at == self.line_start => {
                return Err("a line that starts with white space");
            }
            b'\t' | 0x20..=0x7e | 0x80.. => {}
            _ => return Err("a control byte in the request head"),
        }
        Ok(false)
    }
}
