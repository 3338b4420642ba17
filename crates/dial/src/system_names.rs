//! Names of upstream proxies that only the host's own resolver knows.
//!
//! An upstream proxy often has a name in `/etc/hosts` or in a search domain that the resolvers of the
//! policy do not know. Only names that the operator wrote are asked for here: the sandbox cannot choose
//! one.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portcullis_names::Name;
use portcullis_policy::ConnectPermit;
use tokio::time::{Instant, timeout};

/// How long the system's resolver may take for a name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long its answer is used.
const TTL: Duration = Duration::from_secs(60);
/// Names whose answers are kept.
const MAX_NAMES: usize = 16;

struct Answer {
    name: Name,
    addresses: Vec<IpAddr>,
    at: Instant,
}

/// What the system's resolver said.
#[derive(Default)]
pub(crate) struct SystemNames {
    answers: Mutex<Vec<Answer>>,
}

impl SystemNames {
    /// What the system's resolver said lately. Where it was the one that knew the name, it is asked
    /// again before anybody else.
    pub(crate) async fn known(&self, permit: &ConnectPermit) -> Option<Vec<IpAddr>> {
        let lookup = permit.lookup()?;
        let (addresses, is_fresh) = {
            let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = answers.iter().find(|known| known.name == *lookup.name())?;
            (answer.addresses.clone(), answer.at.elapsed() < TTL)
        };
        if is_fresh {
            Some(addresses)
        } else {
            self.ask(permit).await
        }
    }

    /// Asks the system's resolver, with `/etc/hosts`, for the name that the operator wrote.
    pub(crate) async fn ask(&self, permit: &ConnectPermit) -> Option<Vec<IpAddr>> {
        let lookup = permit.lookup().filter(|_| permit.is_operators())?;
        let name = lookup.name().clone();
        let addresses: Vec<IpAddr> = {
            let asking = tokio::net::lookup_host((name.as_str(), permit.port()));
            match timeout(LOOKUP_TIMEOUT, asking).await {
                Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
                _ => Vec::new(),
            }
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|known| known.name != name);
        if addresses.is_empty() {
            return None;
        }
        if answers.len() >= MAX_NAMES {
            answers.remove(0);
        }
        answers.push(Answer {
            name,
            addresses: addresses.clone(),
            at: Instant::now(),
        });
        Some(addresses)
    }
}
