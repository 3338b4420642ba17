//! Rules that contradict each other.
//!
//! Deny wins, so a contradiction is never open. But within one file it shows that its author believes
//! two things at once, and that is an error; across files and flags it is how a narrower file takes
//! something away from a shared one, and only worth a warning.

use std::collections::HashMap;

use super::draft::{Draft, PlacedRule, is_exact};
use super::source::Place;
use crate::rules::{RuleSet, Subject};
use crate::table::NameVerdict;

/// Reports every pair of an allow and a deny for one canonical pattern with a port in common.
pub(super) fn report(draft: &mut Draft) {
    let mut denies: HashMap<Subject<'_>, Vec<&PlacedRule>> = HashMap::new();
    for placed in draft.rules.iter().filter(|placed| placed.rule.terms.denies) {
        denies
            .entry(placed.rule.subject())
            .or_default()
            .push(placed);
    }
    for allow in draft
        .rules
        .iter()
        .filter(|placed| !placed.rule.terms.denies)
    {
        let Some(against) = denies.get(&allow.rule.subject()) else {
            continue;
        };
        let ports = allow.rule.ports();
        let overlapping = against
            .iter()
            .filter(|deny| deny.rule.ports().overlaps(&ports));
        // one pair within the file, or else one across files, is enough to say
        let same_file = |deny: &&&PlacedRule| deny.place.source == allow.place.source;
        if let Some(deny) = overlapping.clone().find(same_file) {
            let (first, second) = in_order(&allow.place, &deny.place);
            let message = format!("`{}` is both allowed and denied", allow.rule.text);
            let line = draft.sources.line(first);
            let says = if first == &deny.place {
                "denies"
            } else {
                "allows"
            };
            let bare = deny.rule.ports().is_any() && !deny.rule.text.ends_with(":*");
            let why = if bare {
                " (a deny without a port covers every port)"
            } else {
                ""
            };
            let hint = format!("line {line} {says} it; keep one of the two{why}");
            draft.sources.error_with(second, message, hint);
        } else if let Some(deny) = overlapping.clone().next() {
            let message = format!(
                "`{}` is allowed here, but denied elsewhere",
                allow.rule.text
            );
            let hint = format!("deny wins: {}", deny.rule.source);
            draft.sources.warn(&allow.place, message, hint);
        }
    }
}

fn in_order<'p>(a: &'p Place, b: &'p Place) -> (&'p Place, &'p Place) {
    if a.span.start <= b.span.start {
        (a, b)
    } else {
        (b, a)
    }
}

/// Warns of names that are allowed by themselves, but covered by a deny of another pattern.
pub(super) fn report_dead(draft: &mut Draft, rules: &RuleSet) {
    if draft.rules.iter().all(|placed| !placed.rule.terms.denies) {
        return;
    }
    for allow in draft
        .rules
        .iter()
        .filter(|placed| !placed.rule.terms.denies)
    {
        let Some(name) = is_exact(&allow.rule.target) else {
            continue;
        };
        let NameVerdict::Denied(id) = rules.names.lookup_verdict(name) else {
            continue;
        };
        let Some(deny) = rules.info(id) else { continue };
        let wider = deny.text.starts_with('*');
        if wider {
            let message = format!("`{}` is allowed here, but `{}` denies it", name, deny.text);
            draft
                .sources
                .warn(&allow.place, message, format!("deny wins: {}", deny.source));
        }
    }
}
