//! From a permit to a connection without a proxy between: which addresses, in which order.

use std::future::{Future, ready};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portcullis_dns::{DnsService, Resolved};
use portcullis_names::Name;
use portcullis_policy::{ConnectPermit, Destination, PermitTarget, Policy, Reason, Request};
use portcullis_record::{Stage, Timings};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::dialed::Dialed;
use crate::error::{DialError, all_failed};
use crate::eyeballs::{Tried, interleave, race};
use crate::guard::{ChosenBy, Guard};
use crate::host::{LOOPBACK, is_host};
use crate::inside::not_outside;
use crate::socket;
use crate::stream::Stream;
use crate::system_names::SystemNames;

/// Opens connections straight to their destinations; an upstream proxy is one of those.
pub(crate) struct Direct {
    pub(crate) guard: Guard,
    pub(crate) resolver: Arc<DnsService>,
    system_names: SystemNames,
    /// Bounds the sockets of addresses that are tried beside others.
    extra_attempts: Semaphore,
}

/// What a lookup for a dial brought.
pub(crate) struct Found {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) canonical: Option<Name>,
}

impl From<Resolved> for Found {
    fn from(resolved: Resolved) -> Found {
        let canonical = (resolved.canonical != resolved.name).then_some(resolved.canonical);
        Found {
            addresses: resolved.addresses,
            canonical,
        }
    }
}

impl Direct {
    pub(crate) fn new(guard: Guard, resolver: Arc<DnsService>, extra_attempts: usize) -> Direct {
        Direct {
            guard,
            resolver,
            system_names: SystemNames::default(),
            extra_attempts: Semaphore::new(extra_attempts),
        }
    }

    /// Opens the connection that `permit` allows.
    ///
    /// # Errors
    /// [`DialError`]: no address, or none that may be dialled and answers.
    pub(crate) async fn connect(&self, permit: &ConnectPermit) -> Result<Dialed, DialError> {
        let port = permit.port();
        if let Some(to) = permit.to() {
            // Where the operator's rule sends it: no lookup.
            let chosen_by = sent_by(&self.guard.policy(), permit, to);
            return self.dial(vec![to], ready(vec![]), chosen_by).await;
        }
        match permit.target() {
            PermitTarget::Name(name) | PermitTarget::NameAt(name, _) if is_host(name) => {
                let order = LOOPBACK.map(|address| SocketAddr::new(address, port));
                self.dial(order.to_vec(), ready(vec![]), ChosenBy::HostName)
                    .await
            }
            PermitTarget::Address(address) => {
                let to = vec![SocketAddr::new(*address, port)];
                self.dial(to, ready(vec![]), chosen_by(permit)).await
            }
            PermitTarget::NameAt(_, address) => {
                let to = vec![SocketAddr::new(*address, port)];
                // The program chose this address of the name; its siblings serve as well.
                let siblings = async {
                    let found = self.look_up(permit).await;
                    found.map_or_else(|_| vec![], |found| interleave(&found.addresses, port))
                };
                self.dial(to, siblings, chosen_by(permit)).await
            }
            PermitTarget::Name(_) => self.connect_by_name(permit).await,
            PermitTarget::Inside(_) => Err(not_outside()),
        }
    }

    async fn connect_by_name(&self, permit: &ConnectPermit) -> Result<Dialed, DialError> {
        let start = Instant::now();
        let found = self.look_up(permit).await;
        let took = start.elapsed();
        let resolved = |mut error: DialError| {
            error.timings.set(Stage::Resolve, took);
            error
        };
        let found = found.map_err(resolved)?;
        let order = interleave(&found.addresses, permit.port());
        let dialling = self.dial(order, ready(vec![]), chosen_by(permit));
        let mut dialed = dialling.await.map_err(resolved)?;
        dialed.timings.set(Stage::Resolve, took);
        dialed.canonical = found.canonical;
        dialed.addresses = found.addresses;
        Ok(dialed)
    }

    async fn dial(
        &self,
        order: Vec<SocketAddr>,
        more: impl Future<Output = Vec<SocketAddr>>,
        chosen_by: ChosenBy,
    ) -> Result<Dialed, DialError> {
        let start = Instant::now();
        // A dial has one socket at any rate; more at a time only as long as there are descriptors.
        let own_attempt = Semaphore::new(1);
        let result = race(order, more, async |to| {
            let _attempt = tokio::select! {
                biased;
                attempt = own_attempt.acquire() => attempt,
                attempt = self.extra_attempts.acquire() => attempt,
            };
            socket::connect(&self.guard, to, chosen_by).await
        })
        .await;
        let timings = Timings::default().with(Stage::Connect, start.elapsed());
        match result {
            Ok(Tried {
                to: address,
                result: stream,
            }) => Ok(Dialed {
                stream: Stream::Tcp(stream),
                address,
                upstream_proxy: None,
                absolute: None,
                canonical: None,
                addresses: vec![address.ip()],
                inside: false,
                timings,
            }),
            Err(failures) => Err(DialError {
                timings,
                ..all_failed(&failures)
            }),
        }
    }

    /// The addresses of a permit's name.
    ///
    /// # Errors
    /// [`DialError`] with what the resolver said.
    pub(crate) async fn look_up(&self, permit: &ConnectPermit) -> Result<Found, DialError> {
        let by_system = |addresses| Found {
            addresses,
            canonical: None,
        };
        if permit.is_operators()
            && let Some(addresses) = self.system_names.known(permit).await
        {
            return Ok(by_system(addresses));
        }
        let error = match self.resolver.resolve_for(permit).await {
            Some(Ok(resolved)) => return Ok(resolved.into()),
            Some(Err(error)) => error,
            None => return Err(DialError::new(Reason::Internal, "a permit without a name")),
        };
        if permit.is_operators()
            && let Some(addresses) = self.system_names.ask(permit).await
        {
            return Ok(by_system(addresses));
        }
        Err(error.into())
    }

    /// Whether a direct connection that stands to `address` could be opened by this permit under the
    /// policy in force now: the last check, made once more.
    pub(crate) fn would_open(&self, permit: &ConnectPermit, address: SocketAddr) -> bool {
        let chosen_by = match (permit.to(), permit.target()) {
            (Some(to), _) if to != address => return false,
            (Some(to), _) => sent_by(&self.guard.policy(), permit, to),
            (None, PermitTarget::Name(name) | PermitTarget::NameAt(name, _)) if is_host(name) => {
                ChosenBy::HostName
            }
            (None, _) => chosen_by(permit),
        };
        self.guard.check(address, chosen_by).is_ok()
    }
}

fn chosen_by(permit: &ConnectPermit) -> ChosenBy {
    if permit.is_operators() {
        ChosenBy::Operator
    } else {
        ChosenBy::Sandbox
    }
}

/// Who chose the target of a rule: the rule, unless the policy in force has it no longer.
fn sent_by(policy: &Policy, permit: &ConnectPermit, to: SocketAddr) -> ChosenBy {
    let (PermitTarget::Name(name) | PermitTarget::NameAt(name, _)) = permit.target() else {
        return ChosenBy::Sandbox;
    };
    let named = Destination::name(name.as_ref());
    let request = Request::connect(&named, permit.port());
    let now = policy.decide(&request).connect_permit();
    match now.and_then(|permit| permit.to()) {
        Some(still) if still == to => ChosenBy::Rule,
        _ => ChosenBy::Sandbox,
    }
}
