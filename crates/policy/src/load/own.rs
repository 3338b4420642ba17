//! Portcullis's own policy format, in TOML, YAML or JSON, and the YAML of a host gateway,
//! whose few keys are ours too.

use super::document::{Node, Value};
use super::draft::{Draft, Expect};
use super::rules::{additions, rules};
use super::section::{ALLOW_NET, Section, unknown};
use super::source::{Place, SourceId, Sources};
use super::{dns, limits, proxy};
use crate::rules::Terms;

/// The version of the format that this build reads.
const VERSION: i64 = 1;

pub(super) fn read(draft: &mut Draft, source: SourceId, root: &Node) {
    let mut top = Section::open(&mut draft.sources, source, "", root);
    let version = top.take("version");
    let include = top.take("include"); // read before, by the loader
    match version {
        Some((_, node)) if node.value == Value::Integer(VERSION) => {}
        Some((_, node)) => {
            let place = top.place(node);
            let message = format!("this build reads `version = {VERSION}` only");
            draft.sources.error(&place, message);
        }
        None if include.is_none() && (is_gateway_file(root) || is_list(root)) => {}
        None => {
            let start = Place { source, span: 0..0 };
            let hint = format!("begin the file with `version = {VERSION}`");
            draft
                .sources
                .error_with(&start, "the policy has no `version`", hint);
        }
    }
    let targets = top.list(&mut draft.sources, ALLOW_NET);
    for (target, place) in targets.into_iter().flat_map(|(_, targets)| targets) {
        draft.rule(place, target, Expect::Both, Terms::default());
    }
    if let Some((_, node)) = top.take("network") {
        network(draft, source, node);
    }
    top.finish(&mut draft.sources);
}

/// Whether this is a plain list of targets, which knows no `version`: `allow_net` and nothing else.
fn is_list(root: &Node) -> bool {
    matches!(&root.value, Value::Table(entries)
        if matches!(entries.as_slice(), [(key, _)] if key.text == ALLOW_NET))
}

/// Whether this is a host gateway's file, which knows no `version`: a `network` with nothing but
/// that gateway's keys, and at least one of them.
fn is_gateway_file(root: &Node) -> bool {
    let only = |node: &Node, keys: &[&str]| match &node.value {
        Value::Table(entries) => {
            !entries.is_empty()
                && entries
                    .iter()
                    .all(|(key, _)| keys.contains(&key.text.as_str()))
        }
        _ => false,
    };
    let Some(network) = root.get("network") else {
        return false;
    };
    let dns = network.get("dns");
    only(root, &["network"])
        && only(network, &["proxy", "dns", "allowlist_additions"])
        && dns.is_none_or(|dns| only(dns, &["custom_resolvers", "allowlist_additions"]))
}

fn network(draft: &mut Draft, source: SourceId, node: &Node) {
    let mut network = Section::open(&mut draft.sources, source, "network", node);
    Switches::read(&mut draft.sources, &mut network).apply(draft);
    if let Some((_, node)) = network.take("domains") {
        rules(draft, source, ("network.domains", node), Expect::Names);
    }
    if let Some((_, node)) = network.take("addresses") {
        rules(
            draft,
            source,
            ("network.addresses", node),
            Expect::Addresses,
        );
    }
    additions(draft, &mut network);
    if let Some((_, node)) = network.take("dns") {
        dns::dns(draft, source, node);
    }
    if let Some((_, node)) = network.take("limits") {
        limits::limits(draft, source, node);
    }
    if let Some((_, node)) = network.take("proxy") {
        proxy::read(&mut draft.settings.proxy, &mut draft.sources, source, node);
    }
    network.finish(&mut draft.sources);
}

/// The switches that a Codex profile has as well.
#[derive(Default)]
pub(super) struct Switches {
    mode: Option<ModeKey>,
    upstream_proxy: Option<PermitKey>,
}

/// `mode`, and where it stands.
struct ModeKey {
    limited: bool,
    place: Place,
}

/// A permission that is given or withheld, and where.
struct PermitKey {
    permits: bool,
    place: Place,
}

impl Switches {
    /// Reads them and reports what cannot be enforced.
    pub fn read(sources: &mut Sources, network: &mut Section<'_>) -> Switches {
        let mut switches = Switches::default();
        match network.text(sources, "mode") {
            Some((mode @ ("full" | "limited"), place)) => {
                let limited = mode == "limited";
                switches.mode = Some(ModeKey { limited, place });
            }
            Some((mode, place)) => unknown(sources, &place, mode, &["full", "limited"]),
            None => {}
        }
        if let Some((false, place)) = network.truth(sources, "allow_local_binding") {
            // A key that is read and not enforced is a rule that its author believes in.
            let message = "`allow_local_binding = false` comes with a later release; this one would \
                           not enforce it";
            let hint = "remove it, or wait for that release".to_owned();
            sources.error_with(&place, message, hint);
        }
        let upstream_proxy = network.truth(sources, "allow_upstream_proxy");
        switches.upstream_proxy =
            upstream_proxy.map(|(permits, place)| PermitKey { permits, place });
        switches
    }

    /// Takes over what is not set here.
    pub fn inherit(&mut self, parent: Switches) {
        self.mode = self.mode.take().or(parent.mode);
        self.upstream_proxy = self.upstream_proxy.take().or(parent.upstream_proxy);
    }

    /// Makes them settings. What one file narrows, no other makes wide again.
    pub fn apply(self, draft: &mut Draft) {
        let settings = &mut draft.settings;
        if let Some(ModeKey {
            limited: true,
            place,
        }) = self.mode
        {
            settings.limited.get_or_insert(place);
        }
        if let Some(PermitKey {
            permits: false,
            place,
        }) = self.upstream_proxy
        {
            settings.proxy.forbidden.get_or_insert(place);
        }
    }
}
