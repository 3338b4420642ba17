//! A policy text as a tree of values with their places, whatever the format.
//!
//! TOML, YAML and JSON become the same tree, so there is one reader of keys and one set of rules
//! for them, and every value can say where it was written.

use super::source::Place;

/// Deepest nesting of tables and lists that is looked at.
pub(super) const MAX_DEPTH: usize = 32;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Nothing,
    Bool(bool),
    Integer(i64),
    /// A number that is no integer, or a date: nothing that a policy uses.
    Other(&'static str),
    Text(String),
    List(Vec<Node>),
    /// In the order of the text; no key twice.
    Table(Vec<Entry>),
}

/// A key, where it stands, and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub place: Place,
    pub key: String,
    pub node: Node,
}

impl Node {
    /// What to call the value in an error.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Nothing => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "a number",
            Value::Other(what) => what,
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// The value of a key, if this is a table that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let entry = self.entries().iter().find(|entry| entry.key == key)?;
        Some(&entry.node)
    }

    /// The entries of a table; none of any other value.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }
}

/// A text that its format's parser refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub place: Place,
    pub message: String,
}

impl SyntaxError {
    /// Tables and lists are nested deeper than [`MAX_DEPTH`].
    pub fn too_deep(place: Place) -> SyntaxError {
        SyntaxError {
            place,
            message: format!("the value is nested more than {MAX_DEPTH} levels deep"),
        }
    }
}

/// The byte at which a line and column begin, both counted from 1, the column in characters.
pub(super) fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start = match line {
        0 | 1 => 0,
        _ => text
            .match_indices('\n')
            .nth(line - 2)
            .map_or(text.len(), |(at, _)| at + 1),
    };
    let rest = &text[start..];
    let within = rest
        .char_indices()
        .nth(column.saturating_sub(1))
        .map_or(rest.len(), |(at, _)| at);
    start + within
}
