//! A table of a policy, read key by key; what nobody asked for is an error.
//!
//! A key that is ignored is a rule that its author believes in and nobody enforces. So every key is
//! either read, or refused with the key it was probably meant to be.

use std::ops::RangeInclusive;

use super::document::{Key, Node, Value};
use super::source::{Place, SourceId, Sources};

/// The key of a plain list of targets, at the top of a file.
pub(super) const ALLOW_NET: &str = "allow_net";

/// The section name of a rule written as a table.
pub(super) const RULE: &str = "a rule";

/// The nearest of some words, if it is near enough to be meant.
pub(super) fn nearest<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    let word = word.to_ascii_lowercase();
    let distance = |known: &str| strsim::osa_distance(&word, known);
    // of two that are equally near, the one that was begun
    let order = |known: &&str| (distance(known), !known.starts_with(&word), known.len());
    let best = words.iter().copied().min_by_key(order)?;
    (distance(best) <= (best.len() / 3).max(1)).then_some(best)
}

/// Texts of a list, and where each stands.
pub(super) type Texts<'n> = Vec<(&'n str, Place)>;

/// A key that is there.
pub(super) struct PresentKey {
    pub key: &'static str,
    pub place: Place,
}

/// A table that is being read.
pub(super) struct Section<'n> {
    pub source: SourceId,
    /// Its dotted name; empty for the whole file.
    name: &'n str,
    entries: Vec<(&'n Key, &'n Node)>,
    known: Vec<&'static str>,
}

impl<'n> Section<'n> {
    /// Opens a table, or reports that the value is none. An empty value is an empty table: YAML
    /// writes it so.
    pub fn open(sources: &mut Sources, source: SourceId, name: &'n str, node: &'n Node) -> Self {
        let entries = match &node.value {
            Value::Table(entries) => entries.iter().map(|(key, node)| (key, node)).collect(),
            Value::Nothing => Vec::new(),
            _ => {
                let what = describe(name);
                let message = format!("{what} must be a table, and is {}", node.kind());
                sources.error(
                    &Place {
                        source,
                        span: node.span.clone(),
                    },
                    message,
                );
                Vec::new()
            }
        };
        Section {
            source,
            name,
            entries,
            known: Vec::new(),
        }
    }

    pub fn place(&self, node: &Node) -> Place {
        Place {
            source: self.source,
            span: node.span.clone(),
        }
    }

    pub fn key_place(&self, key: &Key) -> Place {
        Place {
            source: self.source,
            span: key.span.clone(),
        }
    }

    /// Takes a key out of the section.
    pub fn take(&mut self, key: &'static str) -> Option<(&'n Key, &'n Node)> {
        self.known.push(key);
        let at = self.entries.iter().position(|(own, _)| own.text == key)?;
        Some(self.entries.swap_remove(at))
    }

    pub fn text(&mut self, sources: &mut Sources, key: &'static str) -> Option<(&'n str, Place)> {
        let (_, node) = self.take(key)?;
        let place = self.place(node);
        match &node.value {
            Value::Text(text) => Some((text, place)),
            _ => self.wrong(sources, key, node, "text in quotes"),
        }
    }

    pub fn truth(&mut self, sources: &mut Sources, key: &'static str) -> Option<(bool, Place)> {
        let (_, node) = self.take(key)?;
        match &node.value {
            Value::Bool(truth) => Some((*truth, self.place(node))),
            _ => self.wrong(sources, key, node, "true or false"),
        }
    }

    /// A whole number within a range.
    pub fn integer(
        &mut self,
        sources: &mut Sources,
        key: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<(u32, Place)> {
        let (_, node) = self.take(key)?;
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        match &node.value {
            Value::Integer(number) if range.contains(number) => {
                let number = u32::try_from(*number).ok()?;
                Some((number, self.place(node)))
            }
            Value::Integer(number) => {
                let message = format!("`{key}` must be {expected}, and is {number}");
                sources.error(&self.place(node), message);
                None
            }
            _ => self.wrong(sources, key, node, &expected),
        }
    }

    /// A list of texts, each with its place, behind the list's own place.
    pub fn list(&mut self, sources: &mut Sources, key: &'static str) -> Option<(Place, Texts<'n>)> {
        let (_, node) = self.take(key)?;
        Self::list_of(sources, self.source, key, node)
    }

    /// The same for a value that was taken.
    pub fn list_of(
        sources: &mut Sources,
        source: SourceId,
        key: &str,
        node: &'n Node,
    ) -> Option<(Place, Texts<'n>)> {
        let place = |node: &Node| Place {
            source,
            span: node.span.clone(),
        };
        let mut wrong = |node: &Node| {
            let kind = node.kind();
            let message = format!("`{key}` must be a list of texts, and is {kind}");
            sources.error(&place(node), message);
            None
        };
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Nothing => &[],
            _ => return wrong(node),
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::Text(text) => texts.push((text.as_str(), place(item))),
                _ => return wrong(item),
            }
        }
        Some((place(node), texts))
    }

    fn wrong<T>(&self, sources: &mut Sources, key: &str, node: &Node, expected: &str) -> Option<T> {
        let message = format!("`{key}` must be {expected}, and is {}", node.kind());
        sources.error(&self.place(node), message);
        None
    }

    /// What is left: every key and its value.
    pub fn rest(self) -> Vec<(&'n Key, &'n Node)> {
        self.entries
    }

    /// Reports every key that nobody took.
    pub fn finish(mut self, sources: &mut Sources) {
        self.entries.sort_by_key(|(key, _)| key.span.start);
        for (key, _) in &self.entries {
            let (place, text) = (self.key_place(key), key.text.as_str());
            let hint = match nearest(text, &self.known) {
                Some(known) => format!("did you mean `{known}`?"),
                None if (self.name, text) == ("network", ALLOW_NET) => {
                    "write it at the top of the file, before [network]".to_owned()
                }
                None => format!("known keys: {}", self.known.join(", ")),
            };
            sources.error_with(
                &place,
                format!("unknown key `{text}` in {}", describe(self.name)),
                hint,
            );
        }
    }
}

fn describe(name: &str) -> String {
    match name {
        "" => "the policy".to_owned(),
        RULE => RULE.to_owned(),
        name => format!("[{name}]"),
    }
}

/// Reports a word that is none of those that may stand here.
pub(super) fn unknown(sources: &mut Sources, place: &Place, word: &str, words: &[&str]) {
    let hint = match nearest(word, words) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write `{}`", words.join("` or `")),
    };
    sources.error_with(place, format!("`{word}` is not known here"), hint);
}
