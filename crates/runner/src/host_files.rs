//! The host's own word on names, `resolv.conf` and the hosts file, followed as they change: a VPN that
//! comes up brings other resolvers, and somebody adds a name by hand.
//!
//! A look at the files' stamps every second finds a change however it is made: in place, by a rename,
//! by a symbolic link that leads elsewhere.
//!
//! Answers *around the gateway* (docs/threats.md): whoever changes these files says where listed names
//! lead. A program in the sandbox sees copies, and the folder is held since before it starts.

use portcullis_dns::{HostsFile, interface_index};
use portcullis_gateway::{
    CancellationToken, Gateway, HostNetwork, ResolvConf, SearchList, callers_search, resolv_conf_in,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

const FOLDER: &str = "/etc";
const RESOLV_CONF: &str = "resolv.conf";
const HOSTS: &str = "hosts";
/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a changed file must stay as it is before it is read: a save may be several steps.
const QUIET: Duration = Duration::from_millis(60);
/// What is read of a file, bytes. Lists against advertisements have some megabytes.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Whether these resolvers can be asked; otherwise why not.
pub(crate) type Usable = Box<dyn Fn(&[SocketAddr]) -> io::Result<()> + Send + Sync>;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: i64,
    changed: (i64, u64),
}

/// A file of the folder, and how far it is known.
#[derive(Clone, Copy)]
struct Followed {
    name: &'static str,
    /// Whether it was there before CMD started. One that was not could only come from CMD.
    is_followed: bool,
    /// The state that is in force; `None` where it could not be read, or is not read yet.
    known: Option<Stamp>,
}

/// What the files say now.
#[derive(Clone, Default)]
struct HostNames {
    hosts: Arc<HostsFile>,
    /// Those that can be asked now; none before the first look.
    resolvers: Arc<[SocketAddr]>,
}

/// The host's files about names, for every gateway of this process: one look at them serves all.
#[derive(Clone)]
pub struct HostFiles {
    /// What the file says of short names at the start: copies inside do not change.
    at_start: Arc<ResolvConf>,
    names: watch::Receiver<HostNames>,
    network: HostNetwork,
}

impl HostFiles {
    /// Holds the folder and reads the files. What the second value watches reaches all clones of the
    /// first.
    pub fn open() -> (HostFiles, HostFilesWatch) {
        let folder = open_folder();
        let followed = |name| Followed {
            name,
            is_followed: stamp(folder.as_deref(), name).is_some(),
            known: None,
        };
        // The resolvers are read at the first look: whoever gave the first list may have read an
        // earlier file.
        let (resolv_conf, mut hosts) = (followed(RESOLV_CONF), followed(HOSTS));
        let at_start = Arc::new(at_start(folder.as_deref()));
        let now = stamp(folder.as_deref(), HOSTS);
        let read = match read(folder.as_deref(), HOSTS) {
            Ok(text) => {
                hosts.known = now;
                HostsFile::parse(&text)
            }
            Err(error) => {
                warn!(%error, "the host's hosts file cannot be read");
                HostsFile::default()
            }
        };
        let (sender, names) = watch::channel(HostNames {
            hosts: Arc::new(read),
            resolvers: Arc::default(),
        });
        let watch = HostFilesWatch {
            folder,
            resolv_conf,
            hosts,
            resolvers: ResolvConf::default(),
            names: sender,
        };
        let files = HostFiles {
            at_start,
            names,
            network: HostNetwork::open(),
        };
        (files, watch)
    }

    /// How short names are completed.
    pub(crate) fn search(&self) -> SearchList {
        callers_search(&self.at_start)
    }

    /// The network of the host that they are of.
    pub(crate) fn network(&self) -> HostNetwork {
        self.network.clone()
    }

    /// The hosts file as it is now; an empty one where there is none.
    pub(crate) fn hosts(&self) -> Arc<HostsFile> {
        self.names.borrow().hosts.clone()
    }

    /// Hands on to a gateway what the files say, until `token` is cancelled.
    ///
    /// # Errors
    /// Nobody watches the files any more.
    pub(crate) async fn follow(
        mut self,
        gateway: Arc<Gateway>,
        usable: Usable,
        token: CancellationToken,
    ) -> io::Result<()> {
        // The gateway may have been built with what was read before.
        let mut taken = HostNames::default();
        loop {
            let now = self.names.borrow_and_update().clone();
            take_resolvers(&gateway, &usable, &taken.resolvers, &now.resolvers);
            if !Arc::ptr_eq(&taken.hosts, &now.hosts) {
                gateway.set_hosts(now.hosts.clone());
            }
            taken = now;
            tokio::select! {
                changed = self.names.changed() => {
                    if changed.is_err() {
                        return match token.is_cancelled() {
                            true => Ok(()),
                            false => Err(io::Error::other("nobody watches the host's files")),
                        };
                    }
                }
                () = token.cancelled() => return Ok(()),
            }
        }
    }
}

/// Takes over the resolvers that can be asked now.
fn take_resolvers(gateway: &Gateway, usable: &Usable, taken: &[SocketAddr], now: &[SocketAddr]) {
    // A file that names no resolver leaves those that are known.
    if now.is_empty() || now == taken {
        return;
    }
    match usable(now) {
        Ok(()) => {
            if gateway.set_resolvers(now.to_vec()) {
                info!(resolvers = ?now, "the host's resolvers changed");
            }
        }
        Err(error) => warn!(%error, "the host's new resolvers are not asked"),
    }
}

/// Looks at the files.
pub struct HostFilesWatch {
    folder: Option<Arc<OwnedFd>>,
    resolv_conf: Followed,
    hosts: Followed,
    resolvers: ResolvConf,
    names: watch::Sender<HostNames>,
}

impl HostFilesWatch {
    /// Looks at the files every second, until `token` is cancelled.
    ///
    /// # Errors
    /// None; a part of a gateway may have some.
    pub async fn run(mut self, token: CancellationToken) -> io::Result<()> {
        let mut looks = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = token.cancelled() => return Ok(()),
            }
            if let Some(now) = self.changed(self.resolv_conf).await
                && let Ok(read) = self.parse(RESOLV_CONF, resolv_conf_in).await
            {
                self.resolv_conf.known = now;
                self.resolvers = read;
            }
            self.look_at_resolvers();
            if let Some(now) = self.changed(self.hosts).await {
                let hosts = match self.parse(HOSTS, HostsFile::parse).await {
                    Err(error) if now.is_none() && error.kind() == io::ErrorKind::NotFound => {
                        HostsFile::default()
                    }
                    // What cannot be read for now is read at the next look; until then the old one counts.
                    Err(_) => continue,
                    Ok(hosts) => hosts,
                };
                self.hosts.known = now;
                self.names
                    .send_modify(|names| names.hosts = Arc::new(hosts));
                info!("the host's hosts file changed");
            }
        }
    }

    /// Interfaces come and go without a change of the file, and the resolvers with them.
    fn look_at_resolvers(&self) {
        let resolvers = self.resolvers.resolvers(interface_index);
        self.names.send_if_modified(|names| {
            let is_other = !resolvers.is_empty() && *names.resolvers != *resolvers;
            if is_other {
                names.resolvers = resolvers.into();
            }
            is_other
        });
    }

    /// The state of a file that is followed, if it is another one than is known, and stays so for a moment.
    async fn changed(&self, file: Followed) -> Option<Option<Stamp>> {
        let now = self.stamp(file.name);
        if !file.is_followed || now == file.known {
            return None;
        }
        tokio::time::sleep(QUIET).await;
        (self.stamp(file.name) == now).then_some(now)
    }

    /// Reads and parses a file, away from the threads that serve.
    async fn parse<T: Send + 'static>(
        &self,
        name: &'static str,
        parse: fn(&str) -> T,
    ) -> io::Result<T> {
        let folder = self.folder.clone();
        let parsing = spawn_blocking(move || Ok(parse(&read(folder.as_deref(), name)?)));
        parsing.await.map_err(io::Error::other)?
    }

    fn stamp(&self, name: &str) -> Option<Stamp> {
        stamp(self.folder.as_deref(), name)
    }
}

fn open_folder() -> Option<Arc<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, FOLDER, flags, Mode::empty()).ok().map(Arc::new)
}

fn at_start(folder: Option<&OwnedFd>) -> ResolvConf {
    let text = read(folder, RESOLV_CONF).unwrap_or_default();
    resolv_conf_in(&text)
}

fn stamp(folder: Option<&OwnedFd>, name: &str) -> Option<Stamp> {
    let stat = statat(folder?, name, AtFlags::empty()).ok()?;
    Some(Stamp {
        file: (stat.st_dev, stat.st_ino),
        size: stat.st_size,
        changed: (stat.st_ctime, stat.st_ctime_nsec),
    })
}

fn read(folder: Option<&OwnedFd>, name: &str) -> io::Result<String> {
    let folder = folder.ok_or(io::ErrorKind::NotFound)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(openat(folder, name, flags, Mode::empty())?);
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What the host's files say that programs inside see a part of.
pub(crate) struct SeenInside {
    /// The text of the hosts file, as far as it is read; none where there is no such file.
    pub hosts: Option<String>,
    /// How short names are completed.
    pub search: SearchList,
}

impl SeenInside {
    /// Reads them.
    pub(crate) fn read() -> SeenInside {
        let folder = open_folder();
        SeenInside {
            hosts: read(folder.as_deref(), HOSTS).ok(),
            search: at_start(folder.as_deref()).search,
        }
    }
}
