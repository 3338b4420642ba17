//! Where a request's body ends, so that the next request on the connection meets policy too.
//!
//! For relaying messages as they stand: this says which bytes still belong to the body, and where its
//! trailers begin. Chunked framing is read as strictly as heads are, because a body
//! whose end two readers see in different places hides a request (RFC 9112 section 7.1).

use super::head::BodyLength;

/// Longest chunk-size line with its extensions, in bytes.
const MAX_CHUNK_LINE_BYTES: usize = 1024;
/// Longest trailer section, in bytes.
const MAX_TRAILER_BYTES: usize = 8 * 1024;
/// Most hexadecimal digits of a chunk's size: 2^60 bytes are enough.
const MAX_SIZE_DIGITS: usize = 15;

/// Follows one body through the stream.
#[derive(Debug, Clone)]
pub struct BodyScanner {
    state: State,
}

/// What a piece of the stream holds of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyStep {
    /// All of it belongs to the body, and more is to come.
    More,
    /// The body ends after this many bytes of the piece.
    End(usize),
    /// The last chunk ends after this many bytes of the piece. What follows are the trailers (RFC 9112
    /// section 7.1.2): scan it by itself.
    Trailers(usize),
    /// Chunked framing that two readers could take differently; cut the connection.
    Malformed(&'static str),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Done,
    Left(u64),
    Size {
        value: u64,
        digits: usize,
        line: usize,
    },
    Extension {
        value: u64,
        line: usize,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// In the trailer: bytes so far, bytes in this line, and whether a CR has just passed.
    Trailer {
        bytes: usize,
        line: usize,
        cr: bool,
    },
    Failed(&'static str),
}

const SIZE: State = State::Size {
    value: 0,
    digits: 0,
    line: 0,
};

impl BodyScanner {
    /// A scanner for the body that a head announces.
    pub fn new(length: BodyLength) -> BodyScanner {
        let state = match length {
            BodyLength::None | BodyLength::Length(0) => State::Done,
            BodyLength::Length(left) => State::Left(left),
            BodyLength::Chunked => SIZE,
        };
        BodyScanner { state }
    }

    /// Looks at the next piece of the stream. An ended body takes nothing of it.
    pub fn scan(&mut self, piece: &[u8]) -> BodyStep {
        self.scan_data(piece, |_| ())
    }

    /// As [`BodyScanner::scan`]; `data` gets what the piece holds of the content, without framing.
    pub fn scan_data(&mut self, piece: &[u8], mut data: impl FnMut(&[u8])) -> BodyStep {
        let mut at = 0;
        loop {
            match &mut self.state {
                State::Done => return BodyStep::End(at),
                State::Failed(why) => return BodyStep::Malformed(why),
                State::Left(left) | State::Data { left } => {
                    let here = u64::try_from(piece.len() - at).unwrap_or(u64::MAX);
                    let taken = here.min(*left);
                    *left -= taken;
                    let begin = at;
                    at += usize::try_from(taken).unwrap_or(usize::MAX);
                    data(piece.get(begin..at).unwrap_or_default());
                    if *left > 0 {
                        return BodyStep::More;
                    }
                    self.state = match self.state {
                        State::Left(_) => State::Done,
                        _ => State::DataCr,
                    };
                }
                framing => {
                    let Some(&byte) = piece.get(at) else {
                        return BodyStep::More;
                    };
                    at += 1;
                    *framing = framing.step(byte).unwrap_or_else(State::Failed);
                    if let State::Trailer { bytes: 0, .. } = self.state {
                        return BodyStep::Trailers(at);
                    }
                }
            }
        }
    }
}

impl State {
    /// One byte of framing.
    fn step(self, byte: u8) -> Result<State, &'static str> {
        match (self, byte) {
            (
                State::Size {
                    value,
                    digits,
                    line,
                },
                _,
            ) if byte.is_ascii_hexdigit() => {
                if digits >= MAX_SIZE_DIGITS {
                    return Err("a chunk size with too many digits");
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                let value = value << 4 | u64::from(digit);
                Ok(State::Size {
                    value,
                    digits: digits + 1,
                    line: line + 1,
                })
            }
            (State::Size { digits: 0, .. }, _) => Err("a chunk without a size"),
            (State::Size { value, .. } | State::Extension { value, .. }, b'\r') => {
                Ok(State::SizeLf { value })
            }
            (State::Size { value, line, .. }, b';' | b' ' | b'\t') => Ok(State::Extension {
                value,
                line: line + 1,
            }),
            (State::Size { .. }, _) => Err("a bad chunk size"),
            (State::Extension { .. }, 0..=8 | 10..=31 | 127) => {
                Err("a control byte in a chunk extension")
            }
            (State::Extension { line, .. }, _) if line >= MAX_CHUNK_LINE_BYTES => {
                Err("a chunk size line longer than 1 KiB")
            }
            (State::Extension { value, line }, _) => Ok(State::Extension {
                value,
                line: line + 1,
            }),
            (State::SizeLf { value: 0 }, b'\n') => Ok(State::Trailer {
                bytes: 0,
                line: 0,
                cr: false,
            }),
            (State::SizeLf { value }, b'\n') => Ok(State::Data { left: value }),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(SIZE),
            (State::DataCr | State::DataLf, _) => Err("a chunk longer than its size"),
            (State::Trailer { bytes, .. }, _) if bytes >= MAX_TRAILER_BYTES => {
                Err("a trailer section longer than 8 KiB")
            }
            (
                State::Trailer {
                    line: 0, cr: true, ..
                },
                b'\n',
            ) => Ok(State::Done),
            (
                State::Trailer {
                    bytes, cr: true, ..
                },
                b'\n',
            ) => Ok(State::Trailer {
                bytes: bytes + 1,
                line: 0,
                cr: false,
            }),
            (
                State::Trailer {
                    bytes,
                    line,
                    cr: false,
                },
                b'\r',
            ) => Ok(State::Trailer {
                bytes: bytes + 1,
                line,
                cr: true,
            }),
            (
                State::Trailer {
                    bytes,
                    line,
                    cr: false,
                },
                b'\t' | 0x20..=0x7e | 0x80..,
            ) => Ok(State::Trailer {
                bytes: bytes + 1,
                line: line + 1,
                cr: false,
            }),
            (State::SizeLf { .. } | State::Trailer { .. }, _) => Err("a bad line end"),
            // The remaining states take no framing.
            (state, _) => Ok(state),
        }
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
