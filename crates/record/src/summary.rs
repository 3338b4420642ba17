//! What was denied, grouped for a person: the closing paragraph of `run`, `diagnose`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_policy::Reason;

use crate::event::Event;
use crate::text::shown_name;

/// Groups kept. A sandbox that asks for a million names fills this and no more; further groups are
/// counted together.
const MAX_GROUPS: usize = 1024;
/// Longest name and suggestion kept, in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// One group of denials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// The name, or the address where no name was known; empty where neither was.
    pub name: String,
    /// The port, where one was asked for.
    pub port: Option<u16>,
    /// Why.
    pub reason: Reason,
    /// How often.
    pub count: u64,
    /// The policy line that would allow it, as the first of these events gave it.
    pub suggestion: Option<String>,
}

/// All denials so far, most frequent first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeniedSummary {
    /// The groups.
    pub groups: Vec<Denied>,
    /// Denials whose group found no room.
    pub others: u64,
}

impl DeniedSummary {
    /// All denials, grouped or not.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.others + self.groups.iter().map(|group| group.count).sum::<u64>()
    }
}

/// A number that a group shares with the open window of its record, so that a repeated denial is
/// counted without a look at the table.
pub(crate) type Tally = Arc<AtomicU64>;

#[derive(PartialEq, Eq, Hash)]
struct Key {
    name: String,
    port: Option<u16>,
    reason: Reason,
}

struct Group {
    tally: Tally,
    suggestion: Option<String>,
    order: usize,
}

/// The live table.
pub(crate) struct Groups {
    table: Mutex<HashMap<Key, Group>>,
    others: Tally,
}

impl Groups {
    pub(crate) fn new() -> Groups {
        Groups {
            table: Mutex::new(HashMap::new()),
            others: Tally::default(),
        }
    }

    /// Counts a denial and returns where to count its equals. `suggest` makes the suggestion, which
    /// a new group keeps.
    pub(crate) fn count(&self, event: &Event<'_>, suggest: &dyn Fn() -> Option<String>) -> Tally {
        let key = Key {
            name: name_of(event),
            port: event.port,
            reason: event.reason,
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let order = table.len();
        let tally = if let Some(group) = table.get(&key) {
            group.tally.clone()
        } else if order < MAX_GROUPS {
            let tally = Tally::default();
            let suggestion = suggest().as_deref().map(short_lines);
            table.insert(
                key,
                Group {
                    tally: tally.clone(),
                    suggestion,
                    order,
                },
            );
            tally
        } else {
            self.others.clone()
        };
        tally.fetch_add(1, Ordering::Relaxed);
        tally
    }

    pub(crate) fn summary(&self) -> DeniedSummary {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut groups: Vec<_> = table
            .iter()
            .map(|(key, group)| {
                let denied = Denied {
                    name: key.name.clone(),
                    port: key.port,
                    reason: key.reason,
                    count: group.tally.load(Ordering::Relaxed),
                    suggestion: group.suggestion.clone(),
                };
                (group.order, denied)
            })
            .collect();
        groups.sort_by_key(|(order, denied)| (std::cmp::Reverse(denied.count), *order));
        DeniedSummary {
            groups: groups.into_iter().map(|(_, denied)| denied).collect(),
            others: self.others.load(Ordering::Relaxed),
        }
    }
}

/// The name, the first address, or what stood where a name should, made harmless for a terminal.
pub(crate) fn name_of(event: &Event<'_>) -> String {
    if let Some(name) = event.name {
        short(name)
    } else if let Some(raw) = event.raw_name {
        short(&String::from_utf8_lossy(&shown_name(raw).0))
    } else {
        event
            .addresses
            .first()
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}

/// A bounded copy that is safe to print: anything but printable ASCII is written as an escape.
pub(crate) fn short(text: &str) -> String {
    bounded(text, |character| matches!(character, ' '..='~'))
}

/// The same for policy lines, which may be several.
pub(crate) fn short_lines(text: &str) -> String {
    bounded(text, |character| matches!(character, ' '..='~' | '\n'))
}

fn bounded(text: &str, plain: impl Fn(char) -> bool) -> String {
    let mut copy = String::new();
    for character in text.chars() {
        if plain(character) {
            copy.push(character);
        } else {
            copy.extend(character.escape_unicode());
        }
        if copy.len() >= MAX_TEXT_BYTES {
            copy.truncate(MAX_TEXT_BYTES);
            copy.push('~');
            break;
        }
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Layer, Protocol};
    use portcullis_policy::Verdict;

    fn denial(name: &str) -> Event<'_> {
        Event::new(
            Layer::Http,
            Protocol::Connect,
            Verdict::Deny,
            Reason::NotListed,
        )
        .name(name)
    }

    #[test]
    fn equal_denials_are_one_group_with_its_suggestion() {
        let groups = Groups::new();
        groups.count(&denial("b.example").port(443), &|| Some("line".into()));
        groups.count(&denial("a.example").port(443), &|| None);
        let known = || unreachable!("a group has its suggestion from its first denial");
        let tally = groups.count(&denial("a.example").port(443), &known);
        tally.fetch_add(1, Ordering::Relaxed);
        let summary = groups.summary();
        assert_eq!(summary.total(), 4);
        assert_eq!(summary.groups[0].name, "a.example");
        assert_eq!(summary.groups[0].count, 3);
        assert_eq!(summary.groups[1].suggestion.as_deref(), Some("line"));
    }

    #[test]
    fn a_million_names_keep_the_summary_bounded() {
        let groups = Groups::new();
        for n in 0..MAX_GROUPS + 10 {
            groups.count(&denial(&format!("n{n}.example")), &|| None);
        }
        let summary = groups.summary();
        assert_eq!(summary.groups.len(), MAX_GROUPS);
        assert_eq!(summary.others, 10);
        assert_eq!(summary.total(), (MAX_GROUPS + 10) as u64);
    }

    #[test]
    fn terminal_escapes_in_a_name_are_printed_not_obeyed() {
        let mut event = denial("x");
        event.name = None;
        event.raw_name = Some(b"a\x1b[2Jb\xff");
        assert_eq!(name_of(&event), "a\\u{1b}[2Jb\\u{fffd}");
        let long = "é".repeat(10_000);
        assert!(name_of(&denial(&long)).len() <= MAX_TEXT_BYTES + 1);
    }
}
