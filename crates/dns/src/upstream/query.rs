//! The one loop that asks upstream servers.

use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::{Message, ResponseCode};
use portcullis_names::RecordType;
use portcullis_policy::LookupPermit;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::error::{ExchangeError, FailedAttempt, UpstreamError};
use super::question::Question;
use super::schedule::{Attempts, Schedule};
use super::server::{Group, Server};

/// What makes it sure that one server does not answer such a question: NOTIMP, or FORMERR twice.
const UNABLE: usize = 2;

/// An upstream's answer: NOERROR or NXDOMAIN, for the question asked.
#[derive(Debug)]
pub struct Answered {
    /// The answer, not yet looked at beyond id, question and response code.
    pub message: Message,
    /// Who answered, as the policy's resolvers are written: `192.0.2.53:53`, `tls://dns.example:853`.
    pub server: Arc<str>,
    /// Attempts made until then, at least 1.
    pub attempts: u32,
}

/// Asks these servers for the permitted name's records of one type.
///
/// # Errors
/// [`UpstreamError`] when no server gave a usable answer in time.
pub(super) async fn query<S: Server>(
    servers: &Group<S>,
    permit: &LookupPermit,
    qtype: RecordType,
    attempts: Attempts,
) -> Result<Answered, UpstreamError> {
    if servers.is_empty() {
        return Err(UpstreamError::no_server());
    }
    let name = permit.name();
    let question = Question {
        name: name.as_ref(),
        qtype,
    };
    let schedule = Schedule::new(servers, attempts);
    // When each attempt started; `None` once it has ended.
    let mut starts: SmallVec<[Option<Instant>; 4]> = SmallVec::new();
    let mut next_start = schedule.start(0);
    let mut last: Option<FailedAttempt> = None;
    // How sure it is that no server answers such a question.
    let mut unable = 0;
    let mut running = FuturesUnordered::new();
    loop {
        let more = schedule.has(starts.len()) && unable < schedule.servers() * UNABLE;
        if !more && running.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            Some(Ended { attempt, result }) = running.next(), if !running.is_empty() => {
                let now = Instant::now();
                let start = starts.get_mut(attempt).and_then(Option::take);
                let took = start.map(|start: Instant| now - start).unwrap_or_default();
                let server = schedule.server(attempt).state();
                match result {
                    Ok(message) => {
                        debug!(
                            %name, %qtype, server = %server.text, attempt,
                            millis = took.as_millis(), "upstream answered"
                        );
                        server.answered(took);
                        report_silent(&schedule, &starts, now, Some(attempt));
                        let attempts = starts.len() as u32;
                        let server = server.text.clone();
                        return Ok(Answered { message, server, attempts });
                    }
                    Err(error) => {
                        debug!(%name, %qtype, server = %server.text, attempt, %error, "upstream failed");
                        match error {
                            ExchangeError::Code(code) => {
                                server.gave_error(now);
                                unable += match code {
                                    ResponseCode::NotImp => UNABLE,
                                    // It may have been the message that came damaged.
                                    ResponseCode::FormErr => UNABLE / 2,
                                    _ => 0,
                                };
                            }
                            ExchangeError::Crowded | ExchangeError::Exhausted(_) => {}
                            _ => server.failed(now),
                        }
                        let server = server.text.clone();
                        last = Some(FailedAttempt { server, error });
                        // A server that has not been asked yet need not wait for its time.
                        if starts.len() < schedule.servers() {
                            next_start = now;
                        }
                    }
                }
            }
            () = sleep_until(next_start), if more => {
                let attempt = starts.len();
                let server = schedule.server(attempt);
                let retry = schedule.retry(attempt);
                debug!(%name, %qtype, server = %server.state().text, attempt, "upstream asked");
                running.push(async move {
                    let result = server.ask(question, retry).await;
                    Ended { attempt, result }
                });
                starts.push(Some(Instant::now()));
                next_start = schedule.start(attempt + 1);
            }
            () = sleep_until(schedule.deadline()) => break,
        }
    }
    report_silent(&schedule, &starts, Instant::now(), None);
    let attempts = starts.len() as u32;
    let error = match last {
        Some(last) => {
            let silent = !running.is_empty();
            let unable = unable >= schedule.servers() * UNABLE;
            UpstreamError {
                unable,
                ..UpstreamError::after(last, attempts, silent)
            }
        }
        None => UpstreamError::timeout(schedule.server(0).state().text.clone(), attempts),
    };
    debug!(%name, %qtype, attempts, %error, "no upstream answered");
    Err(error)
}

/// An attempt that came to an end.
struct Ended {
    /// Its number, counted from 0.
    attempt: usize,
    result: Result<Message, ExchangeError>,
}

/// Counts a failure for each server that had its time and was silent: all whose attempts still run,
/// unless they are the one that answered.
fn report_silent<S: Server>(
    schedule: &Schedule<S>,
    starts: &[Option<Instant>],
    now: Instant,
    answered: Option<usize>,
) {
    let answered = answered.map(|attempt| schedule.server(attempt));
    for (attempt, start) in starts.iter().enumerate() {
        let server = schedule.server(attempt);
        let late = start.is_some_and(|start| now - start >= schedule.patience());
        if late && !answered.is_some_and(|answered| Arc::ptr_eq(answered, server)) {
            server.state().failed(now);
        }
    }
}
