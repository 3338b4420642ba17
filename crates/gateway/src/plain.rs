//! The same gateway on plain listeners of the host: a restrictive resolver, an HTTP proxy, a SOCKS5
//! proxy. There is no namespace here, so programs that ignore the listeners are not held in.

use crate::gateway::{Entrances, Gateway};
use portcullis_policy::Policy;
use portcullis_record::Recorder;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long flows may take to close at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long records may take to reach their file at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What is served where.
#[derive(Debug)]
pub struct PlainConfig {
    /// The policy in force.
    pub policy: Policy,
    /// Upstream resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// Where decision records go.
    pub log: Option<File>,
    /// DNS over UDP and TCP.
    pub dns: Option<(UdpSocket, TcpListener)>,
    /// HTTP proxy.
    pub http: Option<TcpListener>,
    /// SOCKS5 proxy.
    pub socks5: Option<TcpListener>,
}

/// Serves until SIGINT or SIGTERM. Makes its own runtime: for the command line, not for embedders.
///
/// # Errors
/// No runtime, a socket it cannot take, or records that did not reach their file.
pub fn serve_plain(config: PlainConfig) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_background();
    result
}

async fn serve(config: PlainConfig) -> io::Result<()> {
    let recorder = match config.log {
        Some(file) => Recorder::from_file(file, "serve"),
        None => Recorder::null(),
    };
    let mut listeners = Vec::new();
    for listener in config
        .dns
        .iter()
        .map(|(_, tcp)| tcp)
        .chain(&config.http)
        .chain(&config.socks5)
    {
        listeners.push(listener.local_addr()?);
    }
    let gateway = Gateway::builder()
        .policy(config.policy)
        .resolvers(config.resolvers)
        .recorder(recorder.clone())
        .host_listeners(listeners)
        .build();
    let (dns_udp, dns_tcp) = config.dns.into_iter().unzip();
    let entrances = Entrances {
        dns_udp,
        dns_tcp,
        http: config.http.into_iter().collect(),
        socks5: config.socks5.into_iter().collect(),
        transparent: Vec::new(),
    };
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    gateway.start(entrances, &tracker, &token)?;
    let failed = tokio::select! {
        _ = interrupt.recv() => false,
        _ = terminate.recv() => false,
        () = token.cancelled() => true,
    };
    token.cancel();
    tracker.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, tracker.wait()).await;
    let flushed = recorder.flush(FLUSH_TIMEOUT);
    match (failed, flushed.error) {
        (true, _) => Err(io::Error::other("a listener failed")),
        (false, Some(error)) => Err(io::Error::other(format!("decision records: {error}"))),
        (false, None) => Ok(()),
    }
}
