//! TLS to a company's proxy: its certificate is checked against the host's authorities, and those
//! that the policy names for it.
//!
//! Answers "credentials to the wrong proxy": nothing is said to a proxy whose certificate does not
//! hold.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_policy::{ProxyHost, Reason, UpstreamProxy};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::error::DialError;
use crate::stream::Stream;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Configurations that are kept, one for each set of authorities; of more, the oldest goes.
const MAX_CONFIGS: usize = 16;

type Config = (Option<Arc<str>>, Arc<ClientConfig>);

/// TLS configurations, made when they are first needed.
#[derive(Default)]
pub(crate) struct Secure {
    configs: Mutex<Vec<Config>>,
}

impl Secure {
    /// TLS over a connection to the proxy.
    ///
    /// # Errors
    /// Which way the handshake failed.
    pub(crate) async fn connect(
        &self,
        proxy: &UpstreamProxy,
        stream: TcpStream,
    ) -> Result<Stream, DialError> {
        let failed = |detail: String| DialError::new(Reason::UpstreamProxyFailed, detail);
        let config = self.config(proxy.ca_pem()).await.map_err(failed)?;
        let name = match proxy.host() {
            ProxyHost::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|error| failed(error.to_string()))?,
            ProxyHost::Address(address) => ServerName::from(*address),
        };
        let handshake = TlsConnector::from(config).connect(name, stream);
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(DialError::new(
                reason_of(&error),
                format!("TLS handshake: {error}"),
            )),
            Err(_) => Err(DialError::new(
                Reason::UpstreamProxyTimeout,
                "did not finish the TLS handshake in time",
            )),
        }
    }

    fn known(&self, ca_pem: Option<&Arc<str>>) -> Option<Arc<ClientConfig>> {
        let known = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(own, _)| own.as_ref() == ca_pem);
        found.map(|(_, config)| config.clone())
    }

    async fn config(&self, ca_pem: Option<&Arc<str>>) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.known(ca_pem) {
            return Ok(config);
        }
        let own = ca_pem.cloned();
        // A few hundred certificates are read and parsed: not on a thread that serves.
        let made = tokio::task::spawn_blocking(move || make(own.as_deref()));
        let made = made
            .await
            .unwrap_or_else(|_| Err("the trusted certificates could not be read".to_owned()))?;
        let mut known = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CONFIGS {
            known.remove(0);
        }
        known.push((ca_pem.cloned(), made.clone()));
        Ok(made)
    }
}

fn make(ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = ca_pem {
        let own = CertificateDer::pem_slice_iter(pem.as_bytes());
        let own: Vec<_> = own.filter_map(Result::ok).collect();
        let (taken, _) = roots.add_parsable_certificates(own);
        if taken == 0 {
            return Err("its `ca_file` holds no usable certificate".to_owned());
        }
    }
    if roots.is_empty() {
        return Err("no certificate authority is trusted here (see SSL_CERT_FILE)".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn reason_of(error: &io::Error) -> Reason {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        Some(rustls::Error::InvalidCertificate(_)) => Reason::UpstreamProxyCertificate,
        Some(_) => Reason::UpstreamProxyProtocol,
        None => Reason::UpstreamProxyClosed,
    }
}
