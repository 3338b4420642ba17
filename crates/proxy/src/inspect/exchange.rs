//! The codec of HTTP/1.1 and HTTP/2 inside inspected connections, on hyper and on the request core.
//!
//! Each request must be for the name that the connection was decided on. The answer comes from a
//! connection that was dialled by a permit for that name, and whose certificate proved it. HTTP/2 without
//! TLS is served here as well: its requests are decided on as plain HTTP/1.1 is, by the host that each
//! one names.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::header::{CONNECTION, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::rt::Executor as _;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use portcullis_names::{Host, Name};
use portcullis_policy::Reason;
use portcullis_record::{CloseReason, DecisionId, Layer};
use portcullis_wire::http1 as uri;
use tokio::io::{AsyncRead, AsyncWrite};

use super::alpn::Alpn;
use super::answer::answer;
use super::body::{Busy, Down, Open, Up};
use super::io::Activity;
use super::sender::{Sender, Sent};
use super::tasks::Spawner;
use super::websocket::Switched;
use super::{Inspector, fields};
use crate::connector::Peer;
use crate::flows::{Carries, Standing};
use crate::inbound::Inbound;
use crate::meter::Admitted;
use crate::open_error::OpenError;
use crate::opened::Opened;
use crate::records::At;
use crate::request::{
    Change, Core, Form, Permitted, Place, Refusal, Refused, Request as CoreRequest, malformed,
    other_name, was_asked_for,
};
use crate::services::Services;
use crate::target::{Ruling, Target};

/// Why a request failed of which upstream took nothing, twice.
const BROKE_OFF: &str = "upstream closed the connection before it took the request";

/// One inspected connection: what its requests share.
pub(super) struct Session<'a> {
    pub(super) services: Services<'a>,
    /// What upstream connections are proved with; none without TLS.
    pub(super) security: Option<Security<'a>>,
    pub(super) target: &'a Target,
    /// The end of a tunnel, where it is known: other names may be there too.
    pub(super) address: Option<SocketAddr>,
    /// The connection's place among those of its rule.
    pub(super) admitted: Admitted,
    /// What requests here may be for.
    pub(super) place: Place<'a>,
    pub(super) inbound: Inbound,
    pub(super) alpn: Alpn,
    /// The connection among the flows that stand; it ends with each of its requests that the policy
    /// no longer allows.
    pub(super) standing: &'a Arc<Standing>,
    pub(super) activity: Arc<Activity>,
    pub(super) spawner: Spawner<'static>,
    pub(super) upstream: Mutex<Upstream>,
    /// Both sides of a connection that speaks another protocol from now on.
    pub(super) switched: Mutex<Option<Switched>>,
}

/// How an upstream connection is proved.
#[derive(Clone, Copy)]
pub(super) struct Security<'a> {
    pub(super) inspector: &'a Inspector,
    /// The name that the connection was decided on.
    pub(super) name: &'a Name,
}

/// The connection that requests are sent on, and where it ends.
pub(super) struct Upstream {
    pub(super) sender: Sender,
    pub(super) peer: Peer,
    /// The name that it was dialled by.
    pub(super) name: Option<Name>,
    /// It is the one that the program's connection was opened with.
    pub(super) original: bool,
}

impl Session<'_> {
    /// Serves one request.
    pub(super) async fn serve(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Down>, Infallible> {
        let answer = self.answer(request).await;
        if let Ok(answer) = &answer {
            let granted = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
            self.activity.upgrade_answered(granted);
        }
        answer
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Down>, Infallible> {
        let busy = Busy::new(&self.activity);
        let program = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        let hosts = match check_head(&parts).and_then(|()| Hosts::read(&parts)) {
            Ok(hosts) => hosts,
            Err(why) => return Ok(early(self.malformed(why, &parts), body)),
        };
        let change = match fields::is_extended_websocket(&parts) {
            true => Change::WebSocket,
            false => self.activity.asked_change(),
        };
        let request = CoreRequest {
            change,
            ..asked(&parts, &hosts)
        };
        let core = Core::new(self.services, self.inbound);
        let other = match self.security {
            Some(_) => None,
            None => other_name(self.services, self.target, self.address, &request).await,
        };
        let protocols = fields::upgrade(&parts.headers);
        let place = other.as_ref().map_or(self.place, Place::Destination);
        let fields = fields::pairs(&parts.headers);
        let permitted = match request.decide(core, place, fields) {
            Ok(permitted) => permitted,
            Err(refused) => return Ok(early(say(&refused, &parts), body)),
        };
        let (at, ruling) = (permitted.at, &permitted.ruling);
        let websocket = change == Change::WebSocket;
        let mut upstream = match self.ready(ruling, websocket).await {
            Ok(ready) => ready,
            Err(error) => {
                let refused = permitted.undialled(core.records, &error);
                return Ok(early(say(&refused, &parts), body));
            }
        };
        let flow = core
            .records
            .open(at, permitted.target, ruling, &upstream.peer);
        let id = flow.id;
        flow.standing.is_part_of(self.standing);
        let standing = flow.standing.clone();
        let open = Open::new(flow, busy);
        let body = Up::new(body, open.clone());
        let mut for_upstream = self.rewrite(&parts, &permitted, body);
        match (&protocols, parts.version) {
            (_, Version::HTTP_2) if websocket => {
                let protocol = Protocol::from_static("websocket");
                for_upstream.extensions_mut().insert(protocol);
            }
            (Some(protocols), _) if change != Change::None => {
                fields::change_to(for_upstream.headers_mut(), protocols.clone());
            }
            _ => {}
        }
        // A connection that was closed meanwhile has taken nothing: once more, on a new one.
        let mut tries = 2;
        let sent = loop {
            tries -= 1;
            match upstream.sender.send(for_upstream).await {
                Sent::Answered(answer) => break Ok(answer),
                Sent::Untaken(request) if tries > 0 => {
                    for_upstream = request;
                    upstream = match self.dial(ruling, websocket).await {
                        Ok(dialled) => dialled,
                        Err(error) => {
                            open.close(CloseReason::UpstreamClosed, None);
                            return Ok(say(&permitted.undialled(core.records, &error), &parts));
                        }
                    };
                }
                Sent::Untaken(_) => break Err((CloseReason::UpstreamClosed, BROKE_OFF)),
                Sent::Broken(end, why) => break Err((end, why)),
            }
        };
        self.keep(upstream);
        let switched = match websocket && parts.version == Version::HTTP_2 {
            true => StatusCode::OK,
            false => StatusCode::SWITCHING_PROTOCOLS,
        };
        match sent {
            Ok(answer) if answer.status() == switched => {
                let answered = fields::upgrade(answer.headers()).or(protocols.clone());
                if !is_answer_to(change, parts.version, answered.as_ref(), protocols.as_ref()) {
                    let why = "a change of protocol that was not asked for";
                    let end = CloseReason::UpstreamProtocol;
                    open.close(end, Some(why));
                    return Ok(say(&broken(&permitted, id, end, why), &parts));
                }
                core.records
                    .carries(&standing, Carries::Changed(change), ruling);
                Ok(self.switch(program, answer, answered, open))
            }
            Ok(answer) => {
                let (mut head, body) = answer.into_parts();
                fields::for_program(&mut head.headers);
                head.version = Version::HTTP_11;
                head.extensions.clear();
                Ok(Response::from_parts(head, Down::passed(body, open)))
            }
            Err(_) if open.program_failed() => {
                let end = CloseReason::ClientReset;
                let why = "the program's body broke off";
                open.close(end, Some(why));
                Ok(say(&broken(&permitted, id, end, why), &parts))
            }
            Err((end, why)) => {
                open.close(end, Some(why));
                Ok(say(&broken(&permitted, id, end, why), &parts))
            }
        }
    }

    /// The request as upstream gets it.
    fn rewrite<B>(&self, parts: &Parts, permitted: &Permitted<'_>, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        let mut sent = parts.headers.clone();
        fields::for_upstream(&mut sent, parts.version);
        let path = PathAndQuery::try_from(&*permitted.path);
        let path = path.unwrap_or_else(|_| PathAndQuery::from_static("/"));
        let authority = permitted.authority.as_str();
        if self.alpn == Alpn::Http2 {
            *request.version_mut() = Version::HTTP_2;
            if let Ok(authority) = Authority::try_from(authority) {
                let scheme = match self.security {
                    Some(_) => Scheme::HTTPS,
                    None => Scheme::HTTP,
                };
                let uri = Uri::builder().scheme(scheme).authority(authority);
                *request.uri_mut() = uri.path_and_query(path).build().unwrap_or_default();
            }
        } else {
            *request.uri_mut() = Uri::from(path);
            if let Ok(host) = HeaderValue::try_from(authority) {
                sent.insert(HOST, host);
            }
            if parts.headers.contains_key(TRANSFER_ENCODING) {
                // Said, since a GET is taken for one without a body otherwise.
                sent.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        *request.headers_mut() = sent;
        request
    }

    /// The connection that stands, or another one to the same place.
    async fn ready(&self, ruling: &Ruling, websocket: bool) -> Result<Upstream, OpenError> {
        if self.security.is_none() {
            let connector = self.services.connector;
            connector.same_limits(ruling, &self.admitted)?;
        }
        if let Some(mut upstream) = self.standing(ruling)
            && (self.services.connector).may_reuse(ruling, &upstream.peer)
            && upstream.sender.is_ready().await
        {
            upstream.fit(websocket).await?;
            return Ok(upstream);
        }
        self.dial(ruling, websocket).await
    }

    /// The connection that stands, if it does for what is permitted.
    fn standing(&self, ruling: &Ruling) -> Option<Upstream> {
        let mut kept = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let upstream = Upstream {
            sender: kept.sender.take()?,
            peer: kept.peer.clone(),
            name: kept.name.clone(),
            original: kept.original,
        };
        kept.peer.forget_timings();
        drop(kept);
        // With TLS all requests are for one name.
        let elsewhere = self.security.is_none() && {
            let same_name = upstream.name == ruling.name;
            // One that was dialled again by one of several names need not lead to the others.
            (!same_name && !upstream.original)
                || (upstream.peer).may_be_elsewhere(self.target, same_name, ruling)
        };
        (!elsewhere).then_some(upstream)
    }

    /// Dials and proves again, by the permit of the very request.
    async fn dial(&self, ruling: &Ruling, websocket: bool) -> Result<Upstream, OpenError> {
        let already = {
            let upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
            upstream.peer.admitted.clone()
        };
        let connected = (self.services.connector)
            .connect(ruling, already.as_ref())
            .await?;
        let (stream, peer) = (connected.stream, connected.peer);
        crate::socket::prepare(stream.tcp());
        let sender = match self.security {
            None => self.speak(stream, self.alpn).await?,
            Some(Security { inspector, name }) => {
                let secured = inspector
                    .secure(stream, name.as_ref(), ruling, self.alpn.protocols())
                    .await?;
                if secured.alpn != self.alpn {
                    let detail = "upstream speaks another protocol than before";
                    return Err(OpenError::Upstream {
                        reason: Reason::UpstreamProtocol,
                        detail: detail.to_owned(),
                    });
                }
                self.speak(secured.stream, secured.alpn).await?
            }
        };
        let upstream = Upstream {
            sender,
            peer,
            name: ruling.name.clone(),
            original: false,
        };
        upstream.fit(websocket).await?;
        Ok(upstream)
    }

    /// Begins HTTP on a connection.
    pub(super) async fn speak<I>(&self, stream: I, alpn: Alpn) -> Result<Sender, OpenError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Sender::begin(stream, alpn, &self.spawner).await
    }

    /// Leaves a connection to the next request.
    pub(super) fn keep(&self, mut upstream: Upstream) {
        upstream.peer.forget_timings();
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// Leaves the connection that stands from the beginning to the first request.
    pub(super) fn begin(&self, sender: Sender) {
        let mut upstream = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        upstream.sender = sender;
    }

    fn switch(
        &self,
        program: OnUpgrade,
        mut answer: Response<Incoming>,
        protocols: Option<HeaderValue>,
        open: Arc<Open>,
    ) -> Response<Down> {
        let upstream = hyper::upgrade::on(&mut answer);
        let mut head = answer.into_parts().0;
        fields::for_program(&mut head.headers);
        head.extensions.clear();
        let switched = Switched {
            program,
            upstream,
            open,
        };
        if self.alpn == Alpn::Http2 {
            // One stream of many.
            let relayed = async move {
                switched.relay().await;
            };
            self.spawner.execute(relayed);
        } else {
            if let Some(protocols) = protocols {
                fields::change_to(&mut head.headers, protocols);
            }
            *self.switched.lock().unwrap_or_else(PoisonError::into_inner) = Some(switched);
        }
        Response::from_parts(head, Down::Own(None))
    }

    fn malformed(&self, why: &'static str, parts: &Parts) -> Response<Down> {
        let at = At::new(Layer::Http, self.inbound).detail(Some(why));
        let at = at.http(parts.method.as_str(), Some(parts.uri.path()));
        let asked = request_target(parts);
        let at = at.asked(Some(asked.as_bytes()));
        say(
            &malformed(self.services.records, at, self.place, Some(why)),
            parts,
        )
    }
}

/// Holds a request of HTTP/2 to what HTTP/1.1's reader holds a request line to.
///
/// # Errors
/// What is wrong with it.
fn check_head(parts: &Parts) -> Result<(), &'static str> {
    if fields::is_marked(parts) {
        return Err("a fragment in the request target");
    }
    let path = parts.uri.path_and_query().map(PathAndQuery::as_str);
    let method = match fields::is_extended_websocket(parts) {
        true => "GET", // what it stands for
        false => parts.method.as_str(),
    };
    match path.filter(|_| !is_tunnel(parts)) {
        Some(path) => uri::check_line(method, path),
        None => Ok(()),
    }
}

/// Whether the request is for a tunnel to a destination of its own: a CONNECT, unless its
/// `:protocol` is WebSocket (RFC 8441).
fn is_tunnel(parts: &Parts) -> bool {
    parts.method == Method::CONNECT && !fields::is_extended_websocket(parts)
}

/// What a request asks for, for the record of a malformed one.
fn request_target(parts: &Parts) -> String {
    let host = parts.uri.authority().map(|authority| authority.to_string());
    let field = parts.headers.get(HOST).map(HeaderValue::as_bytes);
    let host = host.or(field.map(|host| String::from_utf8_lossy(host).into_owned()));
    host.unwrap_or_default() + parts.uri.path()
}

/// The hosts that a request names.
struct Hosts {
    /// In its target, with the scheme.
    target: Option<(uri::Scheme, Host, Option<u16>)>,
    /// In its `Host` field.
    field: Option<(Host, Option<u16>)>,
}

impl Hosts {
    /// # Errors
    /// What is wrong with them.
    fn read(parts: &Parts) -> Result<Hosts, &'static str> {
        let host = |text: &[u8]| Host::with_port(text).map_err(|_| "a Host that is none");
        let mut fields = parts.headers.get_all(HOST).iter();
        let field = fields
            .next()
            .map(|field| host(field.as_bytes()))
            .transpose()?;
        if fields.next().is_some() {
            return Err("more than one Host");
        }
        let target = match parts.uri.authority() {
            Some(authority) => {
                let scheme = match parts.uri.scheme_str() {
                    Some("http") => uri::Scheme::Http,
                    Some("https") | None => uri::Scheme::Https,
                    Some(_) => return Err("a target with a scheme other than http or https"),
                };
                let (host, port) = host(authority.as_str().as_bytes())?;
                Some((scheme, host, port))
            }
            None => None,
        };
        Ok(Hosts { target, field })
    }
}

/// The request as the core takes it.
fn asked<'r>(parts: &'r Parts, hosts: &'r Hosts) -> CoreRequest<'r> {
    let form = match &hosts.target {
        _ if is_tunnel(parts) => Form::Connect,
        Some((scheme, host, port)) => {
            let (scheme, port) = (*scheme, *port);
            Form::Absolute { scheme, host, port }
        }
        None => Form::Origin,
    };
    let path = parts.uri.path_and_query();
    CoreRequest {
        method: parts.method.as_str(),
        form,
        path: path.map_or("/", PathAndQuery::as_str),
        host: hosts.field.as_ref().map(|(host, port)| (host, *port)),
        change: Change::None,
        own: None,
    }
}

impl Upstream {
    /// One that stands from the beginning, and on which nothing can be sent yet.
    pub(super) fn original(opened: &Opened) -> Upstream {
        let mut peer = opened.peer.clone();
        peer.forget_timings(); // the connection's own record has them
        Upstream {
            sender: Sender::Taken,
            peer,
            name: opened.ruling.name.clone(),
            original: true,
        }
    }

    /// Whether a request can be sent on it.
    ///
    /// # Errors
    /// It is for a WebSocket, and upstream takes none on streams of HTTP/2.
    async fn fit(&self, websocket: bool) -> Result<(), OpenError> {
        if websocket && !self.sender.takes_websockets().await {
            return Err(OpenError::Upstream {
                reason: Reason::UpstreamProtocol,
                detail: "upstream takes no WebSocket over HTTP/2 (RFC 8441)".to_owned(),
            });
        }
        Ok(())
    }
}

/// What is told of a request that broke off after it was recorded.
fn broken(
    permitted: &Permitted<'_>,
    id: DecisionId,
    end: CloseReason,
    why: &'static str,
) -> Refused {
    let reason = match end {
        CloseReason::ClientReset => Reason::Malformed,
        CloseReason::UpstreamProtocol => Reason::UpstreamProtocol,
        _ => Reason::ConnectionReset,
    };
    let mut refused = permitted.failed(reason, id, end);
    refused.refusal.cause = Some(why);
    refused
}

/// Whether an answer that changes the protocol is one to what was asked for.
fn is_answer_to(
    change: Change,
    version: Version,
    answered: Option<&HeaderValue>,
    asked: Option<&HeaderValue>,
) -> bool {
    let bytes = |named: Option<&HeaderValue>| named.map(|named| named.as_bytes().to_vec());
    match (change, version) {
        (Change::None, _) => false,
        (_, Version::HTTP_2) => true,
        _ => match (bytes(answered), bytes(asked)) {
            (Some(answered), Some(asked)) => was_asked_for(&answered, &asked),
            _ => false,
        },
    }
}

/// An answer to a request whose body has not been read. In HTTP/1.1 the connection ends with it, and what
/// still comes is dropped there.
fn early(answer: Response<Down>, body: Incoming) -> Response<Down> {
    match answer.headers().contains_key(CONNECTION) {
        true => answer,
        false => answer.map(|own| own.behind(body)),
    }
}

fn say(refused: &Refused, parts: &Parts) -> Response<Down> {
    answer(
        &refused.refusal,
        &parts.method,
        parts.version,
        &parts.headers,
    )
}

/// Serves nothing but one refusal: upstream could not be reached, or did not prove itself.
pub(super) async fn only_refuse(
    refusal: &Refusal,
    activity: &Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response<Down>, Infallible> {
    let _busy = Busy::new(activity);
    let (parts, body) = request.into_parts();
    let answer = answer(refusal, &parts.method, parts.version, &parts.headers);
    Ok(early(answer, body))
}
