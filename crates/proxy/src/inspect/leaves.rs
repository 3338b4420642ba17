//! Certificates for inspected names, made when they are first needed, kept while they hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_names::{Name, NameRef};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::InspectError;
use super::alpn::Alpn;
use super::authority::Authority;

/// How long a leaf holds.
const LEAF_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// When another one is made.
const LEAF_RENEWAL: Duration = Duration::from_secs(6 * 24 * 60 * 60);
/// Names whose leaves are kept; below a wildcard a program can show any number of names.
const MAX_LEAVES: usize = 1024;

/// The leaves of one gateway. They share one key pair: it proves the same thing for every name.
pub(super) struct Leaves {
    authority: Authority,
    key: rcgen::KeyPair,
    signing: Arc<dyn rustls::sign::SigningKey>,
    provider: Arc<CryptoProvider>,
    kept: Mutex<HashMap<Name, Leaf>>,
}

/// One name's leaf, in the configurations that a handshake takes.
struct Leaf {
    certificate: Arc<CertifiedKey>,
    configs: [Option<Arc<ServerConfig>>; Alpn::COUNT],
    made: Instant,
}

/// Shows one certificate, whatever the client asks for: the decision has named the name.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl Leaves {
    /// # Errors
    /// No random bytes.
    pub(super) fn new(
        authority: Authority,
        provider: Arc<CryptoProvider>,
    ) -> Result<Leaves, InspectError> {
        let key = rcgen::KeyPair::generate()?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der)?;
        Ok(Leaves {
            authority,
            key,
            signing,
            provider,
            kept: Mutex::default(),
        })
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What a client of this name is answered with, speaking what upstream speaks.
    ///
    /// # Errors
    /// The authority does not hold for the name.
    pub(super) fn config(
        &self,
        name: NameRef<'_>,
        alpn: Alpn,
    ) -> Result<Arc<ServerConfig>, InspectError> {
        // Held for the time of a signature at most (some tens of microseconds).
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |leaf: &Leaf| leaf.made.elapsed() < LEAF_RENEWAL;
        if !kept.get(name.as_str()).is_some_and(fresh) {
            if kept.len() >= MAX_LEAVES {
                // Whichever: making one again is cheap.
                kept.clear();
            }
            kept.insert(name.to_name(), self.make(name)?);
        }
        let Some(leaf) = kept.get_mut(name.as_str()) else {
            return Err(InspectError::NotCovered(name.to_string()));
        };
        let config = &mut leaf.configs[alpn.index()];
        if let Some(config) = config {
            return Ok(config.clone());
        }
        let made = self.configure(leaf.certificate.clone(), alpn)?;
        *config = Some(made.clone());
        Ok(made)
    }

    fn make(&self, name: NameRef<'_>) -> Result<Leaf, InspectError> {
        let certificate = self.authority.issue(name, &self.key, LEAF_LIFETIME)?;
        let certified = CertifiedKey::new(vec![certificate], self.signing.clone());
        Ok(Leaf {
            certificate: Arc::new(certified),
            configs: Default::default(),
            made: Instant::now(),
        })
    }

    fn configure(
        &self,
        certificate: Arc<CertifiedKey>,
        alpn: Alpn,
    ) -> Result<Arc<ServerConfig>, InspectError> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shows(certificate)));
        config.alpn_protocols = alpn.protocols();
        // Each connection is decided on anew, and its upstream verified anew: nothing is resumed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_names::Pattern;

    fn leaves() -> Leaves {
        let pattern = Pattern::from_policy("*.example.com").unwrap();
        let authority = Authority::new([&pattern].into_iter()).unwrap();
        let provider = portcullis_tls::provider();
        Leaves::new(authority, provider).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::from_policy(text).unwrap()
    }

    #[test]
    fn a_name_s_certificate_is_made_once() {
        let leaves = leaves();
        let a = name("a.example.com");
        let one = leaves.config(a.as_ref(), Alpn::Http1).unwrap();
        let same = leaves.config(a.as_ref(), Alpn::Http1).unwrap();
        assert!(Arc::ptr_eq(&one, &same));
        let h2 = leaves.config(a.as_ref(), Alpn::Http2).unwrap();
        assert_eq!(h2.alpn_protocols, [b"h2".to_vec()]);
        assert!(
            leaves
                .config(name("evil.example").as_ref(), Alpn::None)
                .is_err()
        );
        assert_eq!(leaves.kept.lock().unwrap().len(), 1);
    }

    #[test]
    fn names_below_a_wildcard_do_not_pile_up() {
        let leaves = leaves();
        for n in 0..MAX_LEAVES + 10 {
            let name = name(&format!("n{n}.example.com"));
            leaves.config(name.as_ref(), Alpn::None).unwrap();
        }
        assert!(leaves.kept.lock().unwrap().len() <= MAX_LEAVES);
    }
}
