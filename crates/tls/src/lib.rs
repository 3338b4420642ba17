//! TLS as a client: whose certificates are believed, and the configurations made of that.
//!
//! Answers *an impostor upstream* once for everybody who speaks TLS to the world (resolvers,
//! upstream proxies, inspected names, `diagnose`): there is one cryptographic provider and one list of
//! the host's authorities, and no way to leave verification out.
//!
//! Reading the host's authorities takes milliseconds (a few hundred certificates). They are read once
//! and shared, and never on a thread that serves.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Configurations that [`ClientConfigs`] keeps, one for each added text; of more, the oldest goes.
const MAX_CONFIGS: usize = 64;

/// Why no certificate could be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The host trusts nobody, and nothing was added.
    #[error("no certificate authority is trusted here (see SSL_CERT_FILE)")]
    NoAuthority,
    /// The added text was to be believed, and there is nothing in it.
    #[error("its `ca_file` holds no usable certificate")]
    NothingAdded,
    /// The certificates could not be read or used at all.
    #[error("the trusted certificates could not be used: {0}")]
    Unusable(String),
}

/// Whose certificates are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authorities {
    /// Those that the host trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured.
    #[default]
    Host,
    /// Those that the host trusts, and those in this PEM text.
    HostAnd(Arc<str>),
    /// Those in this PEM text, and no others.
    Only(Arc<[u8]>),
}

/// The cryptographic provider of every TLS connection, client's or server's.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    PROVIDER.get_or_init(make).clone()
}

/// Reads the certificates of the authorities that the host trusts. Blocks.
pub fn host_certificates() -> Vec<CertificateDer<'static>> {
    // What cannot be read is not trusted; the others still count.
    rustls_native_certs::load_native_certs().certs
}

/// The certificates in a PEM text; whatever else stands in it is passed over.
pub fn pem_certificates(text: &[u8]) -> impl Iterator<Item = CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text).filter_map(Result::ok)
}

/// The authorities that the host trusts. Blocks the first time; what was read is kept while the
/// process lives, unless it was nothing.
fn host_roots() -> RootCertStore {
    static HOST: Mutex<Option<RootCertStore>> = Mutex::new(None);
    let mut kept = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let roots = kept.take().unwrap_or_else(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(host_certificates());
        roots
    });
    if !roots.is_empty() {
        *kept = Some(roots.clone());
    }
    roots
}

/// A configuration that believes these authorities. Blocks: see [`client_config`].
///
/// # Errors
/// [`TrustError`]: nobody would be believed.
pub fn client_config_blocking(authorities: &Authorities) -> Result<ClientConfig, TrustError> {
    let mut roots = match authorities {
        Authorities::Host | Authorities::HostAnd(_) => host_roots(),
        Authorities::Only(_) => RootCertStore::empty(),
    };
    match authorities {
        Authorities::Host => {}
        Authorities::HostAnd(text) => {
            let added = pem_certificates(text.as_bytes());
            if roots.add_parsable_certificates(added).0 == 0 {
                return Err(TrustError::NothingAdded);
            }
        }
        Authorities::Only(text) => {
            roots.add_parsable_certificates(pem_certificates(text));
        }
    }
    if roots.is_empty() {
        return Err(TrustError::NoAuthority);
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TrustError::Unusable(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A configuration that believes these authorities, made away from the threads that serve.
///
/// # Errors
/// As for [`client_config_blocking`].
pub async fn client_config(authorities: Authorities) -> Result<ClientConfig, TrustError> {
    let made = tokio::task::spawn_blocking(move || client_config_blocking(&authorities));
    made.await
        .unwrap_or_else(|error| Err(TrustError::Unusable(error.to_string())))
}

/// A configuration, and the PEM text that it believes besides the host's authorities.
struct CachedConfig {
    added: Option<Arc<str>>,
    config: Arc<ClientConfig>,
}

/// Configurations for what the host trusts and a `ca_file` adds, each made when it is first needed.
#[derive(Default)]
pub struct ClientConfigs {
    kept: Mutex<Vec<CachedConfig>>,
}

impl ClientConfigs {
    /// The configuration that believes the host's authorities and those in `added`, a PEM text.
    ///
    /// # Errors
    /// As for [`client_config_blocking`].
    pub async fn get(&self, added: Option<&Arc<str>>) -> Result<Arc<ClientConfig>, TrustError> {
        if let Some(config) = self.kept(added) {
            return Ok(config);
        }
        let authorities = match added {
            Some(text) => Authorities::HostAnd(text.clone()),
            None => Authorities::Host,
        };
        let config = Arc::new(client_config(authorities).await?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_CONFIGS {
            kept.remove(0);
        }
        kept.push(CachedConfig {
            added: added.cloned(),
            config: config.clone(),
        });
        Ok(config)
    }

    fn kept(&self, added: Option<&Arc<str>>) -> Option<Arc<ClientConfig>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|kept| kept.added.as_ref() == added);
        found.map(|kept| kept.config.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_authority_nobody_is_believed() {
        let nobody = Authorities::Only(Arc::from(&b"no certificate"[..]));
        let error = client_config_blocking(&nobody).unwrap_err();
        assert_eq!(error, TrustError::NoAuthority);
        assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
    }

    #[tokio::test]
    async fn what_was_to_be_added_must_be_there() {
        let configs = ClientConfigs::default();
        let nothing: Arc<str> = "no certificate".into();
        let error = configs.get(Some(&nothing)).await.unwrap_err();
        assert_eq!(error, TrustError::NothingAdded);
        assert!(
            configs.kept.lock().unwrap().is_empty(),
            "tried again next time"
        );
    }
}
