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
    CancellationToken, Gateway, ResolvConf, SearchList, callers_search, resolv_conf_in,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
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

/// The host's files about names, in a folder that is held.
pub(crate) struct HostFiles {
    folder: Option<Arc<OwnedFd>>,
    resolv_conf: Followed,
    hosts: Followed,
    resolvers: ResolvConf,
    /// What the file says of short names when CMD starts: the copy inside does not change.
    at_start: ResolvConf,
    /// What was handed to the gateway last, or refused.
    tried: Vec<SocketAddr>,
}

impl HostFiles {
    /// Holds the folder.
    pub(crate) fn open() -> HostFiles {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, FOLDER, flags, Mode::empty()).ok().map(Arc::new);
        let followed = |name| Followed {
            name,
            is_followed: stamp(folder.as_deref(), name).is_some(),
            known: None,
        };
        HostFiles {
            // Read at the first look: whoever gave the first list may have read an earlier file.
            resolv_conf: followed(RESOLV_CONF),
            hosts: followed(HOSTS),
            resolvers: ResolvConf::default(),
            at_start: at_start(folder.as_deref()),
            tried: Vec::new(),
            folder,
        }
    }

    /// How short names are completed.
    pub(crate) fn search(&self) -> SearchList {
        callers_search(&self.at_start)
    }

    /// The hosts file as it is now; an empty one where there is none.
    pub(crate) fn hosts(&mut self) -> HostsFile {
        let now = self.stamp(HOSTS);
        match read(self.folder.as_deref(), HOSTS) {
            Ok(text) => {
                self.hosts.known = now;
                HostsFile::parse(&text)
            }
            Err(error) => {
                warn!(%error, "the host's hosts file cannot be read");
                HostsFile::default()
            }
        }
    }

    /// Follows the files for a gateway, until `token` is cancelled.
    pub(crate) async fn follow(
        mut self,
        gateway: Arc<Gateway>,
        usable: Usable,
        token: CancellationToken,
    ) -> io::Result<()> {
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
            self.take_resolvers(&gateway, &usable);
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
                gateway.set_hosts(hosts);
                info!("the host's hosts file changed");
            }
        }
    }

    /// Takes over the resolvers that can be asked now. Interfaces come and go without a change of the
    /// file. A file that names no resolver leaves those that are known.
    fn take_resolvers(&mut self, gateway: &Gateway, usable: &Usable) {
        let resolvers = self.resolvers.resolvers(interface_index);
        if resolvers.is_empty() || resolvers == self.tried {
            return;
        }
        self.tried.clone_from(&resolvers);
        match usable(&resolvers) {
            Ok(()) => {
                if gateway.set_resolvers(resolvers) {
                    info!(resolvers = ?self.tried, "the host's resolvers changed");
                }
            }
            Err(error) => warn!(%error, "the host's new resolvers are not asked"),
        }
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
pub(crate) struct HostNames {
    /// The text of the hosts file, as far as it is read; none where there is no such file.
    pub hosts: Option<String>,
    /// How short names are completed.
    pub search: SearchList,
}

impl HostNames {
    /// Reads them.
    pub(crate) fn read() -> HostNames {
        let HostFiles {
            folder, at_start, ..
        } = HostFiles::open();
        HostNames {
            hosts: read(folder.as_deref(), HOSTS).ok(),
            search: at_start.search,
        }
    }
}
