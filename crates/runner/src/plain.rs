//! `serve` on plain listeners, as a process.

use crate::descriptors::raise_limit;
use crate::host_files::HostFiles;
use crate::plain_gateway::{Listeners, PlainGateway, PlainGatewayConfig, ServeError};
use crate::records::{self, RecordConfig};
use crate::reload::Reload;
use crate::report::record_start;
use portcullis_gateway::{AllowedClients, Gateway, Policy, Recorder};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

/// How long flows may take to close at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long records may take to reach their file at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What is served where.
#[derive(Debug)]
pub struct PlainConfig {
    /// The policy in force.
    pub policy: Policy,
    /// The host's resolvers, asked where the policy names none.
    pub resolvers: Vec<SocketAddr>,
    /// What is recorded, and where.
    pub records: RecordConfig,
    /// The build that serves, for the first record.
    pub build: &'static str,
    /// Where the certificate of the gateway's authority is written, for programs to trust.
    pub ca_cert: Option<PathBuf>,
    /// What is served.
    pub listeners: Listeners,
    /// Which clients may use these listeners.
    pub allowed_clients: AllowedClients,
    /// How the policy is followed, where it is.
    pub reload: Option<Reload>,
}

/// Serves until `end` is ready (the command line's signals, for instance), on a runtime of its own:
/// embedders have one, and use [`Gateway::start`]. `ready` is called once everything is served.
///
/// # Errors
/// See [`ServeError`].
pub fn serve_plain(
    config: PlainConfig,
    ready: impl FnOnce(),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), ServeError> {
    raise_limit();
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
) -> Result<(), ServeError> {
    let (host_files, host_files_watch) = HostFiles::open();
    let (recorder, ending) = records::open(config.records, "serve");
    record_start(&recorder, config.build);
    let wanted = PlainGatewayConfig {
        policy: config.policy,
        resolvers: config.resolvers,
        listeners: config.listeners,
        allowed_clients: config.allowed_clients,
        reload: config.reload,
        own_tickets: true,
        descriptors: None,
        resolve: None,
        host_files,
    };
    let before = |gateway: &Gateway| write_ca_cert(gateway, config.ca_cert.as_deref());
    let mut end = pin!(end);
    let started = tokio::select! {
        // First, so that whoever is told that it serves can also end it in order.
        biased;
        // Nobody waits for names any more.
        ended = &mut end => return Ok(finish(&recorder, ended)?),
        started = PlainGateway::start(wanted, &recorder, before) => started,
    };
    let served = match started {
        Ok(served) => served,
        Err(error) => {
            // Why is in the records too.
            recorder.flush(FLUSH_TIMEOUT);
            return Err(error);
        }
    };
    served.keep(records::PART, ending.wait(served.token().clone()));
    let watching = host_files_watch.run(served.token().clone());
    served.keep("the watch over the host's files", watching);
    ready();
    let ended = tokio::select! {
        ended = &mut end => ended,
        failed = served.ended() => failed.map_or(Ok(()), |why| Err(io::Error::other(why))),
    };
    served.stop(DRAIN_TIMEOUT).await;
    Ok(finish(&recorder, ended)?)
}

/// Before anything is served: whoever waits for that may read the file.
fn write_ca_cert(gateway: &Gateway, path: Option<&Path>) -> io::Result<()> {
    let (Some(path), Some(pem)) = (path, gateway.ca_pem()) else {
        return Ok(());
    };
    std::fs::write(path, pem)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Writes the last records; their loss is told where nothing else went wrong.
fn finish(recorder: &Recorder, ended: io::Result<()>) -> io::Result<()> {
    match records::finish(recorder, FLUSH_TIMEOUT) {
        Some(error) if ended.is_ok() => Err(io::Error::other(format!("decision records: {error}"))),
        _ => ended,
    }
}
