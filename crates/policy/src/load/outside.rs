//! What a policy is made from besides its own text: the files and variables that it names.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::source::{SourceKind, Sources, Written};
use crate::input::Environment;

/// Largest file of credentials or certificates, in bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;
/// What begins a certificate.
const BEGIN_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// The files and variables that a policy may name.
pub(super) struct Outside<'r> {
    pub read: &'r mut dyn FnMut(&Path) -> io::Result<String>,
    /// Without it, variables are not looked at.
    pub environment: Option<&'r Environment>,
    /// Files that were read besides policies.
    pub files: Vec<PathBuf>,
    /// Those among all files that hold credentials.
    pub secrets: Vec<PathBuf>,
}

impl Outside<'_> {
    /// The text of a file of credentials or certificates.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub fn text(&mut self, path: &Path) -> Result<String, String> {
        self.files.push(path.to_owned());
        let shown = path.display();
        match (self.read)(path) {
            Ok(text) if text.len() <= MAX_FILE_BYTES => Ok(text),
            Ok(_) => Err(format!("`{shown}` is larger than {MAX_FILE_BYTES} bytes")),
            Err(error) => Err(format!("cannot read `{shown}`: {error}")),
        }
    }

    /// The text of a file of certificates; errors call it as it is written.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub fn certificates(&mut self, path: &Path, written: &str) -> Result<Arc<str>, String> {
        match self.text(path)? {
            text if text.contains(BEGIN_CERTIFICATE) => Ok(text.into()),
            _ => Err(format!("`{written}` contains no PEM certificate")),
        }
    }
}

/// Where a file is that a source names: a policy file means its own folder.
pub(super) fn beside(sources: &Sources, file: Written<&str>) -> PathBuf {
    match &sources.get(file.place.source).kind {
        SourceKind::File(path) => path.parent().unwrap_or(Path::new("")).join(file.value),
        SourceKind::Flag(_) => PathBuf::from(file.value),
    }
}

/// The path without `.` and `..`, so that a file has one name. No I/O: symbolic links stay.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if normal.file_name().is_some() => {
                normal.pop();
            }
            component => normal.push(component),
        }
    }
    normal
}
