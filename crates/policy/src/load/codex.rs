//! Codex permission profiles, read as they stand.
//!
//! The profile that `default_permissions` names supplies the rules; its names carry no ports and are
//! allowed on every port. Whatever else such a file says (file systems, models) is somebody else's
//! to enforce, and each such section is a warning that Portcullis does not. Within `network`, which
//! we do enforce, an unknown key is an error.

use super::document::{Node, Value};
use super::draft::{Draft, Expect};
use super::own::switches;
use super::section::{Section, nearest};
use super::source::{Place, SourceId};
use super::terms::verdict;
use crate::rules::Terms;

const DEFAULT: &str = "default_permissions";
const PROFILES: &str = "permissions";

/// Whether a file is a Codex configuration.
pub(super) fn is_codex(root: &Node) -> bool {
    root.get(DEFAULT).is_some() || root.get(PROFILES).is_some()
}

pub(super) fn read(draft: &mut Draft, source: SourceId, root: &Node) {
    let mut top = Section::open(&mut draft.sources, source, "", root);
    let default = top.text(&mut draft.sources, DEFAULT);
    let profiles = top.take(PROFILES);
    for (key, _) in top.rest() {
        let place = Place {
            source,
            span: key.span.clone(),
        };
        if matches!(key.text.as_str(), "network" | "include" | "version") {
            let message = format!(
                "`{}` belongs to Portcullis's own format, and this file has Codex profiles",
                key.text
            );
            draft
                .sources
                .error_with(&place, message, "write two files and give both".to_owned());
        } else {
            foreign(draft, &place, &key.text);
        }
    }
    let profiles = match profiles {
        Some((_, node)) => Section::open(&mut draft.sources, source, PROFILES, node).rest(),
        None => Vec::new(),
    };
    let names: Vec<&str> = profiles.iter().map(|(key, _)| key.text.as_str()).collect();
    let Some((name, place)) = default else {
        if root.get(DEFAULT).is_none() {
            let start = Place { source, span: 0..0 };
            let hint = format!("name one of its profiles: {}", names.join(", "));
            let message = format!("the file has Codex profiles, but no `{DEFAULT}`");
            draft.sources.error_with(&start, message, hint);
        }
        return;
    };
    match profiles.iter().find(|(key, _)| key.text == name) {
        Some((_, node)) => profile(draft, source, name, node),
        None => {
            let hint = match nearest(name, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the file has: {}", names.join(", ")),
            };
            let message = format!("`{DEFAULT}` names `{name}`, and the file has no such profile");
            draft.sources.error_with(&place, message, hint);
        }
    }
}

fn foreign(draft: &mut Draft, place: &Place, what: &str) {
    draft
        .sources
        .warn(place, format!("Portcullis does not enforce `{what}`"), None);
}

fn profile(draft: &mut Draft, source: SourceId, name: &str, node: &Node) {
    let section_name = format!("permissions.{name}");
    let mut profile = Section::open(&mut draft.sources, source, &section_name, node);
    let network = profile.take("network");
    for (key, _) in profile.rest() {
        let place = Place {
            source,
            span: key.span.clone(),
        };
        foreign(draft, &place, &key.text);
    }
    let network_name = format!("{section_name}.network");
    draft
        .codex_domains
        .get_or_insert_with(|| format!("{network_name}.domains"));
    let Some((_, node)) = network else { return };
    let mut network = Section::open(&mut draft.sources, source, &network_name, node);
    let enabled = network.truth(&mut draft.sources, "enabled");
    switches(draft, &mut network);
    if let Some((false, place)) = &enabled {
        let message = "the profile's network is not enabled: none of its names is allowed";
        draft.sources.warn(place, message, None);
        // its denies still hold for what other files allow
        draft.only_denies = true;
    }
    if let Some((_, node)) = network.take("domains") {
        domains(draft, source, (&format!("{network_name}.domains"), node));
    }
    draft.only_denies = false;
    network.finish(&mut draft.sources);
}

fn domains(draft: &mut Draft, source: SourceId, (name, node): (&str, &Node)) {
    for (key, node) in Section::open(&mut draft.sources, source, name, node).rest() {
        let at = Place {
            source,
            span: node.span.clone(),
        };
        let Value::Text(word) = &node.value else {
            let message = format!(
                "a verdict here is \"allow\" or \"deny\", not {}",
                node.kind()
            );
            draft.sources.error(&at, message);
            continue;
        };
        if let Some(denies) = verdict(draft, &at, word) {
            let place = Place {
                source,
                span: key.span.clone(),
            };
            draft.rule(
                place,
                &key.text,
                Expect::PortlessNames,
                Terms {
                    denies,
                    ..Terms::default()
                },
            );
        }
    }
}
