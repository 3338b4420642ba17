//! The world's certificates: one authority, one certificate per name and address, made when asked.

use super::Meta;
use crate::spec::ServiceKind;
use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A handshake that takes longer than this is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Certificates kept; more names than this are a test gone wild.
const MAX_CERTIFICATES: usize = 4096;

type Cache = Mutex<HashMap<(String, IpAddr, &'static str), Arc<CertifiedKey>>>;

/// Hands out certificates.
pub(crate) struct Certificates {
    issuer: Arc<Issuer<'static, KeyPair>>,
    untrusted: Arc<Issuer<'static, KeyPair>>,
    cache: Arc<Cache>,
}

/// Writes a new authority into the world's folder: `ca.pem` for the clients, `ca.key` for the
/// servers.
pub(crate) fn create_authority(folder: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let certificate = authority("Portcullis test world")?.self_signed(&key)?;
    std::fs::write(folder.join("ca.pem"), certificate.pem())?;
    std::fs::write(folder.join("ca.key"), key.serialize_pem())?;
    Ok(())
}

/// A certificate of the authority in this folder for these names, and its key, both PEM.
pub(crate) fn issue(folder: &Path, names: &[&str]) -> Result<(String, String)> {
    let names = names.iter().map(|name| (*name).to_owned());
    let mut params = CertificateParams::new(names.collect::<Vec<_>>())?;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2098, 1, 1);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &Certificates::load(folder)?.issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn authority(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::DigitalSignature,
    ];
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    Ok(params)
}

impl Certificates {
    pub(crate) fn load(folder: &Path) -> Result<Certificates> {
        let key = KeyPair::from_pem(&std::fs::read_to_string(folder.join("ca.key"))?)?;
        let issuer = Issuer::new(authority("Portcullis test world")?, key);
        let untrusted = Issuer::new(authority("Nobody trusts this")?, KeyPair::generate()?);
        Ok(Certificates {
            issuer: Arc::new(issuer),
            untrusted: Arc::new(untrusted),
            cache: Arc::default(),
        })
    }

    /// Does the handshake and notes the name that was asked for.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        meta: &mut Meta,
        kind: &ServiceKind,
    ) -> Result<TlsStream<TcpStream>> {
        let resolver = Resolver {
            issuer: match kind {
                ServiceKind::HttpsUntrusted => self.untrusted.clone(),
                _ => self.issuer.clone(),
            },
            cache: self.cache.clone(),
            address: meta.local.ip().to_canonical(),
            service: meta.service,
            kind: kind.clone(),
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let accept = TlsAcceptor::from(Arc::new(config)).accept(stream);
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, accept)
            .await
            .context("the TLS handshake took too long")?
            .context("the TLS handshake failed")?;
        meta.sni = stream.get_ref().1.server_name().map(str::to_owned);
        Ok(stream)
    }
}

struct Resolver {
    issuer: Arc<Issuer<'static, KeyPair>>,
    cache: Arc<Cache>,
    address: IpAddr,
    service: &'static str,
    kind: ServiceKind,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resolver({}, {})", self.service, self.address)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or("no-sni.invalid").to_owned();
        let key = (name, self.address, self.service);
        let mut cache = self.cache.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = cache.get(&key) {
            return Some(found.clone());
        }
        match self.make(&key.0) {
            Ok(made) if cache.len() < MAX_CERTIFICATES => {
                let made = Arc::new(made);
                cache.insert(key, made.clone());
                Some(made)
            }
            Ok(made) => Some(Arc::new(made)),
            Err(error) => {
                eprintln!(
                    "portcullis-world: no certificate for {:?}: {error:#}",
                    key.0
                );
                None
            }
        }
    }
}

impl Resolver {
    fn make(&self, name: &str) -> Result<CertifiedKey> {
        let shown = match self.kind {
            ServiceKind::HttpsWrongName => "wrong.invalid",
            _ => name,
        };
        let mut params = CertificateParams::new(vec![shown.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "world");
        if self.kind != ServiceKind::HttpsWrongName {
            params
                .subject_alt_names
                .push(SanType::IpAddress(self.address));
        }
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = match self.kind {
            ServiceKind::HttpsExpired => rcgen::date_time_ymd(2020, 12, 31),
            _ => rcgen::date_time_ymd(2098, 1, 1),
        };
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der)?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
    }
}
