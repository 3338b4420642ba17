//! The start-up phase: what is done before anything is served, and why nothing is.
//!
//! Answers case 5's "creation succeeded with names missing": where names are resolved at start-up,
//! [`Gateway::start`](crate::Gateway::start) is the only way to serve, and it fails first.

use std::io;

use portcullis_dns::{StartupError, StartupFailure, StartupSchedule};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Descriptors that start-up leaves for everything else.
const RESERVED_DESCRIPTORS: u64 = 128;
/// Descriptors for one name: a socket for A, one for AAAA.
const DESCRIPTORS_PER_NAME: u64 = 2;

/// Why a gateway does not start. Nothing is served then.
#[derive(Debug)]
pub enum StartError {
    /// A socket that the runtime cannot take.
    Socket(io::Error),
    /// Names that were to be resolved before, and were not.
    Names(StartupError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Socket(error) => error.fmt(f),
            StartError::Names(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Socket(error) => Some(error),
            StartError::Names(error) => Some(error),
        }
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::Socket(error)
    }
}

impl From<StartupError> for StartError {
    fn from(error: StartupError) -> StartError {
        StartError::Names(error)
    }
}

/// The names that kept a gateway from starting, as they cross from its process to the command
/// line's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unresolved {
    /// All of them, sorted by name.
    pub names: Vec<UnresolvedName>,
    /// How many names were to be resolved.
    pub of: usize,
}

/// One name that did not resolve at start-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedName {
    /// The listed name.
    pub name: String,
    /// The reason's code.
    pub reason: String,
    /// The exact circumstance.
    pub detail: String,
    /// Attempts that were made.
    pub attempts: u32,
}

impl Unresolved {
    /// The list, where it is why nothing started.
    pub fn of(error: &StartupError) -> Option<Unresolved> {
        let StartupError::Unresolved { failures, of } = error else {
            return None;
        };
        let name = |failure: &StartupFailure| UnresolvedName {
            name: failure.name.as_str().to_owned(),
            reason: failure.reason.code().to_owned(),
            detail: failure.detail.clone(),
            attempts: failure.attempts,
        };
        Some(Unresolved {
            names: failures.iter().map(name).collect(),
            of: *of,
        })
    }
}

impl std::fmt::Display for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Unresolved { names, of } = self;
        write!(
            f,
            "{} of {of} names did not resolve, so nothing was started:",
            names.len()
        )?;
        for name in names {
            let UnresolvedName {
                name,
                reason,
                detail,
                attempts,
            } = name;
            let s = if *attempts == 1 { "" } else { "s" };
            write!(
                f,
                "\n  {name}: {reason} after {attempts} attempt{s}: {detail}"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Unresolved {}

/// Case 5's schedule, with as many names at once as this process may have sockets for.
pub(crate) fn schedule() -> StartupSchedule {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let names = limit.saturating_sub(RESERVED_DESCRIPTORS) / DESCRIPTORS_PER_NAME;
    StartupSchedule::default().at_once(usize::try_from(names).unwrap_or(usize::MAX))
}

/// Lets the gateway hold as many descriptors as the host allows it: each flow needs two, each
/// lookup up to four. The program inside keeps the caller's own limit.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // A limit that cannot be raised is a limit that holds: refusals say so when it is reached.
    let _ = setrlimit(Resource::Nofile, raised);
}
