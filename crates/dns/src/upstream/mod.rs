//! Asking upstream resolvers: which, how often, how long.
//!
//! Invariant: [`Upstream::query`] is the only function of the house that sends a sandbox's question
//! to an upstream resolver, and it takes a permit that only the policy can make. What it sends is made
//! from the permit's name and the type, and from nothing else. The names of the resolvers themselves
//! take the same path (`bootstrap`), with the operator's permit.
//!
//! Answers "one failed lookup lost the name" (case 5): at least four attempts, the first retry soon
//! and at the next server, all within what a stub resolver waits. An attempt that was given a
//! successor is still listened to: a slow answer is an answer.
//!
//! A question's way: `plan` (which servers) → `lookup` (the loop) → `schedule` and `health` (when, in
//! which order) → `server` → `plain`, or `lines` with `tls` and `https`.

mod bootstrap;
mod endpoint;
mod error;
mod health;
mod https;
mod lines;
mod lookup;
mod manners;
mod network;
mod plain;
mod plan;
mod question;
mod schedule;
mod server;
mod tls;
mod trust;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use portcullis_names::RecordType;
use portcullis_policy::{LookupPermit, Reason};
use tokio::time::Instant;

pub use network::{ByteStream, Datagrams, Network, SystemNetwork};
pub use trust::Authorities;

use crate::config::PolicyHandle;
use error::ExchangeError;
use lookup::Core;

/// The time a lookup may take, all its questions included: within 4 s the sandbox has an answer.
pub(crate) const LOOKUP_BUDGET: Duration = Duration::from_millis(3_700);

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

/// What an [`Upstream`] needs; start from [`UpstreamConfig::new`].
#[derive(Clone)]
pub struct UpstreamConfig {
    /// The policy in force: its resolvers, zones and bootstrap resolvers.
    pub policy: PolicyHandle,
    /// The host's own resolvers, asked where the policy names none.
    pub host: Vec<SocketAddr>,
    /// What opens sockets.
    pub network: Arc<dyn Network>,
    /// Whose certificates encrypted resolvers may show.
    pub authorities: Authorities,
    /// Whether the host can reach IPv6 addresses now.
    pub ipv6_route: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl UpstreamConfig {
    /// A configuration with real sockets, the host's authorities and IPv6 assumed routed.
    pub fn new(policy: PolicyHandle, host: Vec<SocketAddr>) -> UpstreamConfig {
        UpstreamConfig {
            policy,
            host,
            network: Arc::new(SystemNetwork),
            authorities: Authorities::Host,
            ipv6_route: Arc::new(|| true),
        }
    }
}

impl fmt::Debug for UpstreamConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamConfig")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// The upstream resolvers of one sandbox.
#[derive(Debug)]
pub struct Upstream {
    core: Arc<Core>,
}

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

/// Why no upstream answered.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct UpstreamError {
    /// `dns-timeout`, `dns-unreachable` or `dns-failed`.
    pub reason: Reason,
    /// What happened, for the operator's record.
    pub detail: String,
    /// The resolver that failed last, where one was asked.
    pub server: Option<Arc<str>>,
    /// Attempts made.
    pub attempts: u32,
}

impl Upstream {
    /// Resolvers as the policy in force names them; nothing is sent or connected.
    pub fn new(config: UpstreamConfig) -> Upstream {
        Upstream {
            core: Arc::new(Core::new(config)),
        }
    }

    /// Puts other host's resolvers in the place of the present ones; lookups under way keep theirs.
    pub fn set_host(&self, servers: Vec<SocketAddr>) {
        self.core.set_host(servers);
    }

    /// Asks for the permitted name's records of one type: the servers of the zone that the name is
    /// in under the policy in force, or else the general ones.
    ///
    /// # Errors
    /// [`UpstreamError`] when no server gave a usable answer in time.
    pub async fn query(
        &self,
        permit: &LookupPermit,
        qtype: RecordType,
        attempts: Attempts,
    ) -> Result<Answered, UpstreamError> {
        let servers = self.core.plan().servers_for(permit.name().as_ref());
        self.core.ask(&servers, permit, qtype, attempts).await
    }
}

impl UpstreamError {
    /// A server's answer that cannot be used.
    fn failed(detail: String, server: Arc<str>, attempts: u32) -> UpstreamError {
        UpstreamError {
            reason: Reason::DnsFailed,
            detail,
            server: Some(server),
            attempts,
        }
    }

    /// From what failed last, if anything did, and how many attempts had no answer.
    fn of(
        last: Option<(Arc<str>, ExchangeError)>,
        unanswered: usize,
        attempts: u32,
        first: Arc<str>,
    ) -> UpstreamError {
        let (reason, server, what) = match last {
            Some((server, error)) => (error.reason(unanswered > 0), server, error.to_string()),
            None => (Reason::DnsTimeout, first, "no answer in time".to_owned()),
        };
        UpstreamError {
            reason,
            detail: format!("resolver {server}: {what} (attempts: {attempts})"),
            server: Some(server),
            attempts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::ResponseCode;

    #[test]
    fn failures_are_told_apart() {
        let server: Arc<str> = "192.0.2.1:53".into();
        let of = |error: Option<ExchangeError>, unanswered| {
            let last = error.map(|error| (server.clone(), error));
            UpstreamError::of(last, unanswered, 4, server.clone()).reason
        };
        let refused = || Some(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
        assert_eq!(of(None, 4), Reason::DnsTimeout);
        assert_eq!(of(refused(), 0), Reason::DnsUnreachable);
        assert_eq!(of(refused(), 2), Reason::DnsTimeout);
        let code = ExchangeError::Code(ResponseCode::Refused);
        assert_eq!(of(Some(code), 0), Reason::DnsFailed);
        let wrong = ExchangeError::refused("TLS: the certificate is for another name");
        assert_eq!(of(Some(wrong), 2), Reason::DnsFailed);
    }
}
