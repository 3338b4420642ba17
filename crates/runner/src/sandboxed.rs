//! The gateway as a sandbox's own process: serves the sockets made inside, until the sandbox is
//! gone, and leaves a report.

use crate::descriptors::raise_limit;
use crate::guest_link::GuestConfig;
use crate::host_files::HostFiles;
use crate::panics::Panics;
use crate::publish::Publish;
use crate::records::{self, RecordConfig};
use crate::reload::{Rejected, Reload};
use crate::report::{Collector, Report, record_start};
use crate::runtime;
use crate::sandbox_gateway::{Doors, NotServed, SandboxConfig, SandboxGateway};
use crate::trust::Trust;
use crate::unresolved::Unresolved;
use portcullis_gateway::{CancellationToken, Inspector, Policy, Resolve, StartError};
use portcullis_sandbox::{Addresses, Control, GatewaySide, Sockets};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

/// How long flows may take to close once the sandbox is gone.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long records may take to reach their file at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What one sandbox's gateway needs besides the sockets.
#[derive(Debug)]
pub struct RunConfig {
    /// The sandbox's name in records.
    pub sandbox: String,
    /// The policy in force.
    pub policy: Policy,
    /// The host's resolvers, asked where the policy names none.
    pub resolvers: Vec<SocketAddr>,
    /// The largest packet of the guest behind a TAP, where there is one, in bytes.
    pub guest_mtu: u16,
    /// What is recorded, and where.
    pub records: RecordConfig,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// The addresses inside.
    pub addresses: Addresses,
    /// Whether the report lists what was used and what failed, not only what was denied.
    pub collect: bool,
    /// When exact names are resolved, where the policy's own word does not count.
    pub resolve: Option<Resolve>,
    /// Files that the caller's own variables name certificate authorities in; programs inside trust
    /// them too, where the policy inspects anything.
    pub more_roots: Vec<PathBuf>,
    /// The build that serves, for the first record.
    pub build: &'static str,
    /// How the policy's files are followed, where they are.
    pub reload: Option<Reload>,
}

/// Serves one sandbox until it is gone; called in the gateway's own process, before any thread.
pub fn run_in_sandbox(mut side: GatewaySide, config: RunConfig) -> Report {
    raise_limit();
    let panics = Panics::take_over();
    let runtime = match runtime::start() {
        Ok(runtime) => runtime,
        Err(error) => {
            let why = format!("cannot start the gateway's threads: {error}");
            return refuse(&side.control, &why, Some(&error));
        }
    };
    // Before the sockets: the sandbox's first process waits for it while it arranges files.
    let inspector = match hand_over_trust(&side.control, &config) {
        Ok(inspector) => inspector,
        Err(error) => return refuse(&side.control, &error, None),
    };
    // Threads start while the sandbox is being built; only then are its sockets waited for.
    let sockets = match side.receive() {
        Ok(sockets) => sockets,
        Err(error) => return refuse(&side.control, &error.to_string(), Some(&error)),
    };
    let report = runtime.block_on(serve(sockets, side.control, config, inspector, panics));
    // The process ends next, and its threads with it: waiting for them would only delay CMD's end.
    std::mem::forget(runtime);
    report
}

fn refuse(control: &Control, why: &str, cause: Option<&(dyn Error + 'static)>) -> Report {
    let causes = std::iter::successors(cause, |&error| error.source());
    let errno = causes
        .filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
        .last();
    // The sandbox may be gone already: then its own error has been told.
    let _ = control.failed(why, errno.unwrap_or(0));
    Report::default()
}

/// Tells the sandbox that it ends before its command started; names that were the cause go into the
/// report, since there may be many.
fn not_started(control: &Control, error: &NotServed) -> Report {
    let unresolved = match error {
        NotServed::Start(StartError::Names(error)) => Unresolved::of(error),
        _ => None,
    };
    let mut report = match &unresolved {
        Some(unresolved) => {
            let (failed, of) = (unresolved.names.len(), unresolved.of);
            let why = format!("{failed} of {of} names did not resolve");
            refuse(control, &why, None)
        }
        None => {
            let why = format!("cannot serve the sandbox: {error}");
            refuse(control, &why, Some(error))
        }
    };
    report.unresolved = unresolved;
    report
}

/// Makes the authority of this run, where the policy inspects anything, and gives its certificate to
/// the sandbox. Its key stays here.
fn hand_over_trust(
    control: &Control,
    config: &RunConfig,
) -> Result<Option<Arc<Inspector>>, String> {
    let made = Inspector::new(&config.policy).map_err(|error| error.to_string())?;
    let Some(inspector) = made else {
        return Ok(None);
    };
    let trust = Trust::with(inspector.ca_pem(), &config.more_roots);
    let handed = control.trust(&trust.files());
    handed.map_err(|error| format!("cannot hand over certificates: {error}"))?;
    Ok(Some(Arc::new(inspector)))
}

async fn serve(
    sockets: Sockets,
    control: Control,
    config: RunConfig,
    inspector: Option<Arc<Inspector>>,
    panics: Panics,
) -> Report {
    let (recorder, ending) = records::open(config.records, &config.sandbox);
    record_start(&recorder, config.build);
    tokio::spawn(panics.record(recorder.clone()));
    let collector = config.collect.then(|| Collector::new(&recorder));
    let rejected = Rejected::default();
    let control = Arc::new(control);
    let (host_files, host_files_watch) = HostFiles::open();
    let doors = Doors {
        sockets,
        control: control.clone(),
    };
    let wanted = SandboxConfig {
        policy: config.policy,
        resolvers: config.resolvers,
        publish: config.publish,
        addresses: config.addresses,
        resolve: config.resolve,
        inspector,
        reload: config.reload,
        rejected: rejected.clone(),
        host_files,
        guest: GuestConfig {
            mtu: config.guest_mtu,
            socket: None,
        },
        own_tickets: true,
        descriptors: None,
        mark: None,
    };
    let served = match SandboxGateway::start(doors, wanted, &recorder).await {
        Ok(served) => served,
        Err(error) => {
            // Why is in the records too, before anybody is told.
            recorder.flush(FLUSH_TIMEOUT);
            return not_started(&control, &error);
        }
    };
    let watching = host_files_watch.run(served.token().clone());
    served.keep("the watch over the host's files", watching);
    served.keep(records::PART, ending.wait(served.token().clone()));
    // Flows that end now are still recorded: collecting goes on until they are.
    let drained = CancellationToken::new();
    let collecting = collector.map(|collector| tokio::spawn(collector.run(drained.clone())));
    let failed = served.ended().await;
    info!(?failed, "sandbox ended");
    served.stop(DRAIN_TIMEOUT).await;
    drained.cancel();
    let mut report = match collecting {
        Some(task) => task.await.unwrap_or_default(),
        None => Report::default(),
    };
    report.add_denied(&recorder.denied_summary());
    report.rejected = rejected.take();
    report.failed = failed;
    report.record_error = records::finish(&recorder, FLUSH_TIMEOUT);
    report
}
