//! What all lookups share, and the one loop that asks.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use futures_util::stream::{FuturesUnordered, StreamExt};
use portcullis_names::RecordType;
use portcullis_policy::{LookupPermit, Reason};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until};

use super::error::ExchangeError;
use super::network::Network;
use super::plan::{Group, Plan};
use super::question::Question;
use super::schedule::Schedule;
use super::trust::Trust;
use super::{Answered, Attempts, UpstreamConfig, UpstreamError};
use crate::config::PolicyHandle;

/// What all lookups of one sandbox share.
pub(super) struct Core {
    policy: PolicyHandle,
    host: ArcSwap<Arc<[SocketAddr]>>,
    pub network: Arc<dyn Network>,
    pub trust: Trust,
    pub ipv6_route: Arc<dyn Fn() -> bool + Send + Sync>,
    plan: ArcSwap<Plan>,
    planning: Mutex<()>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("plan", &self.plan).finish()
    }
}

impl Core {
    pub(super) fn new(config: UpstreamConfig) -> Core {
        let host: Arc<[SocketAddr]> = config.host.into();
        let plan = Plan::new(config.policy.load_full(), host.clone(), None);
        Core {
            policy: config.policy,
            host: ArcSwap::from_pointee(host),
            network: config.network,
            trust: Trust::new(config.authorities),
            ipv6_route: config.ipv6_route,
            plan: ArcSwap::from_pointee(plan),
            planning: Mutex::default(),
        }
    }

    /// Puts other host's resolvers in the place of the present ones.
    pub(super) fn set_host(&self, servers: Vec<SocketAddr>) {
        self.host.store(Arc::new(servers.into()));
    }

    /// The plan of the policy in force.
    pub(super) fn plan(&self) -> Arc<Plan> {
        let current = || {
            let host: Arc<[SocketAddr]> = self.host.load().as_ref().clone();
            (self.policy.load_full(), host)
        };
        let plan = self.plan.load_full();
        let (policy, host) = current();
        if plan.is_for(&policy, &host) {
            return plan;
        }
        let _one_at_a_time = self.planning.lock().unwrap_or_else(PoisonError::into_inner);
        // Read again: another thread may have been here, and an older policy must not come back.
        let (policy, host) = current();
        let before = self.plan.load_full();
        if before.is_for(&policy, &host) {
            return before;
        }
        let plan = Arc::new(Plan::new(policy, host, Some(&before)));
        self.plan.store(plan.clone());
        plan
    }

    /// Asks these servers for the permitted name's records of one type.
    pub(super) async fn ask(
        self: &Arc<Self>,
        servers: &Group,
        permit: &LookupPermit,
        qtype: RecordType,
        attempts: Attempts,
    ) -> Result<Answered, UpstreamError> {
        if servers.is_empty() {
            return Err(nobody());
        }
        let question = Question {
            name: permit.name().as_ref(),
            qtype,
        };
        let schedule = Schedule::new(servers, attempts);
        // When each attempt started; `None` once it has ended.
        let mut starts: SmallVec<[Option<Instant>; 4]> = SmallVec::new();
        let mut next_start = schedule.start(0);
        let mut last: Option<(Arc<str>, ExchangeError)> = None;
        let mut running = FuturesUnordered::new();
        loop {
            let more = schedule.has(starts.len());
            if !more && running.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some((n, result)) = running.next(), if !running.is_empty() => {
                    let now = Instant::now();
                    let start = starts.get_mut(n).and_then(Option::take);
                    let took = start.map(|start: Instant| now - start).unwrap_or_default();
                    let server = schedule.server(n).0;
                    match result {
                        Ok(message) => {
                            server.health.answered(took);
                            blame(&schedule, &starts, now, Some(n));
                            let attempts = starts.len() as u32;
                            let server = server.text.clone();
                            return Ok(Answered { message, server, attempts });
                        }
                        Err(error) => {
                            match error {
                                ExchangeError::Code(_) => server.health.gave_error(now),
                                ExchangeError::Crowded => {}
                                _ => server.health.failed(now),
                            }
                            last = Some((server.text.clone(), error));
                            // A server that has not been asked yet need not wait its turn.
                            if starts.len() < schedule.servers() {
                                next_start = now;
                            }
                        }
                    }
                }
                () = sleep_until(next_start), if more => {
                    let n = starts.len();
                    let (server, retry) = schedule.server(n);
                    running.push(async move { (n, server.ask(self, question, retry).await) });
                    starts.push(Some(Instant::now()));
                    next_start = schedule.start(n + 1);
                }
                () = sleep_until(schedule.deadline()) => break,
            }
        }
        blame(&schedule, &starts, Instant::now(), None);
        let unanswered = running.len();
        let first = schedule.server(0).0.text.clone();
        Err(UpstreamError::of(
            last,
            unanswered,
            starts.len() as u32,
            first,
        ))
    }
}

/// Tells the servers that had their time and were silent: all whose attempts still run, unless they
/// are the one that answered.
fn blame(schedule: &Schedule, starts: &[Option<Instant>], now: Instant, answered: Option<usize>) {
    let answered = answered.map(|n| schedule.server(n).0);
    for (n, start) in starts.iter().enumerate() {
        let server = schedule.server(n).0;
        let late = start.is_some_and(|start| now - start >= schedule.patience());
        if late && !answered.is_some_and(|answered| Arc::ptr_eq(answered, server)) {
            server.health.failed(now);
        }
    }
}

fn nobody() -> UpstreamError {
    UpstreamError {
        reason: Reason::DnsUnreachable,
        detail: "no upstream resolver is configured".to_owned(),
        server: None,
        attempts: 0,
    }
}
