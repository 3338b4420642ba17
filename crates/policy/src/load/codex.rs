//! Codex permission profiles, read as they stand.
//!
//! The profile that `default_permissions` names supplies the rules, with what it inherits: `extends`
//! is resolved within the file and for the built-in profiles, as Codex does it. Its names carry no
//! ports and are allowed on every port. What such a file says of other things (file systems, models)
//! is a warning. Whatever could make Codex's network narrower and is not honoured here is an error
//! (*failing open*, docs/threats.md): such a file would allow more than its author means.

use std::collections::HashSet;

use super::document::{Entry, Node, Value};
use super::draft::{Draft, Expect};
use super::own::Switches;
use super::section::{Section, nearest};
use super::source::{Place, Sources, Written};
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

/// Keys of a profile's network that say how Codex's own proxy is reached, or widen what it lets in; each
/// with what to do here, where there is something.
const OWN_PROXY: [(&str, Option<&str>); 9] = [
    ("proxy_url", None),
    ("socks_url", None),
    ("enable_socks5", None),
    ("enable_socks5_udp", None),
    ("dangerously_allow_non_loopback_proxy", None),
    ("admin_url", None),
    ("unix_sockets", Some(LET_IN)),
    ("allow_unix_sockets", Some(LET_IN)),
    ("dangerously_allow_all_unix_sockets", Some(LET_IN)),
];
/// Codex's sockets stay closed unless a flag opens them.
const LET_IN: &str = "no Unix socket of the host is reached; let one in with `--unix-socket PATH`";

/// Whether a file is a Codex configuration.
pub(super) fn is_codex(root: &Node) -> bool {
    root.get(DEFAULT).is_some() || root.get(PROFILES).is_some()
}

pub(super) fn read(draft: &mut Draft<'_>, root: &Node) {
    let sources = &mut draft.sources;
    let mut top = Section::open(sources, "", root);
    let default = top.text(sources, DEFAULT);
    let profiles = top.take(PROFILES);
    for entry in top.rest() {
        beside(sources, entry);
    }
    let profiles = match profiles {
        Some(node) => Section::open(sources, PROFILES, node).rest(),
        None => Vec::new(),
    };
    for profile in &profiles {
        if profile.key.starts_with(BUILT_IN) {
            let message = format!(
                "`{}` begins with `:`, which only built-in profiles may do",
                profile.key
            );
            sources.error(profile.place, message);
        }
    }
    let Some(default) = default else {
        if root.get(DEFAULT).is_none() {
            let message = format!("the file has Codex profiles, but no `{DEFAULT}`");
            let hint = format!("set it to one of its profiles: {}", names(&profiles));
            sources.error_with(root.place.source.at(0..0), message, hint);
        }
        return;
    };
    let wanted = Wanted {
        key: DEFAULT,
        name: default.value.to_owned(),
        place: default.place,
    };
    if let Some(network) = Inherited::default().resolve(draft, &profiles, wanted) {
        network.apply(draft, default.place);
    }
}

fn names(profiles: &[&Entry]) -> String {
    let names: Vec<&str> = profiles.iter().map(|entry| entry.key.as_str()).collect();
    names.join(", ")
}

/// A key at the top of the file that is no profile: a warning, or an error if it may narrow what the
/// profile allows.
fn beside(sources: &mut Sources, entry: &Entry) {
    let Entry { place, key, node } = entry;
    let text = key.as_str();
    if matches!(text, "network" | "include" | "version") {
        let message =
            format!("`{text}` belongs to the Portcullis format, but this file has Codex profiles");
        let hint = "write two files, and give both".to_owned();
        return sources.error_with(*place, message, hint);
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
            "`{text}` may restrict the network further than the profile, but Portcullis does not \
             read it"
        );
        let hint = format!("remove it, and move its restrictions into [{PROFILES}]");
        sources.error_with(*place, message, hint);
    } else {
        foreign(sources, entry);
    }
}

fn foreign(sources: &mut Sources, entry: &Entry) {
    let message = format!("Portcullis does not enforce `{}`", entry.key);
    sources.warn(entry.place, message, None);
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
    /// Whether commands have a network.
    enabled: Option<Written<bool>>,
    switches: Switches,
    domains: Vec<Domain>,
    /// The names in `domains` of the profiles read so far, as they are compared.
    decided: HashSet<String>,
}

/// A verdict on a name.
struct Domain {
    name: Written<String>,
    denies: bool,
}

impl Inherited {
    /// Reads the profile and those that it extends; nothing if one of them cannot be had.
    fn resolve(
        mut self,
        draft: &mut Draft<'_>,
        profiles: &[&Entry],
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
                draft.sources.error(wanted.place, message);
                return None;
            }
            if chain.len() >= MAX_CHAIN {
                let message = format!("a profile can have at most {} parents", MAX_CHAIN - 1);
                draft.sources.error(wanted.place, message);
                return None;
            }
            if WITHOUT_NETWORK.contains(&wanted.name.as_str()) {
                self.enabled.get_or_insert(Written {
                    value: false,
                    place: wanted.place,
                });
                return Some(self);
            }
            let Some(found) = profiles.iter().find(|entry| entry.key == wanted.name) else {
                missing(&mut draft.sources, profiles, &wanted);
                return None;
            };
            let parent = self.profile(draft, &wanted, &found.node);
            chain.push(wanted.name);
            match parent {
                Some(parent) => wanted = parent,
                None => return Some(self),
            }
        }
    }

    /// Reads one profile, behind those that extend it; gives the one that it extends itself.
    fn profile(&mut self, draft: &mut Draft<'_>, wanted: &Wanted, node: &Node) -> Option<Wanted> {
        let name = format!("{PROFILES}.{}", wanted.name);
        let mut profile = Section::open(&mut draft.sources, &name, node);
        let parent = profile.text(&mut draft.sources, EXTENDS);
        let network = profile.take("network");
        for key in ELSEWHERE {
            if let Some(entry) = profile.take_entry(key) {
                foreign(&mut draft.sources, entry);
            }
        }
        profile.finish(&mut draft.sources);
        let name = format!("{name}.network");
        self.domains_table
            .get_or_insert_with(|| format!("{name}.domains"));
        if let Some(node) = network {
            self.network(draft, &name, node);
        }
        parent.map(|parent| Wanted {
            key: EXTENDS,
            name: parent.value.to_owned(),
            place: parent.place,
        })
    }

    fn network(&mut self, draft: &mut Draft<'_>, name: &str, node: &Node) {
        let sources = &mut draft.sources;
        let mut network = Section::open(sources, name, node);
        let enabled = network.truth(sources, "enabled");
        self.enabled = self.enabled.or(enabled);
        self.switches.inherit(Switches::read(sources, &mut network));
        if let Some(node) = network.take("domains") {
            self.domains(sources, &format!("{name}.domains"), node);
        }
        for (key, hint) in OWN_PROXY {
            if let Some(entry) = network.take_entry(key) {
                let message = format!("Portcullis does not enforce `{key}`");
                sources.warn(entry.place, message, hint.map(str::to_owned));
            }
        }
        network.finish(sources);
    }

    fn domains(&mut self, sources: &mut Sources, name: &str, node: &Node) {
        let mut own = Vec::new();
        for entry in Section::open(sources, name, node).rest() {
            let Value::Text(word) = &entry.node.value else {
                let message = format!(
                    "a verdict must be \"allow\" or \"deny\", not {}",
                    entry.node.kind()
                );
                sources.error(entry.node.place, message);
                continue;
            };
            let Some(denies) = verdict(sources, entry.node.place, word) else {
                continue;
            };
            let compared = entry.key.trim_end_matches('.').to_ascii_lowercase();
            if !self.decided.contains(&compared) {
                own.push(compared);
                let name = Written {
                    value: entry.key.clone(),
                    place: entry.place,
                };
                self.domains.push(Domain { name, denies });
            }
        }
        self.decided.extend(own);
    }

    /// Adds the rules and settings; `selected` is where the profile is named.
    fn apply(self, draft: &mut Draft<'_>, selected: Place) {
        let table = self.domains_table;
        draft.codex_domains = draft.codex_domains.take().or(table);
        self.switches.apply(draft);
        // Codex gives commands no network unless a profile says so.
        let enabled = self.enabled.unwrap_or(Written {
            value: false,
            place: selected,
        });
        if !enabled.value {
            let message = "the profile's network is not enabled, so none of its names is allowed";
            let hint = "to allow them, set `enabled = true` in its `network`".to_owned();
            draft.sources.warn(enabled.place, message, hint);
        }
        // Its denies still hold for what other files allow.
        draft.only_denies = !enabled.value;
        for Domain { name, denies } in self.domains {
            let terms = Terms::plain(denies);
            draft.rule(name.place, &name.value, Expect::PortlessNames, terms);
        }
        draft.only_denies = false;
    }
}

/// Reports that a profile is not in the file.
fn missing(sources: &mut Sources, profiles: &[&Entry], wanted: &Wanted) {
    let Wanted { key, name, place } = wanted;
    if name.starts_with(BUILT_IN) {
        let message = format!("Portcullis does not support the built-in profile `{name}`");
        let known = WITHOUT_NETWORK.join("`, `");
        let hint = format!("set `{key}` to `{known}` or a profile of this file");
        return sources.error_with(*place, message, hint);
    }
    let known: Vec<&str> = profiles.iter().map(|entry| entry.key.as_str()).collect();
    let hint = match nearest(name, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the file has: {}", names(profiles)),
    };
    let message = format!("`{key}` names `{name}`, but the file has no such profile");
    sources.error_with(*place, message, hint);
}
