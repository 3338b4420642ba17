//! Amounts of bytes with their units: `50MB`, `10MB/s`.
//!
//! Units are those of data sheets: `kB`, `MB`, `GB`, `TB` are powers of 1000, `KiB`, `MiB`, `GiB`, `TiB`
//! powers of 1024. `Mb` would be bits to some readers, and is refused.

use std::num::NonZeroU64;

/// Largest amount of bytes: what a signed 64-bit number holds, so that sums of two never wrap.
const MAX_BYTES: u64 = i64::MAX as u64;

const BYTE_UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("kiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Why a text is not an amount.
#[derive(Debug)]
pub(super) struct AmountError {
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// Reads an amount of bytes.
pub(super) fn bytes(text: &str) -> Result<NonZeroU64, AmountError> {
    const WRITE: &str = "write a number and its unit, as in \"50MB\" or \"512KiB\"";
    let wrong = |what: &str| AmountError {
        message: format!("`{text}` {what}"),
        hint: WRITE.to_owned(),
    };
    let (number, unit) = split(text).ok_or_else(|| wrong("is not an amount of bytes"))?;
    let factor = BYTE_UNITS.iter().find(|(known, _)| *known == unit);
    let Some(&(_, factor)) = factor else {
        if unit.is_empty() {
            return Err(AmountError {
                message: format!("`{text}` has no unit"),
                hint: format!("write \"{text}B\", \"{text}kB\" or \"{text}MB\""),
            });
        }
        let near = BYTE_UNITS
            .iter()
            .rev()
            .find(|(known, _)| known.eq_ignore_ascii_case(unit));
        return Err(match near {
            Some((near, _)) => AmountError {
                message: format!("`{unit}` in `{text}` is not a unit: does it mean bits or bytes?"),
                hint: format!("for bytes write \"{number}{near}\""),
            },
            None => wrong("has an unknown unit"),
        });
    };
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes <= MAX_BYTES)
        .and_then(NonZeroU64::new)
        .ok_or_else(|| {
            wrong(if number == 0 {
                "must be more than zero"
            } else {
                "is too large"
            })
        })
}

/// Reads an amount of bytes a second: `10MB/s`.
pub(super) fn rate(text: &str) -> Result<NonZeroU64, AmountError> {
    let Some(amount) = text.strip_suffix("/s") else {
        let hint = match bytes(text) {
            Ok(_) => format!("write \"{text}/s\""),
            Err(_) => "write an amount per second, as in \"10MB/s\"".to_owned(),
        };
        let message = format!("`{text}` is not a rate");
        return Err(AmountError { message, hint });
    };
    bytes(amount).map_err(|AmountError { message, hint }| {
        let hint = match hint.strip_suffix('"') {
            Some(rest) if !hint.contains(" or ") => format!("{rest}/s\""),
            _ => "write an amount per second, as in \"10MB/s\"".to_owned(),
        };
        AmountError { message, hint }
    })
}

/// Reads an amount of bytes a second where the key says that it is one: `50MB`, or `50MB/s`.
pub(super) fn bytes_per_second(text: &str) -> Result<NonZeroU64, AmountError> {
    bytes(text.strip_suffix("/s").unwrap_or(text))
}

/// The number in front, and what is behind it.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_bytes() {
        for (text, amount) in [
            ("1B", 1),
            ("512 B", 512),
            ("50MB", 50_000_000),
            ("1kB", 1000),
            ("1KB", 1000),
            ("1KiB", 1024),
            ("2GiB", 2 << 30),
            ("3 TB", 3_000_000_000_000),
        ] {
            assert_eq!(bytes(text).unwrap().get(), amount, "{text}");
            assert_eq!(rate(&format!("{text}/s")).unwrap().get(), amount);
            assert_eq!(bytes_per_second(text).unwrap().get(), amount);
        }
        for (text, hint) in [
            ("", "as in \"50MB\""),
            ("fast", "as in \"50MB\""),
            ("50", "write \"50B\", \"50kB\" or \"50MB\""),
            ("50Mb", "for bytes write \"50MB\""),
            ("50mb", "for bytes write \"50MB\""),
            ("50MBit", "as in"),
            ("-5MB", "as in"),
            ("1.5MB", "as in"),
            ("0MB", "as in"),
            ("99999999999999999999B", "as in"),
            ("9999999TiB", "as in"),
            ("10MB/s", "as in"),
        ] {
            let error = bytes(text).unwrap_err();
            assert!(error.hint.contains(hint), "{text}: {error:?}");
        }
        for (text, hint) in [
            ("10MB", "write \"10MB/s\""),
            ("10Mb/s", "for bytes write \"10MB/s\""),
            ("10", "as in \"10MB/s\""),
            ("10MB/m", "as in \"10MB/s\""),
        ] {
            let error = rate(text).unwrap_err();
            assert!(error.hint.contains(hint), "{text}: {error:?}");
        }
    }
}
