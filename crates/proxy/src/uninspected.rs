//! What stands for inspection in a build without the feature `inspect`: no policy that inspects is
//! served.
//!
//! Answers *failing open* (docs/threats.md): a rule that says `inspect = true` is refused, and its
//! connections are too; they never pass without being looked into.

use portcullis_policy::Policy;

/// Why a gateway cannot inspect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The build has no inspection.
    #[error(
        "the rule for {0} says `inspect = true`, but this build leaves out inspection of HTTPS"
    )]
    LeftOut(String),
}

/// What HTTPS would be inspected with: there is none.
#[derive(Debug)]
pub enum Inspector {}

impl Inspector {
    /// None, since nothing can be inspected.
    ///
    /// # Errors
    /// The policy inspects a name.
    pub fn new(policy: &Policy) -> Result<Option<Inspector>, InspectError> {
        covers(None, policy).map(|()| None)
    }

    /// The authority's certificate, PEM.
    pub fn ca_pem(&self) -> String {
        match *self {}
    }
}

/// Whether a gateway can serve this policy: only one that inspects nothing.
///
/// # Errors
/// The policy inspects a name.
pub fn covers(_: Option<&Inspector>, policy: &Policy) -> Result<(), InspectError> {
    match policy.inspected().next() {
        Some(pattern) => Err(InspectError::LeftOut(pattern.to_string())),
        None => Ok(()),
    }
}
