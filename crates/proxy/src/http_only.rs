//! Rules that let nothing but HTTP through: what becomes of everything else on their connections.
//!
//! Methods and paths of a rule hold only if there is no way around the requests that they are about.
//! So where a rule has them, or the mode is `limited`, a connection carries requests that are decided
//! on one by one, TLS that is opened for that, or nothing: no TLS that passes unseen, no other
//! protocol, no change to one. Answers *decision and destination differ*
//! (docs/threats.md).
//!
//! Where the policy only watches, what would be refused is recorded as that, and passes.

use portcullis_policy::{ConnectPermit, RuleTerms};

use crate::request::Change;
use crate::sniff::Look;
use crate::target::{Ruling, Target};

/// The port on which nothing but TLS is expected.
const HTTPS_PORT: u16 = 443;

/// What becomes of TLS on a connection that its rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnTls {
    /// It passes as it is.
    Relay,
    /// It is opened, and its requests are decided on one by one.
    Inspect,
    /// Nothing could be seen of its requests.
    Refuse,
}

/// What becomes of TLS under this ruling.
pub(crate) fn on_tls(ruling: &Ruling) -> OnTls {
    match terms(ruling) {
        Some(terms) if terms.inspect => OnTls::Inspect,
        _ if only_http(ruling) => OnTls::Refuse,
        _ => OnTls::Relay,
    }
}

/// Whether a tunnel to this port could carry nothing: TLS is all that is spoken there, and it would
/// be refused.
pub(crate) fn refuses_connect(target: &Target, ruling: &Ruling) -> bool {
    target.port == HTTPS_PORT
        && is_meant_for_http(ruling)
        && !terms(ruling).is_some_and(|t| t.inspect)
}

/// What has to be told apart among the first bytes of a connection.
pub(crate) fn look(ruling: &Ruling) -> Look {
    match only_http(ruling) {
        true => Look::OnlyHttp,
        false => Look::TlsAndHttp,
    }
}

/// Whether nothing but HTTP may pass.
pub(crate) fn only_http(ruling: &Ruling) -> bool {
    ruling.permit.as_ref().is_some_and(is_only_http)
}

/// The same of a permit.
pub(crate) fn is_only_http(permit: &ConnectPermit) -> bool {
    // What is opened is opened to see requests: nothing else passes there either.
    let opened = permit.terms().is_some_and(|terms| terms.inspect);
    permit.only_http() || (opened && !permit.audit())
}

/// Whether what a request has changed to may pass by this permit.
pub(crate) fn may_change(permit: &ConnectPermit, change: Change) -> bool {
    match change {
        Change::None => true,
        Change::WebSocket => {
            !is_only_http(permit) || permit.terms().is_none_or(|terms| terms.allows_upgrade())
        }
        // An inspected request is decided on like any other, and this one leads to anything.
        Change::Other => !permit.only_http(),
    }
}

/// The same, also where the policy only watches.
pub(crate) fn is_meant_for_http(ruling: &Ruling) -> bool {
    terms(ruling).is_some_and(|terms| terms.only_http() || terms.inspect)
}

fn terms(ruling: &Ruling) -> Option<&RuleTerms> {
    let terms = ruling.permit.as_ref()?.terms()?;
    Some(terms)
}

/// Whether a request under this ruling may change so.
pub(crate) fn allows_change(ruling: &Ruling, change: Change) -> bool {
    let permit = ruling.permit.as_ref();
    permit.is_none_or(|permit| may_change(permit, change))
}
