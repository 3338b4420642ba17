//! Heads that are no request one could serve, refused before there is anything to decide on.

use portcullis_record::Layer;

use super::asked::asked;
use super::decide::{Core, Place, Refused, malformed};
use crate::records::At;

/// The status of a request whose head did not come to its end in time (RFC 9110 section 15.5.9).
const REQUEST_TIMEOUT: u16 = 408;

/// What is wrong with a head.
#[derive(Clone, Debug)]
pub(crate) struct HeadError {
    /// A few words for the record and for the client.
    pub(crate) why: &'static str,
    /// It did not come to its end in time.
    too_slow: bool,
    /// What it asked for, as far as it can be read.
    asked: Option<Box<[u8]>>,
}

impl HeadError {
    /// It does not come to its end.
    pub(crate) fn too_slow(head: &[u8]) -> HeadError {
        HeadError {
            why: "the request head took too long",
            too_slow: true,
            asked: asked(head),
        }
    }

    /// The same for one of which this was read when it stopped.
    pub(crate) fn too_slow_asking(asked: Option<Box<[u8]>>) -> HeadError {
        HeadError {
            asked,
            ..HeadError::too_slow(&[])
        }
    }

    /// It is none; `head` is what came of it.
    pub(crate) fn malformed(why: &'static str, head: &[u8]) -> HeadError {
        HeadError {
            why,
            too_slow: false,
            asked: asked(head),
        }
    }

    /// Records and refuses it.
    pub(crate) fn refuse(self, core: Core<'_>, place: Place<'_>) -> Refused {
        let at = At::new(Layer::Http, core.inbound).detail(Some(self.why));
        let at = at.asked(self.asked.as_deref());
        let mut refused = malformed(core.records, at, place, Some(self.why));
        if self.too_slow {
            refused.refusal.status = REQUEST_TIMEOUT;
        }
        refused
    }
}
