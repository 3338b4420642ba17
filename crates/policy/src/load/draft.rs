//! A policy while it is being read: rules with their places, and settings that later files replace.

use std::net::SocketAddr;

use ipnet::IpNet;
use portcullis_names::{Pattern, PortSet, Target, TargetError};

use super::source::{Place, SourceId, SourceKind, Sources};
use crate::rules::RawRule;
use crate::settings::{ProxyUrl, Settings};

/// Shortest IPv4 prefix that may be allowed, in bits: the largest private range.
const MIN_V4_PREFIX_BITS: u8 = 8;
/// Shortest IPv6 prefix that may be allowed, in bits.
const MIN_V6_PREFIX_BITS: u8 = 16;

/// A rule and where it was written.
pub(super) struct PlacedRule {
    pub rule: RawRule,
    pub place: Place,
}

/// What has been read so far.
#[derive(Default)]
pub(super) struct Draft {
    pub sources: Sources,
    pub rules: Vec<PlacedRule>,
    pub settings: SettingsDraft,
    /// The table of names in the first Codex profile, for suggestions.
    pub codex_domains: Option<String>,
}

/// Settings as written; a later one replaces an earlier one.
#[derive(Default)]
pub(super) struct SettingsDraft {
    pub resolvers: Option<Vec<SocketAddr>>,
    pub http: Option<(ProxyUrl, Place)>,
    pub https: Option<(ProxyUrl, Place)>,
    pub no_proxy: Option<(String, Place)>,
    /// Where a file forbids chaining; no other file and no flag can allow it again.
    pub forbids_upstream: Option<Place>,
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
    /// Addresses, in `[network.addresses]`.
    Addresses,
    /// Either, on the command line.
    Both,
}

/// What a rule says besides its target.
#[derive(Clone, Copy, Default)]
pub(super) struct Terms {
    pub denies: bool,
    pub allow_no_sni: bool,
}

impl Draft {
    /// Adds a rule, or reports what is wrong with its target.
    pub fn rule(&mut self, place: Place, text: &str, expect: Expect, terms: Terms) {
        let Some(target) = self.target(&place, text, expect, terms.denies) else {
            return;
        };
        if let Target::Name { pattern, .. } = &target
            && !terms.denies
            && let Some(advice) = pattern.advice()
        {
            self.sources.warn(&place, advice, None);
        }
        let rule = RawRule {
            target,
            denies: terms.denies,
            allow_no_sni: terms.allow_no_sni,
            text: text.to_owned(),
            source: self.sources.name(&place),
        };
        self.rules.push(PlacedRule { rule, place });
    }

    fn target(&mut self, at: &Place, text: &str, expect: Expect, denies: bool) -> Option<Target> {
        let target = match Target::from_policy(text) {
            Ok(target) => target,
            Err(error) => {
                self.bad_target(at, text, &error);
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
        let kind = SourceKind::Flag(format!("{flag} {value}"));
        let source: SourceId = self.sources.add(flag.to_owned(), value.to_owned(), kind);
        Place {
            source,
            span: 0..value.len(),
        }
    }

    /// Reads a proxy's URL, or reports what is wrong with it. The URL itself is not shown: it may hold
    /// a password.
    pub fn proxy(&mut self, place: Place, url: &str) -> Option<(ProxyUrl, Place)> {
        match ProxyUrl::parse(url) {
            Ok(proxy) => Some((proxy, place)),
            Err(message) => {
                self.sources.error(&place, message);
                None
            }
        }
    }

    /// The settings, after every source has been read.
    pub fn settle(&mut self) -> Settings {
        let draft = std::mem::take(&mut self.settings);
        let mut settings = Settings {
            resolvers: draft.resolvers.unwrap_or_default(),
            allow_upstream_proxy: draft.forbids_upstream.is_none(),
            ..Settings::default()
        };
        if let Some(forbidden) = &draft.forbids_upstream {
            for (_, place) in draft.http.iter().chain(&draft.https) {
                let message = "an upstream proxy is named here, and another place forbids chaining";
                let hint = format!(
                    "{} says `allow_upstream_proxy = false`",
                    self.sources.name(forbidden)
                );
                self.sources.error_with(place, message, hint);
            }
        }
        if let Some((text, place)) = &draft.no_proxy
            && let Err(message) = settings.upstream.set_no_proxy(text)
        {
            self.sources.error(place, message);
        }
        settings.upstream.http = draft.http.map(|(proxy, _)| proxy);
        settings.upstream.https = draft.https.map(|(proxy, _)| proxy);
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
        "every address there is"
    } else {
        "the networks of many owners"
    }
}

/// Whether a pattern is one that names a single host.
pub(super) fn is_exact(target: &Target) -> Option<&str> {
    match target {
        Target::Name {
            pattern: Pattern::Exact(name),
            ..
        } => Some(name.as_str()),
        _ => None,
    }
}
