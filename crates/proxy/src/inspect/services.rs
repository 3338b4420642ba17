//! What inspection needs of its sandbox.

use super::Inspector;
use crate::connector::Connector;
use crate::decider::Decider;
use crate::records::Records;

/// The parts of the sandbox's proxy that inspected connections are served with.
pub(crate) struct Services<'a> {
    pub(crate) decider: &'a Decider,
    pub(crate) connector: &'a Connector,
    pub(crate) records: &'a Records,
    /// The certificates of inspected names, where there are any.
    pub(crate) inspector: Option<&'a Inspector>,
}
