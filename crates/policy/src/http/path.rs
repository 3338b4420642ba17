//! One form for each path, or none.
//!
//! A rule for `/public/**` is worth as much as the certainty that no server reads a path that
//! matched as one outside. So a path is brought to the one form that RFC 3986 section 6.2.2 gives it
//! (upper-case hex, no needless encoding), and one that some server could still take for another is
//! refused: dot segments, empty segments, encoded slashes, backslashes, parameters behind `;`,
//! things encoded twice, bytes that are no UTF-8, and letters that look like any of these. The form
//! that matched is also the one that is sent on.
//!
//! Answers *decision and destination differ* (docs/threats.md).

use std::borrow::Cow;
use std::fmt;

/// Longest pattern of a rule, in bytes, in its canonical form.
pub(crate) const MAX_PATTERN_BYTES: usize = 1024;

/// Why a path has no form of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with a slash (`OPTIONS *`).
    NoSlash,
    /// A control character, a space, or a byte that is not ASCII.
    BadByte,
    /// A percent sign without two hex digits behind it.
    BadPercent,
    /// An encoded slash, question mark or number sign, which some servers decode first.
    EncodedDelimiter,
    /// A backslash, which some servers read as a slash.
    Backslash,
    /// A `;`, behind which some servers read parameters that they take out.
    Semicolon,
    /// Two slashes in a row, which some servers read as one.
    EmptySegment,
    /// `.`, `..` and what is trimmed to them.
    DotSegment,
    /// Something that is encoded twice.
    EncodedTwice,
    /// Encoded bytes that are not UTF-8.
    NotUtf8,
    /// A letter that some servers turn into a slash, a dot and the like.
    Lookalike,
}

impl PathError {
    /// A few words for a record or an error.
    pub const fn describe(self) -> &'static str {
        match self {
            PathError::NoSlash => "the path does not begin with a slash",
            PathError::BadByte => "the path has a byte that no path has",
            PathError::BadPercent => "the path has a % without two hex digits behind it",
            PathError::EncodedDelimiter => "the path has an encoded /, ? or #",
            PathError::Backslash => "the path has a backslash",
            PathError::Semicolon => "the path has a ;",
            PathError::EmptySegment => "the path has two slashes in a row",
            PathError::DotSegment => "the path has a dot segment",
            PathError::EncodedTwice => "the path has something that is encoded twice",
            PathError::NotUtf8 => "the path has encoded bytes that are not UTF-8",
            PathError::Lookalike => "the path has a letter that can pass for a delimiter",
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// The one form of a path (without query). Allocates nothing for a path that has it already and
/// encodes nothing.
///
/// # Errors
/// The path could be read as more than one.
pub fn canonical_path(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NoSlash);
    }
    let plain = |b: u8| is_pchar(b) || b == b'/';
    if path.bytes().all(plain) {
        segments(path)?;
        return Ok(Cow::Borrowed(path));
    }
    let (mut form, mut decoded) = (String::with_capacity(path.len()), Vec::new());
    let mut rest = path.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'%' => {
                let (byte, behind) = escape(rest).ok_or(PathError::BadPercent)?;
                rest = behind;
                decoded.push(encoded(byte)?);
                push(&mut form, byte, is_unreserved(byte));
            }
            b'\\' => return Err(PathError::Backslash),
            b';' => return Err(PathError::Semicolon),
            b'?' | b'#' | 0..=0x20 | 0x7f.. => return Err(PathError::BadByte),
            byte => {
                decoded.push(byte);
                push(&mut form, byte, plain(byte));
            }
        }
    }
    if is_encoded_twice(&decoded) {
        return Err(PathError::EncodedTwice);
    }
    let decoded = String::from_utf8(decoded).map_err(|_| PathError::NotUtf8)?;
    if decoded.contains(is_lookalike) {
        return Err(PathError::Lookalike);
    }
    segments(&decoded)?;
    Ok(Cow::Owned(form))
}

/// The byte that two hex digits stand for, and what is behind them.
fn escape(rest: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, behind) = rest.split_first_chunk::<2>()?;
    let digit = |d: u8| char::from(d).to_digit(16);
    let byte = digit(digits[0])? << 4 | digit(digits[1])?;
    Some((u8::try_from(byte).ok()?, behind))
}

/// Refuses what must not be encoded in a path.
fn encoded(byte: u8) -> Result<u8, PathError> {
    match byte {
        b'/' | b'?' | b'#' => Err(PathError::EncodedDelimiter),
        b'\\' => Err(PathError::Backslash),
        b';' => Err(PathError::Semicolon),
        0..=0x1f | 0x7f => Err(PathError::BadByte),
        byte => Ok(byte),
    }
}

fn push(form: &mut String, byte: u8, as_it_is: bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if as_it_is {
        form.push(char::from(byte));
    } else {
        form.push('%');
        form.push(char::from(HEX[usize::from(byte >> 4)]));
        form.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

/// Whether a server that decodes once more would find something: `%2e`, or `%u002e`.
fn is_encoded_twice(decoded: &[u8]) -> bool {
    decoded.split(|b| *b == b'%').skip(1).any(|behind| {
        let hex = behind.len() >= 2 && behind[..2].iter().all(u8::is_ascii_hexdigit);
        hex || matches!(behind.first(), Some(b'u' | b'U'))
    })
}

/// Refuses segments that stand for others; `path` is decoded.
fn segments(path: &str) -> Result<(), PathError> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            if segments.peek().is_some() {
                return Err(PathError::EmptySegment);
            }
        } else if segment.chars().all(|c| c == '.' || is_trimmed(c)) {
            // `..%20` is `..` to a server that trims
            return Err(PathError::DotSegment);
        }
    }
    Ok(())
}

/// RFC 3986 section 2.3.
fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~".contains(&b)
}

/// RFC 3986 section 3.3, but for the percent sign and `;`.
fn is_pchar(b: u8) -> bool {
    is_unreserved(b) || b"!$&'()*+,=:@".contains(&b)
}

/// White space, and what is not seen at all.
fn is_trimmed(c: char) -> bool {
    c.is_whitespace()
        || matches!(
            c,
            '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        )
}

/// What compatibility forms (NFKC) or the tables of older character sets turn into `.`, `/`, `\`, `;`,
/// `%`, `?` or `#`.
fn is_lookalike(c: char) -> bool {
    matches!(
        c,
        // dots
        '\u{2024}'..='\u{2026}' | '\u{2488}'..='\u{249b}' | '\u{fe19}' | '\u{fe30}' | '\u{fe52}'
            | '\u{ff0e}' | '\u{1f100}'
            // slashes
            | '\u{2044}' | '\u{2100}' | '\u{2101}' | '\u{2105}' | '\u{2106}' | '\u{2215}'
            | '\u{29f8}' | '\u{ff0f}'
            // backslashes; in Japanese and Korean sets the signs of yen and won
            | '\u{a5}' | '\u{20a9}' | '\u{2216}' | '\u{29f5}' | '\u{29f9}' | '\u{fe68}'
            | '\u{ff3c}'
            // `;`, `%`, `?`, `#`
            | '\u{37e}' | '\u{fe14}' | '\u{fe54}' | '\u{ff1b}'
            | '\u{66a}' | '\u{fe6a}' | '\u{ff05}'
            | '\u{2047}'..='\u{2049}' | '\u{fe16}' | '\u{fe56}' | '\u{ff1f}'
            | '\u{fe5f}' | '\u{ff03}'
    )
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
