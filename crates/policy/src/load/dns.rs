//! `[network.dns]`: what a policy says about names besides which are listed.

use portcullis_names::Name;

use super::document::Node;
use super::draft::Draft;
use super::rules::additions;
use super::section::{Section, Texts, choice};
use super::source::{Place, Written};
use super::types::types;
use crate::dns_settings::{Answers, MAX_RESOLVERS, MAX_ZONES, Resolve, Zone, synthetic_range};
use crate::resolver::Resolver;

/// `[network.dns]`.
pub(super) fn dns(draft: &mut Draft<'_>, node: &Node) {
    let mut dns = Section::open(&mut draft.sources, "network.dns", node);
    let mut all: Vec<Resolver> = Vec::new();
    for key in ["resolvers", "custom_resolvers"] {
        let hint = "to use the host's own resolvers, leave it out";
        all.extend(resolvers(draft, &mut dns, key, hint).unwrap_or_default());
    }
    if !all.is_empty() {
        draft.settings.resolvers = all;
    }
    let hint = "to use the plain resolvers, or else the host's own, leave it out";
    if let Some(list) = resolvers(draft, &mut dns, "bootstrap", hint) {
        let place = node.get("bootstrap").unwrap_or(node).place;
        draft.bootstrap = Some(plain_only(draft, place, list));
    }
    if let Some(node) = dns.take("zones") {
        draft.settings.dns.zones = zones(draft, node);
    }
    let (sources, settings) = (&mut draft.sources, &mut draft.settings.dns);
    if let Some(word) = dns.text(sources, "resolve") {
        let words = [
            ("on-demand", Resolve::OnDemand),
            ("startup", Resolve::Startup),
        ];
        settings.resolve = choice(sources, word, &words).unwrap_or(settings.resolve);
    }
    if let Some(word) = dns.text(sources, "answers") {
        let words = [("real", Answers::Real), ("synthetic", Answers::Synthetic)];
        settings.answers = choice(sources, word, &words).unwrap_or(settings.answers);
    }
    if let Some(text) = dns.text(sources, "synthetic_range") {
        match synthetic_range(text.value) {
            Ok(range) => settings.synthetic_range = Some(range),
            Err(error) => sources.error_with(text.place, error.message, error.hint),
        }
    }
    if let Some(types) = types(sources, &mut dns) {
        settings.types = types.value;
    }
    additions(draft, &mut dns);
    dns.finish(&mut draft.sources);
}

/// A list of resolvers; `None` where there is no such key, or nothing right in it.
fn resolvers(
    draft: &mut Draft<'_>,
    section: &mut Section<'_>,
    key: &'static str,
    if_empty: &str,
) -> Option<Vec<Resolver>> {
    let texts = section.list(&mut draft.sources, key)?;
    resolver_list(draft, key, texts, if_empty)
}

fn resolver_list(
    draft: &mut Draft<'_>,
    key: &str,
    texts: Written<Texts<'_>>,
    if_empty: &str,
) -> Option<Vec<Resolver>> {
    let (count, place) = (texts.value.len(), texts.place);
    if count == 0 {
        let message = format!("`{key}` is empty");
        draft
            .sources
            .error_with(place, message, if_empty.to_owned());
    }
    if count > MAX_RESOLVERS {
        let message = format!("`{key}` has more than {MAX_RESOLVERS} resolvers");
        draft.sources.error(place, message);
    }
    let list = texts.value.into_iter();
    let list: Vec<Resolver> = list.filter_map(|text| draft.resolver(text)).collect();
    (!list.is_empty()).then_some(list)
}

/// The addresses of resolvers that find the others; each must be found without help itself.
fn plain_only(draft: &mut Draft<'_>, place: Place, list: Vec<Resolver>) -> Vec<Resolver> {
    let mut plain = Vec::with_capacity(list.len());
    for resolver in list {
        match resolver.plain() {
            Some(_) => plain.push(resolver),
            None => {
                let message = format!("`{resolver}` cannot be used to find other resolvers");
                let hint = "write addresses here, such as \"10.0.0.53\"".to_owned();
                draft.sources.error_with(place, message, hint);
            }
        }
    }
    plain
}

/// `zones`: suffixes, each with its resolvers.
fn zones(draft: &mut Draft<'_>, node: &Node) -> Vec<Zone> {
    let section = Section::open(&mut draft.sources, "network.dns.zones", node);
    let mut zones: Vec<Zone> = Vec::new();
    for entry in section.rest() {
        let (key, at) = (entry.key.as_str(), entry.place);
        let suffix = zone_suffix(draft, at, key);
        let hint = "name the zone's resolvers, or remove the zone";
        let resolvers = Section::list_of(&mut draft.sources, key, &entry.node)
            .and_then(|texts| resolver_list(draft, key, texts, hint));
        let (Some(suffix), Some(resolvers)) = (suffix, resolvers) else {
            continue;
        };
        if zones.iter().any(|zone| zone.suffix == suffix) {
            let message = format!("the zone `{suffix}` is listed twice");
            let hint = "put its resolvers into one list".to_owned();
            draft.sources.error_with(at, message, hint);
        }
        zones.push(Zone { suffix, resolvers });
        if zones.len() > MAX_ZONES {
            let message = format!("the policy has more than {MAX_ZONES} zones");
            draft.sources.error(at, message);
            break;
        }
    }
    // the longest first, and one order for each policy
    zones.sort_by(|a, b| {
        let (a, b) = (a.suffix.as_str(), b.suffix.as_str());
        b.len().cmp(&a.len()).then_with(|| a.cmp(b))
    });
    zones
}

fn zone_suffix(draft: &mut Draft<'_>, at: Place, text: &str) -> Option<Name> {
    let bare = text.trim_start_matches(['*', '.']);
    let (why, hint) = match Name::from_policy(bare) {
        Ok(suffix) if bare.len() == text.len() => return Some(suffix),
        Ok(suffix) => (
            ": a zone is a name, and covers every name below it".to_owned(),
            Some(format!("write \"{suffix}\"")),
        ),
        Err(_) if bare.is_empty() => (
            String::new(),
            Some("to set the resolvers for all other names, use `resolvers`".to_owned()),
        ),
        Err(error) => (format!(": {error}"), None),
    };
    draft
        .sources
        .error_with(at, format!("`{text}` is not a zone{why}"), hint);
    None
}
