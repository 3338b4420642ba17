//! The authority of one gateway: made when it starts, gone with it.
//!
//! Answers "inspection becomes a master key": the private key lives in the memory of the gateway's
//! process and is never written out in any form, not even there; the certificate ends soon and
//! holds for the inspected names alone (RFC 5280 section 4.2.1.10), so that a program which trusts
//! it does not trust it for anything else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use portcullis_names::{Name, NameRef, Pattern};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rustls::pki_types::CertificateDer;

use super::InspectError;

/// How long the authority's certificate holds. A gateway that runs longer is started again.
pub(super) const AUTHORITY_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How far back certificates begin: the clocks of guests are late.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 60 * 60);
/// The most name trees that the authority may be held to; each costs some tens of bytes in its
/// certificate, which every client reads.
const MAX_SUBTREES: usize = 1024;
/// What the authority calls itself, where a person looks at a certificate.
const COMMON_NAME: &str = "Portcullis inspection (this sandbox only)";

/// The authority and its key.
pub(super) struct Authority {
    issuer: Issuer<'static, Key>,
    certificate: Certificate,
    /// The names it holds for: these, and what is below them.
    subtrees: Vec<Name>,
}

/// A P-256 key that exists in the library's memory alone, which wipes it.
struct Key {
    pair: EcdsaKeyPair,
    public: Vec<u8>,
}

impl Key {
    fn generate() -> Result<Key, InspectError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| InspectError::Certificates("no random key".to_owned()))?;
        let public = pair.public_key().as_ref().to_vec();
        Ok(Key { pair, public })
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        let signed = signed.map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signed.as_ref().to_vec())
    }
}

impl Authority {
    /// A new authority for what these patterns cover.
    ///
    /// # Errors
    /// More patterns than a certificate can hold, or no random bytes.
    pub(super) fn new<'p>(
        patterns: impl Iterator<Item = &'p Pattern>,
    ) -> Result<Authority, InspectError> {
        let subtrees = subtrees(patterns);
        if subtrees.len() > MAX_SUBTREES {
            return Err(InspectError::TooMany {
                inspected: subtrees.len(),
                most: MAX_SUBTREES,
            });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = called(COMMON_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // No purpose extension here: some libraries read one in an authority as a restriction of
        // the trust itself, others refuse it.
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: subtrees
                .iter()
                .map(|name| GeneralSubtree::DnsName(name.as_str().to_owned()))
                .collect(),
            // A constraint on one kind of name says nothing on the others.
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
        within(&mut params, AUTHORITY_LIFETIME);
        let key = Key::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Authority {
            issuer: Issuer::new(params, key),
            certificate,
            subtrees,
        })
    }

    /// The certificate, PEM; no secret.
    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Whether the authority holds for this name.
    pub(super) fn covers(&self, name: NameRef<'_>) -> bool {
        self.subtrees
            .iter()
            .any(|tree| name == tree.as_ref() || name.is_below(tree.as_ref()))
    }

    /// A certificate for this name and this public key.
    ///
    /// # Errors
    /// The authority does not hold for the name, or no random bytes.
    pub(super) fn issue(
        &self,
        name: NameRef<'_>,
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> Result<CertificateDer<'static>, InspectError> {
        if !self.covers(name) {
            return Err(InspectError::NotCovered(name.to_string()));
        }
        let mut params = CertificateParams::new(vec![name.as_str().to_owned()])?;
        params.distinguished_name = called("portcullis");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        within(&mut params, lifetime);
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// From a while ago until so long from now.
fn within(params: &mut CertificateParams, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + lifetime;
}

/// The bases of the patterns, without those that are below another. A tree of names cannot leave its
/// apex out, or hold for the apex alone: leaves are only made for what is inspected.
fn subtrees<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Vec<Name> {
    let mut bases: Vec<NameRef<'p>> = patterns.map(Pattern::base).collect();
    bases.sort_unstable_by_key(|base| (base.labels().count(), base.as_str()));
    let mut trees: Vec<NameRef<'p>> = Vec::new();
    for base in bases {
        let known = |tree: &NameRef<'_>| base == *tree || base.is_below(*tree);
        if !trees.iter().any(known) {
            trees.push(base);
        }
        // One more than fits is enough to say so.
        if trees.len() > MAX_SUBTREES {
            break;
        }
    }
    trees.into_iter().map(NameRef::to_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::KeyPair;
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::sync::Arc;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        let read = |text: &&str| Pattern::from_policy(text).unwrap();
        texts.iter().map(read).collect()
    }

    fn authority(texts: &[&str]) -> Authority {
        Authority::new(patterns(texts).iter()).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::from_policy(text).unwrap()
    }

    fn verify(authority: &Authority, leaf: &CertificateDer<'_>, shown: &str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        let provider = portcullis_tls::provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let server = ServerName::try_from(shown.to_owned()).unwrap();
        let verified =
            verifier
                .build()
                .unwrap()
                .verify_server_cert(leaf, &[], &server, &[], UnixTime::now());
        verified.is_ok()
    }

    #[test]
    fn a_leaf_is_made_for_what_is_inspected_and_for_nothing_else() {
        let authority = authority(&["api.example.com", "*.files.example.org"]);
        let key = KeyPair::generate().unwrap();
        for good in ["api.example.com", "a.b.files.example.org"] {
            let leaf = authority
                .issue(name(good).as_ref(), &key, Duration::from_secs(60))
                .unwrap();
            assert!(verify(&authority, &leaf, good), "{good}");
            assert!(!verify(&authority, &leaf, "other.example.com"));
        }
        for bad in ["www.example.com", "example.com", "notapi.example.com"] {
            let error = authority
                .issue(name(bad).as_ref(), &key, Duration::from_secs(60))
                .unwrap_err();
            assert!(matches!(error, InspectError::NotCovered(_)), "{error}");
        }
    }

    #[test]
    fn the_certificate_itself_holds_the_authority_to_its_names() {
        let authority = authority(&["api.example.com"]);
        let key = KeyPair::generate().unwrap();
        // What a stolen key could sign: the same authority, asked by another way.
        for (shown, alternative) in [
            ("www.example.com", "www.example.com"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            let params = CertificateParams::new(vec![alternative.to_owned()]).unwrap();
            let leaf = params.signed_by(&key, &authority.issuer).unwrap();
            assert!(!verify(&authority, leaf.der(), shown), "{shown}");
        }
    }

    #[test]
    fn names_below_others_need_no_tree_of_their_own() {
        let texts = ["b.a.example.com", "*.a.example.com", "**.z.example.org"];
        let trees = subtrees(patterns(&texts).iter());
        let trees: Vec<&str> = trees.iter().map(Name::as_str).collect();
        assert_eq!(trees, ["a.example.com", "z.example.org"]);
    }

    #[test]
    fn more_names_than_a_certificate_holds_are_an_error() {
        let many: Vec<Pattern> = (0..=MAX_SUBTREES)
            .map(|n| Pattern::from_policy(&format!("n{n}.example.com")).unwrap())
            .collect();
        assert!(Authority::new(many[1..].iter()).is_ok());
        let error = Authority::new(many.iter()).err().unwrap();
        assert!(error.to_string().contains("wildcard"), "{error}");
    }

    #[test]
    fn nothing_secret_is_in_what_is_handed_out() {
        let pem = authority(&["api.example.com"]).pem();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(!pem.contains("PRIVATE"));
    }
}
