//! `[network.proxy]`: the upstream proxies, and what they want to know about their user.
//!
//! Files of credentials and authorities are read when every other file has been, and what they say is
//! never repeated in an error.

use std::sync::Arc;

use super::document::{Node, Value};
use super::outside::{Outside, beside};
use super::section::{Section, choice};
use super::source::{Place, Secret, SourceKind, Sources, Written};
use crate::proxies::{
    Choice, Credentials, MAX_PROXIES, MAX_PROXY_CHOICES, NoProxy, ProxyGroup, ProxyTarget,
    UpstreamProxies, UpstreamProxy,
};

const SECTION: &str = "network.proxy";
const CHOICES: &str = "network.proxy.for";
/// A proxy that is written as a table.
const ONE: &str = "a proxy";
/// The word of a destination that goes direct.
const DIRECT: &str = "direct";

/// What was written so far; a later file's value of a key replaces an earlier one's.
#[derive(Default)]
pub(super) struct ProxyDraft {
    http: Option<GroupDraft>,
    https: Option<GroupDraft>,
    no_proxy: Option<Written<String>>,
    choices: Option<Vec<ChoiceDraft>>,
    /// For `http` and `https`.
    terms: TermsDraft,
    /// Another place says `allow_upstream_proxy = false`.
    pub forbidden: Option<Place>,
}

#[derive(Clone)]
struct GroupDraft {
    proxies: Vec<Written<UpstreamProxy>>,
    /// Of a proxy that is written as a table.
    terms: Option<TermsDraft>,
}

impl GroupDraft {
    fn of(proxies: Vec<Written<UpstreamProxy>>) -> GroupDraft {
        GroupDraft {
            proxies,
            terms: None,
        }
    }
}

struct ChoiceDraft {
    target: ProxyTarget,
    /// None is direct.
    group: Option<GroupDraft>,
}

/// What is said about a proxy beside its URL.
#[derive(Clone, Default)]
struct TermsDraft {
    secret: Option<Written<Secret>>,
    ca_file: Option<Written<String>>,
    by_address: Option<bool>,
    negotiates: Option<bool>,
}

/// Reads the section.
pub(super) fn read(proxies: &mut ProxyDraft, sources: &mut Sources, node: &Node) {
    let mut section = Section::open(sources, SECTION, node);
    if let Some(node) = section.take("http") {
        proxies.http = group(sources, "http", node).or(proxies.http.take());
    }
    if let Some(node) = section.take("https") {
        proxies.https = group(sources, "https", node).or(proxies.https.take());
    }
    if let Some(text) = section.text(sources, "no_proxy") {
        proxies.no_proxy = Some(text.map(str::to_owned));
    }
    let terms = terms(sources, &mut section);
    proxies.terms = TermsDraft {
        secret: terms.secret.or(proxies.terms.secret.take()),
        ca_file: terms.ca_file.or(proxies.terms.ca_file.take()),
        by_address: terms.by_address.or(proxies.terms.by_address),
        negotiates: terms.negotiates.or(proxies.terms.negotiates),
    };
    if let Some(node) = section.take("for") {
        proxies.choices = Some(choices(sources, node));
    }
    section.finish(sources);
}

/// `--upstream-proxy URL`.
pub(super) fn flag(proxies: &mut ProxyDraft, sources: &mut Sources, url: Written<&str>) {
    if let Some(proxy) = one(sources, url) {
        let group = GroupDraft::of(vec![proxy]);
        proxies.http = Some(group.clone());
        proxies.https = Some(group);
    }
}

/// The URLs of the caller's own proxies.
pub(super) struct CallersUrls {
    pub http: Option<Written<String>>,
    pub https: Option<Written<String>>,
}

/// `--upstream-proxy env`. Entries of `no_proxy` that mean nothing here mean nothing to other programs
/// either, and are left out.
pub(super) fn callers(
    proxies: &mut ProxyDraft,
    sources: &mut Sources,
    urls: &CallersUrls,
    no_proxy: Written<&str>,
) {
    let mut group = |url: &Option<Written<String>>| {
        let url = url.as_ref()?;
        let value = url.value.as_str();
        let place = url.place;
        one(sources, Written { value, place }).map(|proxy| GroupDraft::of(vec![proxy]))
    };
    proxies.http = group(&urls.http);
    proxies.https = group(&urls.https);
    let text = no_proxy.value;
    let separated = text.split(|c: char| c == ',' || c.is_ascii_whitespace());
    let known = separated.filter(|entry| text.trim() == *entry || *entry != "*");
    let known = known.filter(|entry| NoProxy::parse(entry).is_ok());
    let value = known.collect::<Vec<_>>().join(",");
    let place = no_proxy.place;
    proxies.no_proxy = Some(Written { value, place });
}

/// One URL, a list of them, or a table with `url`.
fn group(sources: &mut Sources, key: &str, node: &Node) -> Option<GroupDraft> {
    let place = node.place;
    match &node.value {
        Value::Text(value) => {
            let proxy = one(sources, Written { value, place })?;
            Some(GroupDraft::of(vec![proxy]))
        }
        Value::List(_) => {
            let urls = Section::list_of(sources, key, node)?.value;
            if urls.is_empty() || urls.len() > MAX_PROXIES {
                let message = format!("`{key}` must list 1 to {MAX_PROXIES} proxies");
                sources.error(place, message);
                return None;
            }
            let mut proxies: Vec<Written<UpstreamProxy>> = Vec::with_capacity(urls.len());
            for url in urls {
                let proxy = one(sources, url)?;
                if proxies.iter().any(|other| same(&other.value, &proxy.value)) {
                    let message = format!("`{}` is listed twice", proxy.value);
                    sources.error(url.place, message);
                    return None;
                }
                proxies.push(proxy);
            }
            Some(GroupDraft::of(proxies))
        }
        Value::Table(_) => {
            let mut table = Section::open(sources, ONE, node);
            let url = table.take("url");
            let terms = terms(sources, &mut table);
            table.finish(sources);
            let Some(url) = url else {
                sources.error(place, format!("`{key}` has no `url`"));
                return None;
            };
            if let Value::Table(_) = url.value {
                let message = "`url` must be a proxy's URL, or a list of them";
                sources.error(url.place, message);
                return None;
            }
            let group = group(sources, "url", url)?;
            Some(GroupDraft {
                terms: Some(terms),
                ..group
            })
        }
        _ => {
            let kind = node.kind();
            let message = format!("`{key}` must be a proxy's URL, or a list of them, not {kind}");
            sources.error(place, message);
            None
        }
    }
}

fn same(one: &UpstreamProxy, other: &UpstreamProxy) -> bool {
    (one.scheme(), one.host(), one.port()) == (other.scheme(), other.host(), other.port())
}

/// Reads a proxy's URL, or reports what is wrong with it. The URL itself is not shown: it may hold
/// a password.
fn one(sources: &mut Sources, url: Written<&str>) -> Option<Written<UpstreamProxy>> {
    match UpstreamProxy::parse(url.value) {
        Ok(proxy) => {
            if proxy.credentials().is_some() {
                sources.credentials.push(url.map(|_| None));
            }
            Some(url.map(|_| proxy))
        }
        Err(message) => {
            sources.error(url.place, message);
            None
        }
    }
}

fn terms(sources: &mut Sources, section: &mut Section<'_>) -> TermsDraft {
    let file = section.text(sources, "credentials_file");
    let variable = section.text(sources, "credentials_env");
    if let (Some(_), Some(variable)) = (file, variable) {
        let message = "credentials come from a file or a variable, not from both";
        let hint = "remove `credentials_file` or `credentials_env`".to_owned();
        sources.error_with(variable.place, message, hint);
    }
    if let Some(name) = variable.filter(|name| !is_variable(name.value)) {
        let message = format!(
            "`{}` is not the name of an environment variable",
            name.value
        );
        sources.error(name.place, message);
    }
    let file = file.map(|file| file.map(|path| Secret::File(path.to_owned())));
    let variable = variable.map(|name| name.map(|name| Secret::Variable(name.to_owned())));
    for secret in file.iter().chain(&variable) {
        sources.credentials.push(secret.clone().map(Some));
    }
    let ca_file = section.text(sources, "ca_file");
    let connect = section.text(sources, "connect");
    let auth = section.text(sources, "auth");
    TermsDraft {
        secret: file.or(variable),
        ca_file: ca_file.map(|file| file.map(str::to_owned)),
        by_address: connect
            .and_then(|word| choice(sources, word, &[("name", false), ("address", true)])),
        negotiates: auth.and_then(|word| negotiates(sources, word)),
    }
}

/// How a proxy learns who its user is.
fn negotiates(sources: &mut Sources, word: Written<&str>) -> Option<bool> {
    if word.value.eq_ignore_ascii_case("ntlm") {
        let message = "NTLM is not spoken: its answers can be passed on and guessed at";
        let hint =
            "write `auth = \"negotiate\"` for Kerberos, or give a user and password".to_owned();
        sources.error_with(word.place, message, hint);
        return None;
    }
    choice(sources, word, &[("basic", false), ("negotiate", true)])
}

fn is_variable(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let mut bytes = name.bytes();
    bytes.next().is_some_and(letter) && bytes.all(|b| letter(b) || b.is_ascii_digit())
}

fn choices(sources: &mut Sources, node: &Node) -> Vec<ChoiceDraft> {
    let section = Section::open(sources, CHOICES, node);
    let mut choices: Vec<ChoiceDraft> = Vec::new();
    for entry in section.rest() {
        let target = match ProxyTarget::parse(&entry.key) {
            Ok(target) => target,
            Err(why) => {
                sources.error(entry.place, why);
                continue;
            }
        };
        if choices.len() >= MAX_PROXY_CHOICES {
            let message = format!("[{CHOICES}] has more than {MAX_PROXY_CHOICES} destinations");
            sources.error(entry.place, message);
            return choices;
        }
        if choices.iter().any(|other| other.target.repeats(&target)) {
            let message = format!("`{}` is listed twice", entry.key);
            sources.error(entry.place, message);
            continue;
        }
        let group = match &entry.node.value {
            Value::Text(word) if word == DIRECT => None,
            _ => match group(sources, &entry.key, &entry.node) {
                Some(group) => Some(group),
                None => continue,
            },
        };
        choices.push(ChoiceDraft { target, group });
    }
    choices
}

/// Keeps every file that holds credentials, and gives the variables that do: also of proxies that
/// another source put others in the place of. They are as secret as those that are used.
fn secrets(sources: &mut Sources, outside: &mut Outside<'_>) -> Vec<String> {
    let mut variables = Vec::new();
    for Written { value, place } in std::mem::take(&mut sources.credentials) {
        let file = match (value, &sources.get(place.source).kind) {
            (Some(Secret::Variable(name)), _) => {
                variables.push(name);
                continue;
            }
            (Some(Secret::File(file)), _) => {
                let value = file.as_str();
                let file = beside(sources, Written { value, place });
                // One that is not there cannot be hidden; where it is used, that is an error.
                match (outside.read)(&file) {
                    Ok(_) => file,
                    Err(_) => continue,
                }
            }
            (None, SourceKind::File(path)) => path.clone(),
            (None, SourceKind::Flag(_)) => continue,
        };
        if !outside.secrets.contains(&file) {
            outside.secrets.push(file);
        }
    }
    variables
}

impl ProxyDraft {
    /// The proxies, after every source has been read.
    pub fn settle(self, sources: &mut Sources, outside: &mut Outside<'_>) -> UpstreamProxies {
        let mut settled = UpstreamProxies::default();
        settled.secret_variables = secrets(sources, outside);
        if let Some(forbidden) = self.forbidden {
            let says = sources.name(forbidden);
            let special = self.choices.iter().flatten();
            let special = special.filter_map(|choice| choice.group.as_ref());
            let groups = self.http.iter().chain(&self.https).chain(special);
            for proxy in groups.flat_map(|group| &group.proxies) {
                let message = "the policy names an upstream proxy, but also forbids them";
                let hint = format!("{says} says `allow_upstream_proxy = false`");
                sources.error_with(proxy.place, message, hint);
            }
            return settled;
        }
        if let Some(text) = &self.no_proxy {
            match NoProxy::parse(&text.value) {
                Ok(list) => settled.no_proxy = list,
                Err(message) => sources.error(text.place, message),
            }
        }
        let mut making = GroupBuilder { sources, outside };
        // Read once, although two groups may use them.
        let shared = if self.http.is_some() || self.https.is_some() {
            making.terms(&self.terms)
        } else {
            ProxyTerms::default()
        };
        settled.http = self.http.map(|group| making.group(group, Some(&shared)));
        settled.https = self.https.map(|group| making.group(group, Some(&shared)));
        let choices = self.choices.unwrap_or_default().into_iter();
        let choices = choices.map(|choice| Choice {
            target: choice.target,
            group: choice.group.map(|group| making.group(group, None)),
        });
        let choices = choices.collect();
        settled.set_choices(choices);
        settled
    }
}

/// What terms came to.
#[derive(Default)]
struct ProxyTerms {
    credentials: Option<Credentials>,
    ca_pem: Option<Arc<str>>,
    by_address: bool,
    negotiates: bool,
}

struct GroupBuilder<'m, 'r> {
    sources: &'m mut Sources,
    outside: &'m mut Outside<'r>,
}

impl GroupBuilder<'_, '_> {
    /// A group, by its own terms or by the section's.
    fn group(&mut self, group: GroupDraft, shared: Option<&ProxyTerms>) -> ProxyGroup {
        let own = group.terms.map(|terms| self.terms(&terms));
        let none = ProxyTerms::default();
        let made = own.as_ref().or(shared).unwrap_or(&none);
        let mut proxies = Vec::with_capacity(group.proxies.len());
        for proxy in group.proxies {
            let place = proxy.place;
            match proxy.value.with_credentials(made.credentials.as_ref()) {
                Ok(proxy) => {
                    let proxy = proxy.with_authorities(made.ca_pem.as_ref());
                    let proxy = match made.negotiates {
                        true => proxy.negotiating(),
                        false => Ok(proxy),
                    };
                    match proxy {
                        Ok(proxy) => proxies.push(proxy),
                        Err(message) => self.sources.error(place, message),
                    }
                }
                Err(message) => self.sources.error(place, message),
            }
        }
        ProxyGroup::new(proxies, made.by_address)
    }

    fn terms(&mut self, terms: &TermsDraft) -> ProxyTerms {
        let credentials = terms.secret.as_ref().and_then(|secret| {
            let parsed = self.secret(secret).and_then(|text| match text {
                Some(text) => Credentials::parse(&text).map(Some).map_err(str::to_owned),
                None => Ok(None),
            });
            self.reported(secret.place, parsed).flatten()
        });
        let ca_pem = terms.ca_file.as_ref().and_then(|file| {
            let (value, place) = (file.value.as_str(), file.place);
            let path = beside(self.sources, Written { value, place });
            let read = self.outside.certificates(&path, value);
            self.reported(place, read)
        });
        ProxyTerms {
            credentials,
            ca_pem,
            by_address: terms.by_address.unwrap_or(false),
            negotiates: terms.negotiates.unwrap_or(false),
        }
    }

    /// The text of credentials; nothing where variables are not looked at.
    fn secret(&mut self, secret: &Written<Secret>) -> Result<Option<String>, String> {
        match &secret.value {
            Secret::File(file) => {
                let (value, place) = (file.as_str(), secret.place);
                let path = beside(self.sources, Written { value, place });
                self.outside.text(&path).map(Some)
            }
            Secret::Variable(name) => match self.outside.environment.map(|all| all.get(name)) {
                Some(None) => Err(format!("the environment variable `{name}` is not set")),
                value => Ok(value.flatten()),
            },
        }
    }

    fn reported<T>(&mut self, place: Place, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.sources.error(place, why)).ok()
    }
}
