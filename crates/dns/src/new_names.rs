//! The budget of new names below a pattern.
//!
//! Answers *resolution as a way out* (docs/threats.md): below `*.example.org` the program makes the
//! names up, so that each new one carries up to 250 bytes to whoever serves a part of that zone or
//! reads its queries. A name that was asked for before says little and costs nothing; a listed name
//! says nothing.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_names::Name;
use portcullis_policy::{LookupPermit, RuleId};

use crate::policy_in_force::InForce;

/// How long a budget lasts: the policy's `new_names_per_minute` is for one.
const PERIOD: Duration = Duration::from_secs(60);

/// Why a name that the policy allows is not asked about.
pub(crate) const TOO_MANY_NEW_NAMES: &str = "too many new names below one pattern within a minute";

/// Names that are remembered as asked for: as many again may come before one is forgotten, and is
/// then new once more.
const MAX_REMEMBERED: usize = 8_192;

/// Patterns whose budgets are kept; with more in use at once, further ones share one budget.
const MAX_PATTERNS: usize = 4_096;

/// What was looked up below patterns, and how much of it was new lately.
#[derive(Debug, Default)]
pub(crate) struct NewNameBudget {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Rules are numbered anew with each policy.
    epoch: u64,
    spent: HashMap<Option<RuleId>, Spent>,
    /// Two generations, so that the oldest go without a list of their ages.
    young: HashSet<Name>,
    old: HashSet<Name>,
}

#[derive(Clone, Copy, Debug)]
struct Spent {
    began: Instant,
    names: u32,
}

impl NewNameBudget {
    /// Whether the listed name of this permit may be asked about upstream; counts it if it is new.
    pub(crate) fn admit(&self, permit: &LookupPermit, in_force: &InForce, now: Instant) -> bool {
        // A policy that only watches refuses nothing.
        if !permit.by_pattern() || permit.audit() {
            return true;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let name = permit.listed();
        if state.knows(name) || state.spend(permit.rule(), in_force, now) {
            state.remember(name);
            true
        } else {
            false
        }
    }
}

impl State {
    fn knows(&self, name: &Name) -> bool {
        self.young.contains(name) || self.old.contains(name)
    }

    fn remember(&mut self, name: &Name) {
        if self.young.contains(name) {
            return;
        }
        if self.young.len() >= MAX_REMEMBERED {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(name.clone());
    }

    fn spend(&mut self, rule: Option<RuleId>, in_force: &InForce, now: Instant) -> bool {
        let over = |spent: &Spent| now.saturating_duration_since(spent.began) >= PERIOD;
        if self.epoch != in_force.epoch {
            self.spent.clear();
            self.epoch = in_force.epoch;
        }
        if self.spent.len() >= MAX_PATTERNS && !self.spent.contains_key(&rule) {
            self.spent.retain(|_, spent| !over(spent));
        }
        let key =
            rule.filter(|_| self.spent.len() < MAX_PATTERNS || self.spent.contains_key(&rule));
        let unspent = Spent {
            began: now,
            names: 0,
        };
        let spent = self.spent.entry(key).or_insert(unspent);
        if over(spent) {
            *spent = unspent;
        }
        let left = spent.names < in_force.policy.settings().dns.new_names_per_minute;
        spent.names += u32::from(left);
        left
    }
}

#[cfg(test)]
mod tests {
    use portcullis_names::{NameBuf, RecordType};
    use portcullis_policy::{DEFAULT_NEW_NAMES_PER_MINUTE as BUDGET, Input, Mode, Policy, Request};

    use super::*;

    fn in_force(policy: Policy) -> InForce {
        let policy = policy.into();
        InForce { policy, epoch: 0 }
    }

    fn policy(rules: &[&str]) -> Policy {
        let inputs: Vec<Input> = rules
            .iter()
            .map(|rule| Input::Allow((*rule).into()))
            .collect();
        Policy::load(&inputs, &mut |_| unreachable!("no file is included"))
            .unwrap()
            .policy
    }

    fn permit(policy: &Policy, name: &str) -> LookupPermit {
        let name = NameBuf::from_program(name.as_bytes()).unwrap();
        let request = Request::Lookup {
            name: name.as_ref(),
            qtype: RecordType::A,
        };
        policy.decide(&request).lookup_permit().unwrap()
    }

    #[test]
    fn new_names_below_a_pattern_end_with_its_budget() {
        let policy = in_force(policy(&[
            "*.wild.example",
            "*.other.example",
            "listed.wild.example",
        ]));
        let names = NewNameBudget::default();
        let start = Instant::now();
        let ask = |name: &str, at| names.admit(&permit(&policy.policy, name), &policy, at);
        for n in 0..BUDGET {
            assert!(ask(&format!("n{n}.wild.example"), start), "{n}");
        }
        assert!(!ask("one-more.wild.example", start));
        assert!(ask("n7.wild.example", start), "known names stay");
        assert!(ask("listed.wild.example", start), "listed by itself");
        assert!(
            ask("first.other.example", start),
            "another pattern's budget"
        );
        let almost = start + PERIOD - Duration::from_millis(1);
        assert!(!ask("one-more.wild.example", almost));
        assert!(ask("one-more.wild.example", start + PERIOD));
    }

    #[test]
    fn a_policy_that_only_watches_refuses_no_new_name() {
        let policy = in_force(policy(&[]).with_mode(Mode::Audit));
        let names = NewNameBudget::default();
        let now = Instant::now();
        for n in 0..BUDGET * 2 {
            assert!(names.admit(
                &permit(&policy.policy, &format!("n{n}.example.org")),
                &policy,
                now
            ));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let policy = in_force(policy(&["*.wild.example"]));
        let names = NewNameBudget::default();
        let mut now = Instant::now();
        for n in 0..MAX_REMEMBERED * 3 {
            assert!(names.admit(
                &permit(&policy.policy, &format!("n{n}.wild.example")),
                &policy,
                now
            ));
            now += PERIOD / BUDGET + Duration::from_millis(10);
        }
        let state = names.state.lock().unwrap();
        assert!(state.young.len() + state.old.len() <= MAX_REMEMBERED * 2);
        assert_eq!(state.spent.len(), 1);
    }
}
