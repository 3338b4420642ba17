//! What the daemon must know after a restart: a file for each sandbox that a client made.
//!
//! Answers *failing open* (docs/threats.md): a file is whole or absent, and is on the disk before the client is
//! told. One that cannot be read stops the daemon, rather than that a sandbox were forgotten.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use portcullis_control::{Name, NewSandbox};
use serde::{Deserialize, Serialize};

/// The ending of a sandbox's file.
const ENDING: &str = ".json";
/// The ending of one that is being written.
const UNFINISHED: &str = ".unfinished";
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
    /// The mark of the process that it is named by: its number alone may mean another later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<String>,
}

/// A folder that belongs to the daemon alone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens the folder, and makes it if need be.
    pub(crate) fn open(folder: &Path) -> io::Result<Store> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        Ok(Store {
            folder: folder.to_owned(),
        })
    }

    /// All that were kept, by name.
    pub(crate) fn read(&self) -> io::Result<Vec<Kept>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)?.take(MAX_FILES) {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(UNFINISHED) {
                fs::remove_file(&path)?;
            } else if let Some(name) = name.strip_suffix(ENDING) {
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

    /// Where the holder of one listens for the next daemon.
    pub(crate) fn holder(&self, name: &Name) -> PathBuf {
        self.folder.join(format!("{name}.holder"))
    }

    /// The folder's entries are on the disk.
    fn flush(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.folder.join(format!("{name}{ENDING}"))
    }
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
