//! Rules that contradict each other.
//!
//! Deny wins, so a contradiction is never open. But within one file it shows that its author believes
//! two things at once, and that is an error; across files and flags it is how a narrower file takes
//! something away from a shared one, and only worth a warning. Where a name is sent to (`to`) there
//! is nothing that could win, so two that differ are an error wherever they stand.

use super::draft::Draft;
use crate::rules::{GroupedRule, Ports, RuleId, RuleSet};

/// How two rules contradict each other, in the order in which contradictions are reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// An allow and a deny for one pattern with a port in common.
    Verdicts,
    /// Two allows that send a port to different places.
    Destinations,
    /// An allow whose ports are partly sent elsewhere, and a rule that sends them.
    PartlySent,
    /// Two allows of one pattern that both limit the flows of a port.
    Limits,
    /// Two allows of one pattern that leave no method for a port.
    NoMethod,
    /// An allow for a name that a wider deny covers.
    Covered,
}

/// Two rules that contradict each other.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Conflict {
    kind: Kind,
    /// The one that is reported.
    rule: RuleId,
    other: RuleId,
}

/// The contradictions found, before they are reported.
#[derive(Default)]
struct Found(Vec<Conflict>);

/// Reports every contradiction, in the order in which the rules were read.
pub(super) fn report(draft: &mut Draft<'_>, rules: &RuleSet) {
    let mut found = Found::default();
    rules.names.patterns(|group| {
        found.verdicts(draft, group);
        found.destinations(group);
        found.terms(group);
    });
    rules.nets.ranges(|group| {
        found.verdicts(draft, group);
        found.terms(group);
    });
    rules
        .names
        .dead_allows(|allow, deny| found.add(Kind::Covered, allow, deny));
    found.0.sort_unstable();
    for conflict in found.0 {
        let (message, hint) = match conflict.kind {
            Kind::Verdicts => {
                allowed_and_denied(draft, rules, conflict);
                continue;
            }
            Kind::Covered => {
                covered(draft, rules, conflict);
                continue;
            }
            Kind::Destinations => (
                "is sent to two places",
                "sends it elsewhere; keep one of the two",
            ),
            Kind::PartlySent => (
                "is sent elsewhere with `to`, but not on all of its ports",
                "has the `to`; add one to this rule, or remove it",
            ),
            Kind::Limits => (
                "limits a port that another rule for the same target limits too",
                "has the other limits; put them into one rule",
            ),
            Kind::NoMethod => (
                "has no method in common with another rule for the same target",
                "has the other `methods`, and requests must pass both; merge the two rules",
            ),
        };
        if draft.sources.wants_errors() {
            let at = draft.place(conflict.rule);
            let message = format!("`{}` {message}", text(rules, conflict.rule));
            let hint = format!("{} {hint}", source(rules, conflict.other));
            draft.sources.error_with(at, message, hint);
        }
    }
}

impl Found {
    fn add(&mut self, kind: Kind, rule: RuleId, other: RuleId) {
        self.0.push(Conflict { kind, rule, other });
    }

    /// The rule that was read later is the one to report.
    fn add_in_reading_order(&mut self, kind: Kind, one: RuleId, other: RuleId) {
        self.add(kind, one.max(other), one.min(other));
    }

    /// The allows that a deny of the same pattern takes a port from: one deny each, in the same
    /// file if there is one.
    fn verdicts(&mut self, draft: &Draft<'_>, group: &[GroupedRule<'_>]) {
        for allow in group.iter().filter(|rule| !rule.denies) {
            let mut against: Option<RuleId> = None;
            for deny in group.iter().filter(|rule| rule.denies) {
                if !deny.ports.overlaps(allow.ports) {
                    continue;
                }
                against.get_or_insert(deny.rule);
                if draft.same_source(allow.rule, deny.rule) {
                    against = Some(deny.rule);
                    break;
                }
            }
            if let Some(deny) = against {
                self.add(Kind::Verdicts, allow.rule, deny);
            }
        }
    }

    /// The allows of one pattern that disagree on where its connections go.
    fn destinations(&mut self, group: &[GroupedRule<'_>]) {
        let allows = || group.iter().filter(|rule| !rule.denies);
        let Some(some) = allows().find(|rule| rule.to.is_some()) else {
            return;
        };
        let sent = allows().filter(|rule| rule.to.is_some());
        let ports = sent.fold(Ports::default(), |all, rule| all.union(rule.ports));
        for (at, one) in group.iter().enumerate().filter(|(_, rule)| !rule.denies) {
            if one.to.is_none() {
                if !ports.contains_all(one.ports) {
                    self.add(Kind::PartlySent, one.rule, some.rule);
                }
                continue;
            }
            let differs = |other: &&GroupedRule<'_>| {
                other.to.is_some() && other.to != one.to && other.ports.overlaps(one.ports)
            };
            if let Some(other) = group.iter().take(at).find(differs) {
                self.add_in_reading_order(Kind::Destinations, one.rule, other.rule);
            }
        }
    }

    /// The allows of one pattern whose terms for the flows of one port cannot be joined.
    fn terms(&mut self, group: &[GroupedRule<'_>]) {
        for (at, one) in group.iter().enumerate().filter(|(_, rule)| !rule.denies) {
            let Some(flow) = one.flow else {
                continue;
            };
            for other in group.iter().take(at).filter(|other| !other.denies) {
                let Some(others) = other.flow.filter(|_| other.ports.overlaps(one.ports)) else {
                    continue;
                };
                if !flow.limits.is_empty() && !others.limits.is_empty() {
                    self.add_in_reading_order(Kind::Limits, one.rule, other.rule);
                }
                if let (Some(a), Some(b)) = (&flow.methods, &others.methods)
                    && a.intersection(b).is_empty()
                {
                    self.add_in_reading_order(Kind::NoMethod, one.rule, other.rule);
                }
            }
        }
    }
}

fn text(rules: &RuleSet, id: RuleId) -> &str {
    rules.info(id).map_or("", |info| info.text)
}

fn source(rules: &RuleSet, id: RuleId) -> String {
    rules
        .info(id)
        .map(|info| info.source.to_string())
        .unwrap_or_default()
}

fn allowed_and_denied(draft: &mut Draft<'_>, rules: &RuleSet, conflict: Conflict) {
    let (allow, deny) = (conflict.rule, conflict.other);
    let at = draft.place(allow);
    if !draft.same_source(allow, deny) {
        if draft.sources.wants_warnings() {
            let allowed = text(rules, allow);
            let message = format!("`{allowed}` is allowed here, but denied elsewhere");
            let hint = format!("deny wins: {}", source(rules, deny));
            draft.sources.warn(at, message, hint);
        }
        return;
    }
    if !draft.sources.wants_errors() {
        return;
    }
    let against = draft.place(deny);
    let (first, second, verb) = if at.start <= against.start {
        (at, against, "allows")
    } else {
        (against, at, "denies")
    };
    let bare = rules
        .info(deny)
        .is_some_and(|deny| covers_all_ports_unsaid(deny.text));
    let why = if bare {
        " (a deny without a port covers every port)"
    } else {
        ""
    };
    let message = format!("`{}` is both allowed and denied", text(rules, allow));
    let line = draft.sources.line(first);
    let hint = format!("line {line} {verb} it; keep one of the two{why}");
    draft.sources.error_with(second, message, hint);
}

/// Whether a deny covers every port without saying so.
fn covers_all_ports_unsaid(text: &str) -> bool {
    use portcullis_names::Target;
    match Target::from_policy(text) {
        Ok(Target::Name { explicit_ports, .. }) => !explicit_ports,
        Ok(Target::Net { ports, .. }) => ports.is_any() && !text.ends_with(":*"),
        Err(_) => false,
    }
}

/// Warns of a name that is allowed by itself, but covered by a deny of another pattern.
fn covered(draft: &mut Draft<'_>, rules: &RuleSet, conflict: Conflict) {
    let deny = rules.info(conflict.other);
    let Some(deny) = deny.filter(|deny| deny.text.starts_with('*')) else {
        return;
    };
    if draft.sources.wants_warnings() {
        let at = draft.place(conflict.rule);
        let allowed = text(rules, conflict.rule);
        let message = format!("`{allowed}` is allowed here, but `{}` denies it", deny.text);
        let hint = format!("deny wins: {}", deny.source);
        draft.sources.warn(at, message, hint);
    }
}
