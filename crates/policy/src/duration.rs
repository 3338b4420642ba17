//! Durations as people write them: `30s`, `10m`, `1h30m`.
//!
//! One grammar for the policy file and the command line: jiff's friendly durations, with days of 24
//! hours.

use std::fmt;
use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;

/// Longest duration: a year of 365 days.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Why a text is not a duration that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationError {
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// In one line: what is wrong, and what to write instead.
impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.hint)
    }
}

impl std::error::Error for DurationError {}

/// Reads a duration: numbers with units from milliseconds to weeks, such as `500ms`, `30s`, `1h30m`
/// or `7d`.
///
/// # Errors
/// The text is not a duration, has no unit, is zero or negative, or is longer than 365 days.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let wrong = |what: &str| DurationError {
        message: format!("`{text}` {what}"),
        hint: "write a number and its unit, as in \"30s\", \"10m\" or \"1h30m\"".to_owned(),
    };
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(DurationError {
            message: format!("`{text}` has no unit"),
            hint: format!("write \"{text}s\" for seconds, \"{text}m\" for minutes"),
        });
    }
    let span = SpanParser::new().parse_span(text).ok();
    let signed = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let signed = signed.ok_or_else(|| wrong("is not a duration"))?;
    let duration = Duration::try_from(signed).map_err(|_| wrong("is negative"))?;
    match duration {
        Duration::ZERO => Err(wrong("must be more than zero")),
        duration if duration > MAX_DURATION => Err(wrong("is longer than 365 days")),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("30 s", 30_000),
            ("30sec", 30_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("7d", 604_800_000),
            ("365d", 31_536_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for (text, said) in [
            ("", "as in \"30s\""),
            ("30", "write \"30s\" for seconds"),
            ("0s", "more than zero"),
            ("-5s", "is negative"),
            ("5s ago", "is negative"),
            ("soon", "is not a duration"),
            ("30x", "is not a duration"),
            ("1y", "is not a duration"),
            ("1month", "is not a duration"),
            ("400d", "longer than 365 days"),
            ("99999999999999999999s", "is not a duration"),
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
