//! When attempts start, and at which server.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::health::ServerStatus;
use super::server::{Group, Server};

/// When attempts start, counted from the first. Stub resolvers give up at 5 s.
const STARTS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(900),
    Duration::from_millis(2_000),
];

/// The latest first retry: a server that is always slow is not asked twice for that alone.
const LATEST_RETRY: Duration = Duration::from_millis(450);

/// A server that answers after so many of its round-trip times is late.
const LATE_AFTER_RTTS: u32 = 3;

/// Servers asked in one lookup. Of longer lists those that failed are left out, since they come last.
pub(super) const MAX_ASKED: usize = 16;

/// How often and how long a lookup asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempts {
    /// A program waits: attempts start 0, 300, 900 and 2,000 ms after the beginning, and the answer
    /// is there at `deadline` at the latest.
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

/// The attempts of one question.
pub(super) struct Schedule<S> {
    order: SmallVec<[Arc<S>; 4]>,
    /// Attempts in all.
    total: usize,
    started: Instant,
    deadline: Instant,
    /// When the second attempt starts, counted from the first.
    retry: Duration,
    /// Whether attempts start by the clock, not only after failures.
    timed: bool,
}

impl<S: Server> Schedule<S> {
    /// Plans attempts at `servers`, of which there is at least one.
    pub(super) fn new(servers: &Group<S>, attempts: Attempts) -> Schedule<S> {
        let started = Instant::now();
        match attempts {
            Attempts::OnDemand { deadline } => {
                let Order {
                    servers: order,
                    probes,
                } = by_health(servers, started);
                let rtt = order.first().and_then(|server| server.state().health.rtt());
                let late = rtt.unwrap_or_default() * LATE_AFTER_RTTS;
                Schedule {
                    total: order.len().max(STARTS.len()),
                    order,
                    started,
                    deadline,
                    retry: if probes {
                        Duration::ZERO
                    } else {
                        late.clamp(STARTS[1], LATEST_RETRY)
                    },
                    timed: true,
                }
            }
            Attempts::One { number, limit } => {
                let mut order: SmallVec<[Arc<S>; 4]> = servers.iter().cloned().collect();
                let first = number % order.len().max(1);
                order.rotate_left(first);
                order.truncate(MAX_ASKED);
                Schedule {
                    total: order.len(),
                    order,
                    started,
                    deadline: started + limit,
                    retry: limit,
                    timed: false,
                }
            }
        }
    }

    /// The server of the `n`-th attempt.
    pub(super) fn server(&self, n: usize) -> &Arc<S> {
        &self.order[n % self.order.len()]
    }

    /// How often the server of the `n`-th attempt was asked before.
    pub(super) fn retry(&self, n: usize) -> usize {
        n / self.order.len()
    }

    /// How many servers there are.
    pub(super) fn servers(&self) -> usize {
        self.order.len()
    }

    /// Whether there is an `n`-th attempt at all.
    pub(super) fn has(&self, n: usize) -> bool {
        n < self.total
    }

    /// When the `n`-th attempt starts if nothing failed before. Beyond the schedule (many servers,
    /// all silent) the pauses stay short.
    pub(super) fn start(&self, n: usize) -> Instant {
        if !self.timed && n > 0 {
            return self.deadline + LATEST_RETRY;
        }
        let offset = match (n, STARTS.get(n)) {
            (1, _) => self.retry,
            (_, Some(offset)) => *offset,
            (_, None) => STARTS[3] + STARTS[1] * (n + 1 - STARTS.len()) as u32,
        };
        self.started + offset
    }

    /// How long a server may be silent before that is its failure.
    pub(super) fn patience(&self) -> Duration {
        self.retry.clamp(STARTS[1], LATEST_RETRY)
    }

    /// When to give up.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Servers in the order of asking.
struct Order<S> {
    servers: SmallVec<[Arc<S>; 4]>,
    /// Whether the first is asked to find out whether it is back.
    probes: bool,
}

fn by_health<S: Server>(servers: &Group<S>, now: Instant) -> Order<S> {
    if let [only] = &**servers {
        return Order {
            servers: SmallVec::from_iter([only.clone()]),
            probes: false,
        };
    }
    let mut order: SmallVec<[Arc<S>; 4]> = SmallVec::new();
    let mut failing: SmallVec<[&Arc<S>; 4]> = SmallVec::new();
    let mut probes = false;
    for server in servers.iter() {
        let health = &server.state().health;
        // Only the first is sure to be asked: nobody further down is chosen for finding out.
        let status = if order.is_empty() {
            health.status(now)
        } else if health.is_good() {
            ServerStatus::Good
        } else {
            ServerStatus::Failing
        };
        match status {
            ServerStatus::Good => order.push(server.clone()),
            ServerStatus::Probe => {
                probes = true;
                order.push(server.clone());
            }
            ServerStatus::Failing => failing.push(server),
        }
    }
    order.extend(failing.into_iter().cloned());
    order.truncate(MAX_ASKED);
    Order {
        servers: order,
        probes,
    }
}
