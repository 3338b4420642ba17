//! Rules that let nothing but HTTP through: what becomes of everything else on their connections.
//!
//! Methods and paths of a rule hold only if there is no way around the requests that they are about.
//! So where a rule has them, or the mode is `limited`, a connection carries requests that are decided
//! on one by one, TLS that is opened for that, or nothing: no TLS that passes unseen, no other
//! protocol, no change to one. Answers *second request on a kept-alive connection* and *Upgrade*
//! (docs/threats.md).
//!
//! Where the policy only watches, what would be refused is recorded as that, and passes.

use std::borrow::Cow;

use portcullis_policy::{Asked, ConnectPermit, PathError, Reason, RuleTerms, canonical_path};

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
    target.port == HTTPS_PORT && narrow(ruling) && !terms(ruling).is_some_and(|t| t.inspect)
}

/// What has to be told apart among the first bytes of a connection.
pub(crate) fn look(target: &Target, ruling: &Ruling) -> Look {
    match target.asked {
        _ if only_http(ruling) => Look::OnlyHttp,
        Asked::Name(_) if !narrow(ruling) => Look::Tls,
        Asked::Name(_) | Asked::Address { .. } | Asked::Synthetic { .. } => Look::TlsAndHttp,
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

/// Whether what a request has turned into may pass by this permit.
pub(crate) fn may_switch(permit: &ConnectPermit) -> bool {
    !is_only_http(permit) || permit.terms().is_none_or(|terms| terms.allows_upgrade())
}

/// The same, also where the policy only watches.
pub(crate) fn narrow(ruling: &Ruling) -> bool {
    terms(ruling).is_some_and(|terms| terms.only_http() || terms.inspect)
}

fn terms(ruling: &Ruling) -> Option<&RuleTerms> {
    let terms = ruling.permit.as_ref()?.terms()?;
    Some(terms)
}

/// Whether a request under this ruling may change to another protocol.
pub(crate) fn allows_upgrade(ruling: &Ruling) -> bool {
    ruling.permit.as_ref().is_none_or(may_switch)
}

/// Fields by which frameworks take another method than the request's.
const OTHER_METHOD: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];
/// Fields by which frameworks take another path than the request's.
const OTHER_PATH: [&str; 3] = ["x-original-url", "x-rewrite-url", "x-original-uri"];

/// Why a request is refused by its fields: one of them would have a server read another method or
/// path than the rule allowed.
pub(crate) fn steered<'f>(
    ruling: &Ruling,
    fields: impl Iterator<Item = (&'f str, &'f [u8])>,
) -> Option<(Reason, &'static str)> {
    let permit = ruling.permit.as_ref().filter(|permit| permit.only_http())?;
    let terms = permit.terms()?;
    for (name, value) in fields {
        let allowed = |value: &[u8]| {
            let method = std::str::from_utf8(value.trim_ascii()).ok();
            terms
                .methods
                .as_ref()
                .is_none_or(|own| method.is_some_and(|m| own.allows(m)))
        };
        if is(name, &OTHER_METHOD) && !allowed(value) {
            let why = "a field by which servers take another method, which the rule does not allow";
            return Some((Reason::MethodNotAllowed, why));
        }
        if terms.paths.is_some() && is(name, &OTHER_PATH) {
            let why = "a field by which servers take another path, where the rule has paths";
            return Some((Reason::PathNotAllowed, why));
        }
    }
    None
}

/// Whether some server takes another method or path than the request's by this field.
pub(crate) fn is_steering(name: &str) -> bool {
    is(name, &OTHER_METHOD) || is(name, &OTHER_PATH)
}

/// Servers that hand fields on as variables (CGI, WSGI) take `-` and `_` for one.
fn is(name: &str, known: &[&str]) -> bool {
    let plain = |b: u8| match b {
        b'_' => b'-',
        b => b.to_ascii_lowercase(),
    };
    let mut known = known.iter();
    known.any(|known| name.bytes().map(plain).eq(known.bytes()))
}

/// A path and its query as they are sent on: where paths were decided on, in the very form that the
/// rule matched, so that no server reads another one. Elsewhere as they came.
pub(crate) fn sent_path<'p>(ruling: &Ruling, path: &'p str) -> Cow<'p, str> {
    if terms(ruling).is_none_or(|terms| terms.paths.is_none()) {
        return Cow::Borrowed(path);
    }
    let (plain, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    match canonical_path(plain) {
        Ok(Cow::Owned(form)) => Cow::Owned(form + query),
        // as it came: in its form, or passed by a policy that only watches
        Ok(Cow::Borrowed(_)) | Err(_) => Cow::Borrowed(path),
    }
}

/// Why no rule for paths could match this one, in words.
pub(crate) fn why_no_path(ruling: &Ruling, path: Option<&str>) -> Option<&'static str> {
    let path = path.filter(|_| ruling.reason == Reason::PathNotAllowed)?;
    canonical_path(path).err().map(PathError::describe)
}
