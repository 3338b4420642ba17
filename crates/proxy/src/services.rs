//! What a connection is served with.

use crate::connector::Connector;
use crate::decider::Decider;
#[cfg(feature = "inspect")]
use crate::inspect::Inspector;
use crate::records::Records;
#[cfg(not(feature = "inspect"))]
use crate::uninspected::Inspector;

/// The parts of the sandbox's proxy that its connections are served with.
#[derive(Clone, Copy)]
pub(crate) struct Services<'a> {
    pub(crate) decider: &'a Decider,
    pub(crate) connector: &'a Connector,
    pub(crate) records: &'a Records,
    /// The certificates of inspected names, where there are any.
    pub(crate) inspector: Option<&'a Inspector>,
}
