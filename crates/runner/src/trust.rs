//! The lists of certificate authorities that programs in a sandbox trust: the host's own, what the
//! caller's variables name, and the gateway's. As PEM for most programs, as a trust store for Java.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use portcullis_sandbox::{TrustAddition, TrustFiles};
use portcullis_tls::{host_certificates, pem_certificates};
use rustls::pki_types::CertificateDer;

use crate::trust_stores::additions;

/// The longest file with authorities that is read, in bytes.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// The most authorities; today's systems have some 150.
const MAX_AUTHORITIES: usize = 4096;
/// Where systems keep theirs; the first that is there is the system's.
const SYSTEM_LISTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What programs inside are to trust.
#[derive(Debug)]
pub(crate) struct Trust {
    ca: String,
    bundle: String,
    java: Vec<u8>,
    added: Vec<TrustAddition>,
}

impl Trust {
    /// Everything that is trusted outside, and this authority. `more` are files that the caller's
    /// own variables name; what cannot be read is not trusted inside either.
    pub(crate) fn with(ca: String, more: &[PathBuf]) -> Trust {
        let mut authorities = Vec::new();
        let mut known = HashSet::new();
        let mut add = |certificates: Vec<CertificateDer<'static>>| {
            for certificate in certificates {
                let room = authorities.len() < MAX_AUTHORITIES;
                if room && known.insert(certificate.to_vec()) {
                    authorities.push(certificate);
                }
            }
        };
        // First, so that it is in the list whatever else is.
        add(pem_certificates(ca.as_bytes()).collect());
        add(host_certificates());
        let system = SYSTEM_LISTS.iter().map(Path::new);
        let system = system.filter_map(|path| read(path).ok()).take(1);
        let named = more.iter().filter_map(|path| read(path).ok());
        for text in system.chain(named) {
            add(pem_certificates(&text).collect());
        }
        let pem =
            |der: &CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()));
        let added = pem::parse(&ca).map(|ca| additions(&ca)).unwrap_or_default();
        Trust {
            ca,
            added,
            bundle: authorities.iter().map(pem).collect(),
            java: java_store(&authorities),
        }
    }

    pub(crate) fn files(&self) -> TrustFiles<'_> {
        TrustFiles {
            ca: self.ca.as_bytes(),
            bundle: self.bundle.as_bytes(),
            java: &self.java,
            added: &self.added,
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// A trust store in Java's own first format (JKS), which needs no cryptography to be read: every
/// Java knows it. Its digest is a check against damage only, keyed by the usual public password.
fn java_store(authorities: &[CertificateDer<'_>]) -> Vec<u8> {
    const MAGIC: u32 = 0xfeed_feed;
    const VERSION: u32 = 2;
    const TRUSTED_CERTIFICATE: u32 = 2;
    const PASSWORD: &str = "changeit";
    const WHITENER: &[u8] = b"Mighty Aphrodite";
    let mut store = Vec::new();
    let text = |store: &mut Vec<u8>, text: &str| {
        store.extend((text.len() as u16).to_be_bytes());
        store.extend(text.as_bytes());
    };
    store.extend(MAGIC.to_be_bytes());
    store.extend(VERSION.to_be_bytes());
    store.extend((authorities.len() as u32).to_be_bytes());
    for (number, authority) in authorities.iter().enumerate() {
        store.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        text(&mut store, &format!("authority-{number}"));
        store.extend(0_u64.to_be_bytes());
        text(&mut store, "X.509");
        store.extend((authority.len() as u32).to_be_bytes());
        store.extend(authority.as_ref());
    }
    let mut keyed: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    keyed.extend(WHITENER);
    keyed.extend(&store);
    store.extend(digest(&SHA1_FOR_LEGACY_USE_ONLY, &keyed).as_ref());
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_s_authority_comes_first_and_nothing_twice() {
        let ca = pem::encode(&pem::Pem::new("CERTIFICATE", b"not really one".to_vec()));
        let folder = std::env::temp_dir().join(format!("portcullis-trust-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let more = folder.join("more.pem");
        let other = pem::encode(&pem::Pem::new("CERTIFICATE", b"another".to_vec()));
        std::fs::write(&more, format!("{ca}{other}{other}")).unwrap();
        let trust = Trust::with(ca.clone(), &[more, folder.join("missing.pem")]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(trust.bundle.starts_with(&ca));
        assert_eq!(trust.bundle.matches(ca.trim()).count(), 1);
        assert_eq!(trust.bundle.matches(other.trim()).count(), 1);
        let count = trust.bundle.matches("BEGIN CERTIFICATE").count() as u32;
        assert_eq!(trust.java[..8], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2]);
        assert_eq!(trust.java[8..12], count.to_be_bytes());
    }
}
