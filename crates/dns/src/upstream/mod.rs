//! Asking upstream resolvers: which, how often, how long.
//!
//! Invariant: [`Upstream::query`] is the only function of the house that sends to an upstream
//! resolver, and it takes a permit that only the policy can make. What it sends is made from the
//! permit's name and the type, and from nothing else.
//!
//! Answers "one failed lookup lost the name" (case 5): at least four attempts, the first retry soon
//! and at the next server, all within what a stub resolver waits. An attempt that was given a
//! successor is still listened to: a slow answer is an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::{Message, ResponseCode};
use portcullis_policy::{LookupPermit, Reason};
use tokio::time::{Instant, sleep_until};

mod exchange;
mod network;

pub use network::{ByteStream, Datagrams, Network, SystemNetwork};

use exchange::{ExchangeError, Question};

/// When attempts start, counted from the first. Stub resolvers give up at 5 s.
const SCHEDULE: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(900),
    Duration::from_millis(2_000),
];

/// The time a lookup may take, all its questions included: within 4 s the sandbox has an answer.
pub(crate) const LOOKUP_BUDGET: Duration = Duration::from_millis(3_700);

/// Upstream resolvers of one sandbox; more than these are not asked.
const MAX_UPSTREAMS: usize = 16;

/// How often and how long a lookup asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempts {
    /// A program waits: 0, 300, 900 and 2,000 ms after the beginning, an answer until `deadline` at
    /// the latest.
    OnDemand {
        /// When to give up.
        deadline: Instant,
    },
    /// One attempt of a schedule that the caller keeps: its `number`-th, counted from 0, goes to the
    /// next server each time. A server that fails at once is passed over within `limit`.
    One {
        /// Which attempt this is.
        number: usize,
        /// How long it may take.
        limit: Duration,
    },
}

/// The upstream resolvers of one sandbox.
#[derive(Debug)]
pub struct Upstream {
    network: Arc<dyn Network>,
    servers: ArcSwap<Vec<SocketAddr>>,
    /// Index of the server that answered last when the one before it did not.
    preferred: AtomicUsize,
}

/// An upstream's answer: NOERROR or NXDOMAIN, for the question asked.
#[derive(Debug)]
pub struct Answered {
    /// The answer, not yet looked at beyond id, question and response code.
    pub message: Message,
    /// Who answered.
    pub server: SocketAddr,
    /// Attempts made until then, at least 1.
    pub attempts: u32,
}

/// Why no upstream answered.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct UpstreamError {
    /// `dns-timeout`, `dns-unreachable` or `dns-failed`.
    pub reason: Reason,
    /// What happened, for the operator's record.
    pub detail: String,
    /// The resolver that failed last, where one was asked.
    pub server: Option<SocketAddr>,
    /// Attempts made.
    pub attempts: u32,
}

impl Upstream {
    /// Resolvers, in order of preference; no more than 16 are kept.
    pub fn new(servers: Vec<SocketAddr>, network: Arc<dyn Network>) -> Upstream {
        let upstream = Upstream {
            network,
            servers: ArcSwap::default(),
            preferred: AtomicUsize::new(0),
        };
        upstream.replace(servers);
        upstream
    }

    /// Puts other resolvers in the place of the present ones; lookups under way keep theirs.
    pub fn replace(&self, mut servers: Vec<SocketAddr>) {
        servers.truncate(MAX_UPSTREAMS);
        self.preferred.store(0, Ordering::Relaxed);
        self.servers.store(Arc::new(servers));
    }

    /// Asks for the permitted name's records of one type.
    ///
    /// # Errors
    /// [`UpstreamError`] when no server gave a usable answer in time.
    pub async fn query(
        &self,
        permit: &LookupPermit,
        qtype: u16,
        attempts: Attempts,
    ) -> Result<Answered, UpstreamError> {
        let servers = self.servers.load_full();
        if servers.is_empty() {
            return Err(UpstreamError {
                reason: Reason::DnsUnreachable,
                detail: "no upstream resolver is configured".to_owned(),
                server: None,
                attempts: 0,
            });
        }
        let started = Instant::now();
        let (first, total, deadline) = match attempts {
            Attempts::OnDemand { deadline } => {
                let first = self.preferred.load(Ordering::Relaxed);
                (first, total_attempts(servers.len()), deadline)
            }
            Attempts::One { number, limit } => (number, servers.len(), started + limit),
        };
        let patient = matches!(attempts, Attempts::One { .. });
        let order = |attempt: usize| (first % servers.len() + attempt) % servers.len();
        let mut next_start = started;
        let mut attempts = 0;
        let mut edns = true;
        let mut last: Option<(SocketAddr, ExchangeError)> = None;
        let mut running = FuturesUnordered::new();
        loop {
            let more = attempts < total;
            if !more && running.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some((index, result)) = running.next(), if !running.is_empty() => {
                    let server = servers[index];
                    match result {
                        Ok(message) => {
                            self.preferred.store(index, Ordering::Relaxed);
                            return Ok(Answered { message, server, attempts: attempts as u32 });
                        }
                        Err(error) => {
                            if matches!(
                                error,
                                ExchangeError::Code(ResponseCode::FormErr | ResponseCode::NotImp)
                            ) {
                                edns = false;
                            }
                            last = Some((server, error));
                            // A server that has not been asked yet need not wait its turn.
                            if attempts < servers.len() {
                                next_start = Instant::now();
                            }
                        }
                    }
                }
                () = sleep_until(next_start), if more => {
                    let index = order(attempts);
                    let question = Question { name: permit.name().as_ref(), qtype, edns };
                    let server = servers[index];
                    running.push(async move {
                        (index, exchange::ask(&*self.network, server, question).await)
                    });
                    attempts += 1;
                    next_start = if patient { deadline + LOOKUP_BUDGET } else { start_of(attempts, started) };
                }
                () = sleep_until(deadline) => break,
            }
        }
        let unanswered = running.len();
        Err(failure(
            last,
            unanswered,
            attempts as u32,
            servers[order(0)],
        ))
    }
}

/// Attempts in all: four, or one for each server where there are more.
fn total_attempts(servers: usize) -> usize {
    servers.max(SCHEDULE.len())
}

/// When an attempt starts. Beyond the schedule (many servers, all failing at once) the pauses stay
/// short.
fn start_of(attempt: usize, started: Instant) -> Instant {
    match SCHEDULE.get(attempt) {
        Some(offset) => started + *offset,
        None => {
            let beyond = (attempt + 1 - SCHEDULE.len()) as u32;
            started + SCHEDULE[SCHEDULE.len() - 1] + SCHEDULE[1] * beyond
        }
    }
}

fn failure(
    last: Option<(SocketAddr, ExchangeError)>,
    unanswered: usize,
    attempts: u32,
    first: SocketAddr,
) -> UpstreamError {
    match last {
        Some((server, error)) => {
            let reason = match &error {
                ExchangeError::Io(_) if unanswered > 0 => Reason::DnsTimeout,
                ExchangeError::Io(_) => Reason::DnsUnreachable,
                _ => Reason::DnsFailed,
            };
            UpstreamError {
                reason,
                detail: format!("resolver {server}: {error} (attempts: {attempts})"),
                server: Some(server),
                attempts,
            }
        }
        None => UpstreamError {
            reason: Reason::DnsTimeout,
            detail: format!("resolver {first}: no answer in time (attempts: {attempts})"),
            server: Some(first),
            attempts,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_four_attempts_fit_into_four_seconds() {
        let started = Instant::now();
        assert_eq!(total_attempts(1), 4);
        assert_eq!(total_attempts(6), 6);
        for attempt in 1..SCHEDULE.len() {
            assert!(start_of(attempt, started) > start_of(attempt - 1, started));
            assert!(start_of(attempt, started) < started + LOOKUP_BUDGET);
        }
        assert_eq!(start_of(1, started) - started, Duration::from_millis(300));
        assert!(start_of(4, started) > start_of(3, started));
        assert!(LOOKUP_BUDGET < Duration::from_secs(4));
    }

    #[test]
    fn failures_are_told_apart() {
        let server: SocketAddr = "192.0.2.1:53".parse().unwrap();
        let refused = || ExchangeError::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert_eq!(failure(None, 4, 4, server).reason, Reason::DnsTimeout);
        assert_eq!(
            failure(Some((server, refused())), 0, 4, server).reason,
            Reason::DnsUnreachable
        );
        assert_eq!(
            failure(Some((server, refused())), 2, 4, server).reason,
            Reason::DnsTimeout
        );
        let code = ExchangeError::Code(ResponseCode::Refused);
        assert_eq!(
            failure(Some((server, code)), 0, 4, server).reason,
            Reason::DnsFailed
        );
    }
}
