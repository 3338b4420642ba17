//! Follows the files of the policy, and reloads when it is asked to.
//!
//! A reload reads everything again, files and flags alike, and replaces the policy in one step. What
//! does not load, or cannot be put in force, changes nothing and is recorded.

use crate::files::PolicyFiles;
use crate::watch::Watch;
use portcullis_gateway::{CancellationToken, Diagnostic, Gateway, Loaded, Replaced};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tracing::debug;

/// Makes a policy anew: flags and files merged as at the start. It reads files through what it is
/// given, and through nothing else.
pub type Load = Box<
    dyn FnMut(&mut dyn FnMut(&Path) -> io::Result<String>) -> Result<Loaded, Vec<Diagnostic>>
        + Send,
>;

/// Is told what came of a reload.
pub type Tell = Box<dyn FnMut(&ReloadResult) + Send>;

/// What a gateway needs to follow its policy.
pub struct Reload {
    /// Makes the policy anew.
    pub load: Load,
    /// The files that it was made of.
    pub files: PolicyFiles,
    /// Requests to reload, whether or not a file changed.
    pub requests: Option<mpsc::Receiver<()>>,
    /// Is told what came of each.
    pub tell: Option<Tell>,
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
    /// It could not be put in force; the one before stays.
    Refused(String),
}

/// Why the latest change of the policy was not taken over, if it was not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rejected(Arc<Mutex<Option<String>>>);

impl Rejected {
    fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(crate) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Reload {
    /// Follows until `token` is cancelled. `rejected` holds why the latest change was not taken over.
    pub(crate) async fn follow(
        mut self,
        gateway: Arc<Gateway>,
        rejected: Rejected,
        token: CancellationToken,
    ) {
        // It may have changed between its first reading and the first watch.
        let mut cause = Cause::Changed;
        loop {
            // Before reading: what happens while it is read is news again. After a reload files may
            // be others than before.
            let mut watch = Watch::new(&self.files);
            let (next, result) = match self.read(&gateway, cause).await {
                Some(read) => read,
                None => return,
            };
            self = next;
            if let Some(result) = result {
                rejected.set(result.rejection());
                if let Some(tell) = &mut self.tell {
                    tell(&result);
                }
            }
            cause = tokio::select! {
                () = token.cancelled() => return,
                () = watch.changed(&self.files) => Cause::Changed,
                () = requested(&mut self.requests) => Cause::Requested,
            };
        }
    }

    /// Reads everything, on a thread that may wait for disks and take its time. `None` when the
    /// runtime ends.
    async fn read(
        mut self,
        gateway: &Arc<Gateway>,
        cause: Cause,
    ) -> Option<(Reload, Option<ReloadResult>)> {
        let gateway = gateway.clone();
        let read = tokio::task::spawn_blocking(move || {
            // Equal texts make an equal policy, and what was wrong with them is on record.
            if cause == Cause::Changed && self.files.unchanged() {
                return (self, None);
            }
            debug!(?cause, "reading the policy");
            self.files.begin();
            let files = &mut self.files;
            let loaded = (self.load)(&mut |path| files.read(path));
            let result = match loaded {
                Ok(loaded) => match gateway.replace_policy(loaded.policy) {
                    Ok(replaced) => ReloadResult::Applied {
                        replaced,
                        warnings: loaded.warnings,
                    },
                    Err(error) => ReloadResult::Refused(error.to_string()),
                },
                Err(diagnostics) => {
                    gateway.record_rejected(&summary(&diagnostics));
                    ReloadResult::Invalid(diagnostics)
                }
            };
            (self, Some(result))
        });
        read.await.ok()
    }
}

/// Why a reload may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Changed,
    Requested,
}

impl ReloadResult {
    fn rejection(&self) -> Option<String> {
        match self {
            ReloadResult::Applied { .. } => None,
            ReloadResult::Invalid(diagnostics) => Some(summary(diagnostics)),
            ReloadResult::Refused(why) => Some(why.clone()),
        }
    }
}

/// The first error, and how many more there are.
fn summary(diagnostics: &[Diagnostic]) -> String {
    match diagnostics {
        [] => "the policy does not load".to_owned(),
        [only] => only.to_string(),
        [first, more @ ..] => format!("{first}; and {} more", more.len()),
    }
}

async fn requested(requests: &mut Option<mpsc::Receiver<()>>) {
    let request = match requests {
        Some(requests) => requests.recv().await,
        None => None,
    };
    if request.is_none() {
        std::future::pending().await
    }
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
