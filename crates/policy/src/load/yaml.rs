//! YAML policies, with the place of every key and value.
//!
//! An alias counts as written where it stands. Merge keys, repeated keys and several documents in
//! one file are errors: a policy has one reading.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::document::{Entry, MAX_DEPTH, Node, SyntaxError, Value, offset_of};
use super::source::SourceId;

pub(super) fn parse(source: SourceId, text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
    };
    let document = Document { source, text };
    let raw = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| document.syntax_error(&error))?;
    document.node(raw, 0)
}

/// A value as serde hands it over.
enum Raw {
    Nothing,
    Bool(bool),
    Integer(i64),
    Other(&'static str),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Table(Vec<(Spanned<String>, Spanned<Raw>)>),
}

struct Document<'t> {
    source: SourceId,
    text: &'t str,
}

impl Document<'_> {
    fn syntax_error(&self, error: &serde_saphyr::Error) -> SyntaxError {
        let at = error.location().map_or(0, |location| self.start(location));
        let whole = error.without_snippet().to_string();
        let message = whole.lines().next().unwrap_or_default();
        // the message repeats the place, which the diagnostic shows itself
        let message = message
            .rfind(" at line ")
            .map_or(message, |end| &message[..end]);
        let message = match message.split_once(", set ") {
            // advice for programmers
            Some((message, _)) => message,
            None if message.starts_with("multiple YAML documents") => {
                "the file has more than one YAML document"
            }
            None if message == "alias references unknown anchor" => {
                "a name that begins with `*` must be quoted: \"*.example.org\""
            }
            None => message,
        };
        SyntaxError {
            place: self.source.at(at..at),
            message: message.trim().to_owned(),
        }
    }

    fn start(&self, location: Location) -> usize {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        match location.span().byte_offset() {
            Some(at) => number(at).min(self.text.len()),
            None => offset_of(
                self.text,
                number(location.line()),
                number(location.column()),
            ),
        }
    }

    fn node(&self, raw: Spanned<Raw>, depth: usize) -> Result<Node, SyntaxError> {
        let at = self.start(raw.referenced);
        if depth > MAX_DEPTH {
            return Err(SyntaxError::too_deep(self.source.at(at..at)));
        }
        let value = match raw.value {
            Raw::Nothing => Value::Nothing,
            Raw::Bool(truth) => Value::Bool(truth),
            Raw::Integer(number) => Value::Integer(number),
            Raw::Other(what) => Value::Other(what),
            Raw::Text(value) => Value::Text(value),
            Raw::List(items) => {
                let items = items.into_iter().map(|item| self.node(item, depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Raw::Table(entries) => {
                let mut table = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let at = self.start(key.referenced);
                    let length = length(key.referenced).unwrap_or(key.value.len());
                    table.push(Entry {
                        place: self.source.at(at..at + length),
                        key: key.value,
                        node: self.node(value, depth + 1)?,
                    });
                }
                Value::Table(table)
            }
        };
        let rest_of_line = || self.text[at..].find(['\n', '\r']);
        let end = match length(raw.referenced).or_else(rest_of_line) {
            Some(length) => at + length,
            None => self.text.len(),
        };
        Ok(Node {
            place: self.source.at(at..end),
            value,
        })
    }
}

/// The length of a place in bytes, where it is known.
fn length(location: Location) -> Option<usize> {
    usize::try_from(location.span().byte_len()?).ok()
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of a policy")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Raw, E> {
        Ok(i64::try_from(number).map_or(Raw::Other("a number that is too large"), Raw::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Other("a fraction"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries: Vec<(Spanned<String>, Spanned<Raw>)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, _>()? {
            if !seen.insert(key.value.clone()) {
                return Err(A::Error::custom(format_args!(
                    "duplicate key `{}`",
                    key.value
                )));
            }
            entries.push((key, value));
        }
        Ok(Raw::Table(entries))
    }
}
