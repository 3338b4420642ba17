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
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::{At, SandboxError, Step};
use crate::mounts::{self, skip_missing};

/// The gateway's own authority, PEM, inside the sandbox.
pub const TRUST_CA: &str = "/run/portcullis/ca.pem";
/// Every authority that programs inside trust, PEM.
pub const TRUST_BUNDLE: &str = "/run/portcullis/ca-bundle.pem";
/// The same as a Java trust store (JKS).
pub const TRUST_JAVA: &str = "/run/portcullis/trust.jks";

/// The longest file, in bytes; the lists of today's systems have some hundred kilobytes.
const MAX_TRUST_BYTES: u64 = 16 * 1024 * 1024;
/// Where distributions keep one file with every authority. Those that exist are covered.
pub(crate) const PEM_PLACES: [&str; 10] = [
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
pub(crate) const JAVA_PLACES: [&str; 3] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
];

/// Where the files that are added to folders are kept, in a folder each.
const ADDED: &str = "/run/portcullis/added";
/// What is copied of one folder: a list of authorities as single files has some hundred.
const MAX_COPIED_ENTRIES: usize = 4096;
const MAX_COPIED_BYTES: u64 = 8 * 1024 * 1024;
/// Stands between the parts of what is added; none of them has one.
const END: char = '\0';

/// A file that is shown in a folder of the system's, beside what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustAddition {
    /// The folder, without symbolic links.
    pub folder: PathBuf,
    /// The file's path from there; folders on the way are made.
    pub file: String,
    /// What it says.
    pub content: String,
}

/// What the gateway hands over.
#[derive(Debug, Clone, Copy)]
pub struct TrustFiles<'a> {
    /// The gateway's own authority, PEM.
    pub ca: &'a [u8],
    /// Every authority, PEM.
    pub bundle: &'a [u8],
    /// The same as a Java trust store.
    pub java: &'a [u8],
    /// Stores that take one more file.
    pub added: &'a [TrustAddition],
}

impl TrustFiles<'_> {
    /// The files as descriptors, in the order in which [`install`] takes them.
    pub(crate) fn descriptors(&self) -> io::Result<[OwnedFd; 4]> {
        Ok([
            in_memory(self.ca)?,
            in_memory(self.bundle)?,
            in_memory(self.java)?,
            in_memory(packed(self.added).as_bytes())?,
        ])
    }
}

/// Writes the files into the sandbox's own folder and shows them in the system's places.
pub(crate) fn install(fds: Vec<OwnedFd>) -> Result<(), SandboxError> {
    let step = Step::TrustFiles;
    let fds: [OwnedFd; 4] = fds
        .try_into()
        .map_err(|_| SandboxError::refused(step, "files are missing"))?;
    let [ca, bundle, java, added] = fds;
    let fds = [ca, bundle, java];
    for (path, fd) in [TRUST_CA, TRUST_BUNDLE, TRUST_JAVA].into_iter().zip(fds) {
        write(path, File::from(fd)).at(step, path)?;
    }
    // Before the lists, which some of these folders have.
    let added = read(File::from(added)).at(step, ADDED)?;
    add(&unpacked(&added)).at(step, ADDED)?;
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
pub(crate) fn real_files(places: &[&str]) -> BTreeSet<PathBuf> {
    let real = places
        .iter()
        .filter_map(|place| fs::canonicalize(place).ok());
    real.filter(|path| path.is_file()).collect()
}

/// Shows each file in its folder, beside copies of what is there. A folder that cannot be copied whole is
/// left as it is: then that store does not have the authority.
fn add(added: &[TrustAddition]) -> io::Result<()> {
    let folders: BTreeSet<&PathBuf> = added.iter().map(|one| &one.folder).collect();
    for (number, folder) in folders.into_iter().enumerate() {
        let own = format!("{ADDED}/{number}");
        let mut room = Room::default();
        if copy(folder, Path::new(&own), &mut room).is_err() {
            continue;
        }
        let mut here = added.iter().filter(|one| one.folder == *folder);
        if here.all(|one| put(Path::new(&own), one).is_ok()) {
            mounts::show(Path::new(&own), folder)?;
        }
    }
    Ok(())
}

/// Puts a file into a copy of its folder. Links on the way are replaced, never followed: they lead to the
/// host's own folders.
fn put(copy: &Path, one: &TrustAddition) -> io::Result<()> {
    let mut path = copy.to_owned();
    let (folders, name) = one.file.rsplit_once('/').unwrap_or(("", &one.file));
    for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
        path.push(folder);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => continue,
            Ok(_) => fs::remove_file(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::create_dir(&path)?;
    }
    path.push(name);
    // A policy may be there already.
    skip_missing(fs::remove_file(&path))?;
    File::create_new(&path)?.write_all(one.content.as_bytes())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444))
}

/// What may still be copied of one folder.
struct Room {
    entries: usize,
    bytes: u64,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            entries: MAX_COPIED_ENTRIES,
            bytes: MAX_COPIED_BYTES,
        }
    }
}

/// Permissions without which a file or a folder is not everybody's to read.
const ALL_READ: u32 = 0o004;
const ALL_ENTER: u32 = 0o005;

/// Copies a folder with all that is everybody's to read in it: links as they are, files by what they say.
/// Nothing that was closed to a user of the sandbox is open in the copy.
fn copy(from: &Path, to: &Path, room: &mut Room) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, from, to) = (entry.file_type()?, entry.path(), to.join(entry.file_name()));
        room.entries = (room.entries.checked_sub(1)).ok_or(io::ErrorKind::FileTooLarge)?;
        let found = entry.metadata()?;
        let is_open = |bits| found.mode() & bits == bits;
        if kind.is_dir() && is_open(ALL_ENTER) {
            copy(&from, &to, room)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_file() && is_open(ALL_READ) {
            room.bytes =
                (room.bytes.checked_sub(found.len())).ok_or(io::ErrorKind::FileTooLarge)?;
            write(&to, File::open(&from)?)?;
        }
    }
    Ok(())
}

fn packed(added: &[TrustAddition]) -> String {
    let mut text = String::new();
    for one in added {
        // No path of this list is anything else.
        let Some(folder) = one.folder.to_str() else {
            continue;
        };
        for part in [folder, &one.file, &one.content] {
            text.push_str(part);
            text.push(END);
        }
    }
    text
}

fn unpacked(bytes: &[u8]) -> Vec<TrustAddition> {
    let text = String::from_utf8_lossy(bytes);
    let parts: Vec<&str> = text.split_terminator(END).collect();
    let (whole, _) = parts.as_chunks();
    let one = |[folder, file, content]: &[&str; 3]| TrustAddition {
        folder: PathBuf::from(folder),
        file: (*file).to_owned(),
        content: (*content).to_owned(),
    };
    whole.iter().map(one).collect()
}

fn write(path: impl AsRef<Path>, from: File) -> io::Result<()> {
    fs::write(&path, read(from)?)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444))
}

/// Reads a file that was handed over, up to a limit.
pub(crate) fn read(from: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_TRUST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file that exists in memory alone, to be read from its start.
pub(crate) fn in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
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
            added: &[],
        };
        let read = files.descriptors().unwrap().map(|fd| {
            let mut text = String::new();
            File::from(fd).read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(read, ["one", "one and two", "", ""]);
    }

    #[test]
    fn a_folder_is_copied_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("java")).unwrap();
        fs::write(from.join("java/cacerts"), "java").unwrap();
        fs::write(from.join("one.pem"), "one").unwrap();
        symlink("one.pem", from.join("0a.0")).unwrap();
        let to = folder.path().join("to");
        copy(&from, &to, &mut Room::default()).unwrap();
        assert_eq!(fs::read_to_string(to.join("java/cacerts")).unwrap(), "java");
        assert_eq!(
            fs::read_link(to.join("0a.0")).unwrap(),
            Path::new("one.pem")
        );
        for (entries, bytes) in [(3, u64::MAX), (usize::MAX, 6)] {
            let again = folder.path().join(format!("{entries}"));
            let copied = copy(&from, &again, &mut Room { entries, bytes });
            assert_eq!(copied.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        }
    }

    #[test]
    fn what_is_closed_is_not_copied_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("from/chrome")).unwrap();
        fs::create_dir(at("host")).unwrap();
        symlink(at("host"), at("from/chrome/policies")).unwrap();
        fs::write(at("from/key"), "secret").unwrap();
        fs::set_permissions(at("from/key"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::create_dir(at("from/private")).unwrap();
        fs::set_permissions(at("from/private"), fs::Permissions::from_mode(0o700)).unwrap();
        copy(&at("from"), &at("to"), &mut Room::default()).unwrap();
        assert!(!at("to/key").exists() && !at("to/private").exists());
        let one = TrustAddition {
            folder: at("from"),
            file: "chrome/policies/managed/one.json".to_owned(),
            content: "{}".to_owned(),
        };
        for _ in 0..2 {
            put(&at("to"), &one).unwrap();
            let text = fs::read_to_string(at("to/chrome/policies/managed/one.json"));
            assert_eq!(text.unwrap(), "{}");
        }
        assert_eq!(fs::read_dir(at("host")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_added_arrives_as_it_was() {
        let one = |folder: &str| TrustAddition {
            folder: folder.into(),
            file: "policies/managed/one.json".to_owned(),
            content: "{\"a\":\n\"ü\"}".to_owned(),
        };
        for added in [
            vec![],
            vec![one("/etc/a")],
            vec![one("/etc/a"), one("/etc/b c")],
        ] {
            assert_eq!(unpacked(packed(&added).as_bytes()), added);
        }
    }

    #[test]
    fn links_to_one_file_are_one_place_and_missing_ones_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundle");
        fs::write(&file, "x").unwrap();
        let link = folder.path().join("link");
        symlink(&file, &link).unwrap();
        let dangling = folder.path().join("dangling");
        symlink("/nowhere/at/all", &dangling).unwrap();
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
