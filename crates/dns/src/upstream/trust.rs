//! Whose certificates are believed, and the TLS configurations made of that.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

use super::endpoint::Protocol;
use super::error::ExchangeError;

/// The authorities whose certificates resolvers may show.
#[derive(Clone, Debug, Default)]
pub enum Authorities {
    /// Those that the host trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured.
    #[default]
    Host,
    /// Those in this PEM text, and no others.
    Pem(Arc<[u8]>),
}

/// TLS configurations, made when the first encrypted server is connected to.
#[derive(Debug)]
pub(super) struct Trust {
    authorities: Authorities,
    configs: OnceCell<Result<Configs, Arc<str>>>,
}

#[derive(Clone, Debug)]
struct Configs {
    tls: Arc<ClientConfig>,
    https: Arc<ClientConfig>,
}

impl Trust {
    pub(super) fn new(authorities: Authorities) -> Trust {
        Trust {
            authorities,
            configs: OnceCell::new(),
        }
    }

    /// The configuration for a protocol.
    ///
    /// # Errors
    /// No authority is trusted at all.
    pub(super) async fn client(
        &self,
        protocol: &Protocol,
    ) -> Result<Arc<ClientConfig>, ExchangeError> {
        let make = || async {
            let authorities = self.authorities.clone();
            // A few hundred certificates are read and parsed: not on a thread that serves.
            let made = tokio::task::spawn_blocking(move || configs(&authorities)).await;
            made.unwrap_or_else(|_| Err("the trusted certificates could not be read".into()))
        };
        match self.configs.get_or_init(make).await {
            Ok(configs) => Ok(match protocol {
                Protocol::Tls => configs.tls.clone(),
                Protocol::Https(_) => configs.https.clone(),
            }),
            Err(why) => Err(ExchangeError::refused(&**why)),
        }
    }
}

fn configs(authorities: &Authorities) -> Result<Configs, Arc<str>> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Authorities::Host => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
        Authorities::Pem(text) => {
            let found = CertificateDer::pem_slice_iter(text).filter_map(Result::ok);
            roots.add_parsable_certificates(found);
        }
    }
    if roots.is_empty() {
        return Err("no certificate authority is trusted here (see SSL_CERT_FILE)".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut https = tls.clone();
    https.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Configs {
        tls: Arc::new(tls),
        https: Arc::new(https),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_any_authority_nobody_is_believed() {
        let trust = Trust::new(Authorities::Pem(Arc::from(&b"no certificate"[..])));
        let error = trust.client(&Protocol::Tls).await.unwrap_err();
        assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
    }
}
