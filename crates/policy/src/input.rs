//! What a policy is made from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::dns_settings::{Answers, Resolve};
use crate::policy::Policy;

/// One piece of a policy. The order of inputs decides nothing but which of several settings (never
/// rules) is taken: a later file's, and a flag's before any file's.
#[derive(Clone, Debug)]
pub enum Input {
    /// A policy file, already read.
    File {
        /// Its path: the extension tells the format, and `include` is relative to its folder.
        path: PathBuf,
        /// Its text.
        text: String,
    },
    /// `--allow TARGET`.
    Allow(String),
    /// `--deny TARGET`.
    Deny(String),
    /// The value of `OPENSHELL_DIRECT_TCP_HOSTS`: names separated by commas, on port 443.
    DirectTcpHosts(String),
    /// `--resolver ADDR[:PORT]`, `tls://…` or `https://…`; replaces the resolvers of all files.
    Resolver(String),
    /// `--resolve on-demand|startup`; replaces the choice of all files.
    Resolve(Resolve),
    /// `--answers real|synthetic`; replaces the choice of all files.
    Answers(Answers),
    /// `--upstream-proxy URL`, for HTTP and everything else; replaces the proxies of all files.
    UpstreamProxy(String),
    /// Where the variables are that a policy names for credentials. Without it they are not looked
    /// at: the policy loads, and has no credentials.
    Environment(Environment),
}

/// The variables of a process.
#[derive(Clone)]
pub struct Environment(Arc<Variables>);

type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Environment {
    /// Variables as this function finds them.
    pub fn new(find: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Environment {
        Environment(Arc::new(find))
    }

    pub(crate) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

/// A policy that loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What its author should know.
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read, included ones too, in order of reading.
    pub files: Vec<PathBuf>,
    /// Those among them that hold credentials: nothing in the sandbox may read them.
    pub secrets: Vec<PathBuf>,
}
