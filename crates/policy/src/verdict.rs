//! What happens to a request, in one word; and whether refusals are enforced.

use serde::Serialize;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It may pass.
    Allow,
    /// It is refused.
    Deny,
    /// It may pass, but failed.
    Error,
    /// It would be refused, and passes because the policy only watches.
    Audit,
}

/// Whether refusals are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Refuse what is not allowed.
    #[default]
    Enforce,
    /// Decide as ever, but let everything pass that the address guard does not keep.
    Audit,
}
