//! DNS over HTTPS (RFC 8484): each question a POST, over HTTP/2 where the server has it, else one at
//! a time over HTTP/1.1.
//!
//! What the server says is bounded (heads, bodies, time) and nothing of it is followed: a redirect is
//! a failure like any other status but 200.

use std::pin::pin;

use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT, AGE, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::connector::SecureStream;
use super::endpoint::Url;
use super::error::ExchangeError;
use super::exchange::{IDLE_LIMIT, Job, Raw, SILENCE_LIMIT};
use super::question::{Match, matches};
use crate::reply::MAX_MESSAGE_BYTES;

/// The media type of a DNS message.
const DNS_MESSAGE: &str = "application/dns-message";

/// Questions under way on one HTTP/2 connection.
const MAX_STREAMS: usize = 64;

/// Longest head of a response, bytes.
const MAX_HEAD_BYTES: u32 = 16 * 1024;

/// Header fields of a response.
const MAX_FIELDS: usize = 64;

/// What an HTTP/2 server may send ahead, bytes for each stream and for all.
const WINDOW_BYTES: u32 = 128 * 1024;

/// The sending side of a connection.
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Many(http2::SendRequest<Full<Bytes>>),
}

/// Serves questions until the connection is idle, broken or no longer wanted; says what becomes of
/// questions that were not answered.
pub(super) async fn serve(
    stream: SecureStream,
    url: &Url,
    jobs: &mut mpsc::Receiver<Job>,
) -> ExchangeError {
    let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    let made = if two {
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_header_list_size(MAX_HEAD_BYTES)
            .handshake(stream)
            .await
            .map(|(sender, connection)| (Sender::Many(sender), Either::Left(connection)))
    } else {
        http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES as usize)
            .max_headers(MAX_FIELDS)
            .handshake(stream)
            .await
            .map(|(sender, connection)| (Sender::One(sender), Either::Right(connection)))
    };
    match made {
        Ok((sender, connection)) => drive(sender, connection, url, jobs).await,
        Err(error) => not_http(&error),
    }
}

fn not_http(error: &hyper::Error) -> ExchangeError {
    ExchangeError::refused(format!("its HTTP failed: {error}"))
}

async fn drive(
    mut sender: Sender,
    connection: impl Future<Output = hyper::Result<()>>,
    url: &Url,
    jobs: &mut mpsc::Receiver<Job>,
) -> ExchangeError {
    let mut connection = pin!(connection);
    let mut under_way = FuturesUnordered::new();
    // Questions that lost the connection; told so when the queue is closed.
    let mut lost = Vec::new();
    loop {
        let room = match &sender {
            Sender::One(_) => under_way.is_empty(),
            Sender::Many(_) => under_way.len() < MAX_STREAMS,
        };
        tokio::select! {
            biased;
            Some(unanswered) = under_way.next(), if !under_way.is_empty() => {
                if let Some(job) = unanswered {
                    lost.push(job);
                    break;
                }
            }
            _ = &mut connection => {
                // What was read before the end still goes to those who wait.
                while let Some(unanswered) = under_way.next().await {
                    lost.extend(unanswered);
                }
                break;
            }
            job = jobs.recv(), if room => {
                let Some(job) = job else { break };
                if !job.reply.is_closed() {
                    under_way.push(one(sender.request(url, &job.query), job));
                }
            }
            () = sleep(IDLE_LIMIT), if under_way.is_empty() => break,
        }
    }
    jobs.close();
    ExchangeError::Closed
}

impl Sender {
    /// Sends a request; the future waits for the response's head.
    fn request(
        &mut self,
        url: &Url,
        query: &[u8],
    ) -> impl Future<Output = Result<Response<Incoming>, ExchangeError>> + use<> {
        let request = self.write(url, query);
        let sent = request.map(|request| match self {
            Sender::One(sender) => Either::Left(sender.send_request(request)),
            Sender::Many(sender) => Either::Right(sender.send_request(request)),
        });
        async move {
            let sent = sent.map_err(|error| ExchangeError::refused(error.to_string()))?;
            sent.await.map_err(|error| {
                if error.is_parse() {
                    return not_http(&error);
                }
                // Refused streams, GOAWAY, the end of an idle connection: another one may do.
                ExchangeError::Closed
            })
        }
    }

    fn write(&self, url: &Url, query: &[u8]) -> hyper::http::Result<Request<Full<Bytes>>> {
        // Each POST is answered on its own stream: the id says nothing (RFC 8484 section 4.1).
        let mut body = query.to_vec();
        body[..2].fill(0);
        let request = Request::builder()
            .method(Method::POST)
            .header(ACCEPT, DNS_MESSAGE)
            .header(CONTENT_TYPE, DNS_MESSAGE);
        let request = match self {
            Sender::One(_) => request.uri(&*url.path).header(HOST, &*url.authority),
            Sender::Many(_) => request
                .version(Version::HTTP_2)
                .uri(format!("https://{}{}", url.authority, url.path)),
        };
        request.body(Full::new(body.into()))
    }
}

/// One question's way; it comes back where the connection is not to be used again.
async fn one(
    response: impl Future<Output = Result<Response<Incoming>, ExchangeError>>,
    mut job: Job,
) -> Option<Job> {
    let query = std::mem::take(&mut job.query);
    let answer = async { read(response.await?, &query).await };
    let mut answer = pin!(timeout(SILENCE_LIMIT, answer));
    let answer = tokio::select! {
        answer = &mut answer => answer.unwrap_or(Err(ExchangeError::Closed)),
        () = job.reply.closed() => return None,
    };
    if matches!(answer, Err(ExchangeError::Closed)) {
        return Some(job);
    }
    let _ = job.reply.send(answer);
    None
}

async fn read(response: Response<Incoming>, query: &[u8]) -> Result<Raw, ExchangeError> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        let status = head.status.as_u16();
        return Err(ExchangeError::refused(format!("it answered HTTP {status}")));
    }
    let kind = head.headers.get(CONTENT_TYPE);
    if !kind.is_some_and(|kind| is_dns_message(kind.as_bytes())) {
        let why = "it answered with something else than a DNS message";
        return Err(ExchangeError::refused(why));
    }
    let body = Limited::new(body, MAX_MESSAGE_BYTES).collect().await;
    let mut bytes = match body {
        Ok(body) => body.to_bytes().to_vec(),
        Err(error) if error.is::<LengthLimitError>() => return Err(ExchangeError::Malformed),
        Err(_) => return Err(ExchangeError::Closed),
    };
    // Each has a stream of its own, and some servers give the id of the question they asked.
    let id = bytes.get_mut(..2).ok_or(ExchangeError::Malformed)?;
    id.copy_from_slice(&query[..2]);
    let age = age(&head.headers);
    match matches(&bytes, query) {
        Match::No => Err(ExchangeError::Mismatch),
        Match::OtherCase | Match::Exact => Ok(Raw { bytes, age }),
    }
}

fn is_dns_message(kind: &[u8]) -> bool {
    let end = kind.iter().position(|b| *b == b';').unwrap_or(kind.len());
    kind[..end]
        .trim_ascii()
        .eq_ignore_ascii_case(DNS_MESSAGE.as_bytes())
}

/// How long the answer lay in an HTTP cache, seconds (RFC 8484 section 5.1).
fn age(headers: &HeaderMap) -> u32 {
    let text = headers.get(AGE).and_then(|age| age.to_str().ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_type_is_compared_without_case_and_parameters() {
        assert!(is_dns_message(b"application/dns-message"));
        assert!(is_dns_message(b"Application/DNS-Message; charset=utf-8"));
        assert!(!is_dns_message(b"application/dns-message2"));
        assert!(!is_dns_message(b"application/json"));
        assert!(!is_dns_message(b""));
    }

    #[test]
    fn the_age_is_a_number_or_nothing() {
        let age_of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AGE, text.parse().unwrap());
            age(&headers)
        };
        assert_eq!(age_of("250"), 250);
        assert_eq!(age_of("-1"), 0);
        assert_eq!(age_of("99999999999999999999"), 0);
        assert_eq!(age(&HeaderMap::new()), 0);
    }
}
