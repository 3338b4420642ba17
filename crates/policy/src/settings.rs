//! What a policy says besides verdicts: resolvers and upstream proxies.

use crate::dns_settings::DnsSettings;
use crate::limits::Limits;
use crate::proxies::UpstreamProxies;
use crate::resolver::Resolver;

/// The parts of a policy that are not rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Upstream resolvers in order of preference; empty means the host's own.
    pub resolvers: Vec<Resolver>,
    /// Everything else about names.
    pub dns: DnsSettings,
    /// The upstream proxies.
    pub upstream: UpstreamProxies,
    /// `mode = "limited"`: requests have the methods GET, HEAD and OPTIONS, and nothing but requests
    /// passes.
    pub limited: bool,
    /// What one sandbox may use.
    pub limits: Limits,
    /// Whether connections may be chained through an upstream proxy. A policy that says no and names
    /// one does not load, so `upstream` is empty then.
    pub allow_upstream_proxy: bool,
    /// The variable of the caller's own environment that names an upstream proxy, where none is used.
    pub unused_proxy: Option<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            resolvers: Vec::new(),
            dns: DnsSettings::default(),
            upstream: UpstreamProxies::default(),
            limited: false,
            limits: Limits::default(),
            allow_upstream_proxy: true,
            unused_proxy: None,
        }
    }
}
