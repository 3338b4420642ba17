//! What a policy says besides verdicts: resolvers and upstream proxies.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use portcullis_names::{Name, NameRef, PortSet, parse_port};

use crate::HOST_NAME;
use crate::dns_settings::DnsSettings;
use crate::flow::Limits;
use crate::permit::{ConnectPermit, PermitTarget};
use crate::resolver::Resolver;

/// The port of a proxy URL without one.
const HTTP_PORT: u16 = 80;

/// The parts of a policy that are not rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Upstream resolvers in order of preference; empty means the host's own.
    pub resolvers: Vec<Resolver>,
    /// Everything else about names.
    pub dns: DnsSettings,
    /// The company's proxies.
    pub upstream: UpstreamProxies,
    /// Programs may listen on and reach the sandbox's own loopback. Always true in this release.
    pub allow_local_binding: bool,
    /// `mode = "limited"`: requests have the methods GET, HEAD and OPTIONS, and nothing but requests
    /// passes.
    pub limited: bool,
    /// What one sandbox may use.
    pub limits: Limits,
    /// Whether connections may be chained through an upstream proxy. A policy that says no and names
    /// one does not load, so `upstream` is empty then.
    pub allow_upstream_proxy: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            resolvers: Vec::new(),
            dns: DnsSettings::default(),
            upstream: UpstreamProxies::default(),
            allow_local_binding: true,
            limited: false,
            limits: Limits::default(),
            allow_upstream_proxy: true,
        }
    }
}

/// The company's proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamProxies {
    /// For plain HTTP.
    pub http: Option<ProxyUrl>,
    /// For everything that is tunnelled with CONNECT.
    pub https: Option<ProxyUrl>,
    /// What goes direct, as written: names, `.suffixes`, addresses, ranges, `*`.
    pub no_proxy: String,
    exempt: Vec<Exempt>,
}

/// One entry of `no_proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exempt {
    All,
    /// The name and everything below it.
    Name(Name, Option<u16>),
    Net(IpNet, Option<u16>),
}

impl UpstreamProxies {
    /// Sets `no_proxy`.
    ///
    /// # Errors
    /// The first entry that is neither a name, a range nor `*`.
    pub(crate) fn set_no_proxy(&mut self, text: &str) -> Result<(), String> {
        let entries = text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        self.exempt = entries.map(Exempt::parse).collect::<Result<_, _>>()?;
        self.no_proxy = text.to_owned();
        Ok(())
    }

    /// The proxy for a connection to a name, or `None` if it goes direct. `tunnelled` is true for
    /// everything but plain HTTP requests.
    pub fn for_name(&self, name: NameRef<'_>, port: u16, tunnelled: bool) -> Option<&ProxyUrl> {
        let proxy = self.of(tunnelled)?;
        let direct = self.exempt.iter().any(|exempt| match exempt {
            Exempt::All => true,
            Exempt::Name(base, only) => {
                only.is_none_or(|p| p == port)
                    && (name == base.as_ref() || name.is_below(base.as_ref()))
            }
            Exempt::Net(..) => false,
        });
        (!direct).then_some(proxy)
    }

    /// Whether a proxy looks this name up for every connection on these ports, so that nobody else
    /// need know it.
    pub fn look_up(&self, name: NameRef<'_>, ports: &PortSet) -> bool {
        // Plain HTTP has a proxy of its own, and goes direct without one.
        let all = self.https.is_some() && (self.http.is_some() || !ports.contains(HTTP_PORT));
        let own = |proxy: &Option<ProxyUrl>| {
            let host = proxy.as_ref().map(ProxyUrl::host);
            matches!(host, Some(ProxyHost::Name(own)) if own.as_ref() == name)
        };
        let direct = self.exempt.iter().any(|exempt| match exempt {
            Exempt::All => true,
            Exempt::Name(base, _) => name == base.as_ref() || name.is_below(base.as_ref()),
            Exempt::Net(..) => false,
        });
        all && !direct && !own(&self.http) && !own(&self.https) && name.as_str() != HOST_NAME
    }

    /// The proxy for a connection to an address, or `None` if it goes direct.
    pub fn for_address(&self, address: IpAddr, port: u16, tunnelled: bool) -> Option<&ProxyUrl> {
        let proxy = self.of(tunnelled)?;
        let direct = self.exempt.iter().any(|exempt| match exempt {
            Exempt::All => true,
            Exempt::Name(..) => false,
            Exempt::Net(net, only) => only.is_none_or(|p| p == port) && net.contains(&address),
        });
        (!direct).then_some(proxy)
    }

    fn of(&self, tunnelled: bool) -> Option<&ProxyUrl> {
        if tunnelled {
            self.https.as_ref()
        } else {
            self.http.as_ref()
        }
    }

    /// Whether there is no proxy at all.
    pub fn is_empty(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }
}

impl Exempt {
    fn parse(entry: &str) -> Result<Exempt, String> {
        if entry == "*" {
            return Ok(Exempt::All);
        }
        let bad =
            || format!("`{entry}` in no_proxy is neither a name, an address, a range nor `*`");
        if let Some(net) = parse_net(entry) {
            return Ok(Exempt::Net(net, None));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(parse_port(port.as_bytes()).ok_or_else(bad)?)),
            None => (entry, None),
        };
        if let Some(net) = parse_net(host) {
            return Ok(Exempt::Net(net, port));
        }
        let base = host
            .strip_prefix("*.")
            .or_else(|| host.strip_prefix('.'))
            .unwrap_or(host);
        Name::from_policy(base)
            .map(|base| Exempt::Name(base, port))
            .map_err(|_| bad())
    }
}

fn parse_net(text: &str) -> Option<IpNet> {
    let inner = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    inner
        .parse::<IpNet>()
        .ok()
        .or_else(|| inner.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Where a proxy or a resolver is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProxyHost {
    /// By name, resolved through the policy's resolvers.
    Name(Name),
    /// By address.
    Address(IpAddr),
}

/// An upstream proxy: `http://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl {
    host: ProxyHost,
    port: u16,
}

impl ProxyUrl {
    /// Reads `http://HOST[:PORT]`; port 80 where none is written.
    ///
    /// # Errors
    /// A sentence that says what is wrong. It never repeats the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<ProxyUrl, String> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err("a proxy is written as `http://HOST:PORT`".into());
        };
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(
                "proxies are reached over `http://` only; TLS to a proxy and SOCKS proxies \
                        come with a later release"
                    .into(),
            );
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err("credentials in a proxy URL come with a later release".into());
        }
        if authority.contains(['/', '?', '#', '\\']) {
            return Err("a proxy URL has no path: `http://HOST:PORT`".into());
        }
        let (host, port) = match authority.rsplit_once(':') {
            // not the last colon of `[::1]`
            Some((host, port)) if !port.ends_with(']') => {
                let port = parse_port(port.as_bytes());
                (
                    host,
                    port.ok_or("the proxy's port is not a number from 1 to 65535")?,
                )
            }
            _ => (authority, HTTP_PORT),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bare {
            Some(v6) => match v6.parse::<std::net::Ipv6Addr>() {
                Ok(address) => ProxyHost::Address(address.into()),
                Err(_) => return Err("the proxy's host is not an IPv6 address".into()),
            },
            None => match host.parse::<std::net::Ipv4Addr>() {
                Ok(address) => ProxyHost::Address(address.into()),
                Err(_) => ProxyHost::Name(
                    Name::from_policy(host).map_err(|e| format!("the proxy's host: {e}"))?,
                ),
            },
        };
        Ok(ProxyUrl { host, port })
    }

    /// The proxy's host.
    pub fn host(&self) -> &ProxyHost {
        &self.host
    }

    /// The proxy's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leave to dial the proxy. The operator chose it, so no rule is needed and the address guard does
    /// not apply.
    pub fn permit(&self) -> ConnectPermit {
        let target = match &self.host {
            ProxyHost::Name(name) => PermitTarget::Name(name.clone()),
            ProxyHost::Address(address) => PermitTarget::Address(*address),
        };
        ConnectPermit::for_operator(target, self.port)
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ProxyHost::Name(name) => write!(f, "http://{name}:{}", self.port),
            ProxyHost::Address(address) => {
                write!(f, "http://{}", SocketAddr::new(*address, self.port))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_policy(text).unwrap()
    }

    #[test]
    fn proxy_urls() {
        let url = ProxyUrl::parse("http://proxy.internal:3128").unwrap();
        assert_eq!(url.host(), &ProxyHost::Name(name("proxy.internal")));
        assert_eq!(url.port(), 3128);
        assert_eq!(url.to_string(), "http://proxy.internal:3128");
        assert_eq!(ProxyUrl::parse("http://10.0.0.1/").unwrap().port(), 80);
        let v6 = ProxyUrl::parse("http://[2001:db8::1]:3128").unwrap();
        assert_eq!(v6.to_string(), "http://[2001:db8::1]:3128");
        assert_eq!(ProxyUrl::parse("http://[2001:db8::1]").unwrap().port(), 80);
        for bad in [
            "proxy.internal:3128",
            "https://proxy.internal:3128",
            "socks5://proxy.internal",
            "http://user:secret@proxy.internal",
            "http://proxy.internal/path",
            "http://proxy.internal:0",
            "http://proxy.internal:99999",
            "http://",
            "http://:80",
            "http://evil.com\\@proxy.internal",
            "http://[::1%25eth0]:80",
        ] {
            let error = ProxyUrl::parse(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_operators_proxy_needs_no_rule_and_knows_its_lookup() {
        let permit = ProxyUrl::parse("http://proxy.internal:3128")
            .unwrap()
            .permit();
        assert!(permit.is_operators());
        assert_eq!(permit.port(), 3128);
        assert_eq!(permit.lookup().unwrap().name().as_str(), "proxy.internal");
        let permit = ProxyUrl::parse("http://10.0.0.1:3128").unwrap().permit();
        assert_eq!(
            permit.target(),
            &PermitTarget::Address("10.0.0.1".parse().unwrap())
        );
        assert!(permit.lookup().is_none());
    }

    #[test]
    fn no_proxy_entries_match_names_suffixes_and_ranges() {
        let mut proxies = UpstreamProxies {
            https: Some(ProxyUrl::parse("http://proxy.internal:3128").unwrap()),
            ..UpstreamProxies::default()
        };
        proxies
            .set_no_proxy(
                "localhost, 127.0.0.1,.corp.example,*.lab.example,10.0.0.0/8,db.example:5432,",
            )
            .unwrap();
        let direct = |n: &str, port| proxies.for_name(name(n).as_ref(), port, true).is_none();
        assert!(direct("localhost", 443));
        assert!(
            direct("corp.example", 443),
            "curl and Go: the dot is optional"
        );
        assert!(direct("a.corp.example", 443));
        assert!(direct("x.lab.example", 443));
        assert!(!direct("notcorp.example", 443));
        assert!(direct("db.example", 5432));
        assert!(!direct("db.example", 443));
        assert!(
            proxies
                .for_address("10.1.2.3".parse().unwrap(), 443, true)
                .is_none()
        );
        assert!(
            proxies
                .for_address("11.1.2.3".parse().unwrap(), 443, true)
                .is_some()
        );
        assert!(
            proxies
                .for_name(name("a.example").as_ref(), 80, false)
                .is_none(),
            "no http proxy"
        );
        assert!(
            !proxies.look_up(name("a.example").as_ref(), &PortSet::WEB),
            "plain HTTP goes direct, so the name is looked up here"
        );
        let looks_up = |n: &str| proxies.look_up(name(n).as_ref(), &PortSet::HTTPS);
        assert!(looks_up("a.example"));
        assert!(!looks_up("a.corp.example") && !looks_up("proxy.internal"));
        assert!(!looks_up("db.example"), "direct on one port");
        assert!(!looks_up(HOST_NAME));
        proxies.set_no_proxy("*").unwrap();
        assert!(
            proxies
                .for_name(name("a.example").as_ref(), 443, true)
                .is_none()
        );
        assert!(proxies.set_no_proxy("a b").unwrap_err().contains("`a b`"));
        assert!(proxies.set_no_proxy("x.example:0").is_err());
    }
}
