//! What the operator could do about a destination that the gateway does not reach.

use portcullis_policy::{ConnectPermit, Reason};

use crate::open_error::OpenError;
use crate::target::Ruling;

/// The caller's own upstream proxy, where it could be the way to what cannot be reached without.
pub(crate) fn unused_proxy(ruling: &Ruling, error: &OpenError) -> Option<String> {
    let variable = ruling.policy.settings().unused_proxy?;
    let permit = ruling.permit.as_ref();
    let outside = |permit: &ConnectPermit| !permit.is_inside() && permit.to().is_none();
    let unreached = matches!(error, OpenError::Dial(_))
        && matches!(
            error.reason(),
            Reason::NameNotFound
                | Reason::NoAddress
                | Reason::DnsTimeout
                | Reason::DnsUnreachable
                | Reason::DnsFailed
                | Reason::ConnectionRefused
                | Reason::ConnectionTimeout
                | Reason::ConnectionReset
                | Reason::Unreachable
        );
    (unreached && permit.is_some_and(outside)).then(|| {
        format!(
            "{variable} is set where the gateway was started, but not used; `--upstream-proxy env` takes it"
        )
    })
}
