//! The host's own word on names, `resolv.conf` and the hosts file, followed as they change: a VPN that
//! comes up brings other resolvers, and somebody adds a name by hand.
//!
//! A look at the files' stamps every second finds a change however it is made: in place, by a rename,
//! by a symbolic link that leads elsewhere.
//!
//! Answers *around the gateway* (docs/threats.md): whoever changes these files says where listed names
//! lead. A program in the sandbox sees copies, and the folder is held since before it starts.

use portcullis_dns::HostsFile;
use portcullis_gateway::{CancellationToken, Gateway, resolvers_in};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
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

/// The host's files about names, in a folder that is held.
pub(crate) struct HostFiles {
    folder: Option<OwnedFd>,
    resolv_conf: Option<Stamp>,
    hosts: Option<Stamp>,
}

impl HostFiles {
    /// Holds the folder, and takes the files as they are for known.
    pub(crate) fn open() -> HostFiles {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut files = HostFiles {
            folder: openat(CWD, FOLDER, flags, Mode::empty()).ok(),
            resolv_conf: None,
            hosts: None,
        };
        files.resolv_conf = files.stamp(RESOLV_CONF);
        files.hosts = files.stamp(HOSTS);
        files
    }

    /// The hosts file as it is now; an empty one where there is none.
    pub(crate) fn hosts(&self) -> HostsFile {
        let text = self.read(HOSTS).unwrap_or_default();
        HostsFile::parse(&text)
    }

    /// Follows the files for a gateway, until `token` is cancelled.
    pub(crate) async fn follow(
        mut self,
        gateway: Arc<Gateway>,
        usable: Usable,
        token: CancellationToken,
    ) -> io::Result<()> {
        // One that is missing before CMD starts could only come from there.
        let follows_hosts = self.hosts.is_some();
        let mut looks = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = token.cancelled() => return Ok(()),
            }
            let now = self.stamp(RESOLV_CONF);
            if now != self.resolv_conf && self.is_quiet(RESOLV_CONF, now).await {
                self.take_resolvers(&gateway, &usable, now);
            }
            let now = self.stamp(HOSTS);
            if follows_hosts && now != self.hosts && self.is_quiet(HOSTS, now).await {
                // One that cannot be read for now is read at the next look.
                if now.is_none() || self.read(HOSTS).is_ok() {
                    self.hosts = now;
                    gateway.set_hosts(self.hosts());
                    info!("the host's hosts file changed");
                }
            }
        }
    }

    /// Takes over the resolvers of a changed file. One that names none, or cannot be read for now,
    /// leaves those that are known.
    fn take_resolvers(&mut self, gateway: &Gateway, usable: &Usable, now: Option<Stamp>) {
        let Ok(text) = self.read(RESOLV_CONF) else {
            return;
        };
        self.resolv_conf = now;
        let resolvers = resolvers_in(&text);
        if resolvers.is_empty() {
            return;
        }
        match usable(&resolvers) {
            Ok(()) => {
                info!(?resolvers, "the host's resolvers changed");
                gateway.set_resolvers(resolvers);
            }
            Err(error) => warn!(%error, "the host's new resolvers are not asked"),
        }
    }

    /// Whether a file is still in this state a moment later.
    async fn is_quiet(&self, name: &str, state: Option<Stamp>) -> bool {
        tokio::time::sleep(QUIET).await;
        self.stamp(name) == state
    }

    fn stamp(&self, name: &str) -> Option<Stamp> {
        let stat = statat(self.folder.as_ref()?, name, AtFlags::empty()).ok()?;
        Some(Stamp {
            file: (stat.st_dev, stat.st_ino),
            size: stat.st_size,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(openat(folder, name, flags, Mode::empty())?);
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The text of the host's hosts file, as far as it is read; none where there is no such file.
pub(crate) fn hosts_text() -> Option<String> {
    HostFiles::open().read(HOSTS).ok()
}
