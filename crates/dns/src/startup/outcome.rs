//! What start-up resolution comes to.

use std::net::IpAddr;

use portcullis_names::Name;
use portcullis_policy::Reason;

/// Names that are resolved at start-up; a policy that lists more exact names does not start with
/// it. Twice as many answers (A and AAAA) still fit into the cache.
pub const MAX_STARTUP_NAMES: usize = 10_000;

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
