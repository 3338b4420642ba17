//! Follows the files of the policy, and reloads when it is asked to.
//!
//! A reload reads everything again, files and flags alike, and replaces the policy in one step. What
//! does not load, or cannot be put in force, changes nothing and is recorded.

use crate::files::PolicyFiles;
use crate::gateway::Gateway;
use crate::replace::Replaced;
use crate::watch::Watch;
use portcullis_policy::{Diagnostic, Loaded};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Makes a policy anew: flags and files merged as at the start. It reads files through what it is
/// given, and through nothing else.
pub type Load = Box<
    dyn FnMut(&mut dyn FnMut(&Path) -> io::Result<String>) -> Result<Loaded, Vec<Diagnostic>>
        + Send,
>;

/// Is told what came of a reload.
pub type Tell = Box<dyn FnMut(&Outcome) + Send>;

/// What a gateway needs to follow its policy.
pub struct Reload {
    /// Makes the policy anew.
    pub load: Load,
    /// The files that it was made of.
    pub files: PolicyFiles,
    /// Asks for a reload, whether or not a file changed.
    pub asked: Option<mpsc::Receiver<()>>,
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
pub enum Outcome {
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
pub(crate) type Rejected = Arc<Mutex<Option<String>>>;

impl Reload {
    /// Follows until `token` is cancelled. `rejected` holds why the latest change was not taken over.
    pub(crate) async fn follow(
        mut self,
        gateway: Arc<Gateway>,
        rejected: Rejected,
        token: CancellationToken,
    ) {
        // It may have changed between its first reading and the first watch.
        let mut news = News::Changed;
        loop {
            // Before reading: what happens while it is read is news again. After a reload files may
            // be others than before.
            let mut watch = Watch::new(&self.files);
            let (next, outcome) = match self.read(&gateway, news).await {
                Some(read) => read,
                None => return,
            };
            self = next;
            if let Some(outcome) = outcome {
                let why = outcome.why();
                *rejected.lock().unwrap_or_else(PoisonError::into_inner) = why;
                if let Some(tell) = &mut self.tell {
                    tell(&outcome);
                }
            }
            news = tokio::select! {
                () = token.cancelled() => return,
                () = watch.changed(&self.files) => News::Changed,
                () = asked(&mut self.asked) => News::Asked,
            };
        }
    }

    /// Reads everything, on a thread that may wait for disks and take its time. `None` when the
    /// runtime ends.
    async fn read(
        mut self,
        gateway: &Arc<Gateway>,
        news: News,
    ) -> Option<(Reload, Option<Outcome>)> {
        let gateway = gateway.clone();
        let read = tokio::task::spawn_blocking(move || {
            // Equal texts make an equal policy, and what was wrong with them is on record.
            if news == News::Changed && self.files.unchanged() {
                return (self, None);
            }
            self.files.begin();
            let files = &mut self.files;
            let loaded = (self.load)(&mut |path| files.read(path));
            let outcome = match loaded {
                Ok(loaded) => match gateway.replace_policy(loaded.policy) {
                    Ok(replaced) => Outcome::Applied {
                        replaced,
                        warnings: loaded.warnings,
                    },
                    Err(error) => Outcome::Refused(error.to_string()),
                },
                Err(diagnostics) => {
                    gateway.note_rejected(&first(&diagnostics));
                    Outcome::Invalid(diagnostics)
                }
            };
            (self, Some(outcome))
        });
        read.await.ok()
    }
}

/// Why a reload may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Changed,
    Asked,
}

impl Outcome {
    fn why(&self) -> Option<String> {
        match self {
            Outcome::Applied { .. } => None,
            Outcome::Invalid(diagnostics) => Some(first(diagnostics)),
            Outcome::Refused(why) => Some(why.clone()),
        }
    }
}

/// The first error, and how many more there are.
fn first(diagnostics: &[Diagnostic]) -> String {
    match diagnostics {
        [] => "the policy does not load".to_owned(),
        [only] => only.to_string(),
        [first, more @ ..] => format!("{first}; and {} more", more.len()),
    }
}

async fn asked(by: &mut Option<mpsc::Receiver<()>>) {
    let heard = match by {
        Some(by) => by.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending().await
    }
}
