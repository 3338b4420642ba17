//! placeholder
use crate::{Policy, Request};
impl Policy {
    /// x
    pub fn suggestion(&self, _request: &Request<'_>) -> Option<String> {
        None
    }
}
