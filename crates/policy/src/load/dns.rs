//! `[network.dns]`: what a policy says about names besides which are listed.

use std::net::SocketAddr;

use portcullis_names::Name;

use super::document::Node;
use super::draft::Draft;
use super::rules::additions;
use super::section::{Section, unknown};
use super::source::{Place, SourceId};
use super::types::types;
use crate::dns_settings::{Answers, MAX_RESOLVERS, MAX_ZONES, Resolve, Zone, synthetic_range};
use crate::resolver::Resolver;

/// `[network.dns]`.
pub(super) fn dns(draft: &mut Draft, source: SourceId, node: &Node) {
    let mut dns = Section::open(&mut draft.sources, source, "network.dns", node);
    let mut all: Option<Vec<Resolver>> = None;
    for key in ["resolvers", "custom_resolvers"] {
        let hint = "leave it out to use the host's own resolvers";
        if let Some(list) = resolvers(draft, &mut dns, key, hint) {
            all.get_or_insert_default().extend(list);
        }
    }
    if all.is_some() {
        draft.settings.resolvers = all;
    }
    let hint = "leave it out to use the plain resolvers, or else the host's own";
    if let Some(list) = resolvers(draft, &mut dns, "bootstrap", hint) {
        draft.settings.bootstrap = Some(plain_only(draft, &dns, node, list));
    }
    if let Some((_, node)) = dns.take("zones") {
        draft.settings.zones = Some(zones(draft, source, node));
    }
    if let Some((word, place)) = dns.text(&mut draft.sources, "resolve") {
        match Resolve::parse(word) {
            Some(resolve) => draft.settings.resolve = Some(resolve),
            None => unknown(&mut draft.sources, &place, word, &Resolve::WORDS),
        }
    }
    if let Some((word, place)) = dns.text(&mut draft.sources, "answers") {
        match Answers::parse(word) {
            Some(answers) => draft.settings.answers = Some(answers),
            None => unknown(&mut draft.sources, &place, word, &Answers::WORDS),
        }
    }
    if let Some((text, place)) = dns.text(&mut draft.sources, "synthetic_range") {
        match synthetic_range(text) {
            Ok(range) => draft.settings.synthetic_range = Some(range),
            Err((message, hint)) => {
                draft.sources.error_with(&place, message, hint.to_owned());
            }
        }
    }
    if let Some((types, _)) = types(draft, &mut dns) {
        draft.settings.types = Some(types);
    }
    additions(draft, &mut dns);
    dns.finish(&mut draft.sources);
}

/// A list of resolvers; `None` where there is no such key, or nothing right in it.
fn resolvers(
    draft: &mut Draft,
    section: &mut Section<'_>,
    key: &'static str,
    if_empty: &str,
) -> Option<Vec<Resolver>> {
    let (place, texts) = section.list(&mut draft.sources, key)?;
    resolver_list(draft, key, place, texts, if_empty)
}

fn resolver_list(
    draft: &mut Draft,
    key: &str,
    place: Place,
    texts: Vec<(&str, Place)>,
    if_empty: &str,
) -> Option<Vec<Resolver>> {
    if texts.is_empty() {
        let message = format!("`{key}` is empty");
        draft
            .sources
            .error_with(&place, message, if_empty.to_owned());
    }
    if texts.len() > MAX_RESOLVERS {
        let message = format!("`{key}` has more than {MAX_RESOLVERS} resolvers");
        draft.sources.error(&place, message);
    }
    let mut list = Vec::new();
    for (text, at) in texts {
        list.extend(draft.resolver(&at, text));
    }
    (!list.is_empty()).then_some(list)
}

/// The addresses of resolvers that find the others; each must be found without help itself.
fn plain_only(
    draft: &mut Draft,
    section: &Section<'_>,
    node: &Node,
    list: Vec<Resolver>,
) -> Vec<SocketAddr> {
    let mut plain = Vec::with_capacity(list.len());
    for resolver in list {
        match resolver.plain() {
            Some(address) => plain.push(address),
            None => {
                let place = section.place(node.get("bootstrap").unwrap_or(node));
                let message = format!("`{resolver}` cannot be asked before it has been found");
                let hint = "name addresses here, such as \"10.0.0.53\"".to_owned();
                draft.sources.error_with(&place, message, hint);
            }
        }
    }
    plain
}

/// `zones`: suffixes, each with its resolvers.
fn zones(draft: &mut Draft, source: SourceId, node: &Node) -> Vec<Zone> {
    let section = Section::open(&mut draft.sources, source, "network.dns.zones", node);
    let mut zones: Vec<Zone> = Vec::new();
    for (key, node) in section.rest() {
        let at = Place {
            source,
            span: key.span.clone(),
        };
        let suffix = zone_suffix(draft, &at, &key.text);
        let hint = "name the resolvers to ask for it, or remove the zone";
        let resolvers = Section::list_of(&mut draft.sources, source, &key.text, node)
            .and_then(|(place, texts)| resolver_list(draft, &key.text, place, texts, hint));
        let (Some(suffix), Some(resolvers)) = (suffix, resolvers) else {
            continue;
        };
        if zones.iter().any(|zone| zone.suffix == suffix) {
            let message = format!("the zone `{suffix}` stands here twice");
            draft
                .sources
                .error_with(&at, message, "put its resolvers into one list".to_owned());
        }
        zones.push(Zone { suffix, resolvers });
        if zones.len() > MAX_ZONES {
            let message = format!("the policy has more than {MAX_ZONES} zones");
            draft.sources.error(&at, message);
            break;
        }
    }
    // the longest first, and one order for each policy
    zones.sort_by(|a, b| {
        let (a, b) = (&a.suffix, &b.suffix);
        b.as_str()
            .len()
            .cmp(&a.as_str().len())
            .then_with(|| a.as_str().cmp(b.as_str()))
    });
    zones
}

fn zone_suffix(draft: &mut Draft, at: &Place, text: &str) -> Option<Name> {
    let bare = text.trim_start_matches(['*', '.']);
    let (message, hint) = match Name::from_policy(bare) {
        Ok(suffix) if bare.len() == text.len() => return Some(suffix),
        Ok(suffix) => (
            format!("`{text}` is not a zone: a zone is a name, and covers every name below it"),
            Some(format!("write \"{suffix}\"")),
        ),
        Err(_) if bare.is_empty() => (
            format!("`{text}` is not a zone"),
            Some("the resolvers for all other names are `resolvers`".to_owned()),
        ),
        Err(error) => (format!("`{text}` is not a zone: {error}"), None),
    };
    draft.sources.error_with(at, message, hint);
    None
}
