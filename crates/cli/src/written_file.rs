//! The files that are written while CMD runs, or after it: none that CMD can write to as well.
//!
//! Answers *the record* (docs/threats.md). What has a name is covered inside, and no
//! descriptor of it is handed on. What CMD could reach in another way is refused before it starts.

use crate::output::Hinted;
use anyhow::{Context, bail};
use portcullis_sandbox::MountTable;
use rustix::fs::{major, minor};
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `/dev/null`, as major and minor number.
const NULL_DEVICE: (u32, u32) = (1, 3);

/// A file that is written, as CMD could reach it.
#[derive(Clone)]
pub struct WrittenFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    is_pipe: bool,
    /// Takes everything and holds nothing.
    is_null: bool,
}

impl WrittenFile {
    /// Refuses what CMD could write to as well, whatever covers its name. `option` is the flag that
    /// named the file.
    ///
    /// # Errors
    /// CMD could write to it; it cannot be looked at.
    pub fn check(option: &str, path: &Path, file: &File) -> anyhow::Result<WrittenFile> {
        let shown = path.display();
        let found = file
            .metadata()
            .with_context(|| format!("cannot look at {shown}"))?;
        let kind = found.file_type();
        let refuse = |why: &str| bail!("{shown}: {option} takes a file{why}");
        if portcullis_runner::is_nameless(path) {
            return refuse(", not a pipe: CMD could write to a pipe too");
        }
        let null =
            kind.is_char_device() && (major(found.rdev()), minor(found.rdev())) == NULL_DEVICE;
        if !(kind.is_file() || kind.is_fifo() || null) {
            return refuse(": CMD could write to a device too");
        }
        if !null && found.nlink() > 1 {
            return refuse(" with one name: CMD could write to it by its other hard links");
        }
        let table = MountTable::read().context("cannot read the mount table")?;
        if table
            .shows_a_layer_of(file)
            .with_context(|| format!("cannot find out how {shown} is mounted"))?
        {
            return refuse(
                " with one place: this one is in an overlay, and CMD could write to its layer",
            );
        }
        Ok(WrittenFile {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            is_pipe: kind.is_fifo(),
            is_null: null,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a pipe: whoever finds its name can write to it, on a read-only mount as well.
    pub fn is_pipe(&self) -> bool {
        self.is_pipe
    }

    /// Refuses a file that is used for something else as well: `others`, each with what it is for.
    ///
    /// # Errors
    /// One of them is this file.
    pub fn check_apart(
        &self,
        option: &str,
        others: &[(PathBuf, &'static str)],
    ) -> anyhow::Result<()> {
        for (path, purpose) in others {
            let same = std::fs::metadata(path).is_ok_and(|found| self.is(&found));
            if same && !self.is_null {
                bail!(Hinted::new(
                    format!(
                        "{}: {option} cannot write to {purpose}",
                        self.path.display()
                    ),
                    Some("give each its own file"),
                ));
            }
        }
        Ok(())
    }

    fn is(&self, found: &Metadata) -> bool {
        (found.dev(), found.ino()) == (self.device, self.inode)
    }

    /// Why whoever reads it by its path now would be deceived, if so: the folders above it are CMD's
    /// to rename, where they are its user's.
    pub fn moved(&self) -> Option<String> {
        let found = std::fs::metadata(&self.path);
        let there = found.is_ok_and(|found| self.is(&found));
        (!there).then(|| {
            let path = self.path.display();
            format!("{path} was moved or replaced while the command ran")
        })
    }
}
