//! Tables and lists of rules: every key a target, every value a verdict.

use super::document::{Node, Value};
use super::draft::{Draft, Expect};
use super::section::Section;
use super::source::{Place, SourceId};
use super::terms::terms;
use crate::rules::Terms;

/// Every key of a table is a target, every value a verdict.
pub(super) fn rules(
    draft: &mut Draft,
    source: SourceId,
    (name, node): (&str, &Node),
    expect: Expect,
) {
    let section = Section::open(&mut draft.sources, source, name, node);
    for (key, node) in section.rest() {
        let place = Place {
            source,
            span: key.span.clone(),
        };
        if let Some(name) = unquoted(&key.text, node) {
            let message = format!("`{name}` stands here without quotes");
            draft
                .sources
                .error_with(&place, message, format!("write \"{name}\""));
        } else if let Some(terms) = terms(draft, source, node, expect) {
            draft.rule(place, &key.text, expect, terms);
        }
    }
}

/// The name that was meant, if TOML made tables of it because it has dots and no quotes:
/// `api.example.org = "allow"`.
fn unquoted(key: &str, node: &Node) -> Option<String> {
    let mut name = key.to_owned();
    let mut inner = node;
    while let Value::Table(entries) = &inner.value {
        let [(label, value)] = entries.as_slice() else {
            return None;
        };
        name = format!("{name}.{}", label.text);
        inner = value;
    }
    let is_verdict = matches!(&inner.value, Value::Text(word) if word == "allow" || word == "deny");
    let is_table = matches!(node.value, Value::Table(_));
    (is_table && is_verdict && node.get("verdict").is_none()).then_some(name)
}

/// `allowlist_additions` of a host gateway's file: names on ports 80 and 443.
pub(super) fn additions(draft: &mut Draft, section: &mut Section<'_>) {
    let names = section.list(&mut draft.sources, "allowlist_additions");
    for (name, place) in names.into_iter().flat_map(|(_, names)| names) {
        draft.rule(place, name, Expect::WebNames, Terms::default());
    }
}
