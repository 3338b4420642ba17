//! HTTP: the proxy port, and plain HTTP on direct connections.
//!
//! One loop reads request heads, strictly, one after the other; every single request is decided on
//! by its own target, whatever the connection did before . Answers *second request on a
//! kept-alive connection* and *pipelining past a denial* (docs/threats.md). A refusal ends the
//! connection.

mod connect;
mod exchange;
mod forward;
mod metered;
mod request;
mod response;

use std::sync::Arc;
use std::time::Duration;

use portcullis_dial::Stream;
use portcullis_policy::Reason;
use portcullis_record::{CloseReason, Layer};
use portcullis_wire::http1::read_scanned_head;
use portcullis_wire::http1::{HeadParse, HeadScanner, RequestForm, RequestHead, Scheme};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::exchange::Conn;
use self::forward::Upstream;
use crate::connector::Connector;
use crate::decider::Decider;
use crate::flows::until_cut;
use crate::inbound::Inbound;
use crate::limits::{self, HEAD_BUFFER_BYTES};
use crate::opened::{Entered, Opened, Unread};
use crate::records::{At, Flow, Records};
use crate::refuse::{Format, Refusal};
use crate::relay::Relay;
use crate::socket;
use crate::stop::Stop;
use crate::target::{Ruling, Target};
use crate::tunnel::Tunnel;

/// What a client that takes the proxy for a web server is told.
const NOT_A_SERVER: &str = "This is the sandbox's HTTP proxy, not a web server. Set http_proxy and \
                            https_proxy to it, or connect directly without it.";
/// What a client is told that wants the proxy to speak TLS for it.
const USE_CONNECT: &str = "The gateway does not speak TLS for programs: use CONNECT for https.";

/// Where requests come from, and what they can be for.
enum Door {
    /// The proxy port: CONNECT and absolute form, to anywhere.
    Proxy,
    /// A connection to one address: every request's Host is decided on together with it.
    Behind { target: Arc<Target> },
}

/// One client connection.
struct Session<'a> {
    decider: &'a Decider,
    connector: &'a Connector,
    records: &'a Records,
    door: Door,
    inbound: Inbound,
    client: Conn,
    upstream: Option<Upstream>,
    /// The flow around the requests: that of a SOCKS connection, for instance.
    around: Option<Flow>,
}

/// What comes after a request.
enum Next {
    /// Another one.
    Again,
    /// These words, and the end.
    Words(Vec<u8>, CloseReason),
    /// The end.
    Close,
    /// A reset of both sides.
    Reset,
    /// WebSocket.
    Switched(Flow),
    /// A tunnel; the 200 is still to be said.
    Connected(Box<(Opened, Stream)>),
}

/// Serves one connection to the proxy port.
pub(crate) async fn open(
    decider: &Decider,
    connector: &Connector,
    records: &Records,
    client: TcpStream,
    inbound: Inbound,
    stop: &Stop,
) -> Option<Entered> {
    let session = Session {
        decider,
        connector,
        records,
        door: Door::Proxy,
        inbound,
        client: Conn {
            stream: client,
            inbox: Vec::new(),
        },
        upstream: None,
        around: None,
    };
    session.serve(stop).await
}

/// Serves a connection to an address that turned out to speak plain HTTP.
pub(crate) async fn behind(
    decider: &Decider,
    connector: &Connector,
    records: &Records,
    unread: Box<Unread>,
    stop: &Stop,
) -> Option<Tunnel> {
    let Unread {
        opened,
        relay,
        pending,
    } = *unread;
    let (client, stream) = relay.into_sockets();
    let upstream = match opened.peer.upstream_proxy {
        // An upstream proxy for plain HTTP is spoken to in absolute form, not through a tunnel.
        Some(_) if opened.absolute.is_none() => None,
        _ => Some(Upstream::standing(
            stream,
            opened.peer,
            opened.ruling.name,
            opened.absolute,
        )),
    };
    let session = Session {
        decider,
        connector,
        records,
        door: Door::Behind {
            target: Arc::new(opened.target),
        },
        inbound: opened.inbound,
        client: Conn {
            stream: client,
            inbox: pending,
        },
        upstream,
        around: opened.flow,
    };
    match session.serve(stop).await? {
        Entered::Tunnel(tunnel) => Some(tunnel),
        // Only CONNECT leads there, and it is refused on a direct connection.
        Entered::Opened(_) => None,
    }
}

impl Session<'_> {
    async fn serve(mut self, stop: &Stop) -> Option<Entered> {
        let around = self.around.as_ref().map(|flow| (*flow.standing).clone());
        let next = tokio::select! {
            biased;
            () = stop.wait() => {
                self.end_around(CloseReason::Shutdown);
                Next::Reset
            }
            () = until_cut(around.as_deref()) => {
                self.end_around(CloseReason::PolicyChanged);
                Next::Reset
            }
            next = self.requests() => next,
        };
        match next {
            Next::Again | Next::Close => {
                self.end_around(CloseReason::Finished);
                socket::last_words(self.client.stream, b"").await;
                None
            }
            Next::Words(words, end) => {
                self.end_around(end);
                socket::last_words(self.client.stream, &words).await;
                None
            }
            Next::Reset => {
                socket::reset(self.client.stream);
                if let Some(upstream) = self.upstream {
                    socket::reset_upstream(upstream.conn.stream);
                }
                None
            }
            Next::Switched(flow) => {
                let Upstream {
                    conn: upstream,
                    peer,
                    ..
                } = self.upstream?;
                let mut relay = Relay::new(self.client.stream, upstream.stream);
                relay.push_up(self.client.inbox);
                relay.push_down(upstream.inbox);
                relay.set_meter(self.connector.meter(&peer));
                Some(Entered::Tunnel(Tunnel { relay, flow }))
            }
            Next::Connected(connected) => {
                let (opened, upstream) = *connected;
                if opened.is_cut() {
                    opened.cut_short(self.client.stream, upstream);
                    return None;
                }
                if !socket::answer(&mut self.client.stream, connect::ESTABLISHED).await {
                    opened.gone();
                    return None;
                }
                Some(Entered::Opened(Box::new(Unread {
                    opened,
                    relay: Relay::new(self.client.stream, upstream),
                    pending: self.client.inbox,
                })))
            }
        }
    }

    /// Request after request. Each is boxed: what waits between two is small.
    async fn requests(&mut self) -> Next {
        let mut first = self.client.inbox.is_empty();
        loop {
            let set = self.decider.limits();
            let head = limits::header_timeout(&set);
            let patience = Patience {
                silence: if first {
                    head
                } else {
                    limits::keep_alive_timeout(&set)
                },
                head,
            };
            let (head, raw) = match self.client.head(patience).await {
                Ok(Some(read)) => read,
                Ok(None) => return Next::Close,
                Err(why) => return self.malformed(None, why, None),
            };
            first = false;
            match Box::pin(self.request(head, raw)).await {
                Next::Again => {}
                next => return next,
            }
        }
    }

    async fn request(&mut self, head: RequestHead, raw: Vec<u8>) -> Next {
        if !head.host_agrees() {
            return self.malformed(Some((&head, &raw)), "Host differs from the target", None);
        }
        match (&self.door, &head.form) {
            (Door::Proxy, RequestForm::Connect { host, port }) => {
                let target = self.decider.target(host.clone(), *port);
                self.connect(target, &head, &raw).await
            }
            (
                Door::Proxy,
                RequestForm::Absolute {
                    scheme: Scheme::Http,
                    host,
                    port,
                    ..
                },
            ) => {
                let target = self.decider.target(host.clone(), *port);
                self.forward(Arc::new(target), &head, &raw).await
            }
            (
                Door::Proxy,
                RequestForm::Absolute {
                    scheme: Scheme::Https,
                    ..
                },
            ) => {
                let why = "https in absolute form";
                self.malformed(Some((&head, &raw)), why, Some(USE_CONNECT))
            }
            (Door::Proxy, RequestForm::Origin { .. } | RequestForm::Asterisk) => {
                let why = "a request to the proxy as if it were a server";
                self.malformed(Some((&head, &raw)), why, Some(NOT_A_SERVER))
            }
            (Door::Behind { .. }, RequestForm::Connect { .. }) => {
                let why = "CONNECT on a direct connection: its target cannot be decided on";
                self.not_allowed(&head, &raw, why)
            }
            (Door::Behind { target }, _) => {
                let target = target.clone();
                self.forward(target, &head, &raw).await
            }
        }
    }

    /// Records and answers bytes that are not a request one could serve.
    fn malformed(
        &mut self,
        request: Option<(&RequestHead, &[u8])>,
        why: &'static str,
        help: Option<&str>,
    ) -> Next {
        let at = At::new(Layer::Http, self.inbound).detail(Some(why));
        let target = match &self.door {
            Door::Proxy => None,
            Door::Behind { target } => Some(&**target),
        };
        let id = match request {
            Some((head, _)) => self
                .records
                .malformed(at.http(&head.method, path(head)), target),
            None => self.records.malformed(at, target),
        };
        let mut refusal = Refusal::new(Reason::Malformed, id);
        refusal.help = help.or(Some(why));
        Next::Words(say(&refusal, request), CloseReason::ClientProtocol)
    }

    fn not_allowed(&mut self, head: &RequestHead, raw: &[u8], why: &'static str) -> Next {
        let Door::Behind { target } = &self.door else {
            return Next::Reset;
        };
        let ruling = self.decider.refuse(Reason::ProtocolNotAllowed);
        let at = At::new(Layer::Http, self.inbound)
            .http(&head.method, path(head))
            .detail(Some(why));
        let id = self.records.decision(at, target, &ruling);
        Next::Words(
            say(&Refusal::new(ruling.reason, id), Some((head, raw))),
            CloseReason::Denied,
        )
    }

    /// Records and answers a refusal by policy.
    fn denied(
        &self,
        at: At<'_>,
        target: &Target,
        ruling: &Ruling,
        request: (&RequestHead, &[u8]),
    ) -> Next {
        let id = self.records.decision(at, target, ruling);
        let mut refusal = Refusal::new(ruling.reason, id);
        let authority = crate::refuse::authority(target);
        refusal.target = Some(&authority);
        refusal.suggestion = ruling.suggestion.as_deref();
        refusal.help = at.detail;
        Next::Words(say(&refusal, Some(request)), CloseReason::Denied)
    }

    fn end_around(&mut self, end: CloseReason) {
        if let Some(flow) = self.around.take() {
            flow.finish(end);
        }
    }
}

/// The refusal as bytes, in the form that the request asks for.
fn say(refusal: &Refusal<'_>, request: Option<(&RequestHead, &[u8])>) -> Vec<u8> {
    let Some((head, raw)) = request else {
        return refusal.response(Format::Text, true);
    };
    let accept = head
        .headers(raw)
        .find(|(name, _)| name.eq_ignore_ascii_case("accept"));
    refusal.response(
        Format::wanted(accept.map(|(_, value)| value)),
        &*head.method != "HEAD",
    )
}

/// The path for the record, without query.
fn path(head: &RequestHead) -> Option<&str> {
    match &head.form {
        RequestForm::Absolute { path, .. } | RequestForm::Origin { path } => Some(path.path()),
        RequestForm::Asterisk => Some("*"),
        RequestForm::Connect { .. } => None,
    }
}

/// How long a client may take.
#[derive(Clone, Copy)]
struct Patience {
    /// Until it says something.
    silence: Duration,
    /// From then on, until its request's head is there.
    head: Duration,
}

impl Conn {
    /// The next head and its bytes; `None` when the client is done, or silent for too long.
    ///
    /// # Errors
    /// What is wrong with the head, a few words.
    async fn head(
        &mut self,
        patience: Patience,
    ) -> Result<Option<(RequestHead, Vec<u8>)>, &'static str> {
        if self.inbox.is_empty() {
            self.inbox = Vec::new(); // an idle connection holds no buffer
            match timeout(patience.silence, self.stream.readable()).await {
                Ok(Ok(())) => {}
                _ => return Ok(None),
            }
        }
        match timeout(patience.head, self.rest_of_head()).await {
            Ok(read) => read,
            Err(_) if self.inbox.is_empty() => Ok(None),
            Err(_) => Err("the request head took too long"),
        }
    }

    async fn rest_of_head(&mut self) -> Result<Option<(RequestHead, Vec<u8>)>, &'static str> {
        let mut scanner = HeadScanner::new();
        loop {
            match read_scanned_head(&self.inbox, &mut scanner) {
                HeadParse::Head(head) => {
                    let rest = self.inbox.split_off(head.head_len);
                    return Ok(Some((head, std::mem::replace(&mut self.inbox, rest))));
                }
                HeadParse::Malformed(why) => return Err(why),
                HeadParse::NeedMore => {}
            }
            self.inbox.reserve(HEAD_BUFFER_BYTES);
            // Knows that the socket is empty after a short read, and does not ask it again.
            match self.stream.read_buf(&mut self.inbox).await {
                Ok(0) if self.inbox.is_empty() => return Ok(None),
                Ok(0) => return Err("the connection ended inside a request head"),
                Ok(_) => {}
                Err(_) => return Ok(None),
            }
        }
    }
}
