//! The upstream proxies: which one a connection goes through, if any.
//!
//! What is said for a destination (`for`) counts before `no_proxy`, and that before `http` and
//! `https`. The choice is made by the destination as it was decided on, a name or an address, and
//! never by looking the name up: a name has no addresses here.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_names::{NameRef, Pattern, PortSet, parse_port};

use super::endpoint::ProxyHost;
use super::no_proxy::{NoProxy, net};
use super::url::UpstreamProxy;
use crate::host_name::HOST_NAME;

/// Most proxies that take over from each other.
pub const MAX_PROXIES: usize = 8;
/// Most destinations that have a proxy of their own.
pub const MAX_PROXY_CHOICES: usize = 1024;
/// The port of plain HTTP, which has a proxy of its own.
const HTTP_PORT: u16 = 80;

/// Proxies that do the same, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyGroup {
    proxies: Vec<UpstreamProxy>,
    by_address: bool,
}

impl ProxyGroup {
    pub(crate) fn new(proxies: Vec<UpstreamProxy>, by_address: bool) -> ProxyGroup {
        ProxyGroup {
            proxies,
            by_address,
        }
    }

    /// The proxies, at least one, the preferred one first.
    pub fn proxies(&self) -> &[UpstreamProxy] {
        &self.proxies
    }

    /// Whether names are looked up here, and a proxy is asked for an address that the guard passed.
    /// Otherwise it is asked for the name, and looks it up itself.
    pub fn by_address(&self) -> bool {
        self.by_address
    }

    fn has_name(&self, name: NameRef<'_>) -> bool {
        let is = |host: &ProxyHost| matches!(host, ProxyHost::Name(own) if own.as_ref() == name);
        self.proxies.iter().any(|proxy| is(proxy.host()))
    }
}

/// What a choice is made by.
#[derive(Clone, Copy)]
enum HostRef<'n> {
    Name(NameRef<'n>),
    Address(IpAddr),
}

/// Which destinations a line of `for` is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Destinations {
    Names(Pattern),
    Net(IpNet),
}

/// The key of a line of `for`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyTarget {
    destinations: Destinations,
    /// Every port where none is written.
    ports: PortSet,
}

impl ProxyTarget {
    /// Reads `NAME`, `*.NAME`, `**.NAME`, an address or a range; with `:PORT`, or for every port.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<ProxyTarget, String> {
        let (host, ports) = match (net(text), text.rsplit_once(':')) {
            (Some(_), _) | (None, None) => (text, PortSet::ANY),
            (None, Some((host, "*"))) => (host, PortSet::ANY),
            (None, Some((host, port))) => match parse_port(port.as_bytes()) {
                Some(port) => (host, PortSet::single(port)),
                None => return Err(format!("`{port}` is not a port from 1 to 65535")),
            },
        };
        let destinations = match net(host) {
            Some(net) => Destinations::Net(net),
            None => {
                let pattern = Pattern::from_policy(host);
                Destinations::Names(pattern.map_err(|why| format!("`{host}`: {why}"))?)
            }
        };
        Ok(ProxyTarget {
            destinations,
            ports,
        })
    }

    /// Whether another line is about the same, so that neither is the more specific one.
    pub(crate) fn repeats(&self, other: &ProxyTarget) -> bool {
        self.destinations == other.destinations
            && self.ports.overlaps(&other.ports)
            && self.ports.len() == other.ports.len()
    }

    fn is_about(&self, host: HostRef<'_>) -> bool {
        match (&self.destinations, host) {
            (Destinations::Names(pattern), HostRef::Name(name)) => pattern.matches(name),
            (Destinations::Net(net), HostRef::Address(address)) => net.contains(&address),
            _ => false,
        }
    }

    /// Orders the lines that are about one destination, the most specific one first.
    fn before(&self, other: &ProxyTarget) -> std::cmp::Ordering {
        let breadth = match (&self.destinations, &other.destinations) {
            (Destinations::Names(one), Destinations::Names(two)) => {
                two.specificity().cmp(&one.specificity())
            }
            (Destinations::Net(one), Destinations::Net(two)) => {
                two.prefix_len().cmp(&one.prefix_len())
            }
            (Destinations::Names(_), Destinations::Net(_)) => std::cmp::Ordering::Less,
            (Destinations::Net(_), Destinations::Names(_)) => std::cmp::Ordering::Greater,
        };
        breadth.then(self.ports.len().cmp(&other.ports.len()))
    }
}

/// A line of `for`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) target: ProxyTarget,
    /// None is direct.
    pub(crate) group: Option<ProxyGroup>,
}

/// The upstream proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamProxies {
    /// For plain HTTP.
    pub http: Option<ProxyGroup>,
    /// For everything else.
    pub https: Option<ProxyGroup>,
    /// What goes direct instead.
    pub no_proxy: NoProxy,
    /// Variables that hold credentials: nothing in the sandbox may see them.
    pub secret_variables: Vec<String>,
    choices: Vec<Choice>,
}

impl UpstreamProxies {
    /// Sets the choices for destinations, in whatever order.
    pub(crate) fn set_choices(&mut self, mut choices: Vec<Choice>) {
        choices.sort_by(|one, other| one.target.before(&other.target));
        self.choices = choices;
    }

    /// Whether any connection leaves through an upstream proxy.
    pub fn any(&self) -> bool {
        self.http.is_some() || self.https.is_some() || !self.choices.is_empty()
    }

    /// The proxies for a connection to a name, or `None` if it goes direct. `tunnelled` is true for
    /// everything but plain HTTP requests.
    pub fn for_name(&self, name: NameRef<'_>, port: u16, tunnelled: bool) -> Option<&ProxyGroup> {
        self.chosen(HostRef::Name(name), port, tunnelled)
    }

    /// The same for a connection to an address.
    pub fn for_address(&self, address: IpAddr, port: u16, tunnelled: bool) -> Option<&ProxyGroup> {
        self.chosen(HostRef::Address(address.to_canonical()), port, tunnelled)
    }

    fn chosen(&self, host: HostRef<'_>, port: u16, tunnelled: bool) -> Option<&ProxyGroup> {
        let mut about = self.about(host);
        if let Some(choice) = about.find(|choice| choice.target.ports.contains(port)) {
            return choice.group.as_ref();
        }
        let group = if tunnelled {
            self.https.as_ref()
        } else {
            self.http.as_ref()
        };
        let direct = match host {
            HostRef::Name(name) => self.no_proxy.has_name(name, port),
            HostRef::Address(address) => self.no_proxy.has_address(address, port),
        };
        group.filter(|_| !direct)
    }

    /// Whether a proxy looks this name up for every connection on these ports, so that nobody else
    /// need know it.
    pub fn look_up(&self, name: NameRef<'_>, ports: &PortSet) -> bool {
        let groups = self.groups();
        if name.as_str() == HOST_NAME || groups.into_iter().any(|group| group.has_name(name)) {
            return false;
        }
        let by_name = |group: Option<&ProxyGroup>| group.is_some_and(|group| !group.by_address);
        let host = HostRef::Name(name);
        let mut rest = ports.clone();
        for choice in self.about(host) {
            if rest.overlaps(&choice.target.ports) {
                if !by_name(choice.group.as_ref()) {
                    return false;
                }
                rest = rest.difference(&choice.target.ports);
            }
        }
        if rest.is_empty() {
            return !ports.is_empty();
        }
        // Plain HTTP has a proxy of its own, and goes direct without one.
        by_name(self.https.as_ref())
            && (by_name(self.http.as_ref()) || !rest.contains(HTTP_PORT))
            && !self.no_proxy.mentions(name, &rest)
    }

    /// The lines about a destination, the most specific one first.
    fn about(&self, host: HostRef<'_>) -> impl Iterator<Item = &Choice> {
        let choices = self.choices.iter();
        choices.filter(move |choice| choice.target.is_about(host))
    }

    /// Every group there is.
    fn groups(&self) -> Vec<&ProxyGroup> {
        let special = self
            .choices
            .iter()
            .filter_map(|choice| choice.group.as_ref());
        self.http.iter().chain(&self.https).chain(special).collect()
    }

    /// Whether there is no proxy at all.
    pub fn is_empty(&self) -> bool {
        self.groups().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_names::Name;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_policy(text).unwrap()
    }

    fn group(url: &str, by_address: bool) -> ProxyGroup {
        ProxyGroup::new(vec![UpstreamProxy::parse(url).unwrap()], by_address)
    }

    fn choice(target: &str, group: Option<ProxyGroup>) -> Choice {
        let target = ProxyTarget::parse(target).unwrap();
        Choice { target, group }
    }

    fn proxies() -> UpstreamProxies {
        let mut proxies = UpstreamProxies {
            http: Some(group("http://web.internal:3128", false)),
            https: Some(group("http://web.internal:3128", false)),
            no_proxy: NoProxy::parse("direct.example,10.0.0.0/8,db.example:5432").unwrap(),
            ..UpstreamProxies::default()
        };
        proxies.set_choices(vec![
            choice("**.lab.example", Some(group("http://lab:1", false))),
            choice("*.lab.example:22", Some(group("socks5://ssh:2", false))),
            choice("a.lab.example", None),
            choice("x.direct.example", Some(group("http://x:3", false))),
            choice("resolved.example", Some(group("http://y:4", true))),
            choice("10.1.0.0/16", Some(group("socks5://ten:5", false))),
        ]);
        proxies
    }

    #[test]
    fn the_most_specific_choice_counts_before_no_proxy_and_the_defaults() {
        let proxies = proxies();
        let chosen = |n: &str, port| {
            let group = proxies.for_name(name(n).as_ref(), port, true);
            group.map_or("direct".to_owned(), |group| group.proxies()[0].to_string())
        };
        for (target, port, wanted) in [
            ("lab.example", 443, "http://lab:1"),
            ("b.lab.example", 443, "http://lab:1"),
            ("b.lab.example", 22, "socks5://ssh:2"),
            ("lab.example", 22, "http://lab:1"),
            ("a.lab.example", 22, "direct"),
            ("direct.example", 443, "direct"),
            ("x.direct.example", 443, "http://x:3"),
            ("y.direct.example", 443, "direct"),
            ("else.example", 443, "http://web.internal:3128"),
        ] {
            assert_eq!(chosen(target, port), wanted, "{target}:{port}");
        }
        let address = |a: &str| proxies.for_address(a.parse().unwrap(), 443, true);
        assert_eq!(address("10.1.2.3").unwrap().proxies()[0].port(), 5);
        assert!(address("10.2.2.3").is_none(), "no_proxy");
        assert!(
            address("::ffff:10.2.2.3").is_none(),
            "the same in IPv6's clothes"
        );
        assert_eq!(address("192.0.2.1").unwrap().proxies()[0].port(), 3128);
    }

    #[test]
    fn a_name_is_looked_up_by_a_proxy_only_if_every_connection_goes_through_one_by_name() {
        let proxies = proxies();
        let looks_up = |n: &str, ports: &PortSet| proxies.look_up(name(n).as_ref(), ports);
        for (target, yes) in [
            ("else.example", true),
            ("b.lab.example", true),
            ("a.lab.example", false),
            ("x.direct.example", true),
            ("direct.example", false),
            ("resolved.example", false),
            ("web.internal", false),
            ("ssh", false),
            (HOST_NAME, false),
        ] {
            assert_eq!(looks_up(target, &PortSet::ANY), yes, "{target}");
        }
        assert!(looks_up("db.example", &PortSet::HTTPS));
        assert!(!looks_up("db.example", &PortSet::ANY), "direct on one port");
        let only_https = UpstreamProxies {
            http: None,
            ..proxies.clone()
        };
        let of_web = |ports| only_https.look_up(name("else.example").as_ref(), ports);
        assert!(of_web(&PortSet::HTTPS));
        assert!(
            !of_web(&PortSet::WEB),
            "plain HTTP goes direct, so the name is looked up here"
        );
        assert!(
            only_https
                .for_name(name("else.example").as_ref(), 80, false)
                .is_none()
        );
    }
}
