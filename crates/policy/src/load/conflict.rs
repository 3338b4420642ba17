//! Rules that contradict each other.
//!
//! Deny wins, so a contradiction is never open. But within one file it shows that its author believes
//! two things at once, and that is an error; across files and flags it is how a narrower file takes
//! something away from a shared one, and only worth a warning. Where a name is sent to (`to`) there
//! is nothing that could win, so two that differ are an error wherever they stand.

use super::draft::Draft;
use super::source::Place;
use crate::rules::{GroupedRule, Ports, RuleId, RuleSet};

/// Two rules that contradict each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    /// The one that is reported.
    rule: RuleId,
    other: RuleId,
}

/// The contradictions found, before they are reported.
#[derive(Default)]
struct Found {
    /// An allow and a deny for one pattern with a port in common.
    both: Vec<Pair>,
    /// Two allows that send a port to different places.
    apart: Vec<Pair>,
    /// An allow whose ports are partly sent elsewhere, and a rule that sends them.
    half: Vec<Pair>,
    /// Two allows of one pattern that both limit the flows of a port.
    limited: Vec<Pair>,
    /// Two allows of one pattern that leave no method for a port.
    no_method: Vec<Pair>,
    /// An allow for a name that a wider deny covers.
    dead: Vec<Pair>,
}

/// Reports every contradiction, in the order in which the rules were read.
pub(super) fn report(draft: &mut Draft, rules: &RuleSet) {
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
    rules.names.dead_allows(|allow, deny| {
        found.dead.push(Pair {
            rule: allow,
            other: deny,
        })
    });
    for pairs in [
        &mut found.both,
        &mut found.apart,
        &mut found.half,
        &mut found.limited,
        &mut found.no_method,
        &mut found.dead,
    ] {
        pairs.sort_unstable();
    }
    for pair in found.both {
        allowed_and_denied(draft, rules, pair);
    }
    for pair in found.apart {
        let message = "goes to two places";
        let hint = "sends it elsewhere; keep one of the two";
        disagreement(draft, rules, pair, message, hint);
    }
    for pair in found.half {
        let message = "is sent elsewhere with `to`, but not on all of its ports";
        let hint = "has the `to`; give this rule one as well, or remove it";
        disagreement(draft, rules, pair, message, hint);
    }
    for pair in found.limited {
        let message = "limits the flows of a port that another rule for the same limits";
        let hint = "has limits for it too; put them into one rule";
        disagreement(draft, rules, pair, message, hint);
    }
    for pair in found.no_method {
        let message = "leaves no method that another rule for the same allows too";
        let hint = "has other `methods`, and a request must pass both; put them into one rule";
        disagreement(draft, rules, pair, message, hint);
    }
    for pair in found.dead {
        covered(draft, rules, pair);
    }
}

impl Found {
    /// The allows that a deny of the same pattern takes a port from: one deny each, in the same
    /// file if there is one.
    fn verdicts(&mut self, draft: &Draft, group: &[GroupedRule<'_>]) {
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
            self.both.extend(against.map(|deny| Pair {
                rule: allow.rule,
                other: deny,
            }));
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
                    self.half.push(Pair {
                        rule: one.rule,
                        other: some.rule,
                    });
                }
                continue;
            }
            let differs = |other: &&GroupedRule<'_>| {
                other.to.is_some() && other.to != one.to && other.ports.overlaps(one.ports)
            };
            let other = group.iter().take(at).find(differs);
            self.apart
                .extend(other.map(|other| in_reading_order(one, other)));
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
                    self.limited.push(in_reading_order(one, other));
                }
                if let (Some(a), Some(b)) = (&flow.methods, &others.methods)
                    && a.intersection(b).is_empty()
                {
                    self.no_method.push(in_reading_order(one, other));
                }
            }
        }
    }
}

/// The rule that was read later is the one to report.
fn in_reading_order(one: &GroupedRule<'_>, other: &GroupedRule<'_>) -> Pair {
    Pair {
        rule: one.rule.max(other.rule),
        other: one.rule.min(other.rule),
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

fn allowed_and_denied(draft: &mut Draft, rules: &RuleSet, pair: Pair) {
    let Pair {
        rule: allow,
        other: deny,
    } = pair;
    let at = draft.place(allow);
    if !draft.same_source(allow, deny) {
        if draft.sources.wants_warnings() {
            let allowed = text(rules, allow);
            let message = format!("`{allowed}` is allowed here, but denied elsewhere");
            let hint = format!("deny wins: {}", source(rules, deny));
            draft.sources.warn(&at, message, hint);
        }
        return;
    }
    if !draft.sources.wants_errors() {
        return;
    }
    let against = draft.place(deny);
    let (first, second) = in_order(&at, &against);
    let message = format!("`{}` is both allowed and denied", text(rules, allow));
    let line = draft.sources.line(first);
    let verb = if first == &against {
        "denies"
    } else {
        "allows"
    };
    let bare = rules
        .info(deny)
        .is_some_and(|deny| covers_all_ports_unsaid(deny.text));
    let why = if bare {
        " (a deny without a port covers every port)"
    } else {
        ""
    };
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

fn disagreement(draft: &mut Draft, rules: &RuleSet, pair: Pair, what: &str, hint: &str) {
    if draft.sources.wants_errors() {
        let at = draft.place(pair.rule);
        let message = format!("`{}` {what}", text(rules, pair.rule));
        let hint = format!("{} {hint}", source(rules, pair.other));
        draft.sources.error_with(&at, message, hint);
    }
}

/// Warns of a name that is allowed by itself, but covered by a deny of another pattern.
fn covered(draft: &mut Draft, rules: &RuleSet, pair: Pair) {
    let Pair {
        rule: allow,
        other: deny,
    } = pair;
    let Some(deny) = rules.info(deny).filter(|deny| deny.text.starts_with('*')) else {
        return;
    };
    if draft.sources.wants_warnings() {
        let at = draft.place(allow);
        let allowed = text(rules, allow);
        let message = format!("`{allowed}` is allowed here, but `{}` denies it", deny.text);
        draft
            .sources
            .warn(&at, message, format!("deny wins: {}", deny.source));
    }
}

fn in_order<'p>(a: &'p Place, b: &'p Place) -> (&'p Place, &'p Place) {
    if a.span.start <= b.span.start {
        (a, b)
    } else {
        (b, a)
    }
}
