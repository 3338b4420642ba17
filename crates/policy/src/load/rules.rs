//! Tables and lists of rules: every key a target, every value a verdict.

use super::document::{Entry, Node, Value};
use super::draft::{Draft, Expect};
use super::section::Section;
use super::terms::terms;
use crate::rules::Terms;

/// Every key of a table is a target, every value a verdict.
pub(super) fn rules(draft: &mut Draft<'_>, name: &str, node: &Node, expect: Expect) {
    let section = Section::open(&mut draft.sources, name, node);
    for Entry { place, key, node } in section.rest() {
        if let Some(name) = unquoted(key, node) {
            let message = format!("`{name}` must be quoted");
            let hint = format!("write \"{name}\"");
            draft.sources.error_with(*place, message, hint);
        } else if let Some(terms) = terms(draft, node, expect) {
            draft.rule(*place, key, expect, terms);
        }
    }
}

/// The name that was meant, if TOML made tables of it because it has dots and no quotes:
/// `api.example.org = "allow"`.
fn unquoted(key: &str, node: &Node) -> Option<String> {
    let mut name = key.to_owned();
    let mut inner = node;
    while let Value::Table(entries) = &inner.value {
        let [entry] = entries.as_slice() else {
            return None;
        };
        name = format!("{name}.{}", entry.key);
        inner = &entry.node;
    }
    let is_verdict = matches!(&inner.value, Value::Text(word) if word == "allow" || word == "deny");
    let is_table = matches!(node.value, Value::Table(_));
    (is_table && is_verdict && node.get("verdict").is_none()).then_some(name)
}

/// `allowlist_additions` of a host gateway's file: names on ports 80 and 443.
pub(super) fn additions(draft: &mut Draft<'_>, section: &mut Section<'_>) {
    let names = section.list(&mut draft.sources, "allowlist_additions");
    for name in names.into_iter().flat_map(|names| names.value) {
        draft.rule(
            name.place,
            name.value,
            Expect::WebNames,
            Terms::plain(false),
        );
    }
}
