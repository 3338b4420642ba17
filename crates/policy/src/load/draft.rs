//! A policy while it is being read: rules with their places, and settings that later files replace.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use portcullis_names::{PortSet, Target, TargetError, Transport};

use super::proxy::{Outside, ProxyDraft};
use super::source::{Place, SourceId, SourceKind, Sources};
use super::target;
use crate::dns_settings::{Answers, DnsSettings, Resolve, Zone};
use crate::limits::Limits;
use crate::resolver::Resolver;
use crate::rules::{RuleId, RulePlace, RuleSetBuilder, Terms};
use crate::settings::Settings;
use crate::types::TypeSet;

/// Shortest IPv4 prefix that may be allowed, in bits: the largest private range.
const MIN_V4_PREFIX_BITS: u8 = 8;
/// Shortest IPv6 prefix that may be allowed, in bits.
const MIN_V6_PREFIX_BITS: u8 = 16;

/// Where a rule was written; eight bytes, since a list has a million of them.
#[derive(Clone, Copy)]
struct Span {
    source: u16,
    len: u16,
    start: u32,
}

/// What has been read so far.
#[derive(Default)]
pub(super) struct Draft {
    pub sources: Sources,
    rules: RuleSetBuilder,
    /// Where each rule was written, by its number.
    spans: Vec<Span>,
    /// Why no more rules are taken.
    pub full: Option<String>,
    /// Allows are checked, but not taken: a profile that is not enabled.
    pub only_denies: bool,
    pub settings: SettingsDraft,
    /// The files that rules name as `ca_file`, read before the rules: by the source that names each
    /// and its path as written there.
    pub ca_files: HashMap<(SourceId, String), Result<Arc<str>, String>>,
    /// The table of names in the first Codex profile, for suggestions.
    pub codex_domains: Option<String>,
}

/// Settings as written; a later one replaces an earlier one.
#[derive(Default)]
pub(super) struct SettingsDraft {
    pub resolvers: Option<Vec<Resolver>>,
    pub bootstrap: Option<Vec<SocketAddr>>,
    pub zones: Option<Vec<Zone>>,
    pub resolve: Option<Resolve>,
    pub answers: Option<Answers>,
    pub synthetic_range: Option<Ipv4Net>,
    pub types: Option<TypeSet>,
    pub queries_per_second: Option<NonZeroU32>,
    pub new_names_per_minute: Option<u32>,
    pub proxy: ProxyDraft,
    /// Where a file says `mode = "limited"`; no other can say that it is not.
    pub limited: Option<Place>,
    pub limits: Limits,
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

impl Draft {
    /// Adds a rule, or reports what is wrong with its target.
    pub fn rule(&mut self, place: Place, text: &str, expect: Expect, terms: Terms) {
        let line = match self.sources.get(place.source).kind {
            SourceKind::File(_) => self.sources.line(&place),
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
        let Some(target) = self.target(&place, text, expect, terms.denies) else {
            return;
        };
        if !target::suits(&mut self.sources, &place, text, &target, &terms) {
            return;
        }
        if let Target::Name { pattern, .. } = &target
            && !terms.denies
            && pattern.is_wildcard()
            && self.sources.wants_warnings()
            && let Some(advice) = pattern.advice()
        {
            self.sources.warn(&place, advice, None);
        }
        if self.full.is_some() || (self.only_denies && !terms.denies) {
            return;
        }
        let source = place.source.number();
        let written = RulePlace { source, line };
        match self.rules.push(&target, terms, text, written) {
            Ok(_) => self.spans.push(Span {
                source,
                len: u16::try_from(place.span.len()).unwrap_or(u16::MAX),
                start: u32::try_from(place.span.start).unwrap_or(u32::MAX),
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
        Place {
            source: SourceId::of(span.map_or(0, |span| span.source)),
            span: start..start + span.map_or(0, |span| usize::from(span.len)),
        }
    }

    /// Whether two rules stand in one file.
    pub fn same_source(&self, one: RuleId, other: RuleId) -> bool {
        let source = |rule: RuleId| self.spans.get(rule.0 as usize).map(|span| span.source);
        source(one) == source(other)
    }

    fn target(&mut self, at: &Place, text: &str, expect: Expect, denies: bool) -> Option<Target> {
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
            (Expect::Addresses, Target::Name { .. }) => {
                let message = format!("`{text}` is a name, and this is for addresses");
                let hint = format!("write it under [network.domains]: \"{text}\"");
                self.sources.error_with(at, message, hint);
                None
            }
            (Expect::Names | Expect::WebNames, Target::Net { .. }) => {
                let message = format!("`{text}` is an address, and this is for names");
                let hint = format!("write it under [network.addresses]: \"{text}\" = \"allow\"");
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
                let message = format!("`{text}` has a port, and names carry none here");
                let hint = "ports belong in a policy of Portcullis's own: [network.domains] in a \
                            file with `version = 1`";
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
                let hint = "allow the ranges that are needed; names need no address rule";
                self.sources.error_with(at, message, hint.to_owned());
                None
            }
            (_, target) => Some(target),
        }
    }

    fn bad_target(&mut self, at: &Place, text: &str, error: &TargetError) {
        let what = if text.is_empty() {
            "an empty text".into()
        } else {
            format!("`{text}`")
        };
        let error_text = error.to_string();
        let message = if error_text.starts_with('`') {
            error_text
        } else {
            format!("{what} is not a target: {error_text}")
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
        let source: SourceId = self.sources.add(flag.to_owned(), value.to_owned(), kind);
        Place {
            source,
            span: 0..value.len(),
        }
    }

    /// Reads a resolver, or reports what is wrong with it. The text is shown only if it is no URL:
    /// those may hold a password.
    pub fn resolver(&mut self, at: &Place, text: &str) -> Option<Resolver> {
        match Resolver::parse(text) {
            Ok(resolver) => Some(resolver),
            Err(why) if text.contains("://") => {
                self.sources
                    .error_with(at, "this URL is not a resolver's", why);
                None
            }
            Err(why) => {
                self.sources
                    .error_with(at, format!("`{text}` is not a resolver"), why);
                None
            }
        }
    }

    /// The text of a `ca_file`, or a report of what is wrong with it.
    pub fn ca_file(&mut self, at: &Place, file: &str) -> Option<Arc<str>> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        let read = self.ca_files.get(&(at.source, file.to_owned()));
        let wrong = match read {
            Some(Ok(pem)) if pem.contains(BEGIN) => return Some(pem.clone()),
            Some(Ok(_)) => format!("`{file}` holds no certificate in PEM"),
            Some(Err(why)) => why.clone(),
            None => format!("`{file}` was not read"),
        };
        self.sources.error(at, wrong);
        None
    }

    /// The settings, after every source has been read.
    pub fn settle(&mut self, outside: &mut Outside<'_>) -> Settings {
        let draft = std::mem::take(&mut self.settings);
        let resolvers = draft.resolvers.unwrap_or_default();
        let plain = || resolvers.iter().filter_map(Resolver::plain).collect();
        let without = DnsSettings::default();
        let dns = DnsSettings {
            bootstrap: draft.bootstrap.unwrap_or_else(plain),
            zones: draft.zones.unwrap_or_default(),
            resolve: draft.resolve.unwrap_or_default(),
            answers: draft.answers.unwrap_or_default(),
            synthetic_range: draft.synthetic_range,
            types: draft.types.unwrap_or_default(),
            queries_per_second: draft.queries_per_second,
            new_names_per_minute: draft
                .new_names_per_minute
                .unwrap_or(without.new_names_per_minute),
        };
        let allow_upstream_proxy = draft.proxy.forbidden.is_none();
        Settings {
            resolvers,
            dns,
            allow_upstream_proxy,
            upstream: draft.proxy.settle(&mut self.sources, outside),
            limited: draft.limited.is_some(),
            limits: draft.limits,
        }
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
        "every address there is"
    } else {
        "the networks of many owners"
    }
}
