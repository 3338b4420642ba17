//! The decision on one request: whether it is for this connection, what the policy says to it, and
//! how it is sent on.
//!
//! Answers *decision and destination differ* and *HTTP framing*
//! (docs/threats.md): whatever a connection did before, each of its
//! requests gets here, and nowhere else is anything of a request decided.

use std::borrow::Cow;

use portcullis_names::{Host, Name, NameBuf};
use portcullis_policy::{Asked, LIMITED_METHODS, PathError, Reason, Shown, canonical_path};
use portcullis_record::{CloseReason, DecisionId, Layer};
use portcullis_wire::http1::Scheme;

use super::change::Change;
use super::fields::{Override, overrides};
use super::refusal::{Refusal, authority};
use crate::decider::Decider;
use crate::hint;
use crate::http_only;
use crate::inbound::Inbound;
use crate::open_error::OpenError;
use crate::records::{At, Records};
use crate::services::Services;
use crate::target::{Asks, Ruling, Target};

/// What a client that takes the proxy for a web server is told.
const NOT_A_SERVER: &str = "This is the sandbox's HTTP proxy, not a web server. Set http_proxy and \
                            https_proxy to it, or connect directly without it.";
/// What a client is told that wants the proxy to speak TLS for it.
const USE_CONNECT: &str = "The gateway does not speak TLS for programs: use CONNECT for https.";

/// What the requests of one connection are decided and recorded with.
#[derive(Clone, Copy)]
pub(crate) struct Core<'a> {
    pub(crate) decider: &'a Decider,
    pub(crate) records: &'a Records,
    pub(crate) inbound: Inbound,
}

impl<'a> Core<'a> {
    pub(crate) fn new(services: Services<'a>, inbound: Inbound) -> Core<'a> {
        let Services {
            decider, records, ..
        } = services;
        Core {
            decider,
            records,
            inbound,
        }
    }
}

/// Where a request came in, and so what it may be for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'p> {
    /// The proxy port: any destination, in absolute form.
    Anywhere,
    /// A connection to one destination; a name that a request shows is decided on together with it.
    Destination(&'p Target),
    /// An inspected connection to this destination: requests for the name that it was opened for.
    Name(&'p Target, &'p Name),
}

/// One request, as its codec has read it.
#[derive(Debug)]
pub(crate) struct Request<'r> {
    pub(crate) method: &'r str,
    pub(crate) form: Form<'r>,
    /// With the query; `*` for a request about the server.
    pub(crate) path: &'r str,
    /// The `Host` field.
    pub(crate) host: Option<(&'r Host, Option<u16>)>,
    /// What it wants to change to.
    pub(crate) change: Change,
    /// At the proxy port: the destination that it names, in full.
    pub(crate) own: Option<&'r Target>,
}

/// How a request names what it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form<'r> {
    /// CONNECT.
    Connect,
    /// By an authority: absolute form in HTTP/1.1, `:authority` in HTTP/2.
    Absolute {
        scheme: Scheme,
        host: &'r Host,
        port: Option<u16>,
    },
    /// By the `Host` field, if at all.
    Origin,
}

/// A request that may be sent.
pub(crate) struct Permitted<'a> {
    pub(crate) target: &'a Target,
    pub(crate) ruling: Ruling,
    /// For its record.
    pub(crate) at: At<'a>,
    /// `Host` for upstream: what was decided on, in one spelling.
    pub(crate) authority: String,
    /// The path with its query, in the form that was decided on.
    pub(crate) path: Cow<'a, str>,
    /// `host:port` for a refusal.
    asked: String,
}

/// A request that is not sent: what the client is told, and how the connection around it ends.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Box<Refusal>,
    pub(crate) end: CloseReason,
}

/// Why a request is not one for its connection.
struct Misdirected {
    reason: Reason,
    why: &'static str,
    /// What the client is told in place of `why`.
    help: Option<&'static str>,
}

impl Misdirected {
    const fn malformed(why: &'static str) -> Misdirected {
        Misdirected {
            reason: Reason::Malformed,
            why,
            help: None,
        }
    }

    const fn because(reason: Reason, why: &'static str) -> Misdirected {
        Misdirected {
            reason,
            why,
            help: None,
        }
    }
}

impl<'a> Place<'a> {
    /// The destination of the connection, where it has one.
    pub(crate) fn target(self) -> Option<&'a Target> {
        match self {
            Place::Anywhere => None,
            Place::Destination(target) | Place::Name(target, _) => Some(target),
        }
    }

    /// `host:port` for a refusal.
    fn asked(self, target: &Target) -> String {
        match self {
            Place::Name(_, name) => format!("{name}:{}", target.port),
            Place::Anywhere | Place::Destination(_) => authority(target),
        }
    }

    /// The scheme of requests here, and the port that one without a port means.
    const fn scheme(self) -> Scheme {
        match self {
            Place::Anywhere | Place::Destination(_) => Scheme::Http,
            Place::Name(..) => Scheme::Https,
        }
    }
}

impl<'a> Request<'a> {
    /// Decides on the request. `fields` are those of its head.
    ///
    /// # Errors
    /// The refusal, which is recorded.
    pub(crate) fn decide<'f>(
        &self,
        core: Core<'_>,
        place: Place<'a>,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> Result<Permitted<'a>, Refused> {
        let at = At::new(Layer::Http, core.inbound).http(self.method, self.recorded_path());
        let target = match self.is_for(core.decider, place) {
            Ok(()) => self.target(core.decider, place),
            Err(misdirected) => Err(misdirected),
        };
        let target = target.map_err(|misdirected| {
            let asked = self.asked();
            misdirected.refuse(core, at.asked(Some(asked.as_bytes())), place)
        })?;
        let (ruling, shown) = self.ask(core.decider, place, target);
        let at = at.shown(shown);
        let (ruling, why) = self.narrowed(ruling, fields);
        let at = at.detail(why);
        if ruling.permit.is_none() {
            let mut refused = Refused::denied(core.records, at, target, ruling);
            refused.refusal.target = Some(place.asked(target));
            refused.refusal.help = why;
            return Err(refused);
        }
        Ok(Permitted {
            authority: self.authority(place, target),
            path: sent_path(&ruling, self.path),
            asked: place.asked(target),
            target,
            ruling,
            at,
        })
    }

    /// The path for records, without query; CONNECT has none.
    fn recorded_path(&self) -> Option<&'a str> {
        let path = self.path.split('?').next();
        path.filter(|_| !matches!(self.form, Form::Connect))
    }

    /// What it asks for, for the record of one that is refused.
    fn asked(&self) -> String {
        let path = self.recorded_path().unwrap_or_default();
        match self.named() {
            Some((host, _)) => format!("{host}{path}"),
            None => path.to_owned(),
        }
    }

    /// Whether a request like this is for the connection at all.
    fn is_for(&self, decider: &Decider, place: Place<'_>) -> Result<(), Misdirected> {
        match (self.form, place) {
            (Form::Connect, _) => Err(Misdirected::because(
                Reason::ProtocolNotAllowed,
                "CONNECT inside a connection to one destination: its target cannot be decided on",
            )),
            (Form::Origin, Place::Anywhere) => Err(Misdirected {
                help: Some(NOT_A_SERVER),
                ..Misdirected::malformed("a request to the proxy as if it were a server")
            }),
            (Form::Absolute { scheme, .. }, Place::Anywhere) if scheme != place.scheme() => {
                Err(Misdirected {
                    help: Some(USE_CONNECT),
                    ..Misdirected::malformed("https in absolute form")
                })
            }
            (Form::Absolute { scheme, .. }, _) if scheme != place.scheme() => Err(
                Misdirected::malformed("a target of another scheme than the connection's"),
            ),
            (Form::Absolute { host, port, scheme }, _)
                if !self.host_agrees(decider, host, port.or(Some(scheme.default_port())))
                    && !self.may_ignore_host(decider, place) =>
            {
                Err(Misdirected::malformed("Host differs from the target"))
            }
            (Form::Absolute { .. } | Form::Origin, _) => Ok(()),
        }
    }

    /// Whether the `Host` field, if there is one, names the target.
    fn host_agrees(&self, decider: &Decider, host: &Host, port: Option<u16>) -> bool {
        self.host.is_none_or(|(field, field_port)| {
            // Some leave out the port there, whatever it is.
            decider.is_same(field, host)
                && field_port.is_none_or(|field_port| Some(field_port) == port)
        })
    }

    /// Whether the target may win over a `Host` field that names another one (RFC 9112 section 3.2.2):
    /// at the proxy port, where upstream gets what the target says, and where `Host` names the gateway or
    /// what the policy allows too. A name that is not allowed there is an attack or a mistake.
    fn may_ignore_host(&self, decider: &Decider, place: Place<'_>) -> bool {
        let Some((host, port)) = self.host.filter(|_| matches!(place, Place::Anywhere)) else {
            return false;
        };
        if decider.is_gateway(host, port) {
            return true;
        }
        let port = port.unwrap_or(place.scheme().default_port());
        let ruling = decider.decide(&decider.target(host.clone(), port));
        ruling.permit.is_some_and(|permit| !permit.audit())
    }

    /// The host and port that the request names.
    pub(crate) fn named(&self) -> Option<(&'a Host, Option<u16>)> {
        match self.form {
            Form::Absolute { host, port, .. } => Some((host, port)),
            Form::Connect | Form::Origin => self.host,
        }
    }

    fn target(&self, decider: &Decider, place: Place<'a>) -> Result<&'a Target, Misdirected> {
        match (place, self.named()) {
            (Place::Anywhere, _) => {
                let none = || Misdirected::malformed("a request without a target");
                self.own.ok_or_else(none)
            }
            (Place::Destination(target), _) => Ok(target),
            (Place::Name(..), None) => Err(Misdirected::malformed("a request without a Host")),
            (Place::Name(target, name), Some((host, port))) => {
                let own = host.name().map(NameBuf::as_ref);
                let same_name = own.is_some_and(|own| decider.is_same_name(own, name.as_ref()));
                // A Host without a port may leave out any port: TLS has proved the name.
                if same_name && port.is_none_or(|port| port == target.port) {
                    return Ok(target);
                }
                let why = "a Host other than the name that the connection was decided on";
                Err(Misdirected::because(Reason::HostMismatch, why))
            }
        }
    }

    /// Asks the policy; also the name that the request shows, for its record.
    fn ask(
        &self,
        decider: &Decider,
        place: Place<'a>,
        target: &Target,
    ) -> (Ruling, Option<&'a str>) {
        let asks = Asks {
            method: self.method,
            path: self.recorded_path().unwrap_or("*"),
        };
        match place {
            // An address in absolute form is its own Host.
            Place::Anywhere => (decider.decide_request(target, Shown::Bare, asks), None),
            Place::Name(_, name) => {
                let shown = Shown::host(name.as_ref());
                (
                    decider.decide_request(target, shown, asks),
                    Some(name.as_str()),
                )
            }
            Place::Destination(_) => {
                let named = self.named();
                let shown = named.and_then(|(host, _)| host.name()).map(NameBuf::as_str);
                let ruling = match named {
                    // HTTP/1.0 without Host: what is behind the address is all there is to go by.
                    None => decider.decide_request(target, Shown::Nothing, asks),
                    Some((_, Some(port))) if port != target.port => {
                        decider.refuse(Reason::HostMismatch)
                    }
                    Some((Host::Name(name), _)) => {
                        decider.decide_request(target, Shown::host(name.as_ref()), asks)
                    }
                    Some((host, _)) if target.is(host) => {
                        decider.decide_request(target, Shown::Bare, asks)
                    }
                    Some(_) => decider.refuse(Reason::HostMismatch),
                };
                (ruling, shown)
            }
        }
    }

    /// Refuses what the rule has no room for beside method and path, and says why no path matched.
    fn narrowed<'f>(
        &self,
        mut ruling: Ruling,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> (Ruling, Option<&'static str>) {
        let mut why = why_no_path(&ruling, self.recorded_path());
        if !http_only::allows_change(&ruling, self.change) {
            ruling.refuse(Reason::MethodNotAllowed);
            why = Some(match self.change {
                Change::WebSocket => "a change to WebSocket, where the rule has methods",
                _ => "a change to another protocol, where the rule has methods or paths",
            });
        }
        if let Some((reason, field)) = overridden(&ruling, fields) {
            ruling.refuse(reason);
            why = Some(field);
        }
        (ruling, why)
    }

    fn authority(&self, place: Place<'_>, target: &Target) -> String {
        let host = match place {
            Place::Name(_, name) => name.to_string(),
            Place::Anywhere => host_of(target, None),
            Place::Destination(_) => host_of(target, self.named().map(|(host, _)| host)),
        };
        match target.port {
            port if port == place.scheme().default_port() => host,
            port => format!("{host}:{port}"),
        }
    }
}

impl Misdirected {
    fn refuse(self, core: Core<'_>, at: At<'_>, place: Place<'_>) -> Refused {
        let at = at.detail(Some(self.why));
        let help = self.help.or(Some(self.why));
        match place.target().filter(|_| self.reason != Reason::Malformed) {
            Some(target) => {
                let at = at.asked(None); // the request can be read, and is for another host
                let ruling = core.decider.refuse(self.reason);
                let mut refused = Refused::denied(core.records, at, target, ruling);
                refused.refusal.target = Some(place.asked(target));
                refused.refusal.help = help;
                refused
            }
            None => malformed(core.records, at, place, help),
        }
    }
}

/// Records and refuses bytes that are not a request one could serve; `at` says what is wrong.
pub(crate) fn malformed(
    records: &Records,
    at: At<'_>,
    place: Place<'_>,
    help: Option<&'static str>,
) -> Refused {
    let id = records.malformed(at, place.target());
    let refusal = Box::new(Refusal {
        help,
        ..Refusal::new(Reason::Malformed, id)
    });
    let end = CloseReason::ClientProtocol;
    Refused { refusal, end }
}

impl Refused {
    /// Records and tells what the policy refuses.
    pub(crate) fn denied(
        records: &Records,
        at: At<'_>,
        target: &Target,
        ruling: Ruling,
    ) -> Refused {
        let id = records.decision(at, target, &ruling);
        let refusal = Box::new(Refusal {
            target: Some(authority(target)),
            suggestion: ruling.suggestion.map(String::into_boxed_str),
            ..Refusal::new(ruling.reason, id)
        });
        let end = CloseReason::Denied;
        Refused { refusal, end }
    }

    /// Records and tells that no connection could be opened for what the policy permits.
    pub(crate) fn undialled(
        records: &Records,
        at: At<'_>,
        target: &Target,
        ruling: &Ruling,
        error: &OpenError,
    ) -> Refused {
        let id = records.failed(at, target, ruling, error);
        let refusal = Box::new(Refusal {
            target: Some(authority(target)),
            hint: hint::unused_proxy(ruling, error),
            ..Refusal::failed(error, id)
        });
        let end = error.close_reason();
        Refused { refusal, end }
    }
}

impl Permitted<'_> {
    /// Records and tells that the request could not be sent: no connection could be opened for it.
    pub(crate) fn undialled(&self, records: &Records, error: &OpenError) -> Refused {
        let refused = Refused::undialled(records, self.at, self.target, &self.ruling, error);
        self.tells_target(refused)
    }

    /// Tells that the request failed after its flow was recorded.
    pub(crate) fn failed(&self, reason: Reason, id: DecisionId, end: CloseReason) -> Refused {
        let refusal = Box::new(Refusal::new(reason, id));
        self.tells_target(Refused { refusal, end })
    }

    fn tells_target(&self, mut refused: Refused) -> Refused {
        refused.refusal.target = Some(self.asked.clone());
        refused
    }
}

/// The host for upstream.
fn host_of(target: &Target, named: Option<&Host>) -> String {
    match (named, &target.asked) {
        // A synthetic address means nothing outside.
        (
            None | Some(Host::Address(_)),
            Asked::Synthetic {
                name: Some(name), ..
            },
        ) => name.to_string(),
        (Some(host), _) => host.to_string(),
        (None, Asked::Name(_)) => target
            .written()
            .map_or_else(String::new, |name| name.to_string()),
        (None, Asked::Address { address, .. } | Asked::Synthetic { address, .. }) => {
            Host::Address(*address).to_string()
        }
    }
}

/// Why a request is refused by its fields: one of them would have a server read another method or
/// path than the rule allowed.
fn overridden<'f>(
    ruling: &Ruling,
    fields: impl Iterator<Item = (&'f str, &'f [u8])>,
) -> Option<(Reason, &'static str)> {
    let permit = ruling.permit.as_ref().filter(|permit| permit.only_http())?;
    let terms = permit.terms();
    let limited = ruling.policy.settings().limited;
    for (name, value) in fields {
        let allowed = |value: &[u8]| {
            let method = std::str::from_utf8(value.trim_ascii()).unwrap_or_default();
            let own = terms.and_then(|terms| terms.methods.as_ref());
            own.is_none_or(|own| own.allows(method))
                && (!limited || LIMITED_METHODS.contains(&method))
        };
        match overrides(name) {
            Some(Override::Method) if !allowed(value) => {
                let why =
                    "a field by which servers take another method, which the rule does not allow";
                return Some((Reason::MethodNotAllowed, why));
            }
            Some(Override::Path) if terms.is_some_and(|terms| terms.paths.is_some()) => {
                let why = "a field by which servers take another path, where the rule has paths";
                return Some((Reason::PathNotAllowed, why));
            }
            _ => {}
        }
    }
    None
}

/// A path and its query as they are sent on: where paths were decided on, in the very form that the
/// rule matched, so that no server reads another one. Elsewhere as they came.
fn sent_path<'p>(ruling: &Ruling, path: &'p str) -> Cow<'p, str> {
    if ruling.terms().is_none_or(|terms| terms.paths.is_none()) {
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
fn why_no_path(ruling: &Ruling, path: Option<&str>) -> Option<&'static str> {
    let path = path.filter(|_| ruling.reason == Reason::PathNotAllowed)?;
    canonical_path(path).err().map(PathError::describe)
}
