//! A name on the stack: what program input is parsed into.
//!
//! This is the one place where bytes become a canonical name; every constructor ends in
//! [`Builder::finish`]. It allocates nothing, so a flood of names costs the gateway no memory.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::error::NameError;
use crate::limits::{MAX_LABEL_BYTES, MAX_NAME_BYTES};
use crate::name::{Name, NameRef};

/// Size of the buffer, in bytes: a name and one byte to spare for its trailing dot.
const BUFFER_BYTES: usize = MAX_NAME_BYTES + 1;

/// What each byte of a label becomes: itself, its lower case, or 0 where no name may have it. The
/// dot is not a label's byte.
const CANONICAL: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = match byte as u8 {
            kept @ (b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') => kept,
            upper @ b'A'..=b'Z' => upper.to_ascii_lowercase(),
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// A canonical name held in a fixed buffer.
#[derive(Clone)]
pub struct NameBuf {
    bytes: [u8; BUFFER_BYTES],
    len: u8,
}

impl NameBuf {
    /// Reads the text form that programs send: a CONNECT target, Host, SOCKS5 domain or SNI.
    ///
    /// ASCII only. Upper case is lowered and one trailing dot dropped; anything else that is not
    /// already canonical is refused, in particular control bytes, spaces, `%`, `@`, brackets and
    /// names that end in a number.
    ///
    /// # Errors
    /// The first fault found, as a [`NameError`].
    pub fn from_program(text: &[u8]) -> Result<NameBuf, NameError> {
        let text = match text {
            [] => return Err(NameError::Empty),
            b"." => return Err(NameError::Root),
            [head @ .., b'.'] => head,
            whole => whole,
        };
        let mut builder = Builder::new();
        for (at, &byte) in text.iter().enumerate() {
            if byte == b'.' {
                builder.end_label()?;
            } else {
                builder.push(byte, at)?;
            }
        }
        builder.end_label()?;
        builder.finish()
    }

    /// Reads the labels of a DNS name, without the root label.
    ///
    /// # Errors
    /// [`NameError::Root`] if there is no label; otherwise as [`NameBuf::from_program`]. A dot
    /// inside a label is a bad byte: on the wire it is data, in text it would be a separator.
    pub fn from_wire<'l>(labels: impl IntoIterator<Item = &'l [u8]>) -> Result<NameBuf, NameError> {
        let mut builder = Builder::new();
        let mut any = false;
        let mut at = 0;
        for label in labels {
            any = true;
            builder.push_all(label, at)?;
            at += label.len() + 1;
            builder.end_label()?;
        }
        if !any {
            return Err(NameError::Root);
        }
        builder.finish()
    }

    /// The name, borrowed.
    pub fn as_ref(&self) -> NameRef<'_> {
        NameRef::trusted(self.as_str())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let used = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        // The builder lets in ASCII only; if that were ever wrong, an empty name matches nothing.
        std::str::from_utf8(used).unwrap_or_default()
    }

    /// An owned, shareable copy; allocates.
    pub fn to_name(&self) -> Name {
        self.as_ref().to_name()
    }
}

impl<'a> NameRef<'a> {
    /// Borrows text that is canonical already.
    ///
    /// # Errors
    /// As [`NameBuf::from_program`]; text that is a name but not in canonical form (upper case,
    /// trailing dot) is refused with [`NameError::NotPlain`].
    pub fn from_canonical(text: &'a str) -> Result<NameRef<'a>, NameError> {
        let name = NameBuf::from_program(text.as_bytes())?;
        if name.as_str() != text {
            return Err(NameError::NotPlain {
                plain: name.as_str().into(),
            });
        }
        Ok(NameRef::trusted(text))
    }
}

impl Name {
    /// Reads a name that a program sent, see [`NameBuf::from_program`].
    ///
    /// # Errors
    /// As there.
    pub fn from_program(text: &[u8]) -> Result<Name, NameError> {
        NameBuf::from_program(text).map(|name| name.to_name())
    }
}

impl From<&NameBuf> for Name {
    fn from(name: &NameBuf) -> Name {
        name.to_name()
    }
}

impl From<NameBuf> for Name {
    fn from(name: NameBuf) -> Name {
        name.to_name()
    }
}

impl fmt::Display for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameBuf({})", self.as_str())
    }
}

impl PartialEq for NameBuf {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for NameBuf {}

impl Hash for NameBuf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq<str> for NameBuf {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

/// Collects a name label by label and checks every invariant on the way.
struct Builder {
    bytes: [u8; BUFFER_BYTES],
    len: usize,
    /// Where the current label starts.
    label: usize,
}

impl Builder {
    fn new() -> Builder {
        Builder {
            bytes: [0; BUFFER_BYTES],
            len: 0,
            label: 0,
        }
    }

    /// Adds bytes to the current label, the first of which the reader found at `at`.
    #[inline]
    fn push_all(&mut self, bytes: &[u8], at: usize) -> Result<(), NameError> {
        let end = self.len + bytes.len();
        if end - self.label > MAX_LABEL_BYTES || end > MAX_NAME_BYTES {
            return self.push_each(bytes, at);
        }
        let mut good = true;
        for (to, &byte) in self.bytes[self.len..end].iter_mut().zip(bytes) {
            *to = CANONICAL[usize::from(byte)];
            good &= *to != 0;
        }
        self.len = end;
        if good {
            return Ok(());
        }
        self.len -= bytes.len();
        self.push_each(bytes, at)
    }

    /// The same byte by byte, to tell which fault comes first.
    #[cold]
    fn push_each(&mut self, bytes: &[u8], at: usize) -> Result<(), NameError> {
        let mut bytes = bytes.iter().zip(at..);
        bytes.try_for_each(|(&byte, at)| self.push(byte, at))
    }

    /// Adds one byte to the current label; `at` is where the reader found it.
    fn push(&mut self, byte: u8, at: usize) -> Result<(), NameError> {
        let byte = match CANONICAL[usize::from(byte)] {
            0 => return Err(NameError::BadByte { byte, at }),
            byte => byte,
        };
        if self.len - self.label >= MAX_LABEL_BYTES {
            return Err(NameError::LabelTooLong);
        }
        if self.len >= MAX_NAME_BYTES {
            return Err(NameError::TooLong);
        }
        self.bytes[self.len] = byte;
        self.len += 1;
        Ok(())
    }

    /// Ends the current label; its dot is written in front of whatever follows.
    fn end_label(&mut self) -> Result<(), NameError> {
        if self.len == self.label {
            return Err(NameError::EmptyLabel);
        }
        if self.len >= BUFFER_BYTES {
            return Err(NameError::TooLong);
        }
        self.bytes[self.len] = b'.';
        self.len += 1;
        self.label = self.len;
        Ok(())
    }

    /// The finished name, without the dot behind its last label.
    fn finish(self) -> Result<NameBuf, NameError> {
        let len = self.len.saturating_sub(1);
        let name = self.bytes.get(..len).unwrap_or_default();
        let last = name.rsplit(|b| *b == b'.').next().unwrap_or_default();
        if reads_as_number(last) {
            return Err(NameError::EndsInNumber);
        }
        let len = u8::try_from(len).map_err(|_| NameError::TooLong)?;
        Ok(NameBuf {
            bytes: self.bytes,
            len,
        })
    }
}

/// Whether `inet_aton` and the URL standard would read this (lower-case) last label as a number,
/// and with it the whole name as an IPv4 address: decimal and octal digits, or `0x` and hex.
fn reads_as_number(label: &[u8]) -> bool {
    match label.strip_prefix(b"0x") {
        Some(hex) => hex.iter().all(u8::is_ascii_hexdigit),
        None => label.iter().all(u8::is_ascii_digit),
    }
}

#[cfg(test)]
#[path = "buf_tests.rs"]
mod tests;
