//! How an inspected connection comes to its end, and what may be wrong with a head on it.

use portcullis_record::CloseReason;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadFault {
    /// A few words for the record and for the program.
    pub(super) why: &'static str,
    /// It did not come to its end in time.
    pub(super) too_slow: bool,
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) end: CloseReason,
    /// What the record of the end says.
    pub(super) detail: Option<&'static str>,
    /// The program's bytes were not HTTP: a denial of its own.
    pub(super) malformed: Option<&'static str>,
}

impl Ended {
    pub(super) const fn of(end: CloseReason) -> Ended {
        Ended {
            end,
            detail: None,
            malformed: None,
        }
    }

    pub(super) const fn because(end: CloseReason, detail: &'static str) -> Ended {
        Ended {
            detail: Some(detail),
            ..Ended::of(end)
        }
    }

    pub(super) const fn malformed(why: &'static str) -> Ended {
        Ended {
            malformed: Some(why),
            ..Ended::of(CloseReason::ClientProtocol)
        }
    }
}
