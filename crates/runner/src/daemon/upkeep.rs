//! What goes on while a daemon serves: what was known is served, what is cut off is tried again, and the
//! configuration is read again when that is asked for.
//!
//! Answers *failing open* (docs/threats.md): a configuration that does not load changes nothing, and a sandbox that
//! it names no more has no doors any more.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe;

use super::registry::Registry;
use super::settings::{ConfiguredSandbox, Settings};
use super::store::Kept;

/// How often those are looked for whose pause is over.
const TICK: Duration = Duration::from_millis(500);
/// Requests that are taken at once.
const REQUEST_BYTES: usize = 64;

/// Reads the configuration file again.
pub type ReadSettings = Arc<dyn Fn() -> Result<Settings, String> + Send + Sync>;

/// Keeps the sandboxes of a daemon as they should be.
pub(crate) struct Upkeep {
    pub(crate) registry: Arc<Registry>,
    /// The user whose daemon it is, who owns what the configuration names.
    pub(crate) user: u32,
    /// The end of a non-blocking pipe: each byte in it has the configuration read again.
    pub(crate) requests: OwnedFd,
    pub(crate) read: ReadSettings,
    /// As it was read at the start.
    pub(crate) before: Settings,
    /// Told what came of that.
    pub(crate) tell: fn(&str),
}

impl Upkeep {
    /// Knows what the configuration names and what was kept, before anybody may ask for more.
    pub(crate) fn know(&self, configured: Vec<ConfiguredSandbox>, kept: Vec<Kept>) {
        for one in configured {
            self.registry.know_configured(one, self.user);
        }
        for one in kept {
            self.registry.know_kept(one);
        }
    }

    /// Serves what is known, many at once.
    pub(crate) async fn restore(&self) {
        self.registry.try_again().await;
        let releasing = self.registry.clone();
        // What it finds is nobody's.
        let _ = tokio::task::spawn_blocking(move || releasing.release_others()).await;
    }

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// Requests cannot be waited for.
    pub(crate) async fn run(self) -> io::Result<()> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let requests = pipe::Receiver::from_owned_fd(self.requests.try_clone()?)?;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.registry.try_again().await,
                ready = requests.readable() => {
                    ready?;
                    match requests.try_read(&mut [0; REQUEST_BYTES]) {
                        // Nobody asks any more.
                        Ok(0) => return std::future::pending().await,
                        Ok(_) => self.read_again().await,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Takes over what the configuration file now says of sandboxes.
    async fn read_again(&self) {
        let read = self.read.clone();
        let settings = tokio::task::spawn_blocking(move || read()).await;
        let settings = settings.unwrap_or_else(|error| Err(error.to_string()));
        let mut wanted = match settings {
            Ok(settings) => {
                if settings.differs_beside_sandboxes(&self.before) {
                    (self.tell)(
                        "of the configuration, only sandboxes are reloaded: start the daemon again for the rest",
                    );
                }
                settings.sandboxes
            }
            Err(why) => {
                (self.tell)(&format!("the configuration is not reloaded: {why}"));
                return;
            }
        };
        let (mut kept, mut dropped) = (Vec::new(), 0);
        // Those that are named no more first: they must not wait for others.
        for entry in self.registry.all() {
            let Some(configured) = &entry.configured else {
                continue;
            };
            match wanted.iter().position(|one| one == configured) {
                Some(same) => {
                    wanted.swap_remove(same);
                    kept.push(entry);
                }
                None => {
                    self.registry.drop_configured(&entry).await;
                    dropped += 1;
                }
            }
        }
        for entry in &kept {
            entry.request_reload();
            if entry.served().is_none() && !entry.retry.is_over() {
                entry.retry.soon();
            }
        }
        let kept = kept.len();
        let mut begun = 0;
        for one in wanted {
            let name = one.name.clone();
            match self.registry.know_configured(one, self.user) {
                true => begun += 1,
                false => (self.tell)(&format!(
                    "`{name}` of the configuration is not served: a client has made one of this name"
                )),
            }
        }
        self.registry.try_again().await;
        let dropped = format!("{dropped} ended or changed");
        (self.tell)(&format!(
            "the configuration is reloaded: {begun} sandboxes begun, {dropped}, {kept} as before"
        ));
    }
}
