//! All sandboxes of the daemon: made, changed and removed one at a time each, all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use futures_util::future::BoxFuture;
use portcullis_control::{
    Applied, Caller, Change, Explained, Finding, Name, NewSandbox, PolicyText, Problem,
    ProblemKind, Sandbox, Sandboxes,
};
use portcullis_gateway::{Loaded, Policy, Recorder, Resolve};
use portcullis_names::Target;
use portcullis_record::Subscription;
use tracing::{info, warn};

use super::compile::{compile, mode};
use super::entry::{Ended, Entry, Served, causes, now};
use super::foreign;
use super::settings::{ConfiguredSandbox, labels};
use super::starting::{Shared, Start};
use super::store::Kept;
use crate::reload::Reload;

/// The mark of holders for what the configuration file names.
const CONFIGURED: &str = "configured";

/// All of them.
pub(crate) struct Registry {
    shared: Shared,
    entries: RwLock<BTreeMap<Name, Arc<Entry>>>,
    /// Itself, for those that outlive a call.
    this: Weak<Registry>,
    /// Names of those that are being made.
    making: Mutex<BTreeSet<Name>>,
}

/// Keeps a name while its sandbox is made.
struct Reserved<'a> {
    registry: &'a Registry,
    name: Name,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let making = self.registry.making.lock();
        let mut making = making.unwrap_or_else(PoisonError::into_inner);
        making.remove(&self.name);
    }
}

impl Registry {
    pub(crate) fn new(shared: Shared) -> Arc<Registry> {
        Arc::new_cyclic(|this| Registry {
            shared,
            entries: RwLock::default(),
            this: this.clone(),
            making: Mutex::default(),
        })
    }

    /// Serves what was there before the daemon ended. What cannot be served is cut off, and says why.
    pub(crate) async fn restore(&self, kept: Kept) {
        let name = kept.new.name.clone();
        if self.entry(&name).is_some() {
            let why = "the configuration file names another of this name, which is served instead";
            warn!(sandbox = %name, why, "a sandbox that a client made is not served");
            return;
        }
        if !foreign::is_the_same(&kept.new.attach, kept.process.as_deref()) {
            info!(sandbox = %name, "a sandbox has ended while no daemon served it");
            if let Err(error) = self.shared.store.forget(&name) {
                warn!(sandbox = %name, %error, "it cannot be forgotten");
            }
            return;
        }
        let compiled = compile(&name, &kept.new.policy, mode(kept.new.audit));
        // Its names resolved once; nobody waits for them a second time.
        let start = compiled.map(|loaded| Start {
            policy: loaded.policy,
            reload: None,
            own_tickets: false,
            resolve: Some(Resolve::OnDemand),
        });
        self.begin(kept, false, start.map_err(|problem| problem.title))
            .await;
    }

    /// Serves what the configuration file names, by a policy that was loaded from its files.
    pub(crate) async fn configured(
        &self,
        configured: ConfiguredSandbox,
        owner: u32,
        loaded: Loaded,
        reload: Reload,
    ) {
        let kept = Kept {
            new: NewSandbox {
                name: configured.name,
                attach: configured.attach,
                policy: PolicyText::default(),
                labels: configured.labels,
                audit: configured.audit,
            },
            owner,
            since: now().unwrap_or_default(),
            mark: CONFIGURED.to_owned(),
            process: None,
        };
        let start = Start {
            policy: loaded.policy,
            reload: Some(reload),
            own_tickets: true,
            resolve: None,
        };
        self.begin(kept, true, Ok(start)).await;
    }

    async fn begin(&self, kept: Kept, is_configured: bool, start: Result<Start, String>) {
        let name = kept.new.name.clone();
        let (recorder, ending, entry) = match self.shared.records(&kept) {
            Ok((recorder, ending)) => {
                let entry = Entry::new(kept.clone(), is_configured, recorder.clone());
                (recorder, ending, Arc::new(entry))
            }
            Err(error) => {
                let entry = Entry::new(kept, is_configured, Recorder::null());
                entry.set_cut_off(error.to_string());
                self.insert(name, Arc::new(entry));
                return;
            }
        };
        self.insert(name.clone(), entry.clone());
        let served = match start {
            Ok(start) => self.shared.serve(&kept, start, &recorder).await,
            Err(why) => Err(why),
        };
        match served {
            Ok(served) => {
                served.keep_records(ending);
                self.follow_to_its_end(&entry, served);
            }
            Err(why) => {
                warn!(sandbox = %name, why, "a sandbox cannot be served");
                entry.set_cut_off(why);
            }
        }
    }

    /// Serves it; once it has ended it is forgotten, or cut off.
    fn follow_to_its_end(&self, entry: &Arc<Entry>, served: Served) {
        let (this, ended) = (self.this.clone(), entry.clone());
        entry.serve(served, move |why| {
            let name = ended.kept().new.name;
            match why {
                Ended::Failed(why) => {
                    warn!(sandbox = %name, why, "a sandbox is cut off");
                    // With its gateway, what that holds goes.
                    ended.set_cut_off(why);
                }
                Ended::Gone => {
                    info!(sandbox = %name, "a sandbox is gone");
                    tokio::spawn(async move {
                        if let Some(registry) = this.upgrade() {
                            registry.forget(&name, &ended).await;
                        }
                    });
                }
            }
        });
    }

    /// Forgets one whose sandbox is gone by itself. What the configuration names stays, cut off.
    async fn forget(&self, name: &Name, entry: &Arc<Entry>) {
        let _one_at_a_time = entry.changing.lock().await;
        entry.stop(false).await;
        entry.set_cut_off("it is gone".to_owned());
        if entry.is_configured {
            return;
        }
        let (store, forgotten) = (self.shared.store.clone(), name.clone());
        let forgetting = tokio::task::spawn_blocking(move || store.forget(&forgotten)).await;
        if let Ok(Err(error)) = forgetting {
            warn!(sandbox = %name, %error, "a sandbox that is gone cannot be forgotten");
        }
        let entries = self.entries.write();
        let mut entries = entries.unwrap_or_else(PoisonError::into_inner);
        if entries.get(name).is_some_and(|now| Arc::ptr_eq(now, entry)) {
            entries.remove(name);
        }
    }

    fn insert(&self, name: Name, entry: Arc<Entry>) {
        let entries = self.entries.write();
        let mut entries = entries.unwrap_or_else(PoisonError::into_inner);
        entries.insert(name, entry);
    }

    fn entry(&self, name: &Name) -> Option<Arc<Entry>> {
        let entries = self.entries.read();
        let entries = entries.unwrap_or_else(PoisonError::into_inner);
        entries.get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let entries = self.entries.read();
        let entries = entries.unwrap_or_else(PoisonError::into_inner);
        entries.values().cloned().collect()
    }

    /// Ends every gateway; what is kept stays kept.
    pub(crate) async fn stop(&self) {
        let all = self.all();
        let stopping = all.iter().map(|entry| entry.stop(false));
        futures_util::future::join_all(stopping).await;
    }

    fn reserve(&self, name: &Name, caller: &Caller) -> Result<Reserved<'_>, Problem> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.read();
        let entries = entries.unwrap_or_else(PoisonError::into_inner);
        if entries.contains_key(name) || making.contains(name) {
            let title = format!("the name `{name}` is taken");
            return Err(Problem::new(ProblemKind::Conflict, title)
                .help("choose another, or remove the sandbox that has it"));
        }
        if entries.len() + making.len() >= self.shared.max_sandboxes {
            let title = format!("there are {} sandboxes already", self.shared.max_sandboxes);
            return Err(Problem::new(ProblemKind::TooMany, title)
                .help("raise `max_sandboxes` in the daemon's configuration"));
        }
        let theirs = entries.values().filter(|entry| entry.owner() == caller.uid);
        let most = self.shared.max_sandboxes_per_user;
        if !caller.is_admin && theirs.count() >= most {
            let title = format!("you have {most} sandboxes already");
            return Err(Problem::new(ProblemKind::TooMany, title)
                .help("remove some, or have `max_sandboxes_per_user` raised in the daemon's configuration"));
        }
        making.insert(name.clone());
        Ok(Reserved {
            registry: self,
            name: name.clone(),
        })
    }

    /// Does something whole, also when the client that asked for it hangs up in the middle.
    fn to_its_end<
        'a,
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    >(
        &'a self,
        doing: impl FnOnce(Arc<Registry>) -> F,
    ) -> BoxFuture<'a, Result<T, Problem>> {
        let done = self.this.upgrade().map(|this| tokio::spawn(doing(this)));
        Box::pin(async move {
            match done {
                Some(done) => done.await.map_err(failed)?,
                None => Err(failed("the daemon ends")),
            }
        })
    }

    /// Takes away what aborted requests and earlier daemons have left.
    pub(crate) fn release_others(&self) {
        let all = self.all();
        let known = all.iter().map(|entry| {
            let kept = entry.kept();
            self.shared.store.holder(&kept.new.name, &kept.mark)
        });
        let known: BTreeSet<PathBuf> = known.collect();
        for path in self.shared.store.holders().unwrap_or_default() {
            if !known.contains(&path) {
                info!(path = %path.display(), "took away doors that no sandbox has");
                foreign::release(&path);
            }
        }
    }

    async fn make(&self, caller: Caller, new: NewSandbox) -> Result<Sandbox, Problem> {
        let process = foreign::permitted(&caller, &new.attach)?;
        labels(&self.shared.labels, &new.labels)
            .map_err(|why| Problem::new(ProblemKind::BadRequest, format!("labels: {why}")))?;
        let reserved = self.reserve(&new.name, &caller)?;
        let (name, text, mode) = (new.name.clone(), new.policy.clone(), mode(new.audit));
        let compiled = tokio::task::spawn_blocking(move || compile(&name, &text, mode));
        let loaded = compiled.await.map_err(failed)??;
        let kept = Kept {
            new,
            owner: caller.uid,
            since: now().map_err(failed)?,
            mark: fresh_mark(),
            process,
        };
        let log = self.shared.log_path(&kept.new.name);
        let is_new = log.as_ref().is_some_and(|path| !path.exists());
        let (recorder, ending) = self.shared.records(&kept).map_err(failed)?;
        let start = Start {
            policy: loaded.policy,
            reload: None,
            own_tickets: false,
            resolve: None,
        };
        let served = self.shared.serve(&kept, start, &recorder).await;
        let served = served.map_err(|why| {
            // Nothing was there to be recorded.
            if let (Some(path), true) = (&log, is_new) {
                let _ = std::fs::remove_file(path);
            }
            let title = format!("the sandbox cannot be served: {why}");
            Problem::new(ProblemKind::Failed, title)
        })?;
        if !foreign::is_the_same(&kept.new.attach, kept.process.as_deref()) {
            // Its number may have meant another process by the time that its namespace was entered.
            served.undo().await;
            return Err(Problem::new(ProblemKind::Failed, "the process has ended"));
        }
        served.keep_records(ending);
        let name = kept.new.name.clone();
        let entry = Arc::new(Entry::new(kept.clone(), false, recorder));
        if let Err(error) = self.keep(kept).await {
            served.undo().await;
            return Err(error);
        }
        self.insert(name.clone(), entry.clone());
        self.follow_to_its_end(&entry, served);
        drop(reserved);
        info!(sandbox = %name, owner = caller.uid, "made a sandbox");
        Ok(entry.show())
    }

    /// On the disk, before anybody is told.
    async fn keep(&self, kept: Kept) -> Result<(), Problem> {
        let store = self.shared.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.keep(&kept)).await;
        kept.map_err(failed)?.map_err(|error| {
            let title = format!("the daemon cannot keep the sandbox: {error}");
            Problem::new(ProblemKind::Failed, title)
        })
    }

    /// Another policy or mode, by a change that is written down first.
    async fn replace(
        &self,
        name: &Name,
        edit: impl FnOnce(&mut NewSandbox),
    ) -> Result<(Arc<Entry>, Applied), Problem> {
        let entry = self.entry(name).ok_or_else(|| gone(name))?;
        let _one_at_a_time = entry.changing.lock().await;
        if entry.is_configured {
            let title = format!("the configuration file of the daemon names `{name}`");
            return Err(Problem::new(ProblemKind::Conflict, title)
                .help("change its policy files, which are followed, or the configuration"));
        }
        let before = entry.kept();
        let mut kept = before.clone();
        edit(&mut kept.new);
        let (text, mode) = (kept.new.policy.clone(), mode(kept.new.audit));
        let of = name.clone();
        let compiled = tokio::task::spawn_blocking(move || compile(&of, &text, mode));
        let loaded = match compiled.await.map_err(failed)? {
            Ok(loaded) => loaded,
            Err(problem) => {
                if let Some(served) = entry.served() {
                    let first = problem.findings.first();
                    let why = first.map_or(&problem.title, |finding| &finding.message);
                    served.gateway().record_rejected(why);
                }
                return Err(problem);
            }
        };
        let served = serving(&entry)?;
        self.keep(kept.clone()).await?;
        let replaced = match served.gateway().replace_policy(loaded.policy) {
            Ok(replaced) => replaced,
            Err(error) => {
                // What is not in force is not to come back at the next start either.
                self.keep(before).await?;
                let title = format!("the policy cannot be put in force: {}", causes(&error));
                return Err(Problem::new(ProblemKind::Failed, title));
            }
        };
        entry.set_kept(kept);
        let applied = Applied {
            rules: replaced.rules as u64,
            cut: replaced.cut as u64,
            findings: loaded.warnings.iter().map(Finding::from).collect(),
        };
        drop(_one_at_a_time);
        Ok((entry, applied))
    }

    async fn take_away(&self, name: &Name) -> Result<(), Problem> {
        let entry = self.entry(name).ok_or_else(|| gone(name))?;
        let _one_at_a_time = entry.changing.lock().await;
        if entry.is_configured {
            let title = format!("the configuration file of the daemon names `{name}`");
            return Err(Problem::new(ProblemKind::Conflict, title)
                .help("take it out there, and start the daemon again"));
        }
        let (store, forgotten) = (self.shared.store.clone(), name.clone());
        let forgetting = tokio::task::spawn_blocking(move || store.forget(&forgotten)).await;
        forgetting.map_err(failed)?.map_err(failed)?;
        let was_served = entry.served().is_some();
        entry.stop(true).await;
        if !was_served {
            let listen = self.shared.store.holder(name, &entry.kept().mark);
            let releasing = tokio::task::spawn_blocking(move || foreign::release(&listen));
            releasing.await.map_err(failed)?;
        }
        let entries = self.entries.write();
        let mut entries = entries.unwrap_or_else(PoisonError::into_inner);
        // Only now: a name is free once nothing of its sandbox is left.
        entries.remove(name);
        info!(sandbox = %name, "removed a sandbox");
        Ok(())
    }
}

/// What the holder's socket of a new sandbox is told by: nobody guesses it, and none that was left has it.
fn fresh_mark() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

fn failed(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::Failed, error.to_string())
}

fn gone(name: &Name) -> Problem {
    let title = format!("there is no sandbox `{name}`");
    Problem::new(ProblemKind::NotFound, title)
}

fn serving(entry: &Entry) -> Result<Arc<Served>, Problem> {
    entry.served().ok_or_else(|| {
        let why = entry.cut_off().unwrap_or_default();
        Problem::new(
            ProblemKind::Failed,
            format!("the sandbox is cut off: {why}"),
        )
    })
}

fn explain(policy: &Policy, target: &str) -> Result<Explained, Problem> {
    let explained = match policy.explain_url(target) {
        Some(explained) => explained.map_err(str::to_owned),
        None => Target::from_policy(target)
            .map(|target| policy.explain(&target))
            .map_err(|error| error.to_string()),
    };
    explained.map(Explained::from).map_err(|why| {
        let title = format!("`{target}` cannot be explained: {why}");
        Problem::new(ProblemKind::BadRequest, title)
    })
}

impl Sandboxes for Registry {
    fn list(&self) -> Vec<Sandbox> {
        self.all().iter().map(|entry| entry.show()).collect()
    }

    fn get(&self, name: &Name) -> Option<Sandbox> {
        Some(self.entry(name)?.show())
    }

    fn owner(&self, name: &Name) -> Option<u32> {
        Some(self.entry(name)?.owner())
    }

    fn create(&self, caller: Caller, new: NewSandbox) -> BoxFuture<'_, Result<Sandbox, Problem>> {
        self.to_its_end(|this| async move { this.make(caller, new).await })
    }

    fn change<'a>(
        &'a self,
        name: &'a Name,
        change: Change,
    ) -> BoxFuture<'a, Result<Sandbox, Problem>> {
        let name = name.clone();
        self.to_its_end(|this| async move {
            let edit = |new: &mut NewSandbox| new.audit = change.audit.unwrap_or(new.audit);
            Ok(this.replace(&name, edit).await?.0.show())
        })
    }

    fn remove<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<(), Problem>> {
        let name = name.clone();
        self.to_its_end(|this| async move { this.take_away(&name).await })
    }

    fn put_policy<'a>(
        &'a self,
        name: &'a Name,
        policy: PolicyText,
    ) -> BoxFuture<'a, Result<Applied, Problem>> {
        let name = name.clone();
        self.to_its_end(|this| async move {
            let replaced = this.replace(&name, |new| new.policy = policy).await;
            Ok(replaced?.1)
        })
    }

    fn policy(&self, name: &Name) -> Option<PolicyText> {
        Some(self.entry(name)?.policy())
    }

    fn explain(&self, name: &Name, targets: &[String]) -> Result<Vec<Explained>, Problem> {
        let entry = self.entry(name).ok_or_else(|| gone(name))?;
        let served = serving(&entry)?;
        let policy = served.gateway().policy().load();
        targets
            .iter()
            .map(|target| explain(&policy, target))
            .collect()
    }

    fn follow(&self, name: &Name) -> Option<Subscription> {
        Some(self.entry(name)?.recorder.subscribe())
    }

    fn metrics(&self) -> String {
        super::metrics::text(self.shared.build, &self.all())
    }

    fn ready(&self) -> Result<(), String> {
        let all = self.all();
        let cut_off = all.iter().filter(|entry| entry.served().is_none()).count();
        match cut_off {
            0 => Ok(()),
            some => Err(format!("{some} of {} sandboxes are cut off", all.len())),
        }
    }
}
