//! The server's side towards the program: HTTP/1.1 or HTTP/2, as was agreed on.
//!
//! Answers "exhaustion" and "header bytes a byte a second": heads, silence, streams and resets have
//! limits, and what breaks the protocol ends the connection.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_record::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};

use super::alpn::Alpn;
use super::body::Down;
use super::ended::Ended;
use super::heads::Checked;
use super::io::Activity;
use super::limits::{
    CONNECTION_WINDOW_BYTES, MAX_BUFFER_BYTES, MAX_ERROR_RESETS, MAX_FIELDS, MAX_FIELDS_BYTES,
    MAX_RESET_STREAMS, MAX_STREAM_BUFFER_BYTES, MAX_STREAMS, MIN_WATCH_INTERVAL,
    STREAM_WINDOW_BYTES, WATCH_INTERVAL, WATCH_PARTS,
};
use super::tasks::Tasks;
use crate::limits::{self, ANSWER_TIMEOUT};
use crate::request::{Core, Format, HeadError, Place};

/// A connection of HTTP/1.1.
type Serving<I, S> = http1::UpgradeableConnection<TokioIo<Checked<I>>, S>;

/// What makes a connection end that says nothing.
enum Over {
    /// No request for too long.
    Idle,
    /// A head that does not come to its end.
    Head,
}

/// What the heads on a connection are held to. Time limits are looked up each time, as the policy may
/// change.
pub(super) struct HeadRules<'a> {
    pub(super) core: Core<'a>,
    /// What requests here may be for.
    pub(super) place: Place<'a>,
    /// Streams of HTTP/2 may become WebSockets (RFC 8441). Requests for one are answered either way.
    pub(super) websockets: bool,
}

impl HeadRules<'_> {
    /// Records that a head is refused; what the program is told in HTTP/1.1.
    fn refuse(&self, error: HeadError) -> Vec<u8> {
        let refused = error.refuse(self.core, self.place);
        refused.refusal.answer(Format::Text).http1(true)
    }
}

/// Serves requests until the program is done, silent for too long, or breaks the protocol.
pub(super) async fn requests<I, S, F>(
    stream: I,
    alpn: Alpn,
    activity: &Arc<Activity>,
    rules: &HeadRules<'_>,
    service: S,
) -> Ended
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<Down>, Infallible>> + Send,
{
    activity.opens();
    let service = service_fn(service);
    match alpn {
        Alpn::None | Alpn::Http1 => {
            let stream = Checked::http1(stream, activity.clone());
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                // Watched here: its own would count the pause between two requests as well.
                .header_read_timeout(None)
                .auto_date_header(false)
                .max_headers(MAX_FIELDS)
                .max_buf_size(MAX_BUFFER_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let serving = pin!(serving);
            http1_connection(serving, activity, rules).await
        }
        Alpn::Http2 => {
            let stream = Checked::http2(stream, activity.clone(), rules.websockets);
            let mut streams = Tasks::new();
            let serving = http2::Builder::new(streams.spawner())
                .timer(TokioTimer::new())
                .auto_date_header(false)
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(MAX_FIELDS_BYTES)
                .max_send_buf_size(MAX_STREAM_BUFFER_BYTES)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
                .max_local_error_reset_streams(MAX_ERROR_RESETS)
                .enable_connect_protocol()
                .serve_connection(TokioIo::new(stream), service);
            let mut serving = pin!(serving);
            let served = async {
                let over = tokio::select! {
                    ended = serving.as_mut() => return http2_ended(ended),
                    over = watch(activity, rules) => over,
                };
                let end = match over {
                    Over::Idle => CloseReason::Finished,
                    Over::Head => {
                        rules.refuse(activity.slow_head());
                        CloseReason::ClientProtocol
                    }
                };
                serving.as_mut().graceful_shutdown();
                let _ = timeout(ANSWER_TIMEOUT, serving).await;
                Ended::of(end)
            };
            streams.until(served).await
        }
    }
}

/// Serves one connection of HTTP/1.1, and answers the head that is refused on it, if one is.
async fn http1_connection<I, S, F>(
    mut serving: Pin<&mut Serving<I, S>>,
    activity: &Activity,
    rules: &HeadRules<'_>,
) -> Ended
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = Down, Error = Infallible, Future = F>,
    F: Future<Output = Result<Response<Down>, Infallible>> + Send,
{
    let mut watching = pin!(watch(activity, rules));
    // Runs while a refused head is being answered: the program may not read.
    let mut answering = pin!(sleep(ANSWER_TIMEOUT));
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            if let Some(error) = activity.untold_error() {
                activity.tell(rules.refuse(error));
                answering.as_mut().reset(Instant::now() + ANSWER_TIMEOUT);
            } else if activity.refusal().is_some() {
                ready!(answering.as_mut().poll(cx));
                return Poll::Ready(Some(Ok(())));
            } else if activity.head_error().is_some() {
                return Poll::Pending;
            } else {
                match ready!(watching.as_mut().poll(cx)) {
                    Over::Head => activity.refuse_head(activity.slow_head()),
                    Over::Idle => return Poll::Ready(None),
                }
            }
        }
    });
    match ended.await {
        Some(_) if activity.head_error().is_some() => Ended::of(CloseReason::ClientProtocol),
        Some(ended) => http1_ended(ended),
        None => {
            serving.as_mut().graceful_shutdown();
            let _ = timeout(ANSWER_TIMEOUT, serving).await;
            Ended::of(CloseReason::Finished)
        }
    }
}

/// Ends when the connection has been silent for too long.
async fn watch(activity: &Activity, rules: &HeadRules<'_>) -> Over {
    loop {
        let set = rules.core.decider.limits();
        let header_timeout = limits::header_timeout(&set);
        let waits = activity.head_waits();
        if waits.is_some_and(|waits| waits >= header_timeout) {
            return Over::Head;
        }
        let patience = match activity.was_used() {
            true => limits::keep_alive_timeout(&set),
            false => header_timeout,
        };
        let idle = activity.idle().filter(|_| waits.is_none());
        if idle.is_some_and(|idle| idle >= patience) {
            return Over::Idle;
        }
        // What begins meanwhile is late by a part of its time at most.
        let pause = header_timeout.min(patience) / WATCH_PARTS;
        sleep(pause.clamp(MIN_WATCH_INTERVAL, WATCH_INTERVAL)).await;
    }
}

fn http1_ended(ended: hyper::Result<()>) -> Ended {
    match ended {
        Ok(()) => Ended::of(CloseReason::Finished),
        Err(error) if error.is_parse() => Ended::malformed("what is said inside is not HTTP/1.1"),
        Err(error) if error.is_body_write_aborted() || error.is_user() => {
            // The answer broke off upstream; its own record says so.
            Ended::of(CloseReason::UpstreamReset)
        }
        Err(_) => Ended::of(CloseReason::ClientReset),
    }
}

fn http2_ended(ended: hyper::Result<()>) -> Ended {
    match ended {
        Ok(()) => Ended::of(CloseReason::Finished),
        // A failure of the connection, not of what is said on it.
        Err(error) if error.source().is_some_and(|why| why.is::<io::Error>()) => {
            Ended::of(CloseReason::ClientReset)
        }
        Err(_) => Ended::malformed("what is said inside is not HTTP/2 as it should be"),
    }
}
