//! The names that kept a gateway from starting, as they cross from its process to the command line's.

use portcullis_gateway::{StartupError, StartupFailure};
use serde::{Deserialize, Serialize};

/// All names that did not resolve.
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
