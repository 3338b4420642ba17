//! Codex permission profiles, read as they stand.
//!
//! The profile that `default_permissions` names supplies the rules, with what it inherits: `extends`
//! is resolved within the file and for the built-in profiles, as Codex does it. Its names carry no
//! ports and are allowed on every port. What such a file says of other things (file systems, models)
//! is a warning. Whatever could make Codex's network narrower and is not honoured here is an error
//! (*failing open*, docs/threats.md): such a file would allow more than its author means.

use std::collections::HashSet;

use super::document::{Key, Node, Value};
use super::draft::{Draft, Expect};
use super::own::Switches;
use super::section::{Section, nearest};
use super::source::{Place, SourceId, Sources};
use super::terms::verdict;
use crate::rules::Terms;

const DEFAULT: &str = "default_permissions";
const PROFILES: &str = "permissions";
const EXTENDS: &str = "extends";
/// Longest chain of profiles that extend each other.
const MAX_CHAIN: usize = 32;
/// What begins the name of a built-in profile.
const BUILT_IN: char = ':';
/// The built-in profiles; commands have no network under either.
const WITHOUT_NETWORK: [&str; 2] = [":workspace", ":read-only"];
/// Parts of a key at the top of the file that say that it concerns the network of commands.
const NETWORK_WORDS: [&str; 7] = [
    "network",
    "sandbox",
    "permission",
    "proxy",
    "domain",
    "deny",
    "denied",
];
/// The sections of a profile that say nothing about the network.
const ELSEWHERE: [&str; 3] = ["filesystem", "workspace_roots", "description"];

type Entry<'n> = (&'n Key, &'n Node);

/// Whether a file is a Codex configuration.
pub(super) fn is_codex(root: &Node) -> bool {
    root.get(DEFAULT).is_some() || root.get(PROFILES).is_some()
}

pub(super) fn read(draft: &mut Draft, source: SourceId, root: &Node) {
    let mut top = Section::open(&mut draft.sources, source, "", root);
    let default = top.text(&mut draft.sources, DEFAULT);
    let profiles = top.take(PROFILES);
    for entry in top.rest() {
        beside(&mut draft.sources, source, entry);
    }
    let profiles = match profiles {
        Some((_, node)) => Section::open(&mut draft.sources, source, PROFILES, node).rest(),
        None => Vec::new(),
    };
    for (key, _) in &profiles {
        if key.text.starts_with(BUILT_IN) {
            let place = key_place(source, key);
            let message = format!("`{}`: only built-in profiles begin with `:`", key.text);
            draft.sources.error(&place, message);
        }
    }
    let Some((name, place)) = default else {
        if root.get(DEFAULT).is_none() {
            let start = Place { source, span: 0..0 };
            let names: Vec<&str> = profiles.iter().map(|(key, _)| key.text.as_str()).collect();
            let hint = format!("name one of its profiles: {}", names.join(", "));
            let message = format!("the file has Codex profiles, but no `{DEFAULT}`");
            draft.sources.error_with(&start, message, hint);
        }
        return;
    };
    let wanted = Wanted {
        key: DEFAULT,
        name: name.to_owned(),
        place: place.clone(),
    };
    if let Some(network) = Inherited::default().resolve(draft, &profiles, wanted) {
        network.apply(draft, place);
    }
}

/// A key at the top of the file that is no profile: a warning, or an error if it may narrow what the
/// profile allows.
fn beside(sources: &mut Sources, source: SourceId, (key, node): Entry<'_>) {
    let place = key_place(source, key);
    let text = key.text.as_str();
    if matches!(text, "network" | "include" | "version") {
        let message = format!(
            "`{text}` belongs to Portcullis's own format, and this file has Codex profiles"
        );
        return sources.error_with(&place, message, "write two files and give both".to_owned());
    }
    let proxy = node.get("network_proxy");
    let switch = |node: &Node| matches!(node.value, Value::Bool(_));
    let lower = text.to_ascii_lowercase();
    let narrows = match text {
        // On or off, it says whether Codex enforces the profile; a table has rules of its own.
        "features" => proxy.is_some_and(|proxy| !switch(proxy)),
        // Selects settings that replace those of this file.
        "profile" => true,
        _ => NETWORK_WORDS.iter().any(|word| lower.contains(word)),
    };
    if narrows {
        let message = format!(
            "`{text}` can restrict the network further than the profile does, and Portcullis does \
             not read it"
        );
        let hint = format!("remove it, and write its restrictions into [{PROFILES}]");
        sources.error_with(&place, message, hint);
    } else {
        foreign(sources, &place, text);
    }
}

fn foreign(sources: &mut Sources, place: &Place, what: &str) {
    sources.warn(place, format!("Portcullis does not enforce `{what}`"), None);
}

fn key_place(source: SourceId, key: &Key) -> Place {
    Place {
        source,
        span: key.span.clone(),
    }
}

/// A profile that is asked for, and where.
struct Wanted {
    /// The key that asks: `default_permissions` or `extends`.
    key: &'static str,
    name: String,
    place: Place,
}

/// The network of a profile with what it inherits. Of each key the nearest profile's value counts,
/// of `domains` the nearest verdict on each name.
#[derive(Default)]
struct Inherited {
    /// `[permissions.NAME.network.domains]` of the selected profile, for suggestions.
    domains_table: Option<String>,
    enabled: Option<Enabled>,
    switches: Switches,
    domains: Vec<Domain>,
    /// The names in `domains` of the profiles read so far, as they are compared.
    decided: HashSet<String>,
}

/// Whether commands have a network, and where that is said.
struct Enabled {
    value: bool,
    place: Place,
}

/// A verdict on a name.
struct Domain {
    text: String,
    place: Place,
    denies: bool,
}

impl Inherited {
    /// Reads the profile and those that it extends; nothing if one of them cannot be had.
    fn resolve(
        mut self,
        draft: &mut Draft,
        profiles: &[Entry<'_>],
        mut wanted: Wanted,
    ) -> Option<Self> {
        let mut chain: Vec<String> = Vec::new();
        loop {
            if chain.contains(&wanted.name) {
                let message = format!(
                    "profiles extend each other in a circle: {} -> {}",
                    chain.join(" -> "),
                    wanted.name
                );
                draft.sources.error(&wanted.place, message);
                return None;
            }
            if chain.len() >= MAX_CHAIN {
                let message = format!("a profile has at most {} parents", MAX_CHAIN - 1);
                draft.sources.error(&wanted.place, message);
                return None;
            }
            if WITHOUT_NETWORK.contains(&wanted.name.as_str()) {
                self.enabled.get_or_insert(Enabled {
                    value: false,
                    place: wanted.place,
                });
                return Some(self);
            }
            let found = profiles.iter().find(|(key, _)| key.text == wanted.name);
            let Some((_, node)) = found else {
                missing(&mut draft.sources, profiles, &wanted);
                return None;
            };
            let parent = self.profile(draft, &wanted, node);
            chain.push(wanted.name);
            match parent {
                Some(parent) => wanted = parent,
                None => return Some(self),
            }
        }
    }

    /// Reads one profile, behind those that extend it; gives the one that it extends itself.
    fn profile(&mut self, draft: &mut Draft, wanted: &Wanted, node: &Node) -> Option<Wanted> {
        let (sources, source) = (&mut draft.sources, wanted.place.source);
        let name = format!("{PROFILES}.{}", wanted.name);
        let mut profile = Section::open(sources, source, &name, node);
        let parent = profile.text(sources, EXTENDS);
        let network = profile.take("network");
        for key in ELSEWHERE {
            if let Some((key, _)) = profile.take(key) {
                foreign(sources, &key_place(source, key), &key.text);
            }
        }
        profile.finish(sources);
        let name = format!("{name}.network");
        self.domains_table
            .get_or_insert_with(|| format!("{name}.domains"));
        if let Some((_, node)) = network {
            self.network(draft, source, &name, node);
        }
        parent.map(|(name, place)| Wanted {
            key: EXTENDS,
            name: name.to_owned(),
            place,
        })
    }

    fn network(&mut self, draft: &mut Draft, source: SourceId, name: &str, node: &Node) {
        let mut network = Section::open(&mut draft.sources, source, name, node);
        let enabled = network.truth(&mut draft.sources, "enabled");
        if self.enabled.is_none() {
            self.enabled = enabled.map(|(value, place)| Enabled { value, place });
        }
        let switches = Switches::read(&mut draft.sources, &mut network);
        self.switches.inherit(switches);
        if let Some((_, node)) = network.take("domains") {
            self.domains(draft, source, &format!("{name}.domains"), node);
        }
        network.finish(&mut draft.sources);
    }

    fn domains(&mut self, draft: &mut Draft, source: SourceId, name: &str, node: &Node) {
        let mut own = Vec::new();
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
            let Some(denies) = verdict(draft, &at, word) else {
                continue;
            };
            let compared = key.text.trim_end_matches('.').to_ascii_lowercase();
            if !self.decided.contains(&compared) {
                own.push(compared);
                self.domains.push(Domain {
                    text: key.text.clone(),
                    place: key_place(source, key),
                    denies,
                });
            }
        }
        self.decided.extend(own);
    }

    /// Adds the rules and settings; `selected` is where the profile is named.
    fn apply(self, draft: &mut Draft, selected: Place) {
        let table = self.domains_table;
        draft.codex_domains = draft.codex_domains.take().or(table);
        self.switches.apply(draft);
        let (enabled, place) = match self.enabled {
            Some(Enabled { value, place }) => (value, place),
            // Codex gives commands no network unless a profile says so.
            None => (false, selected),
        };
        if !enabled {
            let message = "the profile's network is not enabled: none of its names is allowed";
            let hint = "to allow them, write `enabled = true` into its `network`".to_owned();
            draft.sources.warn(&place, message, hint);
        }
        // Its denies still hold for what other files allow.
        draft.only_denies = !enabled;
        for domain in self.domains {
            let terms = Terms {
                denies: domain.denies,
                ..Terms::default()
            };
            draft.rule(domain.place, &domain.text, Expect::PortlessNames, terms);
        }
        draft.only_denies = false;
    }
}

/// Reports that a profile is not in the file.
fn missing(sources: &mut Sources, profiles: &[Entry<'_>], wanted: &Wanted) {
    let Wanted { key, name, place } = wanted;
    let names: Vec<&str> = profiles.iter().map(|(key, _)| key.text.as_str()).collect();
    if name.starts_with(BUILT_IN) {
        let message = format!("Portcullis does not read the built-in profile `{name}`");
        let known = WITHOUT_NETWORK.join("`, `");
        let hint = format!("`{key}` takes `{known}` or a profile of the file");
        return sources.error_with(place, message, hint);
    }
    let hint = match nearest(name, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the file has: {}", names.join(", ")),
    };
    let message = format!("`{key}` names `{name}`, and the file has no such profile");
    sources.error_with(place, message, hint);
}
