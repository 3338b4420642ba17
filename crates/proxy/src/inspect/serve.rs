//! The server's side towards the program: HTTP/1.1 or HTTP/2, as was agreed on.
//!
//! Answers "exhaustion" and "header bytes a byte a second": heads, silence, streams and resets have
//! limits, and what breaks the protocol ends the connection.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::pin::pin;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_record::CloseReason;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::alpn::Alpn;
use super::body::Down;
use super::io::{Activity, Client};
use super::limits::{
    CONNECTION_WINDOW_BYTES, MAX_BUFFER_BYTES, MAX_ERROR_RESETS, MAX_FIELDS, MAX_FIELDS_BYTES,
    MAX_RESET_STREAMS, MAX_STREAM_BUFFER_BYTES, MAX_STREAMS, STREAM_WINDOW_BYTES, WATCH_INTERVAL,
};
use super::tasks::Tasks;
use crate::limits::{ANSWER_TIMEOUT, HEADER_TIMEOUT, KEEP_ALIVE_TIMEOUT};

/// How a connection came to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) end: CloseReason,
    /// What the record of the end says.
    pub(super) detail: Option<&'static str>,
    /// The program's bytes were not HTTP: a denial of its own.
    pub(super) malformed: Option<&'static str>,
}

impl Ended {
    pub(super) const fn of(end: CloseReason) -> Ended {
        Ended {
            end,
            detail: None,
            malformed: None,
        }
    }

    pub(super) const fn because(end: CloseReason, detail: &'static str) -> Ended {
        Ended {
            detail: Some(detail),
            ..Ended::of(end)
        }
    }

    const fn malformed(why: &'static str) -> Ended {
        Ended {
            malformed: Some(why),
            ..Ended::of(CloseReason::ClientProtocol)
        }
    }
}

/// What makes a connection end that says nothing.
enum Over {
    /// No request for too long.
    Idle,
    /// A head that does not come to its end.
    Head,
}

/// Serves requests until the program is done, silent for too long, or breaks the protocol.
pub(super) async fn requests<S, F>(
    stream: TlsStream<Client>,
    alpn: Alpn,
    activity: &Activity,
    service: S,
) -> Ended
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<Down>, Infallible>> + Send,
{
    let io = TokioIo::new(stream);
    let service = service_fn(service);
    match alpn {
        Alpn::None | Alpn::Http1 => {
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                // Watched here: its own would count the pause between two requests as well.
                .header_read_timeout(None)
                .auto_date_header(false)
                .max_headers(MAX_FIELDS)
                .max_buf_size(MAX_BUFFER_BYTES)
                .serve_connection(io, service)
                .with_upgrades();
            let mut serving = pin!(serving);
            let over = tokio::select! {
                ended = serving.as_mut() => return http1_ended(ended),
                over = watch(activity, true) => over,
            };
            match over {
                Over::Head => Ended::malformed("the request head took longer than 10 s"),
                Over::Idle => {
                    serving.as_mut().graceful_shutdown();
                    let _ = timeout(ANSWER_TIMEOUT, serving).await;
                    Ended::of(CloseReason::Finished)
                }
            }
        }
        Alpn::Http2 => {
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
                .serve_connection(io, service);
            let mut serving = pin!(serving);
            let served = async {
                tokio::select! {
                    ended = serving.as_mut() => return http2_ended(ended),
                    _ = watch(activity, false) => {}
                }
                serving.as_mut().graceful_shutdown();
                let _ = timeout(ANSWER_TIMEOUT, serving).await;
                Ended::of(CloseReason::Finished)
            };
            streams.until(served).await
        }
    }
}

/// Ends when the connection has been silent for too long.
async fn watch(activity: &Activity, heads: bool) -> Over {
    loop {
        sleep(WATCH_INTERVAL).await;
        let waits = activity.head_waits().filter(|_| heads);
        if waits.is_some_and(|waits| waits >= HEADER_TIMEOUT) {
            return Over::Head;
        }
        let patience = match activity.was_used() {
            true => KEEP_ALIVE_TIMEOUT,
            false => HEADER_TIMEOUT,
        };
        if activity.idle().is_some_and(|idle| idle >= patience) {
            return Over::Idle;
        }
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
        // A fault of the connection, not of what is said on it.
        Err(error) if error.source().is_some_and(|why| why.is::<io::Error>()) => {
            Ended::of(CloseReason::ClientReset)
        }
        Err(_) => Ended::malformed("what is said inside is not HTTP/2 as it should be"),
    }
}
