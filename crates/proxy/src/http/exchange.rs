//! One request and its response, both ways at once.
//!
//! Bodies pass through as they are framed ([`super::body`]), so that their end is known; what stands
//! behind a request's body is the next request and is not touched here. An upstream that
//! answers before it has read everything is heard at once.
//!
//! A client that is gone must not leave a server at work. TCP does not tell a client that has closed
//! from one that has only said all it wants to: both send FIN. So FIN passes on as FIN, and the server
//! does what it would do without a gateway; a reset, and an answer that nobody takes, end both sides.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_dial::{self as dial, Stream};
use portcullis_policy::Reason;
use portcullis_record::CloseReason;
use portcullis_wire::http1::BodyLength;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::body::{Body, Step};
use super::metered::{Metered, WriteError, idle};
use super::request_head::field;
use super::response::{self, Answers, Parsed, ResponseBody, ResponseHead};
use crate::limits::{BODY_BUFFER_BYTES, MAX_INTERIM};
use crate::meter::{Cut, Meter};
use crate::request::{Section, was_asked_for};

/// A socket and what was read from it beyond what is dealt with. The buffer is there only while it
/// holds something.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) inbox: Vec<u8>,
}

/// The same for the connection to the destination or to the upstream proxy.
#[derive(Debug)]
pub(super) struct UpstreamConn {
    pub(super) stream: Stream,
    pub(super) inbox: Vec<u8>,
}

/// One request, ready to be sent.
pub(super) struct Exchange<'r> {
    /// The head for upstream.
    pub(super) head: Vec<u8>,
    pub(super) body: BodyLength,
    pub(super) answers: Answers,
    /// The protocols that a change was asked to.
    pub(super) upgrade: Option<&'r [u8]>,
    /// Whether the client means to go on.
    pub(super) keep_alive: bool,
    /// The next hop is the upstream proxy: a 407 is its refusal of us, not the client's business.
    pub(super) through_upstream_proxy: bool,
}

/// How it went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExchangeEnd {
    /// The response was passed on whole.
    Done {
        client_goes_on: bool,
        upstream_goes_on: bool,
    },
    /// Both sides speak another protocol from now on.
    Switched,
    /// Upstream closed before it said anything.
    Silent,
    /// The upstream proxy refused with this status, and the client has not been told anything yet.
    RefusedByUpstreamProxy(u16),
    /// Upstream failed, and the client has not been told anything yet.
    Failed(Reason, CloseReason, &'static str),
    /// The client's body was malformed, and it has not been told anything yet.
    BadBody(&'static str),
    /// It broke off in the middle: reset both sides.
    Broken(CloseReason),
    /// A limit ended it: reset both sides.
    Cut(Cut),
}

/// Bytes of one exchange.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) up: u64,
    pub(super) down: u64,
}

impl Exchange<'_> {
    /// Sends the request and passes the response on.
    pub(super) async fn run(
        &self,
        client: &mut Conn,
        upstream: &mut UpstreamConn,
        counts: &mut Counts,
        meter: Option<&mut Meter>,
    ) -> ExchangeEnd {
        let (mut up_tap, mut down_tap, mut watch) = (None, None, None);
        if let Some(meter) = meter {
            let (up, down, idle) = meter.split();
            (up_tap, down_tap, watch) = (Some(up), Some(down), Some(idle));
        }
        let (client_in, client_out) = client.stream.split();
        let (upstream_in, upstream_out) = upstream.stream.split();
        let sent = AtomicBool::new(false);
        let client_ended = AtomicBool::new(false);
        let started = AtomicBool::new(false);
        let mut up = pin!(async {
            let upstream_out = Metered::new(upstream_out, &mut up_tap, &mut counts.up);
            tokio::select! {
                biased;
                error = self.send(&client_in, &mut client.inbox, upstream_out, &sent, &client_ended) => error,
                // Also while upstream takes none of the request.
                () = reset(&client_in) => ExchangeError::Client(CloseReason::ClientReset),
            }
        });
        let mut down = pin!(self.receive(
            upstream_in,
            &mut upstream.inbox,
            Metered::new(client_out, &mut down_tap, &mut counts.down),
            &started,
        ));
        let mut up_ended = false;
        let error = loop {
            tokio::select! {
                biased;
                received = &mut down => {
                    let client_ended = client_ended.load(Ordering::Acquire);
                    match received {
                        Ok(received) => {
                            let sent = sent.load(Ordering::Acquire);
                            if !sent && matches!(received, Received::Switched) {
                                // Nobody knows where in half a request the other protocol begins.
                                return ExchangeEnd::Broken(CloseReason::UpstreamProtocol);
                            }
                            return received.end(self, sent && !client_ended);
                        }
                        Err(ExchangeError::Silent | ExchangeError::Ended) if client_ended => {
                            break ExchangeError::EndedAfterClient;
                        }
                        Err(error) => break error,
                    }
                }
                error = &mut up, if !up_ended => match error {
                    // It may have answered all the same: hear what it says.
                    ExchangeError::NotTaken => up_ended = true,
                    error => break error,
                },
                cut = idle(&mut watch) => return ExchangeEnd::Cut(cut),
            }
        };
        error.end(started.load(Ordering::Acquire), self.through_upstream_proxy)
    }

    /// Sends head and body, then passes the client's end on. Ends only with an error.
    async fn send(
        &self,
        client: &ReadHalf<'_>,
        inbox: &mut Vec<u8>,
        mut upstream: Metered<'_, '_, dial::WriteHalf<'_>>,
        sent: &AtomicBool,
        client_ended: &AtomicBool,
    ) -> ExchangeError {
        if let Err(error) = upstream.pass(&self.head).await {
            return error.for_upstream();
        }
        let mut body = Body::new(self.body, Section::RequestTrailers);
        loop {
            let step = match body.step(inbox) {
                Ok(step) => step,
                Err(why) => return ExchangeError::BadBody(why),
            };
            for part in [&inbox[..step.passing], &step.rewritten] {
                if let Err(error) = upstream.pass(part).await {
                    return error.for_upstream();
                }
            }
            inbox.drain(..step.taken);
            if step.end {
                break;
            }
            match fill(client, inbox).await {
                Ok(0) => return ExchangeError::Client(CloseReason::ClientClosed),
                Ok(_) => {}
                Err(_) => return ExchangeError::Client(CloseReason::ClientReset),
            }
        }
        if inbox.is_empty() {
            *inbox = Vec::new();
        }
        sent.store(true, Ordering::Release);
        // What it has sent behind the request is its next one, which upstream is still to hear.
        if inbox.is_empty() && has_ended(client).await {
            client_ended.store(true, Ordering::Release);
            upstream.end().await;
        }
        pending().await
    }

    async fn receive(
        &self,
        mut upstream: dial::ReadHalf<'_>,
        inbox: &mut Vec<u8>,
        mut client: Metered<'_, '_, WriteHalf<'_>>,
        started: &AtomicBool,
    ) -> Result<Received, ExchangeError> {
        let mut interim = 0;
        let head = loop {
            let head = self.head(&mut upstream, inbox, interim > 0).await?;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
            interim += 1;
            if interim > MAX_INTERIM {
                return Err(ExchangeError::Protocol("too many interim responses"));
            }
            inbox.drain(..head.len);
            if !self.answers.old {
                let mut interim = head.rewritten;
                interim.extend_from_slice(b"\r\n");
                client.pass(&interim).await?;
            }
        };
        // A 403 may be the destination's as well: it passes, unless a proxy says that it is its own.
        let refused = head.status == 407 || head.status == 403 && head.by_a_proxy;
        if refused && self.through_upstream_proxy {
            return Err(ExchangeError::UpstreamProxy(head.status));
        }
        inbox.drain(..head.len);
        let mut answer = head.rewritten;
        if head.status == 101 {
            let asked = self.upgrade.unwrap_or_default();
            let answered = head.upgrade.as_deref().unwrap_or(asked);
            if self.upgrade.is_none() || !was_asked_for(answered, asked) {
                return Err(ExchangeError::Protocol(
                    "a change of protocol that was not asked for",
                ));
            }
            field(&mut answer, "Connection", b"Upgrade");
            field(&mut answer, "Upgrade", answered);
            answer.extend_from_slice(b"\r\n");
            started.store(true, Ordering::Release);
            client.pass(&answer).await?;
            return Ok(Received::Switched);
        }
        let delimited = head.body != ResponseBody::UntilClose;
        if !(delimited && self.keep_alive) {
            answer.extend_from_slice(b"Connection: close\r\n");
        }
        answer.extend_from_slice(b"\r\n");
        started.store(true, Ordering::Release);
        let mut body = match head.body {
            ResponseBody::Framed(length @ BodyLength::Chunked) if self.answers.old => {
                Some(Body::new(length, Section::ResponseTrailers).bare())
            }
            ResponseBody::Framed(length) => Some(Body::new(length, Section::ResponseTrailers)),
            ResponseBody::UntilClose => None,
        };
        loop {
            let step = match &mut body {
                Some(body) => body.step(inbox).map_err(ExchangeError::Protocol)?,
                None => Step::pass(inbox.len(), false),
            };
            if answer.is_empty() {
                client.pass(&inbox[..step.passing]).await?;
            } else {
                // Head and first bytes of the body in one segment.
                answer.extend_from_slice(&inbox[..step.passing]);
                client.pass(&std::mem::take(&mut answer)).await?;
            }
            client.pass(&step.rewritten).await?;
            inbox.drain(..step.taken);
            if step.end {
                return Ok(Received::Whole {
                    delimited: true,
                    keep_alive: head.keep_alive,
                });
            }
            match upstream.fill(inbox, BODY_BUFFER_BYTES).await {
                Ok(0) if delimited => return Err(ExchangeError::Ended),
                Ok(0) => {
                    return Ok(Received::Whole {
                        delimited: false,
                        keep_alive: false,
                    });
                }
                Ok(_) => {}
                Err(_) => return Err(ExchangeError::Ended),
            }
        }
    }

    /// Reads one response head; it stays in the inbox.
    async fn head(
        &self,
        upstream: &mut dial::ReadHalf<'_>,
        inbox: &mut Vec<u8>,
        spoke: bool,
    ) -> Result<ResponseHead, ExchangeError> {
        let mut seen = 0;
        loop {
            // Only a line's end can be the head's end.
            if inbox[seen..].contains(&b'\n') {
                match response::read(inbox, self.answers) {
                    Parsed::Head(head) => return Ok(head),
                    Parsed::Malformed(why) => return Err(ExchangeError::Protocol(why)),
                    Parsed::NeedMore => {}
                }
            } else if inbox.len() > crate::limits::MAX_RESPONSE_HEAD_BYTES {
                return Err(ExchangeError::Protocol(
                    "the response head is longer than 64 KiB",
                ));
            }
            seen = inbox.len();
            match upstream.fill(inbox, BODY_BUFFER_BYTES).await {
                Ok(0) | Err(_) if inbox.is_empty() && !spoke => return Err(ExchangeError::Silent),
                Ok(0) | Err(_) => return Err(ExchangeError::Ended),
                Ok(_) => {}
            }
        }
    }
}

/// Waits for the client's reset.
async fn reset(client: &ReadHalf<'_>) {
    match client.ready(Interest::ERROR).await {
        Ok(ready) if !ready.is_error() => pending().await,
        _ => {}
    }
}

/// Waits for what the client says next, and leaves it where it is; true where that is its end.
async fn has_ended(client: &ReadHalf<'_>) -> bool {
    let mut next = [0; 1];
    let mut next = ReadBuf::new(&mut next);
    let socket: &TcpStream = client.as_ref();
    matches!(poll_fn(|cx| socket.poll_peek(cx, &mut next)).await, Ok(0))
}

/// Adds what the socket has to the inbox; an inbox that waits empty has no buffer.
async fn fill(from: &ReadHalf<'_>, inbox: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        inbox.reserve(BODY_BUFFER_BYTES);
        match from.try_read_buf(inbox) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        if inbox.is_empty() {
            *inbox = Vec::new();
        }
        from.readable().await?;
    }
}

enum Received {
    Whole { delimited: bool, keep_alive: bool },
    Switched,
}

impl Received {
    /// `goes_on` says that the request was sent whole, and that the client may send another one.
    fn end(self, exchange: &Exchange<'_>, goes_on: bool) -> ExchangeEnd {
        match self {
            Received::Switched => ExchangeEnd::Switched,
            Received::Whole {
                delimited,
                keep_alive,
            } => ExchangeEnd::Done {
                client_goes_on: delimited && goes_on && exchange.keep_alive,
                upstream_goes_on: delimited && goes_on && keep_alive,
            },
        }
    }
}

/// Why an exchange does not come to its end.
enum ExchangeError {
    /// Upstream takes no more of the request.
    NotTaken,
    /// Upstream ended without a word.
    Silent,
    /// Upstream ended in the middle.
    Ended,
    /// Upstream ended, as servers do, because the client had closed its side.
    EndedAfterClient,
    Protocol(&'static str),
    /// The upstream proxy refused: credentials, or rules of its own.
    UpstreamProxy(u16),
    /// The client is gone.
    Client(CloseReason),
    /// The client's body is malformed.
    BadBody(&'static str),
    Limit(Cut),
}

impl From<WriteError> for ExchangeError {
    /// Of what was written to the client.
    fn from(error: WriteError) -> ExchangeError {
        match error {
            WriteError::Write => ExchangeError::Client(CloseReason::ClientReset),
            WriteError::Limit(cut) => ExchangeError::Limit(cut),
        }
    }
}

impl WriteError {
    /// Of what was written to upstream.
    fn for_upstream(self) -> ExchangeError {
        match self {
            WriteError::Write => ExchangeError::NotTaken,
            WriteError::Limit(cut) => ExchangeError::Limit(cut),
        }
    }
}

impl ExchangeError {
    /// What comes of it; `started` says that the client has been told something.
    fn end(self, started: bool, through_upstream_proxy: bool) -> ExchangeEnd {
        match self {
            ExchangeError::Client(end) => ExchangeEnd::Broken(end),
            ExchangeError::Limit(cut) => ExchangeEnd::Cut(cut),
            ExchangeError::BadBody(_) if started => {
                ExchangeEnd::Broken(CloseReason::ClientProtocol)
            }
            ExchangeError::BadBody(why) => ExchangeEnd::BadBody(why),
            ExchangeError::Ended | ExchangeError::Silent | ExchangeError::NotTaken if started => {
                ExchangeEnd::Broken(CloseReason::UpstreamReset)
            }
            ExchangeError::Protocol(_) | ExchangeError::UpstreamProxy(_) if started => {
                ExchangeEnd::Broken(CloseReason::UpstreamProtocol)
            }
            ExchangeError::EndedAfterClient if started => {
                ExchangeEnd::Broken(CloseReason::ClientClosed)
            }
            // Not sent again: whoever asked for it is gone most of the time.
            ExchangeError::EndedAfterClient => ExchangeEnd::Failed(
                Reason::ConnectionReset,
                CloseReason::ClientClosed,
                "upstream ended without an answer after the client had closed its side",
            ),
            ExchangeError::Silent => ExchangeEnd::Silent,
            ExchangeError::Ended | ExchangeError::NotTaken => ExchangeEnd::Failed(
                if through_upstream_proxy {
                    Reason::UpstreamProxyClosed
                } else {
                    Reason::ConnectionReset
                },
                CloseReason::UpstreamReset,
                "the response ended in its head",
            ),
            ExchangeError::Protocol(why) => {
                let reason = if through_upstream_proxy {
                    Reason::UpstreamProxyProtocol
                } else {
                    Reason::UpstreamProtocol
                };
                ExchangeEnd::Failed(reason, CloseReason::UpstreamProtocol, why)
            }
            ExchangeError::UpstreamProxy(status) => ExchangeEnd::RefusedByUpstreamProxy(status),
        }
    }
}
