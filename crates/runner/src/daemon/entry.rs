//! One sandbox of the daemon, as it stands.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_control::{Counts, Listening, NewSandbox, PolicyText, Sandbox, State};
use portcullis_gateway::{Gateway, Recorder};
use portcullis_policy::{Reason, Verdict};

use super::foreign;
use super::guest_socket::GuestFile;
use super::retry::Retry;
use super::settings::ConfiguredSandbox;
use super::store::Kept;
use crate::plain_gateway::PlainGateway;
use crate::records;
use crate::sandbox_gateway::SandboxGateway;

/// How long flows may take to close when a sandbox is removed.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the last records may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why one is cut off that was not served yet.
pub(crate) const STARTING: &str = "it is being started";

/// Whose gateway it is.
enum Kind {
    Plain(PlainGateway),
    Doors(SandboxGateway),
}

/// A gateway that serves.
pub(crate) struct Served {
    kind: Kind,
    /// Where it listens on the host.
    pub(crate) listening: Option<Listening>,
    /// What its owner should know.
    pub(crate) note: Option<String>,
    /// Removed with it.
    _guest: Option<GuestFile>,
}

/// Why a gateway has ended.
pub(crate) enum Ended {
    /// The sandbox is gone.
    Gone,
    /// A part of the gateway failed.
    Failed(String),
}

impl Served {
    pub(crate) fn listeners(gateway: PlainGateway, listening: Listening) -> Served {
        Served {
            kind: Kind::Plain(gateway),
            listening: Some(listening),
            note: None,
            _guest: None,
        }
    }

    pub(crate) fn doors(
        gateway: SandboxGateway,
        note: Option<String>,
        listening: Listening,
        guest: Option<GuestFile>,
    ) -> Served {
        let listens = listening != Listening::default();
        Served {
            kind: Kind::Doors(gateway),
            listening: listens.then_some(listening),
            note,
            _guest: guest,
        }
    }

    pub(crate) fn gateway(&self) -> &Arc<Gateway> {
        match &self.kind {
            Kind::Plain(gateway) => gateway.gateway(),
            Kind::Doors(gateway) => gateway.gateway(),
        }
    }

    pub(crate) fn keep_records(&self, ending: records::Ending) {
        match &self.kind {
            Kind::Plain(gateway) => {
                gateway.keep(records::PART, ending.wait(gateway.token().clone()));
            }
            Kind::Doors(gateway) => {
                gateway.keep(records::PART, ending.wait(gateway.token().clone()));
            }
        }
    }

    /// Waits until it has ended by itself.
    async fn ended(&self) -> Ended {
        let failed = match &self.kind {
            Kind::Plain(gateway) => gateway.ended().await,
            Kind::Doors(gateway) => match gateway.ended().await {
                None => return Ended::Gone,
                failed => failed,
            },
        };
        Ended::Failed(failed.unwrap_or_else(|| "its gateway has ended".to_owned()))
    }

    /// Ends its flows; the sandbox's doors stay, and lead nowhere.
    async fn stop(&self) {
        match &self.kind {
            Kind::Plain(gateway) => gateway.stop(DRAIN_TIMEOUT).await,
            Kind::Doors(gateway) => gateway.stop(DRAIN_TIMEOUT).await,
        }
    }

    /// Ends it, and takes the doors away: as if it had never been served.
    pub(crate) async fn undo(&self) {
        self.stop().await;
        self.detach().await;
    }

    /// Takes the doors away, which its gateway's copies of the sockets would keep taken.
    async fn detach(&self) {
        if let Kind::Doors(gateway) = &self.kind {
            let control = gateway.control().clone();
            // Only a panic there ends it otherwise.
            let _ = tokio::task::spawn_blocking(move || foreign::take_away(&control)).await;
        }
    }
}

/// Whether it is served.
#[derive(Clone)]
enum Standing {
    Served(Arc<Served>),
    CutOff(String),
}

/// A sandbox that the daemon knows.
pub(crate) struct Entry {
    kept: Mutex<Kept>,
    /// What the configuration file says of it, where that names it.
    pub(crate) configured: Option<ConfiguredSandbox>,
    pub(crate) recorder: Recorder,
    standing: Mutex<Standing>,
    stopped: AtomicBool,
    /// When it is tried again while it is cut off.
    pub(crate) retry: Arc<Retry>,
    /// Each byte has its policy's files read again.
    requests: Mutex<Option<OwnedFd>>,
    /// One change at a time.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
}

impl Entry {
    pub(crate) fn new(
        kept: Kept,
        configured: Option<ConfiguredSandbox>,
        recorder: Recorder,
        retry: Arc<Retry>,
    ) -> Entry {
        Entry {
            kept: Mutex::new(kept),
            configured,
            recorder,
            standing: Mutex::new(Standing::CutOff(STARTING.to_owned())),
            stopped: AtomicBool::new(false),
            retry,
            requests: Mutex::default(),
            changing: Arc::default(),
        }
    }

    /// Whether the configuration file names it, and its policy's files.
    pub(crate) fn is_configured(&self) -> bool {
        self.configured.is_some()
    }

    /// How its policy's files are asked to be read again.
    pub(crate) fn set_requests(&self, requests: OwnedFd) {
        let mut held = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(requests);
    }

    /// Has its policy's files read again, whether or not they have changed.
    pub(crate) fn request_reload(&self) {
        let held = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = &*held {
            // Full: one that has not begun yet sees this change too.
            let _ = rustix::io::write(requests, &[1]);
        }
    }

    pub(crate) fn kept(&self) -> Kept {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone()
    }

    pub(crate) fn set_kept(&self, kept: Kept) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    pub(crate) fn owner(&self) -> u32 {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.owner
    }

    pub(crate) fn policy(&self) -> PolicyText {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.new.policy.clone()
    }

    fn standing(&self) -> Standing {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.clone()
    }

    fn stand(&self, standing: Standing) -> Standing {
        let mut now = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut now, standing)
    }

    pub(crate) fn served(&self) -> Option<Arc<Served>> {
        match self.standing() {
            Standing::Served(served) => Some(served),
            Standing::CutOff(_) => None,
        }
    }

    /// Why it is cut off, if it is.
    pub(crate) fn cut_off(&self) -> Option<String> {
        match self.standing() {
            Standing::Served(_) => None,
            Standing::CutOff(why) => Some(why),
        }
    }

    pub(crate) fn set_cut_off(&self, why: String) {
        self.stand(Standing::CutOff(why));
    }

    /// It is served from now on, until its gateway ends; `ended` is told why, unless it was stopped.
    pub(crate) fn serve(
        self: &Arc<Entry>,
        served: Served,
        ended: impl FnOnce(Ended) + Send + 'static,
    ) {
        let served = Arc::new(served);
        self.retry.succeeded();
        self.stand(Standing::Served(served.clone()));
        let entry = self.clone();
        tokio::spawn(async move {
            let why = served.ended().await;
            drop(served);
            if !entry.stopped.load(Ordering::Acquire) {
                ended(why);
            }
        });
    }

    /// Ends its gateway, and writes its last records. With `detach` its doors are taken away; otherwise they
    /// wait for the next daemon.
    pub(crate) async fn stop(&self, detach: bool) {
        self.stopped.store(true, Ordering::Release);
        let standing = self.stand(Standing::CutOff("it is being stopped".to_owned()));
        if let Standing::Served(served) = standing {
            served.stop().await;
            if detach {
                served.detach().await;
            }
        }
        let recorder = self.recorder.clone();
        // It waits for a thread that may wait for a disk.
        let finishing =
            tokio::task::spawn_blocking(move || records::finish(&recorder, FLUSH_TIMEOUT));
        if let Ok(Some(why)) = finishing.await {
            tracing::warn!(why, "the last records of a sandbox are missing");
        }
    }

    /// As the API shows it.
    pub(crate) fn show(&self) -> Sandbox {
        let Kept {
            new, owner, since, ..
        } = self.kept();
        let NewSandbox {
            name,
            attach,
            labels,
            audit,
            ..
        } = new;
        let counters = self.recorder.counters();
        // What the gateway says of itself is no decision on the sandbox.
        let own = [Reason::Started, Reason::PolicyReloaded];
        let own: u64 = own
            .iter()
            .map(|reason| counters.get(Verdict::Allow, *reason))
            .sum();
        let (served, error) = match self.standing() {
            Standing::Served(served) => (Some(served), None),
            Standing::CutOff(why) => (None, Some(why)),
        };
        let rules = served.as_ref().map_or(0, |served| {
            served.gateway().policy().load().rule_count() as u64
        });
        Sandbox {
            name,
            attach,
            owner,
            state: match served {
                Some(_) => State::Serving,
                None => State::CutOff,
            },
            error,
            note: served.as_ref().and_then(|served| served.note.clone()),
            listening: served.and_then(|served| served.listening.clone()),
            since,
            rules,
            audit,
            labels,
            decisions: Counts {
                allow: counters.verdict(Verdict::Allow).saturating_sub(own),
                deny: counters.verdict(Verdict::Deny),
                error: counters.verdict(Verdict::Error),
                audit: counters.verdict(Verdict::Audit),
            },
        }
    }
}

/// What went wrong, with its cause.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = all.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

/// The time in seconds since 1970.
pub(crate) fn now() -> io::Result<u64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_secs()).map_err(io::Error::other)
}
