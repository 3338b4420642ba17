//! TLS towards upstream: its certificate is verified before anything is said to it.
//!
//! The program cannot see the certificate any more, so nobody but this module stands between it and
//! an impostor: the name that was decided on is the name that is verified, against what the host
//! trusts and what the rule's `ca_file` adds. There is no way to switch that off.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_dial::Stream;
use portcullis_names::NameRef;
use portcullis_policy::Reason;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::alpn::{Alpn, Offer};
use crate::open_error::OpenError;

/// From the connection to the end of upstream's handshake.
pub(super) const UPSTREAM_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Different `ca_file` texts whose configurations are kept.
const MAX_CONFIGS: usize = 64;

/// An upstream connection, and what is spoken on it.
pub(super) type Secured = (TlsStream<Stream>, Alpn);

/// What upstream certificates are verified against.
pub(super) struct Upstreams {
    provider: Arc<CryptoProvider>,
    /// What the host trusts, read when the first inspected connection is made.
    host: OnceCell<Arc<RootCertStore>>,
    configs: Mutex<HashMap<Option<Arc<str>>, Arc<ClientConfig>>>,
}

impl Upstreams {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Upstreams {
        Upstreams {
            provider,
            host: OnceCell::new(),
            configs: Mutex::default(),
        }
    }

    /// Speaks TLS on a dialled connection, as a client of `name`.
    ///
    /// # Errors
    /// What went wrong: a certificate that does not hold, an alert, no answer in time.
    pub(super) async fn secure(
        &self,
        stream: Stream,
        name: NameRef<'_>,
        ca: Option<&Arc<str>>,
        offer: Vec<Vec<u8>>,
    ) -> Result<Secured, OpenError> {
        let config = self.config(ca).await?;
        let server = ServerName::try_from(name.as_str().to_owned())
            .map_err(|_| failed(Reason::TlsFailed, "a name that no certificate can hold"))?;
        let connector = TlsConnector::from(config);
        let connecting = connector.with_alpn(offer).connect(server, stream);
        let connected = timeout(UPSTREAM_HANDSHAKE_TIMEOUT, connecting).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(why(&error)),
            Err(_) => {
                let detail = "no TLS handshake within 10 s";
                return Err(failed(Reason::ConnectionTimeout, detail));
            }
        };
        match Alpn::chosen(stream.get_ref().1.alpn_protocol()) {
            Some(alpn) => Ok((stream, alpn)),
            None => Err(failed(Reason::TlsFailed, "a protocol that was not offered")),
        }
    }

    async fn config(&self, ca: Option<&Arc<str>>) -> Result<Arc<ClientConfig>, OpenError> {
        let key = ca.cloned();
        if let Some(config) = self.kept(&key) {
            return Ok(config);
        }
        let host = self.host.get_or_init(host_roots).await.clone();
        let mut roots = (*host).clone();
        if let Some(text) = ca {
            let added = CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok);
            roots.add_parsable_certificates(added);
        }
        if roots.is_empty() {
            let detail = "no certificate authority is trusted here (see SSL_CERT_FILE)";
            return Err(failed(Reason::CertificateInvalid, detail));
        }
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(Reason::Internal, &error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if configs.len() >= MAX_CONFIGS {
            configs.clear();
        }
        configs.insert(key, config.clone());
        Ok(config)
    }

    fn kept(&self, key: &Option<Arc<str>>) -> Option<Arc<ClientConfig>> {
        let configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        configs.get(key).cloned()
    }
}

impl Offer {
    /// The protocols for upstream.
    pub(super) fn protocols(&self) -> Vec<Vec<u8>> {
        match self {
            Offer::Protocols(protocols) => protocols.clone(),
            Offer::Nothing => Vec::new(),
        }
    }
}

/// A few hundred certificates are read and parsed: not on a thread that serves.
async fn host_roots() -> Arc<RootCertStore> {
    let read = tokio::task::spawn_blocking(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    Arc::new(read.await.unwrap_or_else(|_| RootCertStore::empty()))
}

/// What a failed handshake means, by the library's own error and never by its words.
fn why(error: &io::Error) -> OpenError {
    use rustls::Error as Tls;
    let reason = match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Tls>())
    {
        Some(Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented) => {
            Reason::CertificateInvalid
        }
        Some(_) => Reason::TlsFailed,
        None => Reason::ConnectionReset,
    };
    failed(reason, &error.to_string())
}

fn failed(reason: Reason, detail: &str) -> OpenError {
    OpenError::Upstream {
        reason,
        detail: format!("TLS to upstream: {detail}"),
    }
}
