//! What a policy is made from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::dns_settings::{Answers, Resolve};
use crate::policy::Policy;
use crate::proxies::UpstreamProxy;

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
    /// `--upstream-proxy env`: the proxies of the caller's own environment; they replace the proxies and
    /// the `no_proxy` of all files.
    CallersProxies(CallersProxies),
    /// Where the variables are that a policy names for credentials. Without it they are not looked
    /// at: the policy loads, and has no credentials.
    Environment(Environment),
}

/// Upstream proxies as the variables of a process name them, for the programs of a host.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CallersProxies {
    /// For plain HTTP.
    pub http: Option<NamedProxy>,
    /// For everything else.
    pub https: Option<NamedProxy>,
    /// What goes direct, as it stands.
    pub no_proxy: String,
}

/// One of them.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedProxy {
    /// The variable.
    pub variable: &'static str,
    /// Its value: a URL, or `HOST:PORT`. It may hold a password.
    pub url: String,
}

impl CallersProxies {
    /// Reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in lower case or, where that is
    /// not set, in upper case, as programs do.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> CallersProxies {
        let named = |names: &[&'static str]| {
            names.iter().find_map(|name| {
                let url = variable(name).filter(|url| !url.trim().is_empty())?;
                Some(NamedProxy {
                    variable: name,
                    url,
                })
            })
        };
        let all = named(&["all_proxy", "ALL_PROXY"]);
        let no_proxy = variable("no_proxy").or_else(|| variable("NO_PROXY"));
        CallersProxies {
            http: named(&["http_proxy", "HTTP_PROXY"]).or(all.clone()),
            https: named(&["https_proxy", "HTTPS_PROXY"]).or(all),
            no_proxy: no_proxy.unwrap_or_default(),
        }
    }

    /// The proxy for TLS or, where there is none, for plain HTTP.
    pub fn first(&self) -> Option<&NamedProxy> {
        self.https.as_ref().or(self.http.as_ref())
    }
}

impl NamedProxy {
    /// Its URL, with the scheme that programs take where none is written.
    pub fn url(&self) -> String {
        let url = self.url.trim();
        match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        }
    }
}

/// The variable and where it leads, without credentials.
impl fmt::Display for NamedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UpstreamProxy::parse(&self.url()) {
            Ok(proxy) => write!(f, "{} ({proxy})", self.variable),
            Err(_) => f.write_str(self.variable),
        }
    }
}

/// Shows no password.
impl fmt::Debug for CallersProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallersProxies")
    }
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
