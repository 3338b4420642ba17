//! A table of a policy, read key by key; what nobody asked for is an error.
//!
//! A key that is ignored is a rule that its author believes in and nobody enforces. So every key is
//! either read, or refused with the key it was probably meant to be.

use std::ops::RangeInclusive;

use super::document::{Entry, Node, Value};
use super::source::{Place, Sources, Written};

/// The key of a plain list of targets, at the top of a file.
pub(super) const ALLOW_NET: &str = "allow_net";

/// The section name of a rule written as a table.
pub(super) const RULE: &str = "a rule";

/// The nearest of some words, if it is near enough to be meant.
pub(super) fn nearest<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    let word = word.to_ascii_lowercase();
    let distance = |known: &str| strsim::osa_distance(&word, &known.to_ascii_lowercase());
    // of two that are equally near, the one that was begun
    let begun = |known: &str| known.to_ascii_lowercase().starts_with(&word);
    let order = |known: &&str| (distance(known), !begun(known), known.len());
    let best = words.iter().copied().min_by_key(order)?;
    (distance(best) <= (best.len() / 3).max(1)).then_some(best)
}

/// The texts of a list, each with its place.
pub(super) type Texts<'n> = Vec<Written<&'n str>>;

/// A key that is there.
pub(super) struct PresentKey {
    pub key: &'static str,
    pub place: Place,
}

/// A table that is being read.
pub(super) struct Section<'n> {
    /// Its dotted name; empty for the whole file.
    name: &'n str,
    entries: Vec<&'n Entry>,
    known: Vec<&'static str>,
}

impl<'n> Section<'n> {
    /// Opens a table, or reports that the value is none. An empty value is an empty table: YAML
    /// writes it so.
    pub fn open(sources: &mut Sources, name: &'n str, node: &'n Node) -> Self {
        if !matches!(node.value, Value::Table(_) | Value::Nothing) {
            let message = format!("{} must be a table, not {}", describe(name), node.kind());
            sources.error(node.place, message);
        }
        Section {
            name,
            entries: node.entries().iter().collect(),
            known: Vec::new(),
        }
    }

    /// Takes a key out of the section.
    pub fn take_entry(&mut self, key: &'static str) -> Option<&'n Entry> {
        self.known.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.swap_remove(at))
    }

    /// Takes a key out of the section, for its value alone.
    pub fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        self.take_entry(key).map(|entry| &entry.node)
    }

    pub fn text(&mut self, sources: &mut Sources, key: &'static str) -> Option<Written<&'n str>> {
        let node = self.take(key)?;
        match &node.value {
            Value::Text(text) => Some(written(text, node)),
            _ => wrong(sources, key, node, "a quoted string"),
        }
    }

    pub fn truth(&mut self, sources: &mut Sources, key: &'static str) -> Option<Written<bool>> {
        let node = self.take(key)?;
        match &node.value {
            Value::Bool(truth) => Some(written(*truth, node)),
            _ => wrong(sources, key, node, "true or false"),
        }
    }

    /// A whole number within a range.
    pub fn integer(
        &mut self,
        sources: &mut Sources,
        key: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<Written<u32>> {
        let node = self.take(key)?;
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        match &node.value {
            Value::Integer(number) if range.contains(number) => {
                Some(written(u32::try_from(*number).ok()?, node))
            }
            Value::Integer(number) => {
                let message = format!("`{key}` must be {expected}, not {number}");
                sources.error(node.place, message);
                None
            }
            _ => wrong(sources, key, node, &expected),
        }
    }

    /// A list of texts.
    pub fn list(&mut self, sources: &mut Sources, key: &'static str) -> Option<Written<Texts<'n>>> {
        Self::list_of(sources, key, self.take(key)?)
    }

    /// The same for a value that was taken.
    pub fn list_of(sources: &mut Sources, key: &str, node: &'n Node) -> Option<Written<Texts<'n>>> {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Nothing => &[],
            _ => return wrong(sources, key, node, "a list of strings"),
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::Text(text) => texts.push(written(text.as_str(), item)),
                _ => {
                    let message = format!("`{key}` must contain only strings, not {}", item.kind());
                    sources.error(item.place, message);
                    return None;
                }
            }
        }
        Some(written(texts, node))
    }

    /// What is left: every key and its value.
    pub fn rest(self) -> Vec<&'n Entry> {
        self.entries
    }

    /// Reports every key that nobody took.
    pub fn finish(mut self, sources: &mut Sources) {
        self.entries.sort_by_key(|entry| entry.place.start);
        for entry in &self.entries {
            let key = entry.key.as_str();
            let hint = match nearest(key, &self.known) {
                Some(known) => format!("did you mean `{known}`?"),
                None if (self.name, key) == ("network", ALLOW_NET) => {
                    "move it to the top of the file, before [network]".to_owned()
                }
                None => format!("known keys: {}", self.known.join(", ")),
            };
            let message = format!("unknown key `{key}` in {}", describe(self.name));
            sources.error_with(entry.place, message, hint);
        }
    }
}

fn written<T>(value: T, node: &Node) -> Written<T> {
    Written {
        value,
        place: node.place,
    }
}

fn wrong<T>(sources: &mut Sources, key: &str, node: &Node, expected: &str) -> Option<T> {
    let message = format!("`{key}` must be {expected}, not {}", node.kind());
    sources.error(node.place, message);
    None
}

fn describe(name: &str) -> String {
    match name {
        "" => "the policy".to_owned(),
        RULE => RULE.to_owned(),
        name => format!("[{name}]"),
    }
}

/// The value of a word that must be one of a few; reports a word that is none of them.
pub(super) fn choice<T: Copy>(
    sources: &mut Sources,
    word: Written<&str>,
    choices: &[(&'static str, T)],
) -> Option<T> {
    let known = choices.iter().find(|(known, _)| *known == word.value);
    if let Some((_, value)) = known {
        return Some(*value);
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let hint = match nearest(word.value, &words) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write `{}`", words.join("` or `")),
    };
    sources.error_with(word.place, format!("unknown value `{}`", word.value), hint);
    None
}
