//! The one loop that asks upstream servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::{Message, ResponseCode};
use portcullis_names::RecordType;
use portcullis_policy::LookupPermit;
use smallvec::{SmallVec, smallvec};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::error::{ExchangeError, FailedAttempt, Unanswered, UpstreamError};
use super::question::Question;
use super::schedule::{Attempts, Schedule};
use super::server::{Group, Server};

/// How often a server says FORMERR until it is sure that it does not answer such a question: a first one
/// may be about a message that came damaged.
const FORMERRS_UNTIL_UNABLE: u8 = 2;

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

/// How a question does while it is asked, for who waits for it.
#[derive(Debug, Default)]
pub struct Progress(AtomicBool);

impl Progress {
    /// Whether a server has answered with an error that is not about such questions, or no server can be
    /// reached: then it is more than silence.
    pub fn has_failed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one server did with the question; later ones outweigh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    #[default]
    Nothing,
    /// It could not be reached, which says nothing of the question.
    Unreachable,
    /// It does not answer such a question, it seems: FORMERR, so often.
    Formerr(u8),
    /// It does not answer such a question.
    Unable,
    /// Another error, or something that is no answer.
    Error,
}

impl Said {
    /// What the server says with one more failure.
    fn and(self, error: &ExchangeError) -> Said {
        let now = match error {
            ExchangeError::Unreachable(_) | ExchangeError::Closed => Said::Unreachable,
            ExchangeError::Code(ResponseCode::NotImp) => Said::Unable,
            ExchangeError::Code(ResponseCode::FormErr) => match self {
                Said::Formerr(times) if times + 1 >= FORMERRS_UNTIL_UNABLE => Said::Unable,
                _ => Said::Formerr(1),
            },
            _ => Said::Error,
        };
        self.max(now)
    }
}

/// What these servers together say of the question.
fn unanswered(said: &[Said]) -> Unanswered {
    let about = |said: &Said| !matches!(said, Said::Unreachable | Said::Error);
    if !said.iter().any(about) || said.contains(&Said::Error) {
        Unanswered::Failed
    } else if said.iter().all(|said| *said == Said::Unable) {
        Unanswered::Unable
    } else {
        Unanswered::Ignored
    }
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
    progress: &Progress,
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
    let mut said: SmallVec<[Said; 4]> = smallvec![Said::default(); schedule.servers()];
    let mut running = FuturesUnordered::new();
    loop {
        let more = schedule.has(starts.len()) && unanswered(&said) != Unanswered::Unable;
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
                            ExchangeError::Code(_) => server.gave_error(now),
                            ExchangeError::Crowded | ExchangeError::Exhausted(_) => {}
                            _ => server.failed(now),
                        }
                        let place = attempt % schedule.servers();
                        said[place] = said[place].and(&error);
                        let failed = unanswered(&said[..starts.len().min(said.len())]);
                        let failed = failed == Unanswered::Failed;
                        progress.0.store(failed, Ordering::Relaxed);
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
            UpstreamError::after(last, attempts, silent)
        }
        None => UpstreamError::timeout(schedule.server(0).state().text.clone(), attempts),
    };
    let error = UpstreamError {
        unanswered: unanswered(&said[..starts.len().min(said.len())]),
        ..error
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
