//! The daemon as a process: its socket, its sandboxes, its end.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_control::{Admins, Gatekeeper, Peer};
use portcullis_gateway::Loaded;
use portcullis_record::WriterThread;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio_util::sync::CancellationToken;

use super::registry::{Registry, Shared};
use super::settings::{ConfiguredSandbox, Settings};
use super::store::Store;
use crate::descriptors::raise_limit;
use crate::host_files::HostFiles;
use crate::reload::Reload;

/// Everybody may connect: who may do what is decided for each connection.
const SOCKET_MODE: u32 = 0o666;

/// What the daemon serves.
pub struct Daemon {
    /// The configuration; of its sandboxes those that are loaded below.
    pub settings: Settings,
    /// Its sandboxes with their policies.
    pub sandboxes: Vec<(ConfiguredSandbox, Loaded, Reload)>,
    /// The control socket.
    pub control: PathBuf,
    /// The folder of what is kept.
    pub state: PathBuf,
    /// The number of the group of administrators.
    pub admin_group: Option<u32>,
    /// The host's resolvers, asked where a policy names none.
    pub resolvers: Vec<SocketAddr>,
    /// The host's name in records.
    pub host: String,
    /// Makes a command that calls [`portcullis_sandbox::hold`].
    pub holder: fn() -> Command,
    /// The build that serves.
    pub build: &'static str,
}

/// Why the daemon does not serve, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon answers at the control socket.
    #[error("another daemon serves at {}", .0.display())]
    Taken(PathBuf),
    /// A path of the daemon cannot be used.
    #[error("{what} {}: {error}", path.display())]
    Path {
        /// What it is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// There is no runtime, or the end could not be waited for.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves until `end` is ready. `ready` is called once the control socket answers and every sandbox that was
/// known is served or cut off.
///
/// # Errors
/// See [`DaemonError`].
pub fn serve_daemon(
    daemon: Daemon,
    ready: impl FnOnce(),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), DaemonError> {
    raise_limit();
    // The sandboxes' programs may be of the same user, and see this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(daemon, ready, end));
    runtime.shutdown_background();
    result
}

async fn serve(
    daemon: Daemon,
    ready: impl FnOnce(),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), DaemonError> {
    let at = |what, path: &Path| {
        let path = path.to_owned();
        move |error| DaemonError::Path { what, path, error }
    };
    let listener = bind(&daemon.control)?;
    let _socket = RemovedAtEnd(daemon.control.clone());
    let what = "cannot keep the daemon's state in";
    let store = Store::open(&daemon.state).map_err(at(what, &daemon.state))?;
    let kept = store.read().map_err(at(what, &daemon.state))?;
    if let Some(folder) = &daemon.settings.log_dir {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(folder);
        made.map_err(at("cannot write records to", folder))?;
    }
    let (host_files, watch) = HostFiles::open();
    let user = rustix::process::geteuid().as_raw();
    let registry = Registry::new(Shared {
        store,
        log_dir: daemon.settings.log_dir,
        host: daemon.host,
        labels: daemon.settings.labels,
        max_sandboxes: daemon.settings.max_sandboxes,
        resolvers: daemon.resolvers,
        host_files,
        writer: WriterThread::start()?,
        holder: daemon.holder,
        build: daemon.build,
    });
    let token = CancellationToken::new();
    let watching = tokio::spawn(watch.run(token.clone()));
    for (configured, loaded, reload) in daemon.sandboxes {
        registry.configured(configured, user, loaded, reload).await;
    }
    for kept in kept {
        registry.restore(kept).await;
    }
    let admins = Admins {
        user,
        group: daemon.admin_group,
    };
    let gatekeeper = Gatekeeper { admins, peer_of };
    let serving = portcullis_control::serve(listener, registry.clone(), gatekeeper, token.clone());
    let serving = tokio::spawn(serving);
    ready();
    let ended = tokio::select! {
        ended = end => ended,
        // Policies would be served by what resolvers the host once had.
        ended = watching => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        },
    };
    token.cancel();
    serving.await.map_err(io::Error::other)??;
    registry.stop().await;
    Ok(ended?)
}

/// Who asks. A process in another network namespace may be in a sandbox, and is told nothing.
fn peer_of(stream: &tokio::net::UnixStream) -> io::Result<Peer> {
    let peer = portcullis_sandbox::Peer::of(stream)?;
    if !peer.shares_network()? {
        let text = format!(
            "process {} of user {} is in another network namespace",
            peer.pid, peer.uid
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(Peer {
        uid: peer.uid,
        gid: peer.gid,
        groups: peer.groups,
        pid: peer.pid,
    })
}

/// The control socket, in the place of one that nobody serves any more.
fn bind(path: &Path) -> Result<tokio::net::UnixListener, DaemonError> {
    let at = |error| DaemonError::Path {
        what: "cannot serve the control socket",
        path: path.to_owned(),
        error,
    };
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(at)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(at(io::Error::other(
                "a file that is no socket stands there",
            )));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(DaemonError::Taken(path.to_owned()));
        }
        Ok(_) => fs::remove_file(path).map_err(at)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(error)),
    }
    let listener = UnixListener::bind(path).map_err(at)?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(at)?;
    listener.set_nonblocking(true).map_err(at)?;
    tokio::net::UnixListener::from_std(listener).map_err(at)
}

struct RemovedAtEnd(PathBuf);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        // Gone is what it is to be.
        let _ = fs::remove_file(&self.0);
    }
}
