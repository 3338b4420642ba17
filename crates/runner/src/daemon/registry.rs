//! All sandboxes of the daemon: made, changed and removed one at a time each, all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use portcullis_control::{
    Applied, AttachTo, Caller, Change, Explained, Finding, Name, NewSandbox, PolicyText, Problem,
    ProblemKind, Sandbox, Sandboxes,
};
use portcullis_gateway::{Diagnostic, Loaded, Policy, Recorder, Resolve};
use portcullis_names::Target;
use portcullis_record::Subscription;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::OwnedMutexGuard;
use tracing::{info, warn};

use super::compile::{compile, mode};
use super::entry::{Ended, Entry, STARTING, Served, causes, now};
use super::foreign;
use super::settings::{ConfiguredSandbox, labels};
use super::starting::{Shared, Start};
use super::store::Kept;
use crate::reload::{Reload, summary};

/// Loads the policy of what the configuration names.
pub type LoadConfigured =
    Arc<dyn Fn(&ConfiguredSandbox) -> Result<(Loaded, Reload), Vec<Diagnostic>> + Send + Sync>;

/// Sandboxes that are started at once: none waits for the names of another.
const AT_ONCE: usize = 64;
/// The mark of holders for what the configuration file names.
const CONFIGURED: &str = "configured";
/// The constants of FNV-1a with 64 bits.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// All of them.
pub(crate) struct Registry {
    shared: Shared,
    load: LoadConfigured,
    entries: RwLock<BTreeMap<Name, Arc<Entry>>>,
    /// Itself, for those that outlive a call.
    this: Weak<Registry>,
    /// Names of those that are being made, and whose they will be.
    making: Mutex<BTreeMap<Name, u32>>,
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
    pub(crate) fn new(shared: Shared, load: LoadConfigured) -> Arc<Registry> {
        Arc::new_cyclic(|this| Registry {
            shared,
            load,
            entries: RwLock::default(),
            this: this.clone(),
            making: Mutex::default(),
        })
    }

    /// Knows what was there before the daemon ended: cut off, until it is tried.
    pub(crate) fn know_kept(&self, kept: Kept) {
        let name = kept.new.name.clone();
        if !self.know(Entry::new(kept, None, Recorder::null(), Arc::default())) {
            let why = "the configuration file names another of this name, which is served instead";
            warn!(sandbox = %name, why, "a sandbox that a client made is not served");
        }
    }

    /// The same of what the configuration file names; false if the name is taken.
    pub(crate) fn know_configured(&self, configured: ConfiguredSandbox, owner: u32) -> bool {
        let process = match &configured.attach {
            AttachTo::Pid { pid, .. } => foreign::mark_of(*pid),
            _ => None,
        };
        let kept = Kept {
            new: NewSandbox {
                name: configured.name.clone(),
                attach: configured.attach.clone(),
                policy: PolicyText::default(),
                labels: configured.labels.clone(),
                audit: configured.audit,
            },
            owner,
            since: now().unwrap_or_default(),
            mark: configured_mark(&configured.name),
            process,
        };
        self.know(Entry::new(
            kept,
            Some(configured),
            Recorder::null(),
            Arc::default(),
        ))
    }

    /// Has it in the list, unless its name is taken, also by one that is being made.
    fn know(&self, entry: Entry) -> bool {
        let name = entry.kept().new.name;
        let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.write();
        let mut entries = entries.unwrap_or_else(PoisonError::into_inner);
        if making.contains_key(&name) || entries.contains_key(&name) {
            return false;
        }
        entry.retry.soon();
        entries.insert(name, Arc::new(entry));
        true
    }

    /// Serves one that is cut off, if that can be. It is tried again later otherwise.
    pub(crate) async fn try_to_serve(&self, entry: &Arc<Entry>) {
        let _one_at_a_time = entry.changing.lock().await;
        let kept = entry.kept();
        let name = kept.new.name.clone();
        if entry.served().is_some() || !self.has(&name, entry) {
            return;
        }
        if !foreign::is_the_same(&kept.new.attach, kept.process.as_deref()) {
            info!(sandbox = %name, "a sandbox has ended while no daemon served it");
            if entry.is_configured() {
                entry.set_cut_off("its process has ended".to_owned());
                // Its number may be another process's by now.
                entry.retry.never();
            } else {
                self.strike(&name, entry).await;
            }
            return;
        }
        match self.start_again(entry, kept).await {
            Ok(again) => {
                if entry.cut_off().is_some_and(|why| why != STARTING) {
                    info!(sandbox = %name, "a sandbox is served again");
                }
                self.insert(name, again);
            }
            Err(why) => {
                // Once, however often it is tried.
                if entry.cut_off().as_ref() != Some(&why) {
                    warn!(sandbox = %name, why, "a sandbox cannot be served");
                }
                entry.set_cut_off(why);
                entry.retry.failed();
            }
        }
    }

    /// The successor of one that is cut off, with records of its own.
    async fn start_again(&self, entry: &Entry, kept: Kept) -> Result<Arc<Entry>, String> {
        let mut requests = None;
        let start = match entry.configured.clone() {
            Some(configured) => {
                let load = self.load.clone();
                let loading = tokio::task::spawn_blocking(move || load(&configured)).await;
                let loaded = loading.map_err(|error| error.to_string())?;
                let (loaded, mut reload) = loaded.map_err(|found| summary(&found))?;
                let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
                let (read, write) = pipe.map_err(|error| error.to_string())?;
                (reload.requests, requests) = (Some(read), Some(write));
                Start {
                    policy: loaded.policy,
                    reload: Some(reload),
                    own_tickets: true,
                    resolve: None,
                }
            }
            None => {
                let new = kept.new.clone();
                let compiling = tokio::task::spawn_blocking(move || {
                    compile(&new.name, &new.policy, mode(new.audit))
                });
                let compiled = compiling.await.map_err(|error| error.to_string())?;
                Start {
                    policy: compiled.map_err(|problem| problem.title)?.policy,
                    reload: None,
                    own_tickets: false,
                    // Its names resolved once; nobody waits for them a second time.
                    resolve: Some(Resolve::OnDemand),
                }
            }
        };
        let (recorder, ending) = self
            .shared
            .records(&kept)
            .map_err(|error| error.to_string())?;
        let served = self.shared.serve(&kept, start, &recorder).await?;
        if !foreign::is_the_same(&kept.new.attach, kept.process.as_deref()) {
            // Its number may have meant another process by the time that its namespace was entered.
            served.undo().await;
            return Err("the process has ended".to_owned());
        }
        served.keep_records(ending);
        let (configured, retry) = (entry.configured.clone(), entry.retry.clone());
        let again = Arc::new(Entry::new(kept, configured, recorder, retry));
        if let Some(requests) = requests {
            again.set_requests(requests);
        }
        self.follow_to_its_end(&again, served);
        Ok(again)
    }

    /// Tries those again that are cut off, and whose pause is over.
    pub(crate) async fn try_again(&self) {
        let due: Vec<_> = self
            .all()
            .into_iter()
            .filter(|one| one.retry.is_due())
            .collect();
        futures_util::stream::iter(due)
            .for_each_concurrent(AT_ONCE, async |one| self.try_to_serve(&one).await)
            .await;
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
                    ended.retry.failed();
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

    /// Forgets one whose sandbox is gone by itself. What the configuration names stays, cut off, and is served
    /// again when it is there again.
    async fn forget(&self, name: &Name, entry: &Arc<Entry>) {
        let _one_at_a_time = entry.changing.lock().await;
        entry.stop(false).await;
        entry.set_cut_off("it is gone".to_owned());
        if !entry.is_configured() {
            self.strike(name, entry).await;
            return;
        }
        match entry.kept().new.attach {
            // Its number may be another process's by then.
            AttachTo::Pid { .. } => entry.retry.never(),
            _ => entry.retry.failed(),
        }
    }

    /// Strikes one off: it is not known any more, nor after a restart.
    async fn strike(&self, name: &Name, entry: &Arc<Entry>) {
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

    fn has(&self, name: &Name, entry: &Arc<Entry>) -> bool {
        self.entry(name).is_some_and(|now| Arc::ptr_eq(&now, entry))
    }

    /// One that nobody else changes meanwhile.
    async fn changing(&self, name: &Name) -> Result<(Arc<Entry>, OwnedMutexGuard<()>), Problem> {
        loop {
            let entry = self.entry(name).ok_or_else(|| gone(name))?;
            let one_at_a_time = entry.changing.clone().lock_owned().await;
            // Its successor may have been served meanwhile.
            if self.has(name, &entry) {
                return Ok((entry, one_at_a_time));
            }
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
        if entries.contains_key(name) || making.contains_key(name) {
            let title = format!("the name `{name}` is taken");
            return Err(Problem::new(ProblemKind::Conflict, title)
                .help("choose another, or remove the sandbox that has it"));
        }
        if entries.len() + making.len() >= self.shared.max_sandboxes {
            let title = format!("there are {} sandboxes already", self.shared.max_sandboxes);
            return Err(Problem::new(ProblemKind::TooMany, title)
                .help("raise `max_sandboxes` in the daemon's configuration"));
        }
        let owners = entries.values().map(|entry| entry.owner());
        let theirs = owners.chain(making.values().copied());
        let theirs = theirs.filter(|owner| *owner == caller.uid);
        let most = self.shared.max_sandboxes_per_user;
        if !caller.is_admin && theirs.count() >= most {
            let title = format!("you have {most} sandboxes already");
            return Err(Problem::new(ProblemKind::TooMany, title)
                .help("remove some, or have `max_sandboxes_per_user` raised in the daemon's configuration"));
        }
        making.insert(name.clone(), caller.uid);
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
            self.shared.store.holder(&kept.mark)
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
        if !caller.is_admin && new.name.is_of_container() {
            let title = "names that begin with `oci-` or `cni-` are for administrators";
            return Err(Problem::new(ProblemKind::Forbidden, title)
                .help("containers that runtimes start have them"));
        }
        let process = foreign::permitted(&caller, &new.attach)?;
        labels(&self.shared.labels, &new.labels)
            .map_err(|why| Problem::new(ProblemKind::Invalid, format!("labels: {why}")))?;
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
            Problem::new(ProblemKind::Conflict, title)
        })?;
        if !foreign::is_the_same(&kept.new.attach, kept.process.as_deref()) {
            // Its number may have meant another process by the time that its namespace was entered.
            served.undo().await;
            return Err(Problem::new(ProblemKind::Conflict, "the process has ended"));
        }
        served.keep_records(ending);
        let name = kept.new.name.clone();
        let entry = Arc::new(Entry::new(kept.clone(), None, recorder, Arc::default()));
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
        let (entry, one_at_a_time) = self.changing(name).await?;
        if entry.is_configured() {
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
        self.keep(kept.clone()).await?;
        let Some(served) = entry.served() else {
            // What cuts it off may be the policy.
            entry.set_kept(kept);
            drop(one_at_a_time);
            self.try_to_serve(&entry).await;
            let entry = self.entry(name).ok_or_else(|| gone(name))?;
            return match serving(&entry) {
                Ok(served) => {
                    let rules = served.gateway().policy().load().rule_count() as u64;
                    let findings = loaded.warnings.iter().map(Finding::from).collect();
                    let cut = 0;
                    Ok((
                        entry,
                        Applied {
                            rules,
                            cut,
                            findings,
                        },
                    ))
                }
                Err(problem) => Err(problem.help("the policy is kept, and tried again with it")),
            };
        };
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
        drop(one_at_a_time);
        Ok((entry, applied))
    }

    /// Takes away what the configuration names no more.
    pub(crate) async fn drop_configured(&self, entry: &Arc<Entry>) {
        let name = entry.kept().new.name;
        let Ok((entry, _one_at_a_time)) = self.changing(&name).await else {
            return;
        };
        if entry.is_configured() {
            self.end(&name, &entry).await;
        }
    }

    /// Takes the doors of one away, and only then frees its name.
    async fn end(&self, name: &Name, entry: &Entry) {
        let was_served = entry.served().is_some();
        entry.stop(true).await;
        if !was_served {
            let listen = self.shared.store.holder(&entry.kept().mark);
            let releasing = tokio::task::spawn_blocking(move || foreign::release(&listen));
            // Only a panic there ends it otherwise.
            let _ = releasing.await;
        }
        let entries = self.entries.write();
        let mut entries = entries.unwrap_or_else(PoisonError::into_inner);
        entries.remove(name);
        info!(sandbox = %name, "removed a sandbox");
    }

    async fn take_away(&self, name: &Name) -> Result<(), Problem> {
        let (entry, _one_at_a_time) = self.changing(name).await?;
        if entry.is_configured() {
            let title = format!("the configuration file of the daemon names `{name}`");
            return Err(Problem::new(ProblemKind::Conflict, title)
                .help("take it out there, and send the daemon SIGHUP"));
        }
        let (store, forgotten) = (self.shared.store.clone(), name.clone());
        let forgetting = tokio::task::spawn_blocking(move || store.forget(&forgotten)).await;
        forgetting.map_err(failed)?.map_err(failed)?;
        self.end(name, &entry).await;
        Ok(())
    }
}

/// The same for what the configuration names: every daemon finds it again by its name (FNV-1a).
fn configured_mark(name: &Name) -> String {
    let mixed = name.as_str().bytes().fold(FNV_BASIS, |mixed, byte| {
        (mixed ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
    });
    format!("{CONFIGURED}-{mixed:016x}")
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
            ProblemKind::Conflict,
            format!("the sandbox is cut off: {why}"),
        )
    })
}

fn explain(policy: &Policy, target: &str) -> Explained {
    let explained = match policy.explain_url(target) {
        Some(explained) => explained.map_err(str::to_owned),
        None => Target::from_policy(target)
            .map(|target| policy.explain(&target))
            .map_err(|error| error.to_string()),
    };
    match explained {
        Ok(explained) => explained.into(),
        Err(why) => Explained::not_understood(target, &why),
    }
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
            if policy.text.trim().is_empty() {
                let title = "the policy is empty, and nothing was changed";
                return Err(Problem::new(ProblemKind::Invalid, title)
                    .help("a policy that lists nothing says `version = 1`"));
            }
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
        let explained = targets.iter().map(|target| explain(&policy, target));
        Ok(explained.collect())
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
