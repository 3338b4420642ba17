//! JSON policies. The parser hands out each value as a piece of the text, so its place is where that
//! piece lies.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::document::{Entry, MAX_DEPTH, Node, SyntaxError, Value, offset_of};
use super::source::{Place, SourceId};

pub(super) fn parse(source: SourceId, text: &str) -> Result<Node, SyntaxError> {
    let raw = serde_json::from_str(text).map_err(|error| {
        let at = offset_of(text, error.line(), error.column());
        SyntaxError {
            place: source.at(at..at),
            message: plain(&error),
        }
    })?;
    Document { source, text }.node(raw, 0)
}

/// The error without the line and column that it carries.
fn plain(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    text.truncate(text.rfind(" at line ").unwrap_or(text.len()));
    text
}

struct Document<'t> {
    source: SourceId,
    text: &'t str,
}

impl Document<'_> {
    /// Where a piece lies in the text; nowhere for a piece that is a copy.
    fn place(&self, piece: &str) -> Option<Place> {
        let at = (piece.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        let end = at + piece.len();
        (end <= self.text.len()).then(|| self.source.at(at..end))
    }

    fn node(&self, raw: &RawValue, depth: usize) -> Result<Node, SyntaxError> {
        let piece = raw.get();
        let place = self.place(piece).unwrap_or(self.source.at(0..0));
        let fail = |error: serde_json::Error| SyntaxError {
            place,
            message: plain(&error),
        };
        if depth > MAX_DEPTH {
            return Err(SyntaxError::too_deep(place));
        }
        let value = match piece.as_bytes().first() {
            Some(b'{') => self.table(serde_json::from_str(piece).map_err(fail)?, depth)?,
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(piece).map_err(fail)?;
                let items = items.into_iter().map(|item| self.node(item, depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Some(b'"') => Value::Text(serde_json::from_str(piece).map_err(fail)?),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') => Value::Nothing,
            _ => match piece.parse() {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other("a fraction or a number that is too large"),
            },
        };
        Ok(Node { place, value })
    }

    fn table(&self, object: Object<'_>, depth: usize) -> Result<Value, SyntaxError> {
        let mut seen = HashSet::with_capacity(object.0.len());
        let mut entries = Vec::with_capacity(object.0.len());
        for (Key(key), raw) in &object.0 {
            let node = self.node(raw, depth + 1)?;
            // an escaped key is a copy; its value's place does instead
            let place = self.place(key).unwrap_or(node.place);
            if !seen.insert(key) {
                let message = "duplicate key".to_owned();
                return Err(SyntaxError { place, message });
            }
            entries.push(Entry {
                place,
                key: key.clone().into_owned(),
                node,
            });
        }
        Ok(Value::Table(entries))
    }
}

/// A key that is borrowed from the text where it can be.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object's entries in order, repeated keys too, each value still text.
struct Object<'a>(Vec<(Key<'a>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}
