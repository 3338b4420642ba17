//! A policy text as a tree of values with their places, whatever the format.
//!
//! TOML, YAML and JSON become the same tree, so there is one reader of keys and one set of rules
//! for them, and every value can say where it was written.

use std::ops::Range;

/// Deepest nesting of tables and lists that is looked at.
pub(super) const MAX_DEPTH: usize = 32;

/// A value and where it stands, in bytes of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub span: Range<usize>,
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
    /// Keys in the order of the text; no key twice.
    Table(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub span: Range<usize>,
    pub text: String,
}

impl Node {
    /// What to call the value in an error.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Nothing => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) => "a number",
            Value::Other(what) => what,
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// The value of a key, if this is a table that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Table(entries) = &self.value else {
            return None;
        };
        entries
            .iter()
            .find(|(own, _)| own.text == key)
            .map(|(_, node)| node)
    }
}

/// A text that its format's parser refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub span: Range<usize>,
    pub message: String,
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
