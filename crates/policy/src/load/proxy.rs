//! `[network.proxy]`: the upstream proxies, and what they want to know about their user.
//!
//! Files of credentials and authorities are read when every other file has been, and what they say is
//! never repeated in an error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_names::{Pattern, PortSet, parse_port};

use super::document::{Node, Value};
use super::section::Section;
use super::source::{Place, Secret, SourceId, SourceKind, Sources};
use crate::input::Environment;
use crate::proxies::{
    Choice, Credentials, Destinations, MAX_PROXIES, MAX_PROXY_CHOICES, NoProxy, ProxyGroup,
    UpstreamProxies, UpstreamProxy,
};

const SECTION: &str = "network.proxy";
const CHOICES: &str = "network.proxy.for";
/// A proxy that is written as a table.
const ONE: &str = "a proxy";
/// The word of a destination that goes direct.
const DIRECT: &str = "direct";
/// Longest file of credentials or authorities, in bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// What was written so far; a later file's value of a key replaces an earlier one's.
#[derive(Default)]
pub(super) struct ProxyDraft {
    http: Option<GroupDraft>,
    https: Option<GroupDraft>,
    no_proxy: Option<(String, Place)>,
    choices: Option<Vec<ChoiceDraft>>,
    /// For `http` and `https`.
    terms: TermsDraft,
    /// Another place says `allow_upstream_proxy = false`.
    pub forbidden: Option<Place>,
}

#[derive(Clone)]
struct GroupDraft {
    proxies: Vec<(UpstreamProxy, Place)>,
    /// Of a proxy that is written as a table.
    terms: Option<TermsDraft>,
}

struct ChoiceDraft {
    destinations: Destinations,
    ports: PortSet,
    way: Option<GroupDraft>,
}

/// What is said about a proxy beside its URL.
#[derive(Clone, Default)]
struct TermsDraft {
    secret: Option<(Secret, Place)>,
    ca_file: Option<(String, Place)>,
    by_address: Option<bool>,
}

/// What proxies are made from beside the policy's own text.
pub(super) struct Outside<'r> {
    pub read: &'r mut dyn FnMut(&Path) -> io::Result<String>,
    /// Without it, variables are not looked at.
    pub environment: Option<&'r Environment>,
    /// Files that were read.
    pub files: Vec<PathBuf>,
    /// Those among all files that hold credentials.
    pub secrets: Vec<PathBuf>,
}

/// Reads the section.
pub(super) fn read(proxies: &mut ProxyDraft, sources: &mut Sources, source: SourceId, node: &Node) {
    let mut section = Section::open(sources, source, SECTION, node);
    if let Some((_, node)) = section.take("http") {
        proxies.http = group(sources, source, ("http", node)).or(proxies.http.take());
    }
    if let Some((_, node)) = section.take("https") {
        proxies.https = group(sources, source, ("https", node)).or(proxies.https.take());
    }
    if let Some((text, place)) = section.text(sources, "no_proxy") {
        proxies.no_proxy = Some((text.to_owned(), place));
    }
    let terms = terms(sources, &mut section);
    proxies.terms = TermsDraft {
        secret: terms.secret.or(proxies.terms.secret.take()),
        ca_file: terms.ca_file.or(proxies.terms.ca_file.take()),
        by_address: terms.by_address.or(proxies.terms.by_address),
    };
    if let Some((_, node)) = section.take("for") {
        proxies.choices = Some(choices(sources, source, node));
    }
    section.finish(sources);
}

/// `--upstream-proxy URL`.
pub(super) fn flag(proxies: &mut ProxyDraft, sources: &mut Sources, place: Place, url: &str) {
    if let Some(proxy) = one(sources, &place, url) {
        let group = GroupDraft {
            proxies: vec![(proxy, place)],
            terms: None,
        };
        proxies.http = Some(group.clone());
        proxies.https = Some(group);
    }
}

/// One URL, a list of them, or a table with `url`.
fn group(
    sources: &mut Sources,
    source: SourceId,
    (key, node): (&str, &Node),
) -> Option<GroupDraft> {
    let place = |node: &Node| Place {
        source,
        span: node.span.clone(),
    };
    match &node.value {
        Value::Text(url) => {
            let place = place(node);
            let proxy = one(sources, &place, url)?;
            Some(GroupDraft {
                proxies: vec![(proxy, place)],
                terms: None,
            })
        }
        Value::List(_) => {
            let (at, urls) = Section::list_of(sources, source, key, node)?;
            if urls.is_empty() || urls.len() > MAX_PROXIES {
                let message = format!("`{key}` is a list of 1 to {MAX_PROXIES} proxies");
                sources.error(&at, message);
                return None;
            }
            let mut proxies = Vec::with_capacity(urls.len());
            for (url, place) in urls {
                let proxy = one(sources, &place, url)?;
                if proxies.iter().any(|(other, _)| same(other, &proxy)) {
                    sources.error(&place, format!("`{proxy}` is in the list twice"));
                    return None;
                }
                proxies.push((proxy, place));
            }
            Some(GroupDraft {
                proxies,
                terms: None,
            })
        }
        Value::Table(_) => {
            let mut table = Section::open(sources, source, ONE, node);
            let url = table.take("url");
            let terms = terms(sources, &mut table);
            table.finish(sources);
            let Some((_, url)) = url else {
                sources.error(&place(node), format!("`{key}` has no `url`"));
                return None;
            };
            if let Value::Table(_) = url.value {
                sources.error(
                    &place(url),
                    "`url` must be a proxy's URL, or a list of them",
                );
                return None;
            }
            let group = group(sources, source, ("url", url))?;
            Some(GroupDraft {
                terms: Some(terms),
                ..group
            })
        }
        _ => {
            let kind = node.kind();
            let message =
                format!("`{key}` must be a proxy's URL, or a list of them, and is {kind}");
            sources.error(&place(node), message);
            None
        }
    }
}

fn same(one: &UpstreamProxy, other: &UpstreamProxy) -> bool {
    (one.scheme(), one.host(), one.port()) == (other.scheme(), other.host(), other.port())
}

/// Reads a proxy's URL, or reports what is wrong with it. The URL itself is not shown: it may hold
/// a password.
fn one(sources: &mut Sources, place: &Place, url: &str) -> Option<UpstreamProxy> {
    let parsed = UpstreamProxy::parse(url);
    if parsed
        .as_ref()
        .is_ok_and(|proxy| proxy.credentials().is_some())
    {
        sources.credentials.push((None, place.clone()));
    }
    parsed.map_err(|message| sources.error(place, message)).ok()
}

fn terms(sources: &mut Sources, section: &mut Section<'_>) -> TermsDraft {
    let file = section.text(sources, "credentials_file");
    let variable = section.text(sources, "credentials_env");
    if let (Some(_), Some((_, place))) = (&file, &variable) {
        let message = "credentials are in a file or in a variable, not in both";
        sources.error(place, message);
    }
    if let Some((name, place)) = &variable
        && !is_variable(name)
    {
        let message = format!("`{name}` is not the name of an environment variable");
        sources.error(place, message);
    }
    let file = file.map(|(path, place)| (Secret::File(path.to_owned()), place));
    let variable = variable.map(|(name, place)| (Secret::Variable(name.to_owned()), place));
    for (secret, place) in file.iter().chain(&variable) {
        let named = (Some(secret.clone()), place.clone());
        sources.credentials.push(named);
    }
    let ca_file = section.text(sources, "ca_file");
    let mut by_address = None;
    if let Some((word, place)) = section.text(sources, "connect") {
        match word {
            "name" => by_address = Some(false),
            "address" => by_address = Some(true),
            _ => {
                let message = format!("`{word}` is not known here");
                sources.error_with(&place, message, "write `name` or `address`".to_owned());
            }
        }
    }
    TermsDraft {
        secret: file.or(variable),
        ca_file: ca_file.map(|(path, place)| (path.to_owned(), place)),
        by_address,
    }
}

fn is_variable(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let mut bytes = name.bytes();
    bytes.next().is_some_and(letter) && bytes.all(|b| letter(b) || b.is_ascii_digit())
}

fn choices(sources: &mut Sources, source: SourceId, node: &Node) -> Vec<ChoiceDraft> {
    let section = Section::open(sources, source, CHOICES, node);
    let mut choices: Vec<ChoiceDraft> = Vec::new();
    for (key, node) in section.rest() {
        let place = Place {
            source,
            span: key.span.clone(),
        };
        let (destinations, ports) = match target(&key.text) {
            Ok(target) => target,
            Err(why) => {
                sources.error(&place, why);
                continue;
            }
        };
        if choices.len() >= MAX_PROXY_CHOICES {
            let message = format!("[{CHOICES}] has more than {MAX_PROXY_CHOICES} destinations");
            sources.error(&place, message);
            return choices;
        }
        let twice = |other: &ChoiceDraft| {
            other.destinations == destinations
                && other.ports.overlaps(&ports)
                && other.ports.len() == ports.len()
        };
        if choices.iter().any(twice) {
            sources.error(&place, format!("`{}` is here twice", key.text));
            continue;
        }
        let way = match &node.value {
            Value::Text(word) if word == DIRECT => None,
            _ => match group(sources, source, (&key.text, node)) {
                Some(group) => Some(group),
                None => continue,
            },
        };
        choices.push(ChoiceDraft {
            destinations,
            ports,
            way,
        });
    }
    choices
}

/// `NAME`, `*.NAME`, `**.NAME`, an address or a range; with `:PORT`, or for every port.
fn target(text: &str) -> Result<(Destinations, PortSet), String> {
    if let Some(net) = net(text) {
        return Ok((Destinations::Net(net), PortSet::ANY));
    }
    let (host, ports) = match text.rsplit_once(':') {
        Some((host, "*")) => (host, PortSet::ANY),
        Some((host, port)) => match parse_port(port.as_bytes()) {
            Some(port) => (host, PortSet::single(port)),
            None => return Err(format!("`{port}` is not a port from 1 to 65535")),
        },
        None => (text, PortSet::ANY),
    };
    if let Some(net) = net(host) {
        return Ok((Destinations::Net(net), ports));
    }
    let pattern = Pattern::from_policy(host).map_err(|why| format!("`{host}`: {why}"))?;
    Ok((Destinations::Names(pattern), ports))
}

fn net(text: &str) -> Option<IpNet> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let text = bare.unwrap_or(text);
    let net: IpNet = text
        .parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .ok()?;
    Some(net.trunc())
}

/// Where a file is that a source names: a policy file means its own folder.
fn beside(sources: &Sources, place: &Place, file: &str) -> PathBuf {
    let folder = match &sources.get(place.source).kind {
        SourceKind::File(path) => path.parent().unwrap_or(Path::new("")),
        SourceKind::Flag(_) => Path::new(""),
    };
    folder.join(file)
}

/// Notes every file that holds credentials, and gives the variables that do: also of proxies that
/// another source put others in the place of. They are as secret as those that are used.
fn secrets(sources: &mut Sources, outside: &mut Outside<'_>) -> Vec<String> {
    let mut variables = Vec::new();
    for (secret, place) in std::mem::take(&mut sources.credentials) {
        let file = match (secret, &sources.get(place.source).kind) {
            (Some(Secret::Variable(name)), _) => {
                variables.push(name);
                continue;
            }
            (Some(Secret::File(file)), _) => {
                let file = beside(sources, &place, &file);
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
        if let Some(forbidden) = &self.forbidden {
            let says = sources.name(forbidden);
            let special = self.choices.iter().flatten();
            let special = special.filter_map(|choice| choice.way.as_ref());
            let groups = self.http.iter().chain(&self.https).chain(special);
            for (_, place) in groups.flat_map(|group| &group.proxies) {
                let message = "an upstream proxy is named here, and another place forbids chaining";
                let hint = format!("{says} says `allow_upstream_proxy = false`");
                sources.error_with(place, message, hint);
            }
            return settled;
        }
        if let Some((text, place)) = &self.no_proxy {
            match NoProxy::parse(text) {
                Ok(list) => settled.no_proxy = list,
                Err(message) => sources.error(place, message),
            }
        }
        let mut making = Making { sources, outside };
        // Read once, although two groups may use them.
        let shared = if self.http.is_some() || self.https.is_some() {
            making.terms(&self.terms)
        } else {
            Made::default()
        };
        settled.http = self.http.map(|group| making.group(group, Some(&shared)));
        settled.https = self.https.map(|group| making.group(group, Some(&shared)));
        let choices = self.choices.unwrap_or_default().into_iter();
        let choices = choices.map(|choice| Choice {
            destinations: choice.destinations,
            ports: choice.ports,
            way: choice.way.map(|group| making.group(group, None)),
        });
        let choices = choices.collect();
        settled.set_choices(choices);
        settled
    }
}

/// What terms came to.
#[derive(Default)]
struct Made {
    credentials: Option<Credentials>,
    ca_pem: Option<Arc<str>>,
    by_address: bool,
}

struct Making<'m, 'r> {
    sources: &'m mut Sources,
    outside: &'m mut Outside<'r>,
}

impl Making<'_, '_> {
    /// A group, by its own terms or by the section's.
    fn group(&mut self, group: GroupDraft, shared: Option<&Made>) -> ProxyGroup {
        let own = group.terms.map(|terms| self.terms(&terms));
        let none = Made::default();
        let made = own.as_ref().or(shared).unwrap_or(&none);
        let mut proxies = Vec::with_capacity(group.proxies.len());
        for (proxy, place) in group.proxies {
            match proxy.with_credentials(made.credentials.as_ref()) {
                Ok(proxy) => proxies.push(proxy.with_authorities(made.ca_pem.as_ref())),
                Err(message) => self.sources.error(&place, message),
            }
        }
        ProxyGroup::new(proxies, made.by_address)
    }

    fn terms(&mut self, terms: &TermsDraft) -> Made {
        let credentials = terms.secret.as_ref().and_then(|(secret, place)| {
            let text = match secret {
                Secret::File(file) => {
                    let (_, text) = self.file(file, place)?;
                    text
                }
                Secret::Variable(name) => self.variable(name, place)?,
            };
            let parsed = Credentials::parse(&text);
            parsed.map_err(|why| self.sources.error(place, why)).ok()
        });
        let ca_pem = terms.ca_file.as_ref().and_then(|(file, place)| {
            let (_, text) = self.file(file, place)?;
            if !text.contains("-----BEGIN CERTIFICATE-----") {
                let message = format!("`{file}` holds no certificate in PEM form");
                self.sources.error(place, message);
                return None;
            }
            Some(Arc::from(text))
        });
        Made {
            credentials,
            ca_pem,
            by_address: terms.by_address.unwrap_or(false),
        }
    }

    /// A file's path, relative to the policy file that names it, and its text.
    fn file(&mut self, file: &str, place: &Place) -> Option<(PathBuf, String)> {
        let path = beside(self.sources, place, file);
        let shown = path.display();
        let why = match (self.outside.read)(&path) {
            Ok(text) if text.len() <= MAX_FILE_BYTES => {
                self.outside.files.push(path.clone());
                return Some((path, text));
            }
            Ok(_) => format!("`{shown}` is larger than {MAX_FILE_BYTES} bytes"),
            Err(error) => format!("cannot read `{shown}`: {error}"),
        };
        self.sources.error(place, why);
        None
    }

    fn variable(&mut self, name: &str, place: &Place) -> Option<String> {
        let value = self.outside.environment?.get(name);
        if value.is_none() {
            let message = format!("the environment variable `{name}` is not set");
            self.sources.error(place, message);
        }
        value
    }
}
