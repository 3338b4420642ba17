//! What the daemon must know after a restart: a file for each sandbox that a client made.
//!
//! Answers *failing open* (docs/threats.md): a file is whole or absent, and is on the disk before the client is
//! told. One that cannot be read stops the daemon, rather than that a sandbox were forgotten.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_control::{Name, NewSandbox};
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

/// The ending of a sandbox's file.
const ENDING: &str = ".json";
/// The ending of one that is being written.
const UNFINISHED: &str = ".unfinished";
/// The ending of a holder's socket.
const HOLDER: &str = ".holder";
/// The longest path of the folder, in bytes: 107 for a socket (unix(7)), less `/configured-`, 16 digits and the ending.
const MAX_FOLDER_PATH: usize = 107 - 12 - 16 - HOLDER.len();
/// What a daemon locks.
const LOCK: &str = ".lock";
/// The bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;
/// The most files that are read.
const MAX_FILES: usize = 100_000;

/// A sandbox that a client made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// As it was asked for, with the policy in force.
    pub(crate) new: NewSandbox,
    /// Who made it.
    pub(crate) owner: u32,
    /// When, in seconds since 1970.
    pub(crate) since: u64,
    /// What its holder's socket is told by from those of others that had the name.
    #[serde(default)]
    pub(crate) mark: String,
    /// The mark of the process that it is named by: its number alone may mean another later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<String>,
}

/// A folder that belongs to the daemon alone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    /// Held as long as this daemon lives.
    _lock: Arc<File>,
}

impl Store {
    /// Opens the folder, and makes it if need be.
    pub(crate) fn open(folder: &Path) -> io::Result<Store> {
        if folder.as_os_str().len() > MAX_FOLDER_PATH {
            let text = format!(
                "its path has more than {MAX_FOLDER_PATH} bytes, and sockets that are made in it have short ones"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        own_folder(folder, 0o700)?;
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(LOCK))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(io::Error::other("another daemon keeps its sandboxes there"));
        }
        Ok(Store {
            folder: folder.to_owned(),
            _lock: Arc::new(lock),
        })
    }

    /// All that were kept, by name.
    pub(crate) fn read(&self) -> io::Result<Vec<Kept>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(UNFINISHED) {
                fs::remove_file(&path)?;
            } else if let Some(name) = name.strip_suffix(ENDING) {
                if all.len() == MAX_FILES {
                    return Err(io::Error::other("there are too many sandboxes"));
                }
                all.push(read(&path, name)?);
            }
        }
        all.sort_by(|one, other| one.new.name.cmp(&other.new.name));
        Ok(all)
    }

    /// Keeps one, in the place of an earlier one of the name.
    pub(crate) fn keep(&self, kept: &Kept) -> io::Result<()> {
        let path = self.path(&kept.new.name);
        let unfinished = self.folder.join(format!("{}{UNFINISHED}", kept.new.name));
        let text = serde_json::to_vec_pretty(kept)?;
        let written = write(&unfinished, &text).and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written.and_then(|()| self.flush())
    }

    /// Forgets one.
    pub(crate) fn forget(&self, name: &Name) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.flush(),
        }
    }

    /// Where the holder of one listens for the next daemon. `mark` tells it from all others, also from those that had
    /// its name; names are not in it, since a socket's path is short.
    pub(crate) fn holder(&self, mark: &str) -> PathBuf {
        self.folder.join(format!("{mark}{HOLDER}"))
    }

    /// The holders that listen, or that have left their socket.
    pub(crate) fn holders(&self) -> io::Result<Vec<PathBuf>> {
        let all = fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.path()));
        let all: io::Result<Vec<PathBuf>> = all.collect();
        let is_holder = |path: &PathBuf| path.to_string_lossy().ends_with(HOLDER);
        Ok(all?.into_iter().filter(is_holder).collect())
    }

    /// The folder's entries are on the disk.
    fn flush(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.folder.join(format!("{name}{ENDING}"))
    }
}

/// Makes a folder if need be, which nobody else may write to.
pub(crate) fn own_folder(folder: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)?;
    let found = fs::symlink_metadata(folder)?;
    let others = found.permissions().mode() & OTHERS_WRITE;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || others != 0 {
        let text = "other users can write to it; choose a folder of your own";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

fn read(path: &Path, name: &str) -> io::Result<Kept> {
    let wrong = |why: String| {
        let text = format!(
            "{}: {why}; correct it, or remove the file to forget the sandbox",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let text = fs::read(path)?;
    let kept: Kept = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    match kept.new.name.as_str() == name {
        true => Ok(kept),
        false => Err(wrong(format!("it is about `{}`", kept.new.name))),
    }
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_control::{AttachTo, PolicyText};

    fn kept(name: &str) -> Kept {
        Kept {
            new: NewSandbox {
                name: name.parse().unwrap(),
                attach: AttachTo::Listeners {
                    dns: None,
                    http: Some("127.0.0.1:0".parse().unwrap()),
                    socks5: None,
                },
                policy: PolicyText::default(),
                labels: [("job".to_owned(), "1".to_owned())].into(),
                audit: true,
            },
            owner: 1000,
            since: 1,
            mark: "0123".to_owned(),
            process: Some("boot/1".to_owned()),
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("a/b")).unwrap();
        store.keep(&kept("two")).unwrap();
        store.keep(&kept("one")).unwrap();
        store.keep(&kept("two")).unwrap();
        assert_eq!(store.read().unwrap(), [kept("one"), kept("two")]);
        store.forget(&"one".parse().unwrap()).unwrap();
        store.forget(&"one".parse().unwrap()).unwrap();
        assert_eq!(store.read().unwrap(), [kept("two")]);
    }

    #[test]
    fn a_folder_has_one_daemon_and_no_other_writer() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let second = Store::open(folder.path()).unwrap_err();
        assert!(second.to_string().contains("another daemon"), "{second}");
        drop(store);
        Store::open(folder.path()).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let shared = Store::open(folder.path()).unwrap_err();
        assert!(shared.to_string().contains("other users"), "{shared}");
    }

    #[test]
    fn a_folder_whose_sockets_would_have_too_long_paths_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(MAX_FOLDER_PATH - folder.path().as_os_str().len() - 1);
        let longest = folder.path().join(&long);
        let store = Store::open(&longest).unwrap();
        let path = store.holder(&format!("configured-{:016x}", u64::MAX));
        assert_eq!(path.as_os_str().len(), 107);
        let refused = Store::open(&folder.path().join(long + "x")).unwrap_err();
        assert!(refused.to_string().contains("72 bytes"), "{refused}");
    }

    #[test]
    fn half_a_file_is_no_sandbox_and_a_broken_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let unfinished = folder.path().join("one.unfinished");
        fs::write(&unfinished, "{").unwrap();
        assert_eq!(store.read().unwrap(), []);
        assert!(!unfinished.exists());
        fs::write(folder.path().join("one.json"), "{").unwrap();
        assert!(store.read().unwrap_err().to_string().contains("one.json"));
        store.keep(&kept("two")).unwrap();
        fs::rename(
            folder.path().join("two.json"),
            folder.path().join("one.json"),
        )
        .unwrap();
        assert!(
            store
                .read()
                .unwrap_err()
                .to_string()
                .contains("it is about `two`")
        );
    }
}
