//! Policy files compiled to verdicts.
//!
//! Text in, one compiled [`Policy`] out, and one function that every path through the gateway asks:
//! [`Policy::decide`]. This crate does no I/O beyond being handed text, knows no clock, and gives the
//! same answer whatever the order of the rules. What resolves or dials needs a [`LookupPermit`] or a
//! [`ConnectPermit`], which only a permitting [`Decision`] hands out.
//!
//! `POLICY.md` beside this crate's manifest is the reference of the policy file.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod decide;
mod decision;
mod diagnostic;
mod dns_settings;
mod explain;
mod explain_url;
mod flow;
mod http;
mod info;
mod input;
mod load;
mod nets;
mod permit;
mod policy;
mod proxies;
mod reason;
mod request;
mod resolver;
mod rows;
mod rules;
mod settings;
mod suggest;
mod table;
mod types;

pub use decision::{Decision, Verdict};
pub use diagnostic::{Diagnostic, Severity, SourceLine};
pub use dns_settings::{
    Answers, DEFAULT_NEW_NAMES_PER_MINUTE, DnsSettings, MAX_RESOLVERS, MAX_SYNTHETIC_PREFIX_BITS,
    MAX_ZONES, Resolve, Zone,
};
pub use explain::Explanation;
pub use flow::{Limits, RuleLimits, RuleTerms};
pub use http::{LIMITED_METHODS, MethodSet, PathError, PathSet, canonical_path};
pub use info::{RuleInfo, RuleSource};
pub use input::{Environment, Input, Loaded};
pub use load::{MAX_DIAGNOSTICS, MAX_FILE_BYTES, MAX_FILES, MAX_INCLUDE_DEPTH};
pub use permit::{ConnectPermit, DatagramPermit, LookupPermit, PermitTarget};
pub use policy::{Mode, Policy};
pub use proxies::{
    Credentials, MAX_PROXIES, MAX_PROXY_CHOICES, NoProxy, ProxyGroup, ProxyHost, ProxyScheme,
    UpstreamProxies, UpstreamProxy,
};
pub use reason::Reason;
pub use request::{Destination, Request, Seen, ShownBy};
pub use resolver::Resolver;
pub use rules::{AddressRule, MAX_RULES, MAX_SCOPES, RuleId};
pub use settings::Settings;
pub use types::TypeSet;

/// The name under which programs reach the loopback of the host that the gateway runs on. It is
/// listed like any other name, but only by a rule for this very name.
pub const HOST_NAME: &str = "host.portcullis.internal";
