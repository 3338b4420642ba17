//! One proxy, as its URL says.

use std::fmt;
use std::sync::Arc;

use super::credentials::Credentials;
use super::endpoint::{Endpoint, ProxyHost};
use crate::permit::{ConnectPermit, PermitTarget};

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyScheme {
    /// HTTP: CONNECT, and absolute form for plain requests.
    Http,
    /// The same inside TLS.
    Https,
    /// SOCKS version 5 (RFC 1928), written `socks5://` or `socks5h://`.
    Socks5,
}

impl ProxyScheme {
    const fn as_str(self) -> &'static str {
        match self {
            ProxyScheme::Http => "http",
            ProxyScheme::Https => "https",
            ProxyScheme::Socks5 => "socks5",
        }
    }

    /// The port of a URL without one.
    const fn port(self) -> u16 {
        match self {
            ProxyScheme::Http => 80,
            ProxyScheme::Https => 443,
            ProxyScheme::Socks5 => 1080,
        }
    }
}

/// An upstream proxy. Written out it is its URL without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamProxy {
    scheme: ProxyScheme,
    endpoint: Endpoint,
    credentials: Option<Credentials>,
    /// With the caller's Kerberos ticket, in place of credentials.
    negotiates: bool,
    ca_pem: Option<Arc<str>>,
}

impl UpstreamProxy {
    /// Reads `SCHEME://[USER:PASSWORD@]HOST[:PORT]`, with `http`, `https`, `socks5` or `socks5h`. A
    /// user name or password is percent-encoded where it holds one of `/?#\@:%`.
    ///
    /// # Errors
    /// A sentence that says what is wrong. It never repeats the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<UpstreamProxy, String> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err("write a proxy as `http://HOST:PORT`".to_owned());
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => ProxyScheme::Http,
            "https" => ProxyScheme::Https,
            "socks5" | "socks5h" => ProxyScheme::Socks5,
            _ => {
                let begin = "`http://`, `https://`, `socks5://` or `socks5h://`";
                return Err(format!("a proxy's URL must begin with {begin}"));
            }
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '\\']) {
            let write = "write `http://HOST:PORT`, and `%2F` for a `/` in a password";
            return Err(format!("a proxy's URL cannot have a path; {write}"));
        }
        let (userinfo, authority) = match authority.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, authority),
        };
        let credentials = userinfo
            .map(|text| read_userinfo(text, scheme))
            .transpose()?;
        Ok(UpstreamProxy {
            scheme,
            endpoint: Endpoint::parse(authority, scheme.port(), "proxy")?,
            credentials,
            negotiates: false,
            ca_pem: None,
        })
    }

    /// The same with these credentials, where the URL has none of its own.
    ///
    /// # Errors
    /// They are too long for this kind of proxy.
    pub(crate) fn with_credentials(
        mut self,
        credentials: Option<&Credentials>,
    ) -> Result<UpstreamProxy, String> {
        if self.credentials.is_none()
            && let Some(credentials) = credentials
        {
            check_length(credentials, self.scheme)?;
            self.credentials = Some(credentials.clone());
        }
        Ok(self)
    }

    /// The same, spoken to with the caller's Kerberos ticket (`Negotiate`, RFC 4559).
    ///
    /// # Errors
    /// It is no HTTP proxy, has no name that a ticket could be for, or has credentials.
    pub(crate) fn negotiating(mut self) -> Result<UpstreamProxy, String> {
        let why = match (&self.endpoint.host, self.scheme) {
            (_, ProxyScheme::Socks5) => "is for proxies of HTTP, and this one is of SOCKS",
            (ProxyHost::Address(_), _) => {
                "needs the proxy's name: Kerberos has no tickets for addresses"
            }
            _ if self.credentials.is_some() => "and a user and password exclude each other",
            _ => {
                self.negotiates = true;
                return Ok(self);
            }
        };
        Err(format!("`auth = \"negotiate\"` {why}"))
    }

    /// Whether it is told the caller's Kerberos ticket.
    pub fn negotiates(&self) -> bool {
        self.negotiates
    }

    /// The same with these authorities beside the host's, for a proxy that is spoken to in TLS.
    pub(crate) fn with_authorities(mut self, ca_pem: Option<&Arc<str>>) -> UpstreamProxy {
        self.ca_pem = ca_pem
            .filter(|_| self.scheme == ProxyScheme::Https)
            .cloned();
        self
    }

    /// How it is spoken to.
    pub fn scheme(&self) -> ProxyScheme {
        self.scheme
    }

    /// The proxy's host.
    pub fn host(&self) -> &ProxyHost {
        &self.endpoint.host
    }

    /// The proxy's port.
    pub fn port(&self) -> u16 {
        self.endpoint.port
    }

    /// What it is told about its user.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Authorities (PEM) whose certificates it may show, beside those that the host trusts.
    pub fn ca_pem(&self) -> Option<&Arc<str>> {
        self.ca_pem.as_ref()
    }

    /// Permission to dial the proxy. The operator chose it, so no rule is needed and the address guard does
    /// not apply.
    pub fn permit(&self) -> ConnectPermit {
        let target = match &self.endpoint.host {
            ProxyHost::Name(name) => PermitTarget::Name(name.clone()),
            ProxyHost::Address(address) => PermitTarget::Address(*address),
        };
        ConnectPermit::for_operator(target, self.endpoint.port)
    }
}

fn read_userinfo(text: &str, scheme: ProxyScheme) -> Result<Credentials, String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let credentials = Credentials::new(&decode(user)?, &decode(password)?)?;
    check_length(&credentials, scheme)?;
    Ok(credentials)
}

/// SOCKS5 has one byte for each length (RFC 1929).
fn check_length(credentials: &Credentials, scheme: ProxyScheme) -> Result<(), String> {
    let longest = credentials.user().len().max(credentials.password().len());
    if scheme == ProxyScheme::Socks5 && longest > usize::from(u8::MAX) {
        return Err("the user name or password is longer than 255 bytes, SOCKS's limit".to_owned());
    }
    if scheme == ProxyScheme::Socks5 && credentials.password().is_empty() {
        return Err("the password is empty, which SOCKS does not allow".to_owned());
    }
    Ok(())
}

/// Undoes percent-encoding (RFC 3986 section 2.1).
fn decode(text: &str) -> Result<String, String> {
    let wrong = || "in the proxy's URL a `%` needs two hex digits; write `%25` for `%`".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(wrong)?;
        let value = |digit: u8| char::from(digit).to_digit(16).ok_or_else(wrong);
        let decoded = value(digits[0])? * 16 + value(digits[1])?;
        bytes.push(u8::try_from(decoded).map_err(|_| wrong())?);
        rest = after;
    }
    String::from_utf8(bytes)
        .map_err(|_| "the credentials in the proxy's URL are not UTF-8".to_owned())
}

impl fmt::Display for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_names::Name;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_policy(text).unwrap()
    }

    #[test]
    fn proxy_urls() {
        let url = UpstreamProxy::parse("http://proxy.internal:3128").unwrap();
        assert_eq!(url.host(), &ProxyHost::Name(name("proxy.internal")));
        assert_eq!((url.scheme(), url.port()), (ProxyScheme::Http, 3128));
        for (text, shown) in [
            ("http://proxy.internal:3128", "http://proxy.internal:3128"),
            ("http://10.0.0.1/", "http://10.0.0.1:80"),
            ("HTTPS://proxy.internal", "https://proxy.internal:443"),
            ("socks5://10.0.0.1", "socks5://10.0.0.1:1080"),
            (
                "socks5h://proxy.internal:9050",
                "socks5://proxy.internal:9050",
            ),
            ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
            ("http://[2001:db8::1]", "http://[2001:db8::1]:80"),
            (
                "http://user:secret@proxy.internal:1",
                "http://proxy.internal:1",
            ),
        ] {
            assert_eq!(UpstreamProxy::parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "proxy.internal:3128",
            "ftp://proxy.internal:3128",
            "socks4://proxy.internal",
            "http://user:sec/ret@proxy.internal",
            "http://user:secret%@proxy.internal",
            "http://user:secret%zz@proxy.internal",
            "http://user:secret%0d%0aX@proxy.internal",
            "http://:secret@proxy.internal",
            "http://us%3aer:secret@proxy.internal",
            "http://user@secret!@proxy.internal:x",
            "http://proxy.internal/path",
            "http://proxy.internal:0",
            "http://proxy.internal:99999",
            "http://",
            "http://:80",
            "http://evil.com\\@proxy.internal",
            "http://[::1%25eth0]:80",
            "socks5://secret@proxy.internal",
        ] {
            let error = UpstreamProxy::parse(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_decoded_and_shown_nowhere() {
        let proxy = UpstreamProxy::parse("http://us%40er:p%3a%2F%C3%A9%25@proxy.internal").unwrap();
        let found = proxy.credentials().unwrap();
        assert_eq!((found.user(), found.password()), ("us@er", "p:/é%"));
        let proxy = UpstreamProxy::parse("http://alice:secret@proxy.internal").unwrap();
        let shown = format!("{proxy} {proxy:?} {:?}", proxy.permit());
        assert!(
            !shown.contains("alice") && !shown.contains("secret"),
            "{shown}"
        );
        let other = Credentials::parse("bob:other").unwrap();
        let kept = proxy.clone().with_credentials(Some(&other)).unwrap();
        assert_eq!(kept, proxy, "the URL's own win");
        let long = Credentials::parse(&format!("u:{}", "p".repeat(256))).unwrap();
        let with_long = |url| {
            UpstreamProxy::parse(url)
                .unwrap()
                .with_credentials(Some(&long))
        };
        assert!(with_long("http://p").is_ok());
        assert!(with_long("socks5://p").is_err());
    }

    #[test]
    fn the_operators_proxy_needs_no_rule_and_knows_its_lookup() {
        let permit = UpstreamProxy::parse("http://proxy.internal:3128")
            .unwrap()
            .permit();
        assert!(permit.is_operators());
        assert_eq!(permit.port(), 3128);
        assert_eq!(permit.lookup().unwrap().name().as_str(), "proxy.internal");
        let permit = UpstreamProxy::parse("http://10.0.0.1:3128")
            .unwrap()
            .permit();
        assert_eq!(
            permit.target(),
            &PermitTarget::Address("10.0.0.1".parse().unwrap())
        );
        assert!(permit.lookup().is_none());
    }
}
