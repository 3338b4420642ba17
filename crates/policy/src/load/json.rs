//! JSON policies. The parser hands out each value as a piece of the text, so its place is where that
//! piece lies.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::document::{Key, MAX_DEPTH, Node, SyntaxError, Value, offset_of};

pub(super) fn parse(text: &str) -> Result<Node, Vec<SyntaxError>> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
        let at = offset_of(text, error.line(), error.column());
        vec![SyntaxError {
            span: at..at,
            message: plain(&error),
        }]
    })?;
    node(text, raw, 0).map_err(|error| vec![error])
}

/// The error without the line and column that it carries.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// Where a piece lies in the text; the start of the text for a piece that is a copy.
fn place(text: &str, piece: &str) -> Option<Range<usize>> {
    let at = (piece.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    (at + piece.len() <= text.len()).then(|| at..at + piece.len())
}

fn node(text: &str, raw: &RawValue, depth: usize) -> Result<Node, SyntaxError> {
    let piece = raw.get();
    let span = place(text, piece).unwrap_or(0..0);
    let fail = |message: String| SyntaxError {
        span: span.clone(),
        message,
    };
    if depth > MAX_DEPTH {
        return Err(fail("this is nested too deeply".into()));
    }
    let value = match piece.as_bytes().first() {
        Some(b'{') => {
            let entries: Entries<'_> = serde_json::from_str(piece).map_err(|e| fail(plain(&e)))?;
            let mut table: Vec<(Key, Node)> = Vec::with_capacity(entries.0.len());
            let mut seen = std::collections::HashSet::with_capacity(entries.0.len());
            for (key, raw) in &entries.0 {
                let node = node(text, raw, depth + 1)?;
                // an escaped key is a copy; its value's place does instead
                let span = match key {
                    Cow::Borrowed(key) => place(text, key).unwrap_or_else(|| node.span.clone()),
                    Cow::Owned(_) => node.span.clone(),
                };
                if !seen.insert(key.as_ref()) {
                    return Err(SyntaxError {
                        span,
                        message: "duplicate key".into(),
                    });
                }
                table.push((
                    Key {
                        span,
                        text: key.clone().into_owned(),
                    },
                    node,
                ));
            }
            Value::Table(table)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(piece).map_err(|e| fail(plain(&e)))?;
            let items = items.into_iter().map(|item| node(text, item, depth + 1));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::Text(serde_json::from_str(piece).map_err(|e| fail(plain(&e)))?),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => Value::Nothing,
        _ => match piece.parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a fraction or a number that is too large"),
        },
    };
    Ok(Node { span, value })
}

/// An object's entries in order, repeated keys too, each value still text.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A key that is borrowed from the text where it can be.
struct BorrowedKey<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for BorrowedKey<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = BorrowedKey<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(BorrowedKey(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(BorrowedKey(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<BorrowedKey<'de>, _>()? {
                    entries.push((key.0, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}
