//! A policy while it is being read: rules with their places, and settings that later files replace.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_names::{PortSet, STATUS_NAME, Target, TargetError, Transport};

use super::outside::{Outside, beside, normal};
use super::proxy::ProxyDraft;
use super::source::{Place, SourceId, SourceKind, Sources, Written};
use super::target;
use crate::resolver::Resolver;
use crate::rules::{RuleId, RulePlace, RuleSetBuilder, Terms};
use crate::settings::Settings;

/// Shortest IPv4 prefix that may be allowed, in bits: the largest private range.
const MIN_V4_PREFIX_BITS: u8 = 8;
/// Shortest IPv6 prefix that may be allowed, in bits.
const MIN_V6_PREFIX_BITS: u8 = 16;

/// Most files of certificates that rules name.
const MAX_CA_FILES: usize = 64;

/// Where a rule was written; eight bytes, since a list has a million of them.
#[derive(Clone, Copy)]
struct Span {
    source: u16,
    len: u16,
    start: u32,
}

/// What has been read so far.
pub(super) struct Draft<'r> {
    pub sources: Sources,
    rules: RuleSetBuilder,
    /// Where each rule was written, by its number.
    spans: Vec<Span>,
    /// Why no more rules are taken.
    pub full: Option<String>,
    /// Allows are checked, but not taken: a profile that is not enabled.
    pub only_denies: bool,
    /// Settings as written; a later one replaces an earlier one.
    pub settings: Settings,
    /// Resolvers that find the others, where they are written.
    pub bootstrap: Option<Vec<Resolver>>,
    pub proxy: ProxyDraft,
    /// Where a file says `mode = "limited"`; no other can say that it is not.
    pub limited: Option<Place>,
    pub outside: Outside<'r>,
    /// The files that rules name as `ca_file`.
    ca_files: HashMap<PathBuf, Result<Arc<str>, String>>,
    /// The table of names in the first Codex profile, for suggestions.
    pub codex_domains: Option<String>,
}

/// How a rule's target may be written where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// Names, in `[network.domains]`.
    Names,
    /// Names without ports, on every port, in a Codex profile.
    PortlessNames,
    /// Names without ports, on 80 and 443, in `allowlist_additions`.
    WebNames,
    /// Either, names on 443 where no port is written, in `OPENSHELL_DIRECT_TCP_HOSTS`.
    DirectHosts,
    /// Addresses, in `[network.addresses]`.
    Addresses,
    /// Either, on the command line and in lists.
    Both,
}

impl<'r> Draft<'r> {
    pub fn new(outside: Outside<'r>) -> Draft<'r> {
        Draft {
            sources: Sources::default(),
            rules: RuleSetBuilder::default(),
            spans: Vec::new(),
            full: None,
            only_denies: false,
            settings: Settings::default(),
            bootstrap: None,
            proxy: ProxyDraft::default(),
            limited: None,
            outside,
            ca_files: HashMap::new(),
            codex_domains: None,
        }
    }

    /// Adds a rule, or reports what is wrong with its target.
    pub fn rule(&mut self, place: Place, text: &str, expect: Expect, terms: Terms) {
        let line = match self.sources.get(place.source).kind {
            SourceKind::File(_) => self.sources.line(place),
            SourceKind::Flag(_) => 0,
        };
        self.rule_on_line(place, line, text, expect, terms);
    }

    /// The same where the line is known.
    pub fn rule_on_line(
        &mut self,
        place: Place,
        line: u32,
        text: &str,
        expect: Expect,
        terms: Terms,
    ) {
        let Some(target) = self.target(place, text, expect, terms.denies) else {
            return;
        };
        if !target::suits(&mut self.sources, place, text, &target, &terms) {
            return;
        }
        if let Target::Name { pattern, .. } = &target
            && !terms.denies
            && pattern.is_wildcard()
            && self.sources.wants_warnings()
            && let Some(advice) = pattern.advice()
        {
            self.sources.warn(place, advice, None);
        }
        if self.full.is_some() || (self.only_denies && !terms.denies) {
            return;
        }
        let source = place.source.number();
        let written = RulePlace { source, line };
        match self.rules.push(&target, terms, text, written) {
            Ok(_) => self.spans.push(Span {
                source,
                len: u16::try_from(place.end - place.start).unwrap_or(u16::MAX),
                start: u32::try_from(place.start).unwrap_or(u32::MAX),
            }),
            Err(why) => self.full = Some(why),
        }
    }

    /// Takes the rules out, for compiling.
    pub fn take_rules(&mut self) -> RuleSetBuilder {
        std::mem::take(&mut self.rules)
    }

    /// Where a rule was written.
    pub fn place(&self, rule: RuleId) -> Place {
        let span = self.spans.get(rule.0 as usize);
        let start = span.map_or(0, |span| span.start as usize);
        let end = start + span.map_or(0, |span| usize::from(span.len));
        SourceId::of(span.map_or(0, |span| span.source)).at(start..end)
    }

    /// Whether two rules stand in one file.
    pub fn same_source(&self, one: RuleId, other: RuleId) -> bool {
        let source = |rule: RuleId| self.spans.get(rule.0 as usize).map(|span| span.source);
        source(one) == source(other)
    }

    fn target(&mut self, at: Place, text: &str, expect: Expect, denies: bool) -> Option<Target> {
        let target = match Target::from_policy(text) {
            Ok(target) => target,
            Err(error) => {
                if self.sources.wants_errors() {
                    self.bad_target(at, text, &error);
                }
                return None;
            }
        };
        match (expect, target) {
            (_, Target::Name { pattern, .. })
                if !pattern.is_wildcard() && pattern.base().as_str() == STATUS_NAME =>
            {
                let message = format!("`{text}` is the gateway's own page and cannot be listed");
                let hint = "remove this line: programs inside see the page whatever the policy says; \
                            the host's own services are at host.portcullis.internal:PORT";
                self.sources.error_with(at, message, hint.to_owned());
                None
            }
            (Expect::Addresses, Target::Name { .. }) => {
                let message = format!("`{text}` is a name, but this table takes addresses");
                let hint = format!("move it to [network.domains]: \"{text}\" = \"allow\"");
                self.sources.error_with(at, message, hint);
                None
            }
            (Expect::Names | Expect::WebNames, Target::Net { .. }) => {
                let message = format!("`{text}` is an address, but this table takes names");
                let hint = format!("move it to [network.addresses]: \"{text}\" = \"allow\"");
                self.sources.error_with(at, message, hint);
                None
            }
            (
                Expect::PortlessNames | Expect::WebNames,
                Target::Name {
                    explicit_ports: true,
                    ..
                },
            ) => {
                let message = format!("`{text}` has a port, but names here cannot have one");
                let hint = "to set ports, use [network.domains] in a Portcullis policy with \
                            `version = 1`";
                self.sources.error_with(at, message, hint.to_owned());
                None
            }
            (Expect::PortlessNames, Target::Name { pattern, .. }) => Some(Target::Name {
                pattern,
                ports: PortSet::ANY,
                explicit_ports: true,
                transport: Transport::Tcp,
            }),
            (
                Expect::DirectHosts,
                Target::Name {
                    pattern,
                    explicit_ports: false,
                    ..
                },
            ) => Some(Target::Name {
                pattern,
                ports: PortSet::HTTPS,
                explicit_ports: true,
                transport: Transport::Tcp,
            }),
            (_, Target::Net { net, .. }) if !denies && is_too_broad(net) => {
                let message = format!("`{text}` is too broad: it would allow {}", breadth(net));
                let hint = "allow only the ranges you need; names need no address rule";
                self.sources.error_with(at, message, hint.to_owned());
                None
            }
            (_, target) => Some(target),
        }
    }

    fn bad_target(&mut self, at: Place, text: &str, error: &TargetError) {
        let message = match error.to_string() {
            // names its subject already
            why if why.starts_with('`') => why,
            why => format!("invalid target `{text}`: {why}"),
        };
        self.sources.error_with(at, message, error.hint());
    }

    /// Adds a flag's or a variable's value as a source of its own.
    pub fn flag(&mut self, flag: &str, value: &str) -> Place {
        self.named_flag(flag, value, format!("{flag} {value}"))
    }

    /// The same where its rules are called something else.
    pub fn named_flag(&mut self, flag: &str, value: &str, called: String) -> Place {
        let kind = SourceKind::Flag(called);
        let source = self.sources.add(flag.to_owned(), value.to_owned(), kind);
        source.at(0..value.len())
    }

    /// Reads a resolver, or reports what is wrong with it. The text is shown only if it is no URL:
    /// those may hold a password.
    pub fn resolver(&mut self, text: Written<&str>) -> Option<Resolver> {
        let report = |why| {
            let message = match text.value.contains("://") {
                true => "invalid resolver URL".to_owned(),
                false => format!("invalid resolver `{}`", text.value),
            };
            self.sources.error_with(text.place, message, why);
        };
        Resolver::parse(text.value).map_err(report).ok()
    }

    /// The text of a `ca_file`, or a report of what is wrong with it.
    pub fn ca_file(&mut self, file: Written<&str>) -> Option<Arc<str>> {
        let path = normal(&beside(&self.sources, file));
        if !self.ca_files.contains_key(&path) {
            let read = if self.ca_files.len() < MAX_CA_FILES {
                self.outside.certificates(&path, file.value)
            } else {
                Err(format!(
                    "the rules name more than {MAX_CA_FILES} `ca_file`s"
                ))
            };
            self.ca_files.insert(path.clone(), read);
        }
        match &self.ca_files[&path] {
            Ok(pem) => return Some(Arc::clone(pem)),
            Err(why) => self.sources.error(file.place, why),
        }
        None
    }

    /// The settings, after every source has been read.
    pub fn settle(&mut self) -> Settings {
        let mut settings = std::mem::take(&mut self.settings);
        let plain = || {
            let resolvers = settings.resolvers.iter();
            let plain = resolvers.filter(|resolver| resolver.plain().is_some());
            plain.cloned().collect()
        };
        settings.dns.bootstrap = self.bootstrap.take().unwrap_or_else(plain);
        settings.limited = self.limited.is_some();
        settings.allow_upstream_proxy = self.proxy.forbidden.is_none();
        let proxies = std::mem::take(&mut self.proxy);
        settings.upstream = proxies.settle(&mut self.sources, &mut self.outside);
        settings
    }
}

/// Whether an allow rule for this range would lift the guard over more than anybody's own network.
fn is_too_broad(net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < MIN_V4_PREFIX_BITS,
        IpNet::V6(net) => {
            // unique local (RFC 4193) and link-local (RFC 4291) ranges may be allowed whole
            let own = net.prefix_len() >= 7 && net.network().is_unique_local()
                || net.prefix_len() >= 10 && net.network().is_unicast_link_local();
            net.prefix_len() < MIN_V6_PREFIX_BITS && !own
        }
    }
}

fn breadth(net: IpNet) -> &'static str {
    if net.prefix_len() == 0 {
        "every address"
    } else {
        "the networks of many owners"
    }
}
