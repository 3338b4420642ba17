//! The compiled rules of a policy.

mod info;
mod names;
mod nets;
mod rows;
mod rule;
mod set;
mod terms;

pub use info::{RuleInfo, RuleSource};
pub use names::MAX_SCOPES;
pub use rule::{AddressRule, RuleId};
pub use set::MAX_RULES;
pub use terms::{RuleLimits, RuleTerms};

pub(crate) use info::{MAX_SOURCES, Place as RulePlace};
pub(crate) use names::{Allow, NameVerdict};
pub(crate) use nets::NetVerdict;
pub(crate) use rows::Kind;
pub(crate) use rule::{Ports, Said, Terms};
pub(crate) use set::{RuleSet, RuleSetBuilder};
pub(crate) use terms::{Says, together};
