//! How an inspected connection comes to its end.

use portcullis_record::CloseReason;

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
