//! Connects to one encrypted server and lets it prove who it is.
//!
//! Answers *resolution as a way out* (docs/threats.md): the certificate must be for the very name
//! or address that the operator wrote, from a trusted authority, every time. There is no fallback
//! to plain DNS.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_policy::ProxyHost;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bootstrap::{Bootstrap, Found};
use super::endpoint::Endpoint;
use super::error::ExchangeError;
use super::network::{ByteStream, Network};
use super::trust::Trust;

/// How long one address of a server may take to accept a connection before the next is tried.
const ADDRESS_LIMIT: Duration = Duration::from_millis(1_200);

/// How long addresses are kept that could not be looked up anew: better old ones than none.
const STALE_FOR: Duration = Duration::from_secs(30);

/// A stream to a server that proved who it is.
pub(super) type SecureStream = TlsStream<Box<dyn ByteStream>>;

/// What connections of all encrypted servers are made with.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    pub network: Arc<dyn Network>,
    pub trust: Arc<Trust>,
    pub bootstrap: Arc<Bootstrap>,
}

/// Makes connections to one encrypted server.
#[derive(Debug)]
pub(super) struct Connector {
    pub endpoint: Endpoint,
    transport: Transport,
    /// The server's addresses as they were found last.
    found: Mutex<Option<Found>>,
}

impl Connector {
    pub(super) fn new(endpoint: Endpoint, transport: Transport) -> Connector {
        Connector {
            endpoint,
            transport,
            found: Mutex::default(),
        }
    }

    /// Connects, and verifies the server's certificate.
    ///
    /// # Errors
    /// Unreachable, or not who it should be.
    pub(super) async fn connect(&self) -> Result<SecureStream, ExchangeError> {
        let config = self.transport.trust.client(&self.endpoint.protocol).await?;
        let stream = self.reach().await?;
        let name = match &self.endpoint.host {
            ProxyHost::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|_| ExchangeError::refused("no certificate can be for its name"))?,
            ProxyHost::Address(address) => ServerName::IpAddress((*address).into()),
        };
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| ExchangeError::refused(format!("TLS: {error}")))
    }

    async fn reach(&self) -> Result<Box<dyn ByteStream>, ExchangeError> {
        let mut failed = ExchangeError::unreachable("its name has no address");
        for address in self.addresses().await? {
            let at = SocketAddr::new(address, self.endpoint.port);
            failed = match timeout(ADDRESS_LIMIT, self.transport.network.stream(at)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => ExchangeError::unreachable(format!("{at}: {error}")),
                Err(_) => ExchangeError::unreachable(format!("{at}: no connection in time")),
            };
        }
        // They may have moved: the next attempt asks again.
        if let Some(found) = &mut *self.lock() {
            found.until = Instant::now();
        }
        Err(failed)
    }

    /// The server's addresses: as written, from the last lookup, or from a new one.
    async fn addresses(&self) -> Result<Vec<IpAddr>, ExchangeError> {
        if let ProxyHost::Address(address) = &self.endpoint.host {
            return Ok(vec![*address]);
        }
        let known = self.lock().clone();
        if let Some(found) = &known
            && Instant::now() < found.until
        {
            return Ok(found.addresses.to_vec());
        }
        let Some(permit) = &self.endpoint.permit else {
            return Err(ExchangeError::unreachable("it has no name"));
        };
        let found = match (self.transport.bootstrap.look_up(permit).await, known) {
            (Ok(found), _) => found,
            (Err(_), Some(old)) => Found {
                until: Instant::now() + STALE_FOR,
                ..old
            },
            (Err(error), None) => return Err(error),
        };
        let addresses = found.addresses.to_vec();
        *self.lock() = Some(found);
        Ok(addresses)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
