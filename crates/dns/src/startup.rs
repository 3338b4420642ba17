//! Start-up resolution: every name that the policy lists without a wildcard, all at once, before
//! anything is served.
//!
//! Answers case 5, an allowlist that is resolved when the sandbox is made: one lost datagram does not
//! lose a name (attempts), a name that is lost is told and nothing starts (fails closed, and says
//! all of them), nothing is ever answered 0.0.0.0 (the guard keeps it, and the name fails), and dead
//! names do not add up: however many there are, they take as long as one.
//!
//! What is found goes into the cache and is leased, the kernel's gate included, so that the first
//! question of a program is answered at once.

use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use portcullis_names::{Name, RecordType};
use portcullis_policy::{HOST_NAME, LookupPermit, Policy, Reason, Request};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::DnsService;
use crate::synthetic;

mod round;

use round::Round;

/// Names that are resolved at start-up; a policy that lists more exact names does not start with
/// it. Twice as many answers (A and AAAA) still fit into the cache.
pub const MAX_STARTUP_NAMES: usize = 10_000;

/// Names asked about at the same moment, two sockets each: beyond these the kernel's ephemeral
/// ports (28,232) and the resolver's receive buffer are what is lost first.
pub const MAX_NAMES_AT_ONCE: usize = 4_096;

/// Attempts that a schedule may have.
pub const MAX_STARTUP_ATTEMPTS: usize = 16;

/// Pauses between attempts; after the last of these it stays the same.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(900),
    Duration::from_millis(2_700),
];

/// How often, how long and how many at once; [`StartupSchedule::default`] is the one of case 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartupSchedule {
    attempts: usize,
    limit: Duration,
    at_once: usize,
}

impl Default for StartupSchedule {
    /// 4 attempts of at most 2 s, pauses of 100, 300 and 900 ms between them.
    fn default() -> StartupSchedule {
        StartupSchedule {
            attempts: 4,
            limit: Duration::from_secs(2),
            at_once: MAX_NAMES_AT_ONCE,
        }
    }
}

impl StartupSchedule {
    /// Another number of attempts, 1 to [`MAX_STARTUP_ATTEMPTS`]. The pauses go on with 2,700 ms.
    #[must_use]
    pub fn attempts(mut self, attempts: usize) -> StartupSchedule {
        self.attempts = attempts.clamp(1, MAX_STARTUP_ATTEMPTS);
        self
    }

    /// Another limit of one attempt; never more than 2 s.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> StartupSchedule {
        self.limit = limit.min(StartupSchedule::default().limit);
        self
    }

    /// How many names may be asked about at the same moment, 1 to [`MAX_NAMES_AT_ONCE`]; each holds
    /// two descriptors. Where more are waiting, an attempt is given that much less time, so that
    /// the whole takes no longer.
    #[must_use]
    pub fn at_once(mut self, names: usize) -> StartupSchedule {
        self.at_once = names.clamp(1, MAX_NAMES_AT_ONCE);
        self
    }

    /// The time that one dead name takes, and so the longest that all of them take together.
    pub fn longest(&self) -> Duration {
        let pauses: Duration = (1..self.attempts).map(pause_after).sum();
        self.limit * self.attempts as u32 + pauses
    }

    /// How long an attempt may keep its sockets while this many names are not resolved.
    fn patience(&self, unresolved: usize) -> Duration {
        let turns = unresolved.div_ceil(self.at_once).max(1);
        self.limit / turns as u32
    }
}

/// The pause after the attempt of this number, counted from 1.
fn pause_after(attempt: usize) -> Duration {
    PAUSES[attempt.clamp(1, PAUSES.len()) - 1]
}

/// A name that was resolved at start-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupName {
    /// The listed name.
    pub name: Name,
    /// The end of its CNAME chain; `name` itself where there is none.
    pub canonical: Name,
    /// Its addresses that the guard lets through, leased by now; never empty.
    pub addresses: Vec<IpAddr>,
    /// Attempts that it took, at least 1.
    pub attempts: u32,
}

/// A name that was not resolved at start-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupFailure {
    /// The listed name.
    pub name: Name,
    /// `name-not-found`, `no-address`, `private-address`, `dns-timeout`, `dns-unreachable`,
    /// `dns-failed`, `rate-limited` or `internal`.
    pub reason: Reason,
    /// A sentence for the operator.
    pub detail: String,
    /// Attempts that were made; 0 where the time was over before there was a socket for one.
    pub attempts: u32,
}

impl std::fmt::Display for StartupFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StartupFailure {
            name,
            reason,
            detail,
            attempts,
        } = self;
        let s = if *attempts == 1 { "" } else { "s" };
        write!(f, "{name}: {reason}: {detail} ({attempts} attempt{s})")
    }
}

/// Why nothing may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartupError {
    /// The caller's token was cancelled.
    Cancelled,
    /// The policy lists more exact names than [`MAX_STARTUP_NAMES`].
    TooMany {
        /// How many.
        names: usize,
    },
    /// Names without a usable address, sorted: all of them.
    Unresolved {
        /// The names and why.
        failures: Vec<StartupFailure>,
        /// How many names there were.
        of: usize,
    },
}

impl std::fmt::Display for StartupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartupError::Cancelled => f.write_str("cancelled while names were resolved"),
            StartupError::TooMany { names } => write!(
                f,
                "the policy lists {names} exact names; {MAX_STARTUP_NAMES} can be resolved at start-up"
            ),
            StartupError::Unresolved { failures, of } => {
                write!(f, "{} of {of} names did not resolve", failures.len())?;
                failures
                    .iter()
                    .try_for_each(|failure| write!(f, "\n  {failure}"))
            }
        }
    }
}

impl std::error::Error for StartupError {}

impl DnsService {
    /// Resolves every name that the policy lists without a wildcard, all at once: at most as long
    /// as [`StartupSchedule::longest`], whatever the number of names. What is found is cached and
    /// leased. Each name leaves one record, of the protocol `startup`.
    ///
    /// Cancelling `token` ends it at once; sockets under way are closed, and what was resolved by
    /// then stays cached.
    ///
    /// # Errors
    /// [`StartupError`]: the caller serves nothing then. Every failed name is in it.
    pub async fn resolve_all(
        &self,
        schedule: &StartupSchedule,
        token: &CancellationToken,
    ) -> Result<Vec<StartupName>, StartupError> {
        let (policy, epoch) = self.inner.policy();
        let permits = permits(&policy);
        let of = permits.len();
        if of > MAX_STARTUP_NAMES {
            return Err(StartupError::TooMany { names: of });
        }
        let round = Round {
            inner: &self.inner,
            policy,
            epoch,
            schedule,
            slots: Semaphore::new(schedule.at_once),
            unresolved: AtomicUsize::new(of),
            ends: Instant::now() + schedule.longest(),
        };
        let all: FuturesUnordered<_> = permits.iter().map(|permit| round.name(permit)).collect();
        let results: Vec<_> = tokio::select! {
            biased;
            () = token.cancelled() => return Err(StartupError::Cancelled),
            results = all.collect() => results,
        };
        let (mut names, mut failures) = (Vec::with_capacity(of), Vec::new());
        for result in results {
            match result {
                Ok(name) => names.push(name),
                Err(failure) => failures.push(failure),
            }
        }
        if failures.is_empty() {
            names.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            Ok(names)
        } else {
            failures.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            Err(StartupError::Unresolved { failures, of })
        }
    }
}

/// Leave to look up each exact name that has addresses of its own, sorted by name.
fn permits(policy: &Policy) -> Vec<LookupPermit> {
    let looked_up = |name: Name| {
        // Answered here: the host's own loopback. Or no host at all (RFC 8552): a policy lists
        // `_kerberos._tcp.example.corp` for its SRV records.
        let underscored = |label: &str| label.starts_with('_');
        if name.as_str() == HOST_NAME || name.as_str().split('.').any(underscored) {
            return None;
        }
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .find_map(|qtype| {
                let name = name.as_ref();
                policy
                    .decide(&Request::Lookup { name, qtype })
                    .lookup_permit()
            })
    };
    policy
        .exact_names()
        .into_iter()
        .filter_map(looked_up)
        // Sent elsewhere by their rule, or looked up by the company's proxy.
        .filter(|permit| permit.to().is_none() && !synthetic::by_company_proxy(policy, permit))
        .collect()
}
