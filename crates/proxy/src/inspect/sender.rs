//! The client's side towards upstream: one connection, HTTP/1.1 or HTTP/2.

use std::pin::pin;

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_policy::Reason;
use portcullis_record::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::alpn::Alpn;
use super::body::Up;
use super::limits::{
    CONNECTION_WINDOW_BYTES, MAX_BUFFER_BYTES, MAX_ERROR_RESETS, MAX_FIELDS, MAX_FIELDS_BYTES,
    MAX_RESET_STREAMS, MAX_STREAM_BUFFER_BYTES, SETTINGS_LOOK, SETTINGS_TIMEOUT,
    STREAM_WINDOW_BYTES, UNTOLD_STREAMS,
};
use super::tasks::Spawner;
use crate::open_error::OpenError;

/// Sends requests on one connection.
pub(super) enum Sender {
    /// One after the other.
    Http1(http1::SendRequest<Up>),
    /// Many at once.
    Http2 {
        sender: http2::SendRequest<Up>,
        /// Whether upstream takes WebSockets (RFC 8441), once it has said so or not.
        websockets: watch::Receiver<Option<bool>>,
    },
    /// In use: HTTP/1.1 has one user.
    Taken,
}

/// What became of a request.
pub(super) enum Sent {
    Answered(Response<Incoming>),
    /// Not a byte of it was sent.
    Untaken(Request<Up>),
    /// It broke off somewhere; why, in a few words.
    Broken(CloseReason, &'static str),
}

/// What moves a connection of HTTP/2.
type Driver<I> = http2::Connection<TokioIo<I>, Up, Spawner<'static>>;

/// Drives a connection of HTTP/2, and tells whether upstream takes WebSockets once its settings are
/// there.
async fn drive<I>(driver: Driver<I>, tell: watch::Sender<Option<bool>>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut driver = pin!(driver);
    let until = Instant::now() + SETTINGS_TIMEOUT;
    while tell.borrow().is_none() {
        // The library tells nobody when settings come: it is looked at until they have.
        if timeout(SETTINGS_LOOK, driver.as_mut()).await.is_ok() {
            return;
        }
        if driver.current_max_send_streams() != UNTOLD_STREAMS || Instant::now() >= until {
            tell.send_replace(Some(driver.is_extended_connect_protocol_enabled()));
        }
    }
    // How it ends is known by those who wait for answers.
    drop(driver.await);
}

impl Sender {
    /// Begins HTTP on a connection; its driver is one of the connection's tasks.
    ///
    /// # Errors
    /// Upstream does not speak HTTP/2 although it said so.
    pub(super) async fn begin<I>(
        stream: I,
        alpn: Alpn,
        spawner: &Spawner<'static>,
    ) -> Result<Sender, OpenError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let began = match alpn {
            Alpn::None | Alpn::Http1 => {
                let began = http1::Builder::new()
                    .title_case_headers(true)
                    // Sloppy servers, as far as the reader without TLS takes them too.
                    .allow_spaces_after_header_name_in_responses(true)
                    .allow_obsolete_multiline_headers_in_responses(true)
                    .ignore_invalid_headers_in_responses(true)
                    .max_headers(MAX_FIELDS)
                    .max_buf_size(MAX_BUFFER_BYTES)
                    .handshake(io)
                    .await;
                began.map(|(sender, driver)| {
                    let driver = driver.with_upgrades();
                    // How it ended is known by those who wait for answers.
                    spawner.execute(async move { drop(driver.await) });
                    Sender::Http1(sender)
                })
            }
            Alpn::Http2 => {
                let began = http2::Builder::new(Spawner::clone(spawner))
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .max_header_list_size(MAX_FIELDS_BYTES)
                    .max_send_buf_size(MAX_STREAM_BUFFER_BYTES)
                    .max_concurrent_reset_streams(MAX_RESET_STREAMS)
                    .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
                    .max_local_error_reset_streams(MAX_ERROR_RESETS)
                    .initial_max_send_streams(UNTOLD_STREAMS)
                    .handshake(io)
                    .await;
                began.map(|(sender, driver)| {
                    let (tell, websockets) = watch::channel(None);
                    spawner.execute(drive(driver, tell));
                    Sender::Http2 { sender, websockets }
                })
            }
        };
        began.map_err(|error| OpenError::Upstream {
            reason: Reason::UpstreamProtocol,
            detail: format!("upstream: {error}"),
        })
    }

    /// For one request: HTTP/2's sender is shared, HTTP/1.1's is taken.
    pub(super) fn take(&mut self) -> Option<Sender> {
        match self {
            Sender::Http2 { sender, websockets } => Some(Sender::Http2 {
                sender: sender.clone(),
                websockets: websockets.clone(),
            }),
            Sender::Http1(_) => Some(std::mem::replace(self, Sender::Taken)),
            Sender::Taken => None,
        }
    }

    /// Whether a request may change to a WebSocket here; waits until upstream has said so.
    pub(super) async fn takes_websockets(&self) -> bool {
        let Sender::Http2 { websockets, .. } = self else {
            return true;
        };
        let mut websockets = websockets.clone();
        let told = websockets.wait_for(Option::is_some).await;
        told.is_ok_and(|told| *told == Some(true))
    }

    /// Waits until the connection takes a request; false where it never will.
    pub(super) async fn is_ready(&mut self) -> bool {
        match self {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2 { sender, .. } => sender.ready().await.is_ok(),
            Sender::Taken => false,
        }
    }

    /// Sends a request; returns with the head of its answer.
    pub(super) async fn send(&mut self, request: Request<Up>) -> Sent {
        let sent = match self {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2 { sender, .. } => sender.try_send_request(request).await,
            Sender::Taken => return Sent::Untaken(request),
        };
        match sent {
            Ok(answer) => Sent::Answered(answer),
            Err(mut failed) => match failed.take_message() {
                Some(request) => Sent::Untaken(request),
                None => {
                    let (end, why) = why_broken(failed.error());
                    Sent::Broken(end, why)
                }
            },
        }
    }
}

/// How a request broke off that was sent, or its answer.
fn why_broken(error: &hyper::Error) -> (CloseReason, &'static str) {
    let why = match error {
        error if error.is_parse_too_large() => "the response head is too long",
        error if error.is_parse_status() => "the response's status line has no valid status",
        error if error.is_parse_version_h2() => "the response is HTTP/2, which was not agreed on",
        error if error.is_parse() => "the response head is not HTTP/1 as it should be",
        _ => {
            return (
                CloseReason::UpstreamReset,
                "upstream broke off before it answered",
            );
        }
    };
    (CloseReason::UpstreamProtocol, why)
}
