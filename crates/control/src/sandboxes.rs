//! What the API controls.

use futures_util::future::BoxFuture;
use portcullis_record::Subscription;

use crate::access::Caller;
use crate::api::{Applied, Change, Explained, Name, NewSandbox, PolicyText, Sandbox};
use crate::problem::Problem;

/// The sandboxes of a daemon. Access is checked before a method that takes a name is called: the handlers ask
/// [`Sandboxes::owner`].
pub trait Sandboxes: Send + Sync + 'static {
    /// All of them, by name.
    fn list(&self) -> Vec<Sandbox>;

    /// One of them.
    fn get(&self, name: &Name) -> Option<Sandbox>;

    /// Who made one.
    fn owner(&self, name: &Name) -> Option<u32>;

    /// Makes one and serves it. The caller's right to attach to what it names is checked here, by the kernel's
    /// word on it.
    fn create(&self, caller: Caller, new: NewSandbox) -> BoxFuture<'_, Result<Sandbox, Problem>>;

    /// Changes one.
    fn change<'a>(
        &'a self,
        name: &'a Name,
        change: Change,
    ) -> BoxFuture<'a, Result<Sandbox, Problem>>;

    /// Takes its doors away and forgets it; what is inside stays, without network.
    fn remove<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<(), Problem>>;

    /// Puts another policy in force, or nothing at all.
    fn put_policy<'a>(
        &'a self,
        name: &'a Name,
        policy: PolicyText,
    ) -> BoxFuture<'a, Result<Applied, Problem>>;

    /// The policy in force, as it was given.
    fn policy(&self, name: &Name) -> Option<PolicyText>;

    /// What its policy says to targets, by the code that enforces it.
    ///
    /// # Errors
    /// A target that cannot be read.
    fn explain(&self, name: &Name, targets: &[String]) -> Result<Vec<Explained>, Problem>;

    /// Its decisions from now on.
    fn follow(&self, name: &Name) -> Option<Subscription>;

    /// The daemon's figures as OpenMetrics text.
    fn metrics(&self) -> String;

    /// Whether every sandbox that the daemon knows is served, or why not.
    ///
    /// # Errors
    /// How many are cut off.
    fn ready(&self) -> Result<(), String>;
}
