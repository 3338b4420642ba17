//! What container runtimes hand to the commands that they start: a message on standard input, and the paths of policies.
//!
//! Answers *failing open* (docs/threats.md): what is too long, too slow or somebody else's to write is refused.

use crate::output;
use crate::policy_options;
use portcullis_control::PolicyText;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::geteuid;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// How long a message may take.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest message, in bytes.
const MAX_MESSAGE_BYTES: u64 = 1024 * 1024;
/// The longest `config.json` of a bundle, in bytes.
const MAX_CONFIG_BYTES: u64 = 16 * 1024 * 1024;
/// Permissions by which others than its owner write a file.
const OTHERS_WRITE: u32 = 0o022;

/// Standard input to its end.
pub fn message() -> io::Result<Vec<u8>> {
    let (give, take) = mpsc::sync_channel(1);
    // A writer that holds its end open would keep this thread; the process does not wait for it.
    std::thread::Builder::new().spawn(move || {
        let _ = give.send(bounded(io::stdin().lock(), MAX_MESSAGE_BYTES));
    })?;
    match take.recv_timeout(MESSAGE_TIMEOUT) {
        Ok(message) => message,
        Err(_) => {
            let text = format!("it does not end within {} s", MESSAGE_TIMEOUT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}

/// A bundle's `config.json`.
pub fn bundle_config(path: &Path) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?, MAX_CONFIG_BYTES)
}

fn bounded(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    from.take(most + 1).read_to_end(&mut read)?;
    if read.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(read)
}

/// A policy file that nobody but root and this user writes. What is wrong with it is already on stderr.
pub fn policy(path: &Path) -> Result<PolicyText, ()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = open(path, flags, Mode::empty()).map(File::from);
    let Ok(file) = opened else {
        // It is told better there.
        return policy_options::text(path);
    };
    if let Err(why) = is_ours(&file) {
        let what = format!("the policy {} is refused: {why}", path.display());
        output::error(what, Some("chown root FILE && chmod go-w FILE"));
        return Err(());
    }
    // The very file that was looked at: its path may lead to another by now.
    policy_options::text_of(path, file)
}

/// Whether only root and this user write a file.
fn is_ours(file: &File) -> Result<(), String> {
    let file = file.metadata().map_err(|error| error.to_string())?;
    if !file.is_file() {
        return Err("it is no file".to_owned());
    }
    if ![0, geteuid().as_raw()].contains(&file.uid()) {
        return Err(format!("it belongs to user {}", file.uid()));
    }
    match file.mode() & OTHERS_WRITE {
        0 => Ok(()),
        _ => Err("others than its owner may write it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_too_long_is_an_error() {
        assert_eq!(bounded(&b"1234"[..], 4).unwrap(), b"1234");
        assert!(bounded(&b"12345"[..], 4).is_err());
        assert!(bounded(io::repeat(0), 4096).is_err());
    }

    #[test]
    fn a_policy_that_others_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.toml");
        std::fs::write(&path, "version = 1\n").unwrap();
        for (mode, ours) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let file = File::open(&path).unwrap();
            assert_eq!(is_ours(&file).is_ok(), ours, "{mode:o}");
        }
        for other in [folder.path(), Path::new("/dev/zero")] {
            assert!(is_ours(&File::open(other).unwrap()).is_err());
        }
    }
}
