//! Requests inside an inspected connection: decided one by one, sent on in our own words.
//!
//! Answers "Host unlike the request target" and "second request on a kept-alive connection" for
//! HTTPS: each request must be for the name that the connection was decided on, and its method and
//! path are decided on by themselves. The answer comes from a connection that was dialled by a
//! permit for that name, and whose certificate proved it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use portcullis_names::{Host, Name};
use portcullis_policy::{Reason, RuleTerms, Shown};
use portcullis_record::{CloseReason, Layer};

use super::alpn::Alpn;
use super::body::{Busy, Down, Open, Up};
use super::io::Activity;
use super::sender::{Sender, Sent};
use super::services::Services;
use super::tasks::Spawner;
use super::upstream::Secured;
use super::{Inspector, fields, words};
use crate::connector::Peer;
use crate::flows::{Carries, Standing};
use crate::http_only;
use crate::inbound::Inbound;
use crate::open_error::OpenError;
use crate::records::At;
use crate::refuse::Refusal;
use crate::target::{Asks, Ruling, Target};

/// The port that a Host without one means.
const HTTPS_PORT: u16 = 443;

/// One inspected connection: what its requests share.
pub(super) struct Session<'a> {
    pub(super) services: &'a Services<'a>,
    pub(super) inspector: &'a Inspector,
    pub(super) target: &'a Target,
    /// The name that the connection was decided on.
    pub(super) name: &'a Name,
    pub(super) inbound: Inbound,
    pub(super) alpn: Alpn,
    /// The connection among the flows that stand; it ends with each of its requests that the policy
    /// no longer allows.
    pub(super) standing: &'a Arc<Standing>,
    pub(super) activity: Arc<Activity>,
    pub(super) spawner: Spawner<'static>,
    pub(super) upstream: Mutex<Upstream>,
    /// Both sides of a connection that speaks WebSocket from now on.
    pub(super) switched: Mutex<Option<Switched>>,
}

/// The connection that requests are sent on, and where it ends.
pub(super) struct Upstream {
    pub(super) sender: Option<Sender>,
    pub(super) peer: Peer,
}

/// Two connections that are about to be let go by their protocol.
pub(super) struct Switched {
    pub(super) program: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) open: Arc<Open>,
}

/// A request that is not one for this connection.
struct Odd {
    reason: Reason,
    why: &'static str,
}

impl Odd {
    const fn malformed(why: &'static str) -> Odd {
        Odd {
            reason: Reason::Malformed,
            why,
        }
    }
}

/// Brings the path into the form that was decided on.
fn as_decided(ruling: &Ruling, parts: &mut Parts) {
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let Cow::Owned(form) = http_only::sent_path(ruling, path) else {
        return;
    };
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = PathAndQuery::try_from(form).ok();
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
}

impl Session<'_> {
    /// Serves one request.
    pub(super) async fn serve(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Down>, Infallible> {
        let busy = Busy::new(&self.activity);
        let program = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let method = parts.method.clone();
        let at = At::new(Layer::Http, self.inbound).http(method.as_str(), Some(&path));
        if let Err(odd) = self.is_for_here(&parts) {
            return Ok(self.odd(at, &odd, &parts));
        }
        let at = at.shown(Some(self.name.as_str()));
        let shown = Shown::host(self.name.as_ref());
        let asks = Asks {
            method: method.as_str(),
            path: &path,
        };
        let mut ruling = (self.services.decider).decide_request(self.target, shown, asks);
        let mut at = at.detail(http_only::why_no_path(&ruling, Some(&path)));
        let fields = parts.headers.iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
        if let Some((reason, why)) = http_only::steered(&ruling, fields) {
            ruling.refuse(reason);
            at = at.detail(Some(why));
        }
        if ruling.permit.is_none() {
            return Ok(self.denied(at, &ruling, &parts));
        }
        as_decided(&ruling, &mut parts);
        let (mut sender, peer) = match self.ready(&ruling).await {
            Ok(ready) => ready,
            Err(error) => return Ok(self.failed(at, &ruling, &error, &parts)),
        };
        let flow = self.services.records.open(at, self.target, &ruling, &peer);
        let id = flow.id;
        flow.standing.is_part_of(self.standing);
        let standing = flow.standing.clone();
        let open = Open::new(flow, busy);
        // Behind it there are no methods any more; a rule that limits them lets none through.
        let websocket = ruling.terms().is_none_or(RuleTerms::allows_upgrade)
            && fields::wants_websocket(&parts.method, parts.version, &parts.headers);
        let mut for_upstream = self.rewrite(&mut parts, websocket, body, open.clone());
        // A connection that was closed meanwhile has taken nothing: once more, on a new one.
        let mut tries = 2;
        let sent = loop {
            tries -= 1;
            match sender.send(for_upstream).await {
                Sent::Answered(answer) => break Ok(answer),
                Sent::Untaken(request) if tries > 0 => {
                    for_upstream = request;
                    sender = match self.dial(&ruling).await {
                        Ok((sender, _)) => sender,
                        Err(error) => {
                            open.close(CloseReason::UpstreamClosed, None);
                            return Ok(self.failed(at, &ruling, &error, &parts));
                        }
                    };
                }
                Sent::Untaken(_) => break Err(CloseReason::UpstreamClosed),
                Sent::Broken(end) => break Err(end),
            }
        };
        self.keep(sender);
        match sent {
            Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                if !websocket {
                    let why = "a change of protocol that was not asked for";
                    return Ok(self.broken(CloseReason::UpstreamProtocol, why, id, &open, &parts));
                }
                self.services
                    .records
                    .carries(&standing, Carries::Switched, &ruling);
                Ok(self.switch(program, answer, open))
            }
            Ok(answer) => {
                let (mut head, body) = answer.into_parts();
                fields::for_program(&mut head.headers);
                head.version = Version::HTTP_11;
                head.extensions.clear();
                Ok(Response::from_parts(head, Down::passed(body, open)))
            }
            Err(_) if open.program_failed() => {
                let why = "the program's body broke off";
                Ok(self.broken(CloseReason::ClientReset, why, id, &open, &parts))
            }
            Err(end) => {
                let why = "upstream broke off before it answered";
                Ok(self.broken(end, why, id, &open, &parts))
            }
        }
    }

    /// Whether the request names the host and port of the connection, and nothing else.
    fn is_for_here(&self, parts: &Parts) -> Result<(), Odd> {
        if parts.method == Method::CONNECT {
            return Err(Odd {
                reason: Reason::ProtocolNotAllowed,
                why: "CONNECT inside an inspected connection: its target cannot be decided on",
            });
        }
        if parts
            .uri
            .scheme()
            .is_some_and(|scheme| *scheme != Scheme::HTTPS)
        {
            return Err(Odd::malformed("a target of another scheme than https"));
        }
        let mut hosts = parts
            .headers
            .get_all(HOST)
            .iter()
            .map(HeaderValue::as_bytes);
        let (host, another) = (hosts.next(), hosts.next());
        if another.is_some() {
            return Err(Odd::malformed("more than one Host"));
        }
        let target = parts
            .uri
            .authority()
            .map(|target| target.as_str().as_bytes());
        if target.or(host).is_none() {
            return Err(Odd::malformed("a request without a Host"));
        }
        // A target in absolute form, or of HTTP/2, and a Host beside it: both must mean this place.
        target
            .into_iter()
            .chain(host)
            .try_for_each(|text| self.is_here(text))
    }

    fn is_here(&self, text: &[u8]) -> Result<(), Odd> {
        let (host, port) =
            Host::with_port(text).map_err(|_| Odd::malformed("a Host that is none"))?;
        let same_name = host
            .name()
            .is_some_and(|name| name.as_str() == self.name.as_str());
        let same_port = port.is_none_or(|port| port == self.target.port);
        if same_name && same_port {
            return Ok(());
        }
        Err(Odd {
            reason: Reason::HostMismatch,
            why: "a Host other than the name that the connection was decided on",
        })
    }

    /// The request as upstream gets it.
    fn rewrite(
        &self,
        parts: &mut Parts,
        websocket: bool,
        body: Incoming,
        open: Arc<Open>,
    ) -> Request<Up> {
        let mut request = Request::new(Up::new(body, open));
        *request.method_mut() = parts.method.clone();
        let mut sent = parts.headers.clone();
        fields::for_upstream(&mut sent, parts.version);
        let path =
            (parts.uri.path_and_query().cloned()).unwrap_or_else(|| PathAndQuery::from_static("/"));
        let host = match self.target.port {
            HTTPS_PORT => self.name.to_string(),
            port => format!("{}:{port}", self.name),
        };
        if self.alpn == Alpn::Http2 {
            *request.version_mut() = Version::HTTP_2;
            if let Ok(authority) = Authority::try_from(host) {
                let uri = Uri::builder().scheme(Scheme::HTTPS).authority(authority);
                *request.uri_mut() = uri.path_and_query(path).build().unwrap_or_default();
            }
        } else {
            *request.uri_mut() = Uri::from(path);
            if let Ok(host) = HeaderValue::try_from(host) {
                sent.insert(HOST, host);
            }
            if parts.headers.contains_key(TRANSFER_ENCODING) {
                // Said, since a GET is taken for one without a body otherwise.
                sent.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            if websocket {
                fields::to_websocket(&mut sent);
            }
        }
        *request.headers_mut() = sent;
        request
    }

    /// The connection that stands, or another one to the same place.
    async fn ready(&self, ruling: &Ruling) -> Result<(Sender, Peer), OpenError> {
        let (sender, peer) = {
            let mut upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
            let sender = upstream.sender.as_mut().and_then(Sender::take);
            let peer = upstream.peer.clone();
            upstream.peer.forget_timings();
            (sender, peer)
        };
        if let Some(mut sender) = sender
            && sender.is_ready().await
        {
            return Ok((sender, peer));
        }
        self.dial(ruling).await
    }

    /// Dials and proves again, by the permit of the very request.
    async fn dial(&self, ruling: &Ruling) -> Result<(Sender, Peer), OpenError> {
        let already = {
            let upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
            upstream.peer.admitted.clone()
        };
        let connected = (self.services.connector)
            .connect(ruling, already.as_ref())
            .await?;
        let (stream, peer) = (connected.stream, connected.peer);
        crate::socket::prepare(stream.tcp());
        let (secured, alpn) = self
            .inspector
            .secure(stream, self.name.as_ref(), ruling, self.alpn.protocols())
            .await?;
        if alpn != self.alpn {
            let detail = "upstream speaks another protocol than before";
            return Err(OpenError::Upstream {
                reason: Reason::UpstreamProtocol,
                detail: detail.to_owned(),
            });
        }
        let sender = self.speak((secured, alpn)).await?;
        let mut upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        upstream.peer = peer.clone();
        upstream.peer.forget_timings();
        Ok((sender, peer))
    }

    /// Begins HTTP on a connection.
    pub(super) async fn speak(&self, secured: Secured) -> Result<Sender, OpenError> {
        Sender::begin(secured, &self.spawner).await
    }

    pub(super) fn keep(&self, sender: Sender) {
        let mut upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        upstream.sender = Some(sender);
    }

    fn switch(
        &self,
        program: OnUpgrade,
        mut answer: Response<Incoming>,
        open: Arc<Open>,
    ) -> Response<Down> {
        let upstream = hyper::upgrade::on(&mut answer);
        let mut head = answer.into_parts().0;
        fields::for_program(&mut head.headers);
        fields::to_websocket(&mut head.headers);
        head.extensions.clear();
        let switched = Switched {
            program,
            upstream,
            open,
        };
        *self.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(switched);
        Response::from_parts(head, Down::Words(None))
    }

    fn odd(&self, at: At<'_>, odd: &Odd, parts: &Parts) -> Response<Down> {
        let at = at.detail(Some(odd.why));
        if odd.reason == Reason::Malformed {
            let id = self.services.records.malformed(at, Some(self.target));
            let mut refusal = Refusal::new(odd.reason, id);
            refusal.help = Some(odd.why);
            return self.say(refusal, parts);
        }
        let ruling = self.services.decider.refuse(odd.reason);
        let id = self.services.records.decision(at, self.target, &ruling);
        self.say(Refusal::new(odd.reason, id), parts)
    }

    fn denied(&self, at: At<'_>, ruling: &Ruling, parts: &Parts) -> Response<Down> {
        let id = self.services.records.decision(at, self.target, ruling);
        let mut refusal = Refusal::new(ruling.reason, id);
        refusal.suggestion = ruling.suggestion.as_deref();
        self.say(refusal, parts)
    }

    fn failed(
        &self,
        at: At<'_>,
        ruling: &Ruling,
        error: &OpenError,
        parts: &Parts,
    ) -> Response<Down> {
        let id = self.services.records.failed(at, self.target, ruling, error);
        self.say(Refusal::failed(error, id), parts)
    }

    /// The answer to a request whose record is open, and the record's end.
    fn broken(
        &self,
        end: CloseReason,
        why: &'static str,
        id: portcullis_record::DecisionId,
        open: &Open,
        parts: &Parts,
    ) -> Response<Down> {
        open.close(end, Some(why));
        let reason = match end {
            CloseReason::ClientReset => Reason::Malformed,
            CloseReason::UpstreamProtocol => Reason::UpstreamProtocol,
            _ => Reason::ConnectionReset,
        };
        self.say(Refusal::new(reason, id), parts)
    }

    fn say(&self, refusal: Refusal<'_>, parts: &Parts) -> Response<Down> {
        let here = format!("{}:{}", self.name, self.target.port);
        let refusal = Refusal {
            target: Some(&here),
            ..refusal
        };
        words::answer(&refusal, &parts.method, parts.version, &parts.headers)
    }
}

/// Serves nothing but one refusal: upstream could not be reached, or did not prove itself.
pub(super) async fn only_refuse(
    refusal: &Refusal<'_>,
    activity: &Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response<Down>, Infallible> {
    let _busy = Busy::new(activity);
    let (parts, _) = request.into_parts();
    Ok(words::answer(
        refusal,
        &parts.method,
        parts.version,
        &parts.headers,
    ))
}
