//! placeholder
use crate::{Policy, Reason, Verdict};
use portcullis_names::Target;
/// x
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Allow or deny.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule as written.
    pub rule: Option<String>,
    /// Its `file:line`.
    pub source: Option<String>,
    /// What there is to say.
    pub sentences: Vec<String>,
    /// The lines to add.
    pub suggestion: Option<String>,
}
impl Policy {
    /// x
    pub fn explain(&self, _target: &Target) -> Explanation {
        Explanation {
            verdict: Verdict::Deny,
            reason: Reason::NotListed,
            rule: None,
            source: None,
            sentences: vec![],
            suggestion: None,
        }
    }
}
