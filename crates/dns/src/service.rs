//! The service: what a sandbox's port 53 is served by, and what the dialler resolves with.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portcullis_names::Name;
use portcullis_policy::{LookupPermit, Reason};
use portcullis_record::Protocol;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::{DnsConfig, Leases};

/// One sandbox's resolver.
pub struct DnsService {
    config: DnsConfig,
}

/// What a name resolved to, for the dialler.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name that was asked for.
    pub name: Name,
    /// The end of its CNAME chain; `name` itself where there is none.
    pub canonical: Name,
    /// Its addresses of both families that the guard lets through; never empty.
    pub addresses: Vec<IpAddr>,
    /// Addresses that the guard took out.
    pub refused: Vec<IpAddr>,
    /// How long the answer holds.
    pub ttl: Duration,
    /// The resolver that answered, where it was asked.
    pub upstream: Option<SocketAddr>,
}

/// Why a name did not resolve.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{name}: {detail}")]
pub struct ResolveError {
    /// The name that was asked for.
    pub name: Name,
    /// `name-not-found`, `no-address`, `private-address`, `dns-timeout`, `dns-unreachable`,
    /// `dns-failed` or `rate-limited`.
    pub reason: Reason,
    /// A sentence for the operator's record.
    pub detail: String,
    /// Addresses that the guard took out.
    pub refused: Vec<IpAddr>,
}

impl DnsService {
    /// Makes a service; nothing is sent or bound.
    pub fn new(config: DnsConfig) -> DnsService {
        DnsService { config }
    }

    /// The sandbox's leases.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.config.leases
    }

    /// Replaces the upstream resolvers (a reloaded policy may name others).
    pub fn set_upstreams(&self, _servers: Vec<SocketAddr>) {}

    /// Serves DNS over UDP until `token` is cancelled.
    ///
    /// # Errors
    /// Only an error that makes the socket useless.
    pub async fn serve_udp(
        self: Arc<Self>,
        _socket: UdpSocket,
        token: CancellationToken,
    ) -> std::io::Result<()> {
        token.cancelled().await;
        Ok(())
    }

    /// Serves DNS over TCP (RFC 7766) until `token` is cancelled.
    ///
    /// # Errors
    /// Only an error that makes the listener useless.
    pub async fn serve_tcp(
        self: Arc<Self>,
        _listener: TcpListener,
        token: CancellationToken,
    ) -> std::io::Result<()> {
        token.cancelled().await;
        Ok(())
    }

    /// Answers one query: `out` is cleared and holds the reply, or nothing where none is due.
    pub async fn answer(&self, _query: &[u8], _via: Protocol, out: &mut Vec<u8>) {
        out.clear();
    }

    /// Resolves a permitted name to its addresses of both families, for the dialler.
    ///
    /// # Errors
    /// [`ResolveError`] with the reason that the record and the program are told.
    pub async fn resolve(&self, permit: &LookupPermit) -> Result<Resolved, ResolveError> {
        Err(ResolveError {
            name: permit.name().clone(),
            reason: Reason::DnsFailed,
            detail: "no resolver".to_owned(),
            refused: Vec::new(),
        })
    }
}
