//! The TLS configurations for resolvers.

use std::sync::Arc;

use portcullis_tls::{Authorities, TrustError, client_config};
use rustls::ClientConfig;
use tokio::sync::OnceCell;

use super::endpoint::Protocol;
use super::error::ExchangeError;

/// TLS configurations, made when the first encrypted server is connected to.
#[derive(Debug)]
pub(super) struct Trust {
    authorities: Authorities,
    configs: OnceCell<Result<Configs, TrustError>>,
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
            let tls = client_config(self.authorities.clone()).await?;
            let mut https = tls.clone();
            https.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Ok(Configs {
                tls: Arc::new(tls),
                https: Arc::new(https),
            })
        };
        match self.configs.get_or_init(make).await {
            Ok(configs) => Ok(match protocol {
                Protocol::Tls => configs.tls.clone(),
                Protocol::Https(_) => configs.https.clone(),
            }),
            Err(error) => Err(ExchangeError::refused(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_any_authority_nobody_is_believed() {
        let trust = Trust::new(Authorities::Only(Arc::from(&b"no certificate"[..])));
        let error = trust.client(&Protocol::Tls).await.unwrap_err();
        assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
    }
}
