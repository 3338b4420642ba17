//! Whose records these are: the sandbox, the host that it runs on, and the operator's labels.
//!
//! They come from the operator alone, never from a program inside, and every line carries them, so
//! that records of many hosts and tenants can be kept in one place. They are bounded here, when they
//! are set, and written out once for each recorder.

use std::fmt;
use std::str::FromStr;

/// Labels of one recorder.
pub const MAX_LABELS: usize = 16;
/// The longest key of a label, in bytes.
pub const MAX_LABEL_KEY_BYTES: usize = 63;
/// The longest value of a label, in bytes.
pub const MAX_LABEL_VALUE_BYTES: usize = 256;
/// What all labels of one recorder may take in a line, in bytes of JSON: a character outside
/// printable ASCII takes six or twelve.
pub const MAX_LABELS_BYTES: usize = 1024;

/// What every record of one gateway says of where it comes from. A text is an origin with that name for
/// the sandbox and nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// The sandbox's name. What is longer than 256 bytes, once escaped, is cut.
    pub sandbox: String,
    /// The host that the gateway runs on; left out of records if it is empty. What is longer than 256
    /// bytes, once escaped, is cut.
    pub host: String,
    /// The operator's labels: tenant, job, repository. Left out of records if there are none.
    pub labels: Labels,
}

impl From<&str> for Origin {
    fn from(sandbox: &str) -> Origin {
        Origin {
            sandbox: sandbox.to_owned(),
            ..Origin::default()
        }
    }
}

/// A key and a value that the operator chose.
///
/// Written `KEY=VALUE`. The key has 1 to [`MAX_LABEL_KEY_BYTES`] ASCII letters, digits, `-`, `_`, `.`
/// and `/`, and begins with a letter or a digit. The value has at most [`MAX_LABEL_VALUE_BYTES`] and no
/// control character; it may be empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Label {
    key: String,
    value: String,
}

impl Label {
    /// A label.
    ///
    /// # Errors
    /// The key or the value is none: see [`Label`].
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Result<Label, LabelError> {
        let (key, value) = (key.into(), value.into());
        let in_key = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        let begins = key
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if !begins || key.len() > MAX_LABEL_KEY_BYTES || !key.bytes().all(in_key) {
            return Err(LabelError::Key);
        }
        if value.len() > MAX_LABEL_VALUE_BYTES || value.chars().any(char::is_control) {
            return Err(LabelError::Value);
        }
        Ok(Label { key, value })
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What it takes in a line: two strings, a colon and a comma.
    fn json_bytes(&self) -> usize {
        let escaped = |character| match character {
            '"' | '\\' => 2,
            ' '..='~' => 1,
            other => 6 * char::len_utf16(other),
        };
        self.key.len() + self.value.chars().map(escaped).sum::<usize>() + "\"\":\"\",".len()
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Label, LabelError> {
        let (key, value) = text.split_once('=').ok_or(LabelError::NoValue)?;
        Label::new(key, value)
    }
}

/// The labels of one recorder, in the order of their keys: at most [`MAX_LABELS`], which take at most
/// [`MAX_LABELS_BYTES`] in a line, no key twice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Labels(Vec<Label>);

impl Labels {
    /// These labels together.
    ///
    /// # Errors
    /// They are too many or too long, or a key stands twice.
    pub fn new(labels: impl IntoIterator<Item = Label>) -> Result<Labels, LabelError> {
        let mut labels: Vec<Label> = labels.into_iter().take(MAX_LABELS + 1).collect();
        labels.sort();
        if let Some(pair) = labels.windows(2).find(|pair| pair[0].key == pair[1].key) {
            return Err(LabelError::Twice(pair[0].key.clone()));
        }
        if labels.len() > MAX_LABELS {
            return Err(LabelError::TooMany);
        }
        if labels.iter().map(Label::json_bytes).sum::<usize>() > MAX_LABELS_BYTES {
            return Err(LabelError::TooLong);
        }
        Ok(Labels(labels))
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Label> {
        self.0.iter()
    }
}

/// Why a label, or labels together, cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LabelError {
    /// There is no `=`.
    NoValue,
    /// The key is none.
    Key,
    /// The value is none.
    Value,
    /// This key stands twice.
    Twice(String),
    /// More than [`MAX_LABELS`].
    TooMany,
    /// More than [`MAX_LABELS_BYTES`].
    TooLong,
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelError::NoValue => f.write_str("a label is written KEY=VALUE"),
            LabelError::Key => write!(
                f,
                "the key of a label has 1 to {MAX_LABEL_KEY_BYTES} letters, digits, `-`, `_`, `.` and `/`, \
                 and begins with a letter or digit"
            ),
            LabelError::Value => write!(
                f,
                "the value of a label has at most {MAX_LABEL_VALUE_BYTES} bytes and no control characters"
            ),
            LabelError::Twice(key) => write!(f, "the label `{key}` is set twice"),
            LabelError::TooMany => write!(f, "there are more than {MAX_LABELS} labels"),
            LabelError::TooLong => write!(
                f,
                "the labels take more than {MAX_LABELS_BYTES} bytes in each record"
            ),
        }
    }
}

impl std::error::Error for LabelError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(texts: &[&str]) -> Result<Labels, LabelError> {
        let parsed: Result<Vec<Label>, _> = texts.iter().map(|text| text.parse()).collect();
        Labels::new(parsed?)
    }

    #[test]
    fn a_label_is_a_key_and_whatever_stands_behind_the_first_equals_sign() {
        let label: Label = "app.kubernetes.io/name=a=b ü".parse().unwrap();
        assert_eq!(
            (label.key(), label.value()),
            ("app.kubernetes.io/name", "a=b ü")
        );
        assert_eq!("job=".parse::<Label>().unwrap().value(), "");
    }

    #[test]
    fn what_is_no_label_is_refused() {
        let long_key = format!("{}=x", "k".repeat(MAX_LABEL_KEY_BYTES + 1));
        let long_value = format!("k={}", "v".repeat(MAX_LABEL_VALUE_BYTES + 1));
        for (text, error) in [
            ("tenant", LabelError::NoValue),
            ("=x", LabelError::Key),
            ("-a=x", LabelError::Key),
            ("a b=x", LabelError::Key),
            ("\u{fc}=x", LabelError::Key),
            (long_key.as_str(), LabelError::Key),
            ("a=x\ny", LabelError::Value),
            ("a=\u{9b}31m", LabelError::Value),
            (long_value.as_str(), LabelError::Value),
        ] {
            assert_eq!(text.parse::<Label>(), Err(error), "{text}");
        }
        let most = format!("{}={}", "k".repeat(63), "v".repeat(256));
        assert!(most.parse::<Label>().is_ok());
    }

    #[test]
    fn labels_are_bounded_together_and_no_key_stands_twice() {
        let many: Vec<String> = (0..=MAX_LABELS).map(|n| format!("k{n}=v")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(labels(&many), Err(LabelError::TooMany));
        assert_eq!(labels(&many[1..]).unwrap().iter().len(), MAX_LABELS);
        let twice = labels(&["a=1", "b=2", "a=3"]);
        assert_eq!(twice, Err(LabelError::Twice("a".to_owned())));
        let escaped = format!("a={}", "\u{fc}".repeat(128));
        let plain = format!("b={}", "v".repeat(256));
        assert!(labels(&[&escaped]).is_ok());
        assert_eq!(labels(&[&escaped, &plain]), Err(LabelError::TooLong));
    }
}
