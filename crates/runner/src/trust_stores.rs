//! Stores of authorities beside the system's one list: folders that a program reads one file each of.
//! What they need is one more file, which the sandbox shows there.
//!
//! Browsers bring authorities of their own. What they trust beside those, an administrator's policy says.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_sandbox::{TRUST_CA, TrustAddition};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

/// The longest policy of Firefox that is added to, bytes.
const MAX_POLICY_BYTES: u64 = 1024 * 1024;

/// What a program reads in a folder.
#[derive(Clone, Copy)]
enum Store {
    /// Certificates named by a hash of their subject, as `openssl rehash` does.
    Hashed,
    /// Certificates of any name.
    Anchors,
    /// Policies of browsers made from Chromium, in files that are merged.
    Chromium,
    /// The one policy of Firefox.
    Firefox,
}

/// The folders, as distributions and browsers have them, and the file within. Those that exist get it.
const PLACES: [(&str, &str, Store); 17] = [
    ("/etc/ssl/certs", "", Store::Hashed),
    ("/etc/pki/tls/certs", "", Store::Hashed),
    (
        "/etc/pki/ca-trust/source",
        "anchors/portcullis.pem",
        Store::Anchors,
    ),
    (
        "/etc/ca-certificates/trust-source",
        "anchors/portcullis.crt",
        Store::Anchors,
    ),
    ("/etc/pki/trust", "anchors/portcullis.pem", Store::Anchors),
    (
        "/etc/chromium",
        "policies/managed/portcullis.json",
        Store::Chromium,
    ),
    (
        "/etc/chromium-browser",
        "policies/managed/portcullis.json",
        Store::Chromium,
    ),
    (
        "/etc/brave",
        "policies/managed/portcullis.json",
        Store::Chromium,
    ),
    (
        "/etc/opt",
        "chrome/policies/managed/portcullis.json",
        Store::Chromium,
    ),
    (
        "/etc/opt",
        "chrome_for_testing/policies/managed/portcullis.json",
        Store::Chromium,
    ),
    (
        "/etc/opt",
        "edge/policies/managed/portcullis.json",
        Store::Chromium,
    ),
    ("/etc/firefox", "policies/policies.json", Store::Firefox),
    (
        "/usr/share/firefox-esr/distribution",
        "policies.json",
        Store::Firefox,
    ),
    (
        "/usr/lib/firefox-esr/distribution",
        "policies.json",
        Store::Firefox,
    ),
    (
        "/usr/lib/firefox/distribution",
        "policies.json",
        Store::Firefox,
    ),
    (
        "/usr/lib64/firefox/distribution",
        "policies.json",
        Store::Firefox,
    ),
    ("/opt/firefox/distribution", "policies.json", Store::Firefox),
];

/// The files that this authority is to be shown in, besides the system's lists.
pub(crate) fn additions(ca: &pem::Pem) -> Vec<TrustAddition> {
    let mut added: Vec<TrustAddition> = Vec::new();
    for (folder, file, store) in PLACES {
        // Several of them may lead to one.
        let Ok(folder) = fs::canonicalize(folder) else {
            continue;
        };
        if !folder.is_dir() {
            continue;
        }
        let (file, content) = match store {
            Store::Hashed => match subject_hash(ca.contents()) {
                Some(hash) => (free_name(&folder, hash), pem::encode(ca)),
                None => continue,
            },
            Store::Anchors => (file.to_owned(), pem::encode(ca)),
            Store::Chromium => {
                let authority = STANDARD.encode(ca.contents());
                (
                    file.to_owned(),
                    json!({"CACertificates": [authority]}).to_string(),
                )
            }
            Store::Firefox => match firefox_policy(&folder.join(file)) {
                Some(policy) => (file.to_owned(), policy),
                None => continue,
            },
        };
        let known = added
            .iter()
            .any(|one| one.folder == folder && one.file == file);
        if !known {
            added.push(TrustAddition {
                folder,
                file,
                content,
            });
        }
    }
    added
}

/// The first name with this hash that no certificate of the folder has.
fn free_name(folder: &Path, hash: u32) -> String {
    let names = (0..u8::MAX).map(|number| format!("{hash:08x}.{number}"));
    let mut free = names.filter(|name| !folder.join(name).exists());
    free.next().unwrap_or_default()
}

/// What Firefox is told by its administrator already, and to trust the sandbox's authority. `None` where
/// that cannot be read: then it stays as it is.
fn firefox_policy(path: &Path) -> Option<String> {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        file.take(MAX_POLICY_BYTES).read_to_string(&mut text).ok()?;
    } else {
        text.push_str("{}");
    }
    let mut policy: Value = serde_json::from_str(&text).ok()?;
    let mut object = policy.as_object_mut()?;
    for key in ["policies", "Certificates"] {
        object = object
            .entry(key)
            .or_insert_with(|| json!({}))
            .as_object_mut()?;
    }
    let install = object.entry("Install").or_insert_with(|| json!([]));
    install.as_array_mut()?.push(TRUST_CA.into());
    Some(policy.to_string())
}

/// OpenSSL's hash of a certificate's subject, by which it finds the certificate in a folder: of a subject
/// that is one common name and nothing else, as the sandbox's authority has it.
fn subject_hash(certificate: &[u8]) -> Option<u32> {
    /// `id-at-commonName` (RFC 5280, appendix A.1), DER.
    const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    const SET: u8 = 0x31;
    const SEQUENCE: u8 = 0x30;
    const UTF8_STRING: u8 = 0x0c;
    let mut store = RootCertStore::empty();
    store.add(CertificateDer::from(certificate)).ok()?;
    let subject = store.roots.first()?.subject.as_ref();
    // SET { SEQUENCE { OID, UTF8String } }, each shorter than 128 bytes: a header is two bytes.
    let (header, rest) = subject.split_at_checked(4)?;
    let text = rest.strip_prefix(&COMMON_NAME)?;
    let (kind, text) = text.split_at_checked(2)?;
    let whole = header[0] == SET && header[2] == SEQUENCE && kind[0] == UTF8_STRING;
    if !whole || usize::from(kind[1]) != text.len() {
        return None;
    }
    // The form that is hashed: small letters, one space at a time.
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
    let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let length = |length: usize| u8::try_from(length).ok().filter(|length| *length < 128);
    let mut canonical = vec![
        SET,
        length(text.len() + 9)?,
        SEQUENCE,
        length(text.len() + 7)?,
    ];
    canonical.extend(COMMON_NAME);
    canonical.extend([UTF8_STRING, length(text.len())?]);
    canonical.extend(text.as_bytes());
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &canonical);
    let first = hash.as_ref().first_chunk()?;
    Some(u32::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `openssl x509 -hash` says of it: 95e8cf67.
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBpzCCAU2gAwIBAgIUAZmFjevE1Z6Nbj8ReJKS96Hal+IwCgYIKoZIzj0EAwIw
KDEmMCQGA1UEAwwdUG9ydGN1bGxpcyAgSW5zcGVjdGlvbiAoVGVzdCkwIBcNMjYx
MTI5MTU0NzA5WhgPMjEyNjExMDUxNTQ3MDlaMCgxJjAkBgNVBAMMHVBvcnRjdWxs
aXMgIEluc3BlY3Rpb24gKFRlc3QpMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
eeJ3ex37lJcrKROhB3WMR0jEGgG8ntV9sfke1XyOnBJ1JLelX/Uz0E0aZYszLTbJ
4Yg0kVOKFMBu2+GZ+rQ6BKNTMFEwHQYDVR0OBBYEFD+66Q4Ft1+5MEJgEubCJKW2
bRmUMB8GA1UdIwQYMBaAFD+66Q4Ft1+5MEJgEubCJKW2bRmUMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgFtlNDJG2WXqkcvi9IO/4Ieiez+uJ6CyW
Uv2TydMd+cECIQCAkQtTHFbWBZ+ZWziOC/nqCF6rjI5PuYdFXENCOubnmA==
-----END CERTIFICATE-----
";

    #[test]
    fn subjects_are_hashed_as_openssl_does() {
        let ca = pem::parse(AUTHORITY).unwrap();
        assert_eq!(subject_hash(ca.contents()), Some(0x95e8cf67));
    }

    #[test]
    fn a_policy_of_firefox_keeps_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policies.json");
        let install = |text: &str| {
            fs::write(&path, text).unwrap();
            serde_json::from_str::<Value>(&firefox_policy(&path)?).ok()
        };
        let kept = install(
            r#"{"policies": {"DisablePocket": true, "Certificates": {"Install": ["a.pem"]}}}"#,
        );
        let expected = json!({"policies": {
            "DisablePocket": true,
            "Certificates": {"Install": ["a.pem", TRUST_CA]},
        }});
        assert_eq!(kept, Some(expected));
        assert_eq!(install("{"), None);
        assert_eq!(install(r#"{"policies": []}"#), None);
        fs::remove_file(&path).unwrap();
        assert!(firefox_policy(&path).unwrap().contains(TRUST_CA));
    }

    #[test]
    fn no_certificate_of_a_folder_loses_its_name() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(free_name(folder.path(), 0xab), "000000ab.0");
        fs::write(folder.path().join("000000ab.0"), "").unwrap();
        assert_eq!(free_name(folder.path(), 0xab), "000000ab.1");
    }
}
