//! Decisions that are made now and recorded a little later, or not at all: their id, time and program are
//! those of the decision.

use jiff::Timestamp;

use crate::id::DecisionId;

/// What a decision's record will say of the moment of the decision ([`Event::prepared`](crate::Event::prepared)).
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(crate) id: DecisionId,
    pub(crate) time: Timestamp,
    /// The program that asked, whose socket may be gone by then.
    pub(crate) process: Option<Program>,
}

/// A program that asked.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

impl Prepared {
    /// The id that the record will have, unless an equal one is open by then.
    #[must_use]
    pub fn id(&self) -> DecisionId {
        self.id
    }
}
