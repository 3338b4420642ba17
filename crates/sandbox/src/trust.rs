//! Which certificate authorities programs inside trust, where the gateway inspects: the host's own
//! and the gateway's, shown in the places where the system's lists are.
//!
//! The host's files are not touched: what is mounted over them is seen in the sandbox alone. The
//! gateway makes the files' content, since it reads and parses; this process only copies and mounts.
//! None of them holds a secret.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::{At, SandboxError, Step};
use crate::mounts;

/// The gateway's own authority, PEM, inside the sandbox.
pub const TRUST_CA: &str = "/run/portcullis/ca.pem";
/// Every authority that programs inside trust, PEM.
pub const TRUST_BUNDLE: &str = "/run/portcullis/ca-bundle.pem";
/// The same as a Java trust store (JKS).
pub const TRUST_JAVA: &str = "/run/portcullis/trust.jks";

/// The longest file, in bytes; the lists of today's systems have some hundred kilobytes.
const MAX_TRUST_BYTES: u64 = 16 * 1024 * 1024;
/// Where distributions keep one file with every authority. Those that exist are covered.
const PEM_PLACES: [&str; 10] = [
    // Debian, Ubuntu, Alpine, Arch
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
    // Fedora, Red Hat
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // SUSE
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    // Alpine; and where OpenSSL itself looks first
    "/etc/ssl/cert.pem",
    "/usr/lib/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
];
/// The same for Java.
const JAVA_PLACES: [&str; 3] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
];

/// What the gateway hands over.
#[derive(Debug, Clone, Copy)]
pub struct TrustFiles<'a> {
    /// The gateway's own authority, PEM.
    pub ca: &'a [u8],
    /// Every authority, PEM.
    pub bundle: &'a [u8],
    /// The same as a Java trust store.
    pub java: &'a [u8],
}

impl TrustFiles<'_> {
    /// The files as descriptors, in the order in which [`install`] takes them.
    pub(crate) fn descriptors(&self) -> io::Result<[OwnedFd; 3]> {
        Ok([
            in_memory(self.ca)?,
            in_memory(self.bundle)?,
            in_memory(self.java)?,
        ])
    }
}

/// Writes the files into the sandbox's own folder and shows them in the system's places.
pub(crate) fn install(fds: Vec<OwnedFd>) -> Result<(), SandboxError> {
    let step = Step::TrustFiles;
    let fds: [OwnedFd; 3] = fds
        .try_into()
        .map_err(|_| SandboxError::refused(step, "files are missing"))?;
    for (path, fd) in [TRUST_CA, TRUST_BUNDLE, TRUST_JAVA].into_iter().zip(fds) {
        write(path, File::from(fd)).at(step, path)?;
    }
    for (own, places) in [(TRUST_BUNDLE, &PEM_PLACES[..]), (TRUST_JAVA, &JAVA_PLACES)] {
        for place in real_files(places) {
            mounts::show(Path::new(own), &place).at(step, &place.to_string_lossy())?;
        }
    }
    // Last, since a file that is mounted over itself is another one from then on.
    for own in [TRUST_CA, TRUST_BUNDLE, TRUST_JAVA] {
        mounts::show(Path::new(own), Path::new(own)).at(step, own)?;
    }
    Ok(())
}

/// The files that these paths lead to, each once. What is missing, dangling or masked is left out:
/// then there is no list of the system's that a program could read.
fn real_files(places: &[&str]) -> BTreeSet<PathBuf> {
    let real = places
        .iter()
        .filter_map(|place| fs::canonicalize(place).ok());
    real.filter(|path| path.is_file()).collect()
}

fn write(path: &str, from: File) -> io::Result<()> {
    let mut bytes = Vec::new();
    from.take(MAX_TRUST_BYTES).read_to_end(&mut bytes)?;
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
}

/// A file that exists in memory alone, to be read from its start.
fn in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"trust", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_is_read_from_its_start() {
        let files = TrustFiles {
            ca: b"one",
            bundle: b"one and two",
            java: b"",
        };
        let read = files.descriptors().unwrap().map(|fd| {
            let mut text = String::new();
            File::from(fd).read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(read, ["one", "one and two", ""]);
    }

    #[test]
    fn links_to_one_file_are_one_place_and_missing_ones_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundle");
        fs::write(&file, "x").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let dangling = folder.path().join("dangling");
        std::os::unix::fs::symlink("/nowhere/at/all", &dangling).unwrap();
        let places = [&file, &link, &dangling, &folder.path().to_owned()]
            .map(|path| path.to_str().unwrap().to_owned());
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let real = real_files(&places);
        assert_eq!(
            real.into_iter().collect::<Vec<_>>(),
            [fs::canonicalize(&file).unwrap()]
        );
    }
}
