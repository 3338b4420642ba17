//! HTTP: the proxy port, and plain HTTP on direct connections.
//!
//! The codec of HTTP/1.1 without TLS on the request core: one loop reads request heads, strictly, one
//! after the other, and has every single one decided on, whatever the connection did before. A refusal
//! ends the connection. Answers *decision and destination differ* and *HTTP framing*
//! (docs/threats.md).

mod body;
mod connect;
mod exchange;
mod forward;
mod metered;
mod request_head;
mod response;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use portcullis_dial::Stream;
use portcullis_record::{CloseReason, Layer};
use portcullis_wire::http1::read_scanned_head;
use portcullis_wire::http1::{HeadParse, HeadScanner, RequestForm, RequestHead};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::exchange::Conn;
use self::forward::Upstream;
use crate::connector::Connector;
use crate::decider::Decider;
use crate::flows::{self, until_cut};
use crate::inbound::Inbound;
use crate::limits::{self, HEAD_BUFFER_BYTES};
use crate::meter::Meter;
use crate::opened::{Entered, Opened, Unread};
use crate::records::{At, Flow, Records};
use crate::relay::Relay;
use crate::request::{self, Core, Format, Place, Refused};
use crate::socket;
use crate::stop::Stop;
use crate::target::Target;
use crate::tunnel::Tunnel;

/// One client connection.
struct Session<'a> {
    core: Core<'a>,
    connector: &'a Connector,
    /// Where it leads, unless it is one to the proxy port: then each request says where.
    destination: Option<Arc<Target>>,
    client: Conn,
    upstream: Option<Upstream>,
    /// What holds for it between two requests.
    idle: Option<Idle>,
    /// The flow around the requests: that of a SOCKS connection, for instance.
    around: Option<Flow>,
}

/// A connection whose last request was answered. It goes on only as long as that request's
/// destination is allowed, and is as long silent as its limits say.
struct Idle {
    /// Its place among the flows that stand, unless there is a flow around it that has one.
    standing: Option<flows::Entered>,
    meter: Option<Box<Meter>>,
}

impl Idle {
    /// Ends where the connection must.
    async fn over(idle: &mut Option<Idle>) -> Next {
        let Some(Idle { standing, meter }) = idle else {
            return pending().await;
        };
        let mut watch = meter.as_deref_mut().map(|meter| meter.split().2);
        tokio::select! {
            biased;
            () = until_cut(standing.as_ref().map(|entered| &***entered)) => Next::Reset,
            _ = metered::idle(&mut watch) => Next::Close,
        }
    }
}

/// What comes after a request.
enum Next {
    /// Another one.
    Again,
    /// This answer, and the end.
    Answer(Vec<u8>, CloseReason),
    /// The end.
    Close,
    /// A reset of both sides.
    Reset,
    /// WebSocket.
    Switched(Flow),
    /// A tunnel; the 200 is still to be said.
    Connected(Box<Connected>),
}

/// A tunnel that CONNECT opened.
struct Connected {
    opened: Opened,
    upstream: Stream,
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
        core: Core {
            decider,
            records,
            inbound,
        },
        connector,
        destination: None,
        client: Conn {
            stream: client,
            inbox: Vec::new(),
        },
        upstream: None,
        idle: None,
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
        core: Core {
            decider,
            records,
            inbound: opened.inbound,
        },
        connector,
        destination: Some(Arc::new(opened.target)),
        client: Conn {
            stream: client,
            inbox: pending,
        },
        upstream,
        idle: None,
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
            Next::Answer(answer, end) => {
                self.end_around(end);
                socket::last_words(self.client.stream, &answer).await;
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
                let Connected { opened, upstream } = *connected;
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
            let set = self.core.decider.limits();
            let head = limits::header_timeout(&set);
            let patience = Patience {
                silence: if first {
                    head
                } else {
                    limits::keep_alive_timeout(&set)
                },
                head,
            };
            let read = tokio::select! {
                biased;
                over = Idle::over(&mut self.idle) => return over,
                read = self.client.head(patience) => read,
            };
            self.idle = None;
            let head = match read {
                Ok(Some(read)) => read,
                Ok(None) => return Next::Close,
                Err(fault) => return self.malformed_head(&fault),
            };
            first = false;
            match Box::pin(self.request(head)).await {
                Next::Again => {}
                next => return next,
            }
        }
    }

    async fn request(&mut self, head: Head) -> Next {
        match &head.read.form {
            RequestForm::Connect { host, port } if self.destination.is_none() => {
                if !head.read.host_agrees() {
                    return self.malformed("Host differs from the target", &head);
                }
                let target = self.core.decider.target(host.clone(), *port);
                self.connect(target, &head).await
            }
            _ => self.forward(&head).await,
        }
    }

    /// Records and answers a request that turned out to be malformed.
    fn malformed(&self, why: &'static str, head: &Head) -> Next {
        let at = At::new(Layer::Http, self.core.inbound).detail(Some(why));
        let at = at.http(&head.read.method, path(&head.read));
        let place = place(self.destination.as_deref());
        let refused = request::malformed(self.core.records, at, place, Some(why));
        answer(&refused, Some(head))
    }

    /// The same where there is no request yet.
    fn malformed_head(&self, fault: &HeadFault) -> Next {
        let at = At::new(Layer::Http, self.core.inbound).detail(Some(fault.why));
        let place = place(self.destination.as_deref());
        let mut refused = request::malformed(self.core.records, at, place, Some(fault.why));
        if fault.too_slow {
            refused.refusal.status = request::REQUEST_TIMEOUT;
        }
        answer(&refused, None)
    }

    fn end_around(&mut self, end: CloseReason) {
        if let Some(flow) = self.around.take() {
            flow.finish(end);
        }
    }
}

/// What the core is asked about requests on a connection that leads there.
fn place(destination: Option<&Target>) -> Place<'_> {
    match destination {
        Some(target) => Place::Destination(target),
        None => Place::Anywhere,
    }
}

/// The refusal, in the form that the request asks for; it ends the connection.
fn answer(refused: &Refused, request: Option<&Head>) -> Next {
    let (accept, with_body) = match request {
        Some(head) => {
            let mut fields = head.fields();
            let accept = fields.find(|(name, _)| name.eq_ignore_ascii_case("accept"));
            (accept.map(|(_, value)| value), &*head.read.method != "HEAD")
        }
        None => (None, true),
    };
    let answer = refused.refusal.answer(Format::wanted(accept));
    Next::Answer(answer.http1(with_body), refused.end)
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

/// A request's head, and the bytes that it was read from.
#[derive(Debug)]
struct Head {
    read: RequestHead,
    raw: Vec<u8>,
}

impl Head {
    fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.read.headers(&self.raw)
    }
}

/// What is wrong with a head.
#[derive(Debug)]
struct HeadFault {
    /// A few words for the record and for the client.
    why: &'static str,
    /// It did not come to its end in time.
    too_slow: bool,
}

impl Conn {
    /// The next head; `None` when the client is done, or silent for too long.
    ///
    /// # Errors
    /// What is wrong with the head.
    async fn head(&mut self, patience: Patience) -> Result<Option<Head>, HeadFault> {
        if self.inbox.is_empty() {
            self.inbox = Vec::new(); // an idle connection holds no buffer
            match timeout(patience.silence, self.stream.readable()).await {
                Ok(Ok(())) => {}
                _ => return Ok(None),
            }
        }
        match timeout(patience.head, self.rest_of_head()).await {
            Ok(read) => read.map_err(|why| HeadFault {
                why,
                too_slow: false,
            }),
            Err(_) if self.inbox.is_empty() => Ok(None),
            Err(_) => Err(HeadFault {
                why: "the request head took too long",
                too_slow: true,
            }),
        }
    }

    async fn rest_of_head(&mut self) -> Result<Option<Head>, &'static str> {
        let mut scanner = HeadScanner::new();
        loop {
            match read_scanned_head(&self.inbox, &mut scanner) {
                HeadParse::Head(read) => {
                    let rest = self.inbox.split_off(read.head_len);
                    let raw = std::mem::replace(&mut self.inbox, rest);
                    return Ok(Some(Head { read, raw }));
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
