//! Follows the files of the policy, and reloads when it is asked to.
//!
//! A reload reads everything again, files and flags alike, and replaces the policy in one step. What
//! does not load, or cannot be put in force, changes nothing and is recorded.
//!
//! Answers *failing open* and *exhaustion* (docs/threats.md): nothing that the program does keeps a
//! valid change from taking effect. The thread, the queue of events and the files are there before the
//! program starts. What cannot be read for the moment is recorded and tried again; only a policy that
//! is wrong is final until it is changed.

use crate::policy_files::{Detour, PolicyFiles};
use crate::thread;
use crate::watch::{WakeReason, Watch};
use portcullis_gateway::{
    CancellationToken, Diagnostic, Gateway, Loaded, Replaced, Serving, TaskTracker,
};
use rustix::io::{Errno, read};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::{debug, info};

/// How often the files' stamps, and where their paths lead, are compared.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The first pause before what could not be read is read again; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// The longest pause.
const LAST_RETRY: Duration = Duration::from_secs(2);
/// How often it may be said that the policy's path leads elsewhere, or that a file which is not
/// followed has changed: the program can cause both as often as it likes.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// Requests that are taken at once.
const REQUEST_BYTES: usize = 64;

/// Makes a policy anew: flags and files merged as at the start. It reads files through what it is
/// given, and through nothing else.
pub type Load = Box<
    dyn FnMut(&mut dyn FnMut(&Path) -> io::Result<String>) -> Result<Loaded, Vec<Diagnostic>>
        + Send,
>;

/// Told what came of each reload.
pub type ReloadListener = Box<dyn FnMut(&ReloadResult) + Send>;

/// What a gateway needs to follow its policy.
pub struct Reload {
    /// Makes the policy anew.
    pub load: Load,
    /// The files that it was made of.
    pub files: PolicyFiles,
    /// The end of a non-blocking pipe: each byte in it asks for a reload, whether or not a file changed.
    pub requests: Option<OwnedFd>,
    /// Told what came of each reload.
    pub tell: Option<ReloadListener>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// What came of a reload.
#[derive(Debug)]
pub enum ReloadResult {
    /// It is in force.
    Applied {
        /// What that changed.
        replaced: Replaced,
        /// What its author should know.
        warnings: Vec<Diagnostic>,
    },
    /// It did not load; the one before stays in force.
    Invalid(Vec<Diagnostic>),
    /// A file could not be read for now, or is not followed; the one before stays in force.
    Unread(String),
    /// It could not be put in force; the one before stays.
    Refused(String),
}

/// Why the latest change of the policy was not taken over, if it was not.
#[derive(Clone, Debug, Default)]
pub struct Rejected(Arc<Mutex<Option<String>>>);

impl Rejected {
    fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Takes it.
    pub fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Reload {
    /// Follows on a thread of its own, as a part of the gateway, until `token` is cancelled.
    /// `rejected` holds why the latest change was not taken over. Call it within the gateway's
    /// runtime.
    ///
    /// # Errors
    /// There is no thread or no descriptor for it.
    pub(crate) fn follow(
        self,
        gateway: Arc<Gateway>,
        serving: &Serving,
        rejected: Rejected,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> io::Result<()> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut follower = Follower {
            reload: self,
            gateway,
            rejected,
            watch: Watch::new(),
            stopped,
            unread: None,
            reported: Reported::default(),
        };
        let runtime = tokio::runtime::Handle::current();
        let ended = thread::start("policy", move || {
            let _within = runtime.enter();
            follower.run();
        })?;
        let token = token.clone();
        serving.keep("the policy's follower", tracker, async move {
            let result = tokio::select! {
                () = token.cancelled() => Ok(()),
                result = ended => result,
            };
            // Its closing ends the thread, for which nobody waits.
            drop(stop);
            result
        });
        Ok(())
    }
}

/// The thread that follows.
struct Follower {
    reload: Reload,
    gateway: Arc<Gateway>,
    rejected: Rejected,
    watch: Watch,
    /// Readable once nobody wants this thread any more.
    stopped: OwnedFd,
    /// What could not be read the last time, as it was recorded.
    unread: Option<String>,
    reported: Reported,
}

/// What was said of paths that lead elsewhere.
#[derive(Default)]
struct Reported {
    detours: Vec<Detour>,
    at: Option<Instant>,
}

/// Why a reload may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Changed,
    Requested,
    Retry,
}

impl Follower {
    fn run(&mut self) {
        self.tell_unfollowed();
        // It may have changed between its first reading and the first watch.
        let mut cause = Some(Cause::Changed);
        let mut pause = FIRST_RETRY;
        loop {
            // Before reading: what happens while it is read is news again. After a reload files may
            // be others than before.
            self.watch.renew(&self.reload.files);
            let again = cause.is_some_and(|cause| self.attempt(cause));
            self.look_for_detours();
            let wait = if again { pause } else { LOOK_INTERVAL };
            pause = if again {
                (pause * 2).min(LAST_RETRY)
            } else {
                FIRST_RETRY
            };
            let calls: Vec<_> = [Some(&self.stopped), self.reload.requests.as_ref()]
                .into_iter()
                .flatten()
                .map(AsFd::as_fd)
                .collect();
            let until = Instant::now() + wait;
            cause = match self.watch.wait(&self.reload.files, &calls, until) {
                WakeReason::Changed => Some(Cause::Changed),
                WakeReason::Time => again.then_some(Cause::Retry),
                WakeReason::Requested => match self.called() {
                    Called::Stop => return,
                    Called::Requested => Some(Cause::Requested),
                    Called::Nothing => again.then_some(Cause::Retry),
                },
            };
        }
    }

    /// Reads everything and puts it in force; whether that must be tried again without a change.
    fn attempt(&mut self, cause: Cause) -> bool {
        let Reload { load, files, .. } = &mut self.reload;
        // Equal texts make an equal policy, and what was wrong with them is on record.
        if cause == Cause::Changed && self.unread.is_none() && files.unchanged() {
            if files.unfollowed().next().is_some() {
                self.tell_unfollowed();
            }
            return false;
        }
        debug!(?cause, "reading the policy");
        files.begin();
        let loaded = load(&mut |path| files.read(path));
        let (result, again) = match loaded {
            Ok(loaded) => match self.gateway.replace_policy(loaded.policy) {
                Ok(replaced) => {
                    let warnings = loaded.warnings;
                    (ReloadResult::Applied { replaced, warnings }, false)
                }
                Err(error) => {
                    let again = error.is_temporary();
                    (ReloadResult::Refused(error.to_string()), again)
                }
            },
            Err(diagnostics) if files.unread().is_some() => {
                let why = format!("{}; trying again", summary(&diagnostics));
                if self.unread.as_ref() == Some(&why) {
                    return true;
                }
                self.gateway.record_rejected(&why);
                (ReloadResult::Unread(why), true)
            }
            Err(diagnostics) => {
                self.gateway.record_rejected(&summary(&diagnostics));
                (ReloadResult::Invalid(diagnostics), false)
            }
        };
        self.unread = match &result {
            ReloadResult::Unread(why) => Some(why.clone()),
            _ => None,
        };
        self.tell(&result);
        again
    }

    /// Tells who waits for it, and keeps why it was not taken over for the report.
    fn tell(&mut self, result: &ReloadResult) {
        self.rejected.set(result.rejection());
        if let Some(tell) = &mut self.reload.tell {
            tell(result);
        }
    }

    /// Says which files are not followed, at the start and when one of them has changed.
    fn tell_unfollowed(&mut self) {
        let why: Vec<String> = (self.reload.files.unfollowed())
            .map(|(path, why)| format!("{} is not followed: {why}", path.display()))
            .collect();
        if !why.is_empty() {
            self.tell_rarely(&why.join("; "));
        }
    }

    /// Says where the policy's paths lead elsewhere than to what is followed.
    fn look_for_detours(&mut self) {
        let detours = self.reload.files.detours();
        if detours == self.reported.detours {
            return;
        }
        let Some(Detour { path, name, .. }) = detours.first() else {
            info!("the policy's paths lead to what is followed again");
            self.reported.detours = detours;
            return;
        };
        let (path, name) = (path.display(), Path::new(name).display());
        let why = format!(
            "{path} does not lead to the policy that is followed any more: {name} on the way was \
             moved or replaced; what is saved there does not take effect"
        );
        if self.tell_rarely(&why) {
            self.reported.detours = detours;
        }
    }

    /// Records what the program may cause as often as it likes; false where it was too early to.
    fn tell_rarely(&mut self, why: &str) -> bool {
        if self
            .reported
            .at
            .is_some_and(|at| at.elapsed() < TELL_INTERVAL)
        {
            return false;
        }
        self.reported.at = Some(Instant::now());
        self.gateway.record_rejected(why);
        self.tell(&ReloadResult::Unread(why.to_owned()));
        true
    }

    /// Who has called.
    fn called(&mut self) -> Called {
        let mut bytes = [0; REQUEST_BYTES];
        let Some(requests) = &self.reload.requests else {
            return Called::Stop;
        };
        match read(requests, &mut bytes) {
            // Nobody can ask any more.
            Ok(0) => {
                self.reload.requests = None;
                Called::Nothing
            }
            Ok(_) => Called::Requested,
            Err(Errno::AGAIN) => Called::Stop,
            Err(_) => Called::Nothing,
        }
    }
}

enum Called {
    Stop,
    Requested,
    Nothing,
}

impl ReloadResult {
    /// Why the policy before it stays, if it does.
    pub fn rejection(&self) -> Option<String> {
        match self {
            ReloadResult::Applied { .. } => None,
            ReloadResult::Invalid(diagnostics) => Some(summary(diagnostics)),
            ReloadResult::Unread(why) | ReloadResult::Refused(why) => Some(why.clone()),
        }
    }
}

/// The first error, and how many more there are.
pub(crate) fn summary(diagnostics: &[Diagnostic]) -> String {
    match diagnostics {
        [] => "the policy does not load".to_owned(),
        [only] => only.to_string(),
        [first, more @ ..] => format!("{first}; and {} more", more.len()),
    }
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
