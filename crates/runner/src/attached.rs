//! The gateway of a sandbox that somebody else has made, as a process: attached, served until one of the
//! two ends, detached.

use crate::descriptors::raise_limit;
use crate::guest_link::GuestConfig;
use crate::host_files::HostFiles;
use crate::inside_of::{name_files, open_rules};
use crate::panics::Panics;
use crate::publish::Publish;
use crate::records::{self, RecordConfig};
use crate::reload::{Rejected, Reload};
use crate::report::record_start;
use crate::runtime;
use crate::sandbox_gateway::{Doors, NotServed, SandboxConfig, SandboxGateway};
use crate::trust::Trust;
use crate::unresolved::Unresolved;
use portcullis_gateway::{InspectError, Inspector, Policy, Resolve, StartError};
use portcullis_sandbox::{
    Addresses, AttachRequest, Attachment, Control, GATEWAY_MARK, NameFiles, SandboxError,
    TrustContent, attach, become_gateway,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

/// How long flows may take to close at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long records may take to reach their file at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the holder may take to take the doors away.
const DETACH_TIMEOUT: Duration = Duration::from_secs(5);

/// What is attached, and how it is served.
#[derive(Debug)]
pub struct AttachConfig {
    /// Where the sandbox is.
    pub attachment: Attachment,
    /// The sandbox's name in records.
    pub sandbox: String,
    /// The policy in force.
    pub policy: Policy,
    /// The host's resolvers, asked where the policy names none.
    pub resolvers: Vec<SocketAddr>,
    /// What is recorded, and where.
    pub records: RecordConfig,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// When exact names are resolved, where the policy's own word does not count.
    pub resolve: Option<Resolve>,
    /// Where the sandbox's `resolv.conf` is written, where it is not to be shown over its own files.
    pub resolv_conf: Option<PathBuf>,
    /// Where the certificate of the gateway's authority is written, for programs to trust.
    pub ca_cert: Option<PathBuf>,
    /// The build that serves, for the first record.
    pub build: &'static str,
    /// How the policy's files are followed.
    pub reload: Reload,
    /// The guest, where the sandbox is one's device.
    pub guest: GuestConfig,
    /// A command that calls [`portcullis_sandbox::hold`].
    pub holder: Command,
}

/// Why a sandbox is not attached, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Its namespaces cannot be entered, or have a way out.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Names that were to be resolved before, and were not.
    #[error(transparent)]
    Unresolved(Unresolved),
    /// It cannot be served.
    #[error(transparent)]
    NotServed(NotServed),
    /// The authority for inspection cannot be made.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// A file that cannot be written, no threads, or no records.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A part of the gateway failed while the sandbox was there.
    #[error("the gateway ended: {0}")]
    Failed(String),
}

impl From<NotServed> for AttachError {
    fn from(error: NotServed) -> AttachError {
        let names = match &error {
            NotServed::Start(StartError::Names(names)) => Unresolved::of(names),
            _ => None,
        };
        match names {
            Some(names) => AttachError::Unresolved(names),
            None => AttachError::NotServed(error),
        }
    }
}

/// Attaches a sandbox and serves it until it is gone, or until `end` is ready (the command line's signals,
/// for instance). `ready` is called once it is served, with the reason why the sandbox's own files are
/// still seen inside, if they are though they were not to be.
///
/// # Errors
/// See [`AttachError`]. The sandbox is then what it was before: without a network.
pub fn serve_attached(
    mut config: AttachConfig,
    ready: impl FnOnce(Option<&str>),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), AttachError> {
    raise_limit();
    // The sandbox's programs may be of the same user, and see this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)?;
    let inspector = Inspector::new(&config.policy)?.map(Arc::new);
    let request = request(&config, inspector.as_deref())?;
    let attached = attach(&mut config.holder, &request)?;
    let doors = Doors {
        sockets: attached.sockets,
        control: Arc::new(attached.control),
    };
    if let Attachment::Shared { user } = config.attachment {
        become_gateway(user)?;
        // Another user's process is looked at by none of that user's.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)?;
    }
    let runtime = runtime::start()?;
    let panics = Panics::take_over();
    let unbound = attached.unbound;
    let result = runtime.block_on(serve(
        doors,
        config,
        inspector,
        panics,
        move || ready(unbound.as_deref()),
        end,
    ));
    // The process ends next, and its threads with it.
    std::mem::forget(runtime);
    result
}

/// The mark of the gateway's own sockets, where rules tell them from the sandbox's.
fn mark(attachment: &Attachment) -> Option<u32> {
    match attachment {
        Attachment::Shared { .. } => Some(GATEWAY_MARK),
        Attachment::Process { .. } | Attachment::Namespace(_) | Attachment::Device(_) => None,
    }
}

/// The addresses inside.
pub(crate) fn addresses(attachment: &Attachment) -> Addresses {
    match attachment {
        Attachment::Device(_) => Addresses::with_tap(),
        Attachment::Process { .. } | Attachment::Namespace(_) | Attachment::Shared { .. } => {
            Addresses::new()
        }
    }
}

fn request(
    config: &AttachConfig,
    inspector: Option<&Inspector>,
) -> Result<AttachRequest, AttachError> {
    let write = |path: &PathBuf, text: &str| {
        let written = std::fs::write(path, text);
        written
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    let addresses = addresses(&config.attachment);
    let mut asked = attach_request(config.attachment.clone(), &config.policy, inspector);
    if let (Some(path), Some(NameFiles { resolv_conf, .. })) = (&config.resolv_conf, &asked.files) {
        let text = format!("nameserver {}\n{resolv_conf}", addresses.resolver4);
        write(path, &text)?;
        asked.files = None;
    }
    if let (Some(path), Some(inspector)) = (&config.ca_cert, inspector) {
        write(path, &inspector.ca_pem())?;
    }
    Ok(asked)
}

/// What a holder is asked for, under this policy.
pub(crate) fn attach_request(
    attachment: Attachment,
    policy: &Policy,
    inspector: Option<&Inspector>,
) -> AttachRequest {
    // A guest has files of its own.
    let is_device = matches!(attachment, Attachment::Device(_));
    let inspector = inspector.filter(|_| !is_device);
    let trust = inspector.map(|inspector| Trust::with(inspector.ca_pem(), &[]));
    AttachRequest {
        addresses: addresses(&attachment),
        attachment,
        open: open_rules(policy),
        files: (!is_device).then(|| name_files(policy)),
        trust: trust.map(|trust| {
            let files = trust.files();
            TrustContent {
                bundle: files.bundle.to_vec(),
                java: files.java.to_vec(),
            }
        }),
        listen: None,
    }
}

async fn serve(
    doors: Doors,
    config: AttachConfig,
    inspector: Option<Arc<Inspector>>,
    panics: Panics,
    ready: impl FnOnce(),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), AttachError> {
    let (recorder, ending) = records::open(config.records, &config.sandbox);
    record_start(&recorder, config.build);
    tokio::spawn(panics.record(recorder.clone()));
    let control = doors.control.clone();
    let (host_files, host_files_watch) = HostFiles::open();
    let wanted = SandboxConfig {
        policy: config.policy,
        resolvers: config.resolvers,
        publish: config.publish,
        addresses: addresses(&config.attachment),
        resolve: config.resolve,
        inspector,
        reload: Some(config.reload),
        rejected: Rejected::default(),
        host_files,
        guest: config.guest,
        own_tickets: true,
        descriptors: None,
        mark: mark(&config.attachment),
    };
    let mut end = pin!(end);
    let started = tokio::select! {
        started = SandboxGateway::start(doors, wanted, &recorder) => Some(started),
        // Nobody waits for names any more.
        _ = &mut end => None,
    };
    let served = match started {
        Some(Ok(served)) => served,
        stopped => {
            // Why is in the records too.
            recorder.flush(FLUSH_TIMEOUT);
            detach(&control).await;
            return match stopped {
                Some(Err(error)) => Err(error.into()),
                _ => Ok(()),
            };
        }
    };
    let watching = host_files_watch.run(served.token().clone());
    served.keep("the watch over the host's files", watching);
    served.keep(records::PART, ending.wait(served.token().clone()));
    ready();
    let failed = tokio::select! {
        failed = served.ended() => failed,
        _ = &mut end => None,
    };
    info!(?failed, "sandbox ended, or is detached");
    served.stop(DRAIN_TIMEOUT).await;
    detach(&control).await;
    let lost = records::finish(&recorder, FLUSH_TIMEOUT);
    match (failed, lost) {
        (Some(why), _) => Err(AttachError::Failed(why)),
        (None, Some(lost)) => Err(io::Error::other(format!("decision records: {lost}")).into()),
        (None, None) => Ok(()),
    }
}

/// Has the holder take the doors away, and waits until it has.
pub(crate) async fn detach(control: &Control) {
    if control.detach().is_ok() {
        let gone = crate::sandbox_gateway::gone(control);
        let _ = tokio::time::timeout(DETACH_TIMEOUT, gone).await;
    }
}
