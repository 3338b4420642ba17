//! One encrypted server: where it is, who it must prove to be, what is spoken there.
//!
//! Answers "resolvers on the way are not trusted": the certificate must be for the very name or
//! address that the operator wrote, from an authority that is trusted, every time. There is no way
//! back to plain DNS.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_policy::{LookupPermit, ProxyHost};
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bootstrap::Found;
use super::error::ExchangeError;
use super::lookup::Core;
use super::network::ByteStream;

/// How long one address of a server may take to accept a connection before the next is tried.
const ADDRESS_LIMIT: Duration = Duration::from_millis(1_200);

/// A stream to a server that proved who it is.
pub(super) type SecureStream = TlsStream<Box<dyn ByteStream>>;

/// What is spoken to a server.
#[derive(Debug)]
pub(super) enum Protocol {
    /// RFC 7858.
    Tls,
    /// RFC 8484.
    Https(Url),
}

/// The parts of a DNS over HTTPS server's URL that go into requests.
#[derive(Debug)]
pub(super) struct Url {
    /// `HOST` or `HOST:PORT`.
    pub authority: Box<str>,
    /// From `/` on.
    pub path: Box<str>,
}

/// One encrypted server.
#[derive(Debug)]
pub(super) struct Endpoint {
    host: ProxyHost,
    port: u16,
    protocol: Protocol,
    permit: Option<LookupPermit>,
    found: Mutex<Option<Found>>,
}

impl Endpoint {
    /// A server that speaks a protocol; `permit` is the leave to look its name up.
    pub(super) fn new(
        (host, port): (&ProxyHost, u16),
        protocol: Protocol,
        permit: Option<LookupPermit>,
    ) -> Endpoint {
        Endpoint {
            host: host.clone(),
            port,
            protocol,
            permit,
            found: Mutex::default(),
        }
    }

    /// What is spoken there.
    pub(super) fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// The operator's leave to resolve the server's own name; `None` where it has an address.
    pub(super) fn permit(&self) -> Option<&LookupPermit> {
        self.permit.as_ref()
    }

    /// The server's addresses as they were found last.
    pub(super) fn found(&self) -> Option<Found> {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Keeps the server's addresses.
    pub(super) fn keep(&self, found: Found) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    /// Connects and lets the server prove who it is.
    ///
    /// # Errors
    /// Unreachable, or not who it should be.
    pub(super) async fn secured(&self, core: &Arc<Core>) -> Result<SecureStream, ExchangeError> {
        let config = core.trust.client(&self.protocol).await?;
        let stream = self.reach(core).await?;
        let name = match &self.host {
            ProxyHost::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|_| ExchangeError::refused("no certificate can be for its name"))?,
            ProxyHost::Address(address) => ServerName::IpAddress((*address).into()),
        };
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| ExchangeError::refused(format!("TLS: {error}")))
    }

    async fn reach(&self, core: &Arc<Core>) -> Result<Box<dyn ByteStream>, ExchangeError> {
        let addresses: Vec<IpAddr> = match &self.host {
            ProxyHost::Address(address) => vec![*address],
            ProxyHost::Name(_) => core.addresses_of(self).await?,
        };
        let mut failed = ExchangeError::unreachable("its name has no address");
        for address in addresses {
            let at = SocketAddr::new(address, self.port);
            failed = match timeout(ADDRESS_LIMIT, core.network.stream(at)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => ExchangeError::unreachable(format!("{at}: {error}")),
                Err(_) => ExchangeError::unreachable(format!("{at}: no connection in time")),
            };
        }
        // They may have moved: the next attempt asks again.
        self.expire();
        Err(failed)
    }

    fn expire(&self) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &mut *found {
            found.until = Instant::now();
        }
    }
}

impl Protocol {
    /// DNS over HTTPS at a path of a server.
    pub(super) fn https((host, port): (&ProxyHost, u16), path: &str) -> Protocol {
        const HTTPS_PORT: u16 = 443;
        let host = match host {
            ProxyHost::Name(name) => name.to_string(),
            ProxyHost::Address(IpAddr::V4(address)) => address.to_string(),
            ProxyHost::Address(IpAddr::V6(address)) => format!("[{address}]"),
        };
        let authority = match port {
            HTTPS_PORT => host,
            port => format!("{host}:{port}"),
        };
        Protocol::Https(Url {
            authority: authority.into(),
            path: path.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_policy::Resolver;

    #[test]
    fn rfc_9110_the_authority_leaves_the_default_port_out() {
        let of = |text: &str| {
            let Resolver::Https { host, port, path } = Resolver::parse(text).unwrap() else {
                panic!("{text}");
            };
            match Protocol::https((&host, port), &path) {
                Protocol::Https(url) => format!("{}{}", url.authority, url.path),
                Protocol::Tls => String::new(),
            }
        };
        assert_eq!(of("https://dns.example"), "dns.example/dns-query");
        assert_eq!(of("https://dns.example:8443/q"), "dns.example:8443/q");
        assert_eq!(of("https://[2001:db8::53]/q"), "[2001:db8::53]/q");
        assert_eq!(of("https://192.0.2.53:444/q"), "192.0.2.53:444/q");
    }
}
