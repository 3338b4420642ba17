//! Portcullis's own policy format, in TOML, YAML or JSON, and the YAML of a host gateway,
//! whose few keys are ours too.

use super::document::{Node, Value};
use super::draft::{Draft, Expect};
use super::rules::{additions, rules};
use super::section::{ALLOW_NET, Section, choice};
use super::source::{Sources, Written};
use super::{dns, limits, proxy};
use crate::rules::Terms;

/// The version of the format that this build reads.
const VERSION: i64 = 1;

pub(super) fn read(draft: &mut Draft<'_>, root: &Node) {
    let sources = &mut draft.sources;
    let mut top = Section::open(sources, "", root);
    let version = top.take("version");
    let include = top.take("include"); // read before, by the loader
    match version {
        Some(node) if node.value == Value::Integer(VERSION) => {}
        Some(node) => {
            let message = format!("this build reads only `version = {VERSION}`");
            sources.error(node.place, message);
        }
        None if include.is_none() && (is_gateway_file(root) || is_list(root)) => {}
        None => {
            let hint = format!("begin the file with `version = {VERSION}`");
            let start = root.place.source.at(0..0);
            sources.error_with(start, "the policy has no `version`", hint);
        }
    }
    let targets = top.list(sources, ALLOW_NET);
    for target in targets.into_iter().flat_map(|targets| targets.value) {
        draft.rule(
            target.place,
            target.value,
            Expect::Both,
            Terms::plain(false),
        );
    }
    if let Some(node) = top.take("network") {
        network(draft, node);
    }
    top.finish(&mut draft.sources);
}

/// Whether this is a plain list of targets, which knows no `version`: `allow_net` and nothing else.
fn is_list(root: &Node) -> bool {
    matches!(&root.value, Value::Table(entries)
        if matches!(entries.as_slice(), [entry] if entry.key == ALLOW_NET))
}

/// Whether this is a host gateway's file, which knows no `version`: a `network` with nothing but
/// that gateway's keys, and at least one of them.
fn is_gateway_file(root: &Node) -> bool {
    let only = |node: &Node, keys: &[&str]| {
        let mut entries = node.entries().iter();
        !node.entries().is_empty() && entries.all(|entry| keys.contains(&entry.key.as_str()))
    };
    let Some(network) = root.get("network") else {
        return false;
    };
    let dns = network.get("dns");
    only(root, &["network"])
        && only(network, &["proxy", "dns", "allowlist_additions"])
        && dns.is_none_or(|dns| only(dns, &["custom_resolvers", "allowlist_additions"]))
}

fn network(draft: &mut Draft<'_>, node: &Node) {
    let mut network = Section::open(&mut draft.sources, "network", node);
    Switches::read(&mut draft.sources, &mut network).apply(draft);
    if let Some(node) = network.take("domains") {
        rules(draft, "network.domains", node, Expect::Names);
    }
    if let Some(node) = network.take("addresses") {
        rules(draft, "network.addresses", node, Expect::Addresses);
    }
    additions(draft, &mut network);
    if let Some(node) = network.take("dns") {
        dns::dns(draft, node);
    }
    if let Some(node) = network.take("limits") {
        limits::limits(draft, node);
    }
    if let Some(node) = network.take("proxy") {
        proxy::read(&mut draft.proxy, &mut draft.sources, node);
    }
    network.finish(&mut draft.sources);
}

/// The switches that a Codex profile has as well.
#[derive(Default)]
pub(super) struct Switches {
    limited: Option<Written<bool>>,
    upstream_proxy: Option<Written<bool>>,
}

impl Switches {
    /// Reads them and reports what cannot be enforced.
    pub fn read(sources: &mut Sources, network: &mut Section<'_>) -> Switches {
        let limited = network.text(sources, "mode").and_then(|mode| {
            let place = mode.place;
            let value = choice(sources, mode, &[("full", false), ("limited", true)])?;
            Some(Written { value, place })
        });
        if let Some(local) = network.truth(sources, "allow_local_binding")
            && !local.value
        {
            // A key that is read and not enforced is a rule that its author believes in.
            let message = "this release cannot enforce `allow_local_binding = false`";
            let hint = "remove it, or wait for a release that can".to_owned();
            sources.error_with(local.place, message, hint);
        }
        Switches {
            limited,
            upstream_proxy: network.truth(sources, "allow_upstream_proxy"),
        }
    }

    /// Takes over what is not set here.
    pub fn inherit(&mut self, parent: Switches) {
        self.limited = self.limited.or(parent.limited);
        self.upstream_proxy = self.upstream_proxy.or(parent.upstream_proxy);
    }

    /// Makes them settings. What one file narrows, no other makes wide again.
    pub fn apply(self, draft: &mut Draft<'_>) {
        if let Some(limited) = self.limited.filter(|limited| limited.value) {
            draft.limited.get_or_insert(limited.place);
        }
        if let Some(permits) = self.upstream_proxy.filter(|permits| !permits.value) {
            draft.proxy.forbidden.get_or_insert(permits.place);
        }
    }
}
