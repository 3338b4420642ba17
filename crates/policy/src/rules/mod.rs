//! The compiled rules of a policy.

mod info;
mod names;
mod names_builder;
mod nets;
mod ports;
mod rows;
mod rule;
mod set;
mod terms;

pub use info::{RuleInfo, RuleSource};
pub use names_builder::MAX_SCOPES;
pub use rule::{AddressRule, RuleId};
pub use set::MAX_RULES;
pub use terms::RuleTerms;

pub(crate) use info::{MAX_SOURCES, Place as RulePlace};
pub(crate) use names::{Allow, LookupVerdict, NameMatch, NameVerdict};
pub(crate) use nets::{NetMatch, NetVerdict};
pub(crate) use ports::Ports;
pub(crate) use rows::Kind;
pub(crate) use rule::{GroupedRule, Terms};
pub(crate) use set::{RuleSet, RuleSetBuilder};
pub(crate) use terms::Says;
