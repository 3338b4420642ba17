//! The same gateway on plain listeners of the host: a restrictive resolver, an HTTP proxy, a SOCKS5
//! proxy. There is no namespace here, so programs that ignore the listeners are not held in.

use crate::gateway::{Entrances, Gateway};
use crate::report::note_start;
use crate::startup::{StartError, raise_descriptor_limit};
use portcullis_dns::OwnNames;
use portcullis_policy::Policy;
use portcullis_record::Recorder;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::pin::pin;
use std::time::Duration;
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
    /// The build that serves, for the first record.
    pub build: &'static str,
    /// DNS over UDP and TCP.
    pub dns: Option<(UdpSocket, TcpListener)>,
    /// HTTP proxy.
    pub http: Option<TcpListener>,
    /// SOCKS5 proxy.
    pub socks5: Option<TcpListener>,
}

/// Serves until `end` is ready (the command line's signals, for instance), on a runtime of its own:
/// embedders have one, and use [`Gateway::start`]. `ready` is called once everything is served.
///
/// # Errors
/// Names that did not resolve at start-up; no runtime, a socket it cannot take, `end`'s own error, or
/// records that did not reach their file.
pub fn serve_plain(
    config: PlainConfig,
    ready: impl FnOnce(),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), StartError> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(config, ready, end));
    runtime.shutdown_background();
    result
}

async fn serve(
    config: PlainConfig,
    ready: impl FnOnce(),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), StartError> {
    let recorder = match config.log {
        Some(file) => Recorder::from_file(file, "serve"),
        None => Recorder::null(),
    };
    note_start(&recorder, config.build);
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
    // The programs that ask stand on the host itself.
    let own = OwnNames {
        host: Ipv4Addr::LOCALHOST,
        addresses: Vec::new(),
        hostname: None,
    };
    let gateway = Gateway::builder()
        .policy(config.policy)
        .resolvers(config.resolvers)
        .recorder(recorder.clone())
        .own(own)
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
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let mut end = pin!(end);
    let started = tokio::select! {
        // First, so that whoever is told that it serves can also end it in order.
        biased;
        // Nobody waits for names any more.
        ended = &mut end => return Ok(finish(&recorder, ended)?),
        started = gateway.start(entrances, &tracker, &token) => started.map(drop),
    };
    if let Err(error) = started {
        // Why is in the records too.
        recorder.flush(FLUSH_TIMEOUT);
        return Err(error);
    }
    ready();
    let ended = tokio::select! {
        ended = &mut end => ended,
        () = token.cancelled() => Err(io::Error::other("a listener failed")),
    };
    token.cancel();
    tracker.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, tracker.wait()).await;
    Ok(finish(&recorder, ended)?)
}

/// Writes the last records; their loss is told where nothing else went wrong.
fn finish(recorder: &Recorder, ended: io::Result<()>) -> io::Result<()> {
    let flushed = recorder.flush(FLUSH_TIMEOUT);
    match flushed.error {
        Some(error) if ended.is_ok() => Err(io::Error::other(format!("decision records: {error}"))),
        _ => ended,
    }
}
