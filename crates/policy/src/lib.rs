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
mod destination;
mod diagnostic;
mod dns_settings;
mod duration;
mod explain;
mod explain_url;
mod host_name;
mod http;
mod input;
mod limits;
mod load;
mod permit;
mod policy;
mod proxies;
mod reason;
mod request;
mod resolver;
mod rules;
mod settings;
mod suggest;
mod types;
mod verdict;

pub use decision::Decision;
pub use destination::{Asked, CowName, Destination, Shown, ShownBy};
pub use diagnostic::{Diagnostic, Severity, SourceLine};
pub use dns_settings::{
    Answers, DEFAULT_NEW_NAMES_PER_MINUTE, DnsSettings, MAX_RESOLVERS, MAX_SYNTHETIC_PREFIX_BITS,
    MAX_ZONES, Resolve, Zone,
};
pub use duration::{DurationError, parse_duration};
pub use explain::Explanation;
pub use host_name::HOST_NAME;
pub use http::{LIMITED_METHODS, MethodSet, PathError, PathSet, canonical_path};
pub use input::{CallersProxies, Environment, Input, Loaded, NamedProxy};
pub use limits::{FlowLimits, Limits};
pub use load::{MAX_DIAGNOSTICS, MAX_FILE_BYTES, MAX_FILES, MAX_INCLUDE_DEPTH};
pub use permit::{ConnectPermit, DatagramPermit, LookupPermit, PermitTarget};
pub use policy::Policy;
pub use proxies::{
    Credentials, MAX_PROXIES, MAX_PROXY_CHOICES, NoProxy, ProxyGroup, ProxyHost, ProxyScheme,
    UpstreamProxies, UpstreamProxy,
};
pub use reason::Reason;
pub use request::Request;
pub use resolver::Resolver;
pub use rules::{AddressRule, MAX_RULES, MAX_SCOPES, RuleId, RuleInfo, RuleSource, RuleTerms};
pub use settings::Settings;
pub use types::TypeSet;
pub use verdict::{Mode, Verdict};
