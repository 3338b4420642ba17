//! The daemon as a process: its socket, its sandboxes, its end.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;

use portcullis_control::{Admins, Gatekeeper, Peer, Sandboxes};
use portcullis_record::WriterThread;
use portcullis_sandbox::Holders;
use rustix::process::{DumpableBehavior, Resource, getrlimit, set_dumpable_behavior};
use tokio_util::sync::CancellationToken;

use super::registry::{LoadConfigured, Registry};
use super::settings::Settings;
use super::starting::Shared;
use super::store::{Store, own_folder};
use super::upkeep::{ReadSettings, Upkeep};
use crate::descriptors::raise_limit;
use crate::host_files::HostFiles;

/// Everybody may connect: who may do what is decided for each connection.
const SOCKET_MODE: u32 = 0o666;
/// The longest path of a Unix socket, in bytes (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// The folder of guests' sockets, behind the control socket's own path.
const GUESTS: &str = ".guests";
/// Its owner makes files there; others reach those that are theirs.
const GUESTS_MODE: u32 = 0o711;
/// Descriptors of each sandbox at least, however many there may be: some dozens of connections.
const LEAST_DESCRIPTORS: usize = 256;

/// What the daemon serves.
pub struct Daemon {
    /// The configuration.
    pub settings: Settings,
    /// Loads the policies of its sandboxes.
    pub load: LoadConfigured,
    /// Reads it again.
    pub read: ReadSettings,
    /// The end of a non-blocking pipe: each byte in it has that done, and policy files read again.
    pub requests: OwnedFd,
    /// Told what came of that, in a line.
    pub tell: fn(&str),
    /// The control socket's path.
    pub control: PathBuf,
    /// The control socket, where a service manager has made it; it is made otherwise.
    pub listener: Option<UnixListener>,
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
        error: io::Error,
    },
    /// There is no runtime, or the end could not be waited for.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves until `end` is ready. `ready` is called once the control socket answers and every sandbox that was
/// known is served or cut off: then with how many are.
///
/// # Errors
/// See [`DaemonError`].
pub fn serve_daemon(
    daemon: Daemon,
    ready: impl FnOnce(Option<String>),
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
    ready: impl FnOnce(Option<String>),
    end: impl Future<Output = io::Result<()>>,
) -> Result<(), DaemonError> {
    let at = |what, path: &Path| {
        let path = path.to_owned();
        move |error| DaemonError::Path { what, path, error }
    };
    let (listener, _file) = match daemon.listener {
        // Its file is the service manager's.
        Some(listener) => (listener, None),
        None => (
            bind(&daemon.control)?,
            Some(SocketFile::of(&daemon.control)?),
        ),
    };
    let what = "cannot serve the control socket";
    let made = listener.set_nonblocking(true);
    let listener = made.and_then(|()| tokio::net::UnixListener::from_std(listener));
    let listener = listener.map_err(at(what, &daemon.control))?;
    let mut guests = daemon.control.clone().into_os_string();
    guests.push(GUESTS);
    let guests = PathBuf::from(guests);
    let made = own_folder(&guests, GUESTS_MODE);
    // Whatever the umask is: its users are to reach what is theirs.
    let made =
        made.and_then(|()| fs::set_permissions(&guests, Permissions::from_mode(GUESTS_MODE)));
    made.map_err(at("cannot make the folder of guests' sockets", &guests))?;
    let _guests = GuestFolder(guests.clone());
    let what = "cannot keep the daemon's state in";
    let store = Store::open(&daemon.state).map_err(at(what, &daemon.state))?;
    let kept = store.read().map_err(at(what, &daemon.state))?;
    if let Some(folder) = &daemon.settings.log_dir {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(folder);
        made.map_err(at("cannot write records to", folder))?;
    }
    let (host_files, watch) = HostFiles::open();
    let user = rustix::process::geteuid().as_raw();
    let max_sandboxes = daemon.settings.max_sandboxes;
    let before = daemon.settings.clone();
    let registry = Registry::new(
        Shared {
            store,
            log_dir: daemon.settings.log_dir,
            guests,
            host: daemon.host,
            labels: daemon.settings.labels,
            max_sandboxes,
            max_sandboxes_per_user: daemon.settings.max_sandboxes_per_user,
            resolvers: daemon.resolvers,
            host_files,
            descriptors: share(max_sandboxes),
            writer: WriterThread::start()?,
            holders: Arc::new(Holders::new(daemon.holder)),
            build: daemon.build,
        },
        daemon.load,
    );
    let token = CancellationToken::new();
    let watching = tokio::spawn(watch.run(token.clone()));
    let admins = Admins {
        user,
        group: daemon.admin_group,
    };
    let gatekeeper = Gatekeeper { admins, peer_of };
    let upkeep = Upkeep {
        registry: registry.clone(),
        user,
        requests: daemon.requests,
        before,
        read: daemon.read,
        tell: daemon.tell,
    };
    upkeep.know(daemon.settings.sandboxes, kept);
    let serving = portcullis_control::serve(listener, registry.clone(), gatekeeper, token.clone());
    let serving = tokio::spawn(serving);
    let mut end = pin!(end);
    let restoring = upkeep.restore();
    tokio::select! {
        ended = &mut end => {
            token.cancel();
            registry.stop().await;
            return Ok(ended?);
        }
        () = restoring => {}
    }
    ready(Sandboxes::ready(&*registry).err());
    let ended = tokio::select! {
        ended = end => ended,
        // Policies would be served by what resolvers the host once had.
        ended = watching => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        },
        ended = upkeep.run() => ended,
    };
    token.cancel();
    serving.await.map_err(io::Error::other)??;
    registry.stop().await;
    Ok(ended?)
}

/// What each of so many sandboxes may hold of this process's descriptors.
fn share(sandboxes: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    (limit / sandboxes.max(1)).max(LEAST_DESCRIPTORS)
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
fn bind(path: &Path) -> Result<UnixListener, DaemonError> {
    let at = |error| DaemonError::Path {
        what: "cannot serve the control socket",
        path: path.to_owned(),
        error,
    };
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        let text = format!("the path of a socket has at most {MAX_SOCKET_PATH} bytes");
        return Err(at(io::Error::new(io::ErrorKind::InvalidInput, text)));
    }
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
    Ok(listener)
}

/// The folder of guests' sockets, removed with this if it is empty.
struct GuestFolder(PathBuf);

impl Drop for GuestFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The socket's file, removed with this if it is still the same.
struct SocketFile {
    path: PathBuf,
    /// Device and number.
    file: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile {
            path: path.to_owned(),
            file: identity(path)?,
        })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
