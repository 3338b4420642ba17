//! Heads that are no request one could serve, refused before there is anything to decide on.

use portcullis_record::Layer;

use super::decide::{Core, Place, Refused, malformed};
use crate::records::At;

/// The status of a request whose head did not come to its end in time (RFC 9110 section 15.5.9).
const REQUEST_TIMEOUT: u16 = 408;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadFault {
    /// A few words for the record and for the client.
    pub(crate) why: &'static str,
    /// It did not come to its end in time.
    too_slow: bool,
}

impl HeadFault {
    /// It does not come to its end.
    pub(crate) const TOO_SLOW: HeadFault = HeadFault {
        why: "the request head took too long",
        too_slow: true,
    };

    pub(crate) const fn malformed(why: &'static str) -> HeadFault {
        HeadFault {
            why,
            too_slow: false,
        }
    }

    /// Records and refuses it.
    pub(crate) fn refuse(self, core: Core<'_>, place: Place<'_>) -> Refused {
        let at = At::new(Layer::Http, core.inbound).detail(Some(self.why));
        let mut refused = malformed(core.records, at, place, Some(self.why));
        if self.too_slow {
            refused.refusal.status = REQUEST_TIMEOUT;
        }
        refused
    }
}
