//! The host's Unix sockets, and the files that tell a program how to resolve names.
//!
//! Answers *around the gateway* (docs/threats.md). A socket with a path is reached through the file
//! system, whatever the network namespace: a
//! name service cache, D-Bus, Avahi, a container engine or an agent would resolve or fetch on the
//! sandbox's behalf. `/run` and the runtime folder are masked as a whole; every other socket that
//! has a path when the sandbox starts is covered one by one.
//!
//! What cannot be covered: a socket that has moved to another folder since it was bound, whose path
//! was relative to another folder than the command's, or that is bound after the sandbox has
//! started.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::error::{At, SandboxError, Step};
use crate::mounts;
use crate::spec::Addresses;

/// The most sockets that are covered one by one; with more the sandbox is not made.
const MAX_MASKED_SOCKETS: usize = 4096;
/// The most entries of the sockets' folders that are looked at.
const MAX_LISTED_ENTRIES: usize = 65_536;
/// What is before the path in a line of the list.
const FIELDS_BEFORE_PATH: usize = 7;
/// The most that is read of the list of sockets, in bytes.
const MAX_LIST_BYTES: u64 = 64 * 1024 * 1024;
/// A usual length of that list, in bytes.
const USUAL_LIST_BYTES: usize = 32 * 1024;
/// The most that is read of a resolver file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// A usual length of such a file, in bytes.
const USUAL_FILE_BYTES: usize = 4 * 1024;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const NSSWITCH_CONF: &str = "/etc/nsswitch.conf";
const HOSTS_SOURCES: [&str; 2] = ["files", "dns"];

/// Opens the list of the host's sockets. Must be called in the host's network namespace; it can
/// be read anywhere.
pub(crate) fn open_list() -> io::Result<File> {
    File::open("/proc/self/net/unix")
}

/// Covers every socket of the list that can be reached by its path, and every other socket in the
/// folders where they are: one that was renamed or has further links is in none of the list's lines.
pub(crate) fn cover_sockets(list: &File, cwd: &Path) -> Result<(), SandboxError> {
    let mut text = Vec::with_capacity(USUAL_LIST_BYTES);
    list.take(MAX_LIST_BYTES)
        .read_to_end(&mut text)
        .at(Step::MaskSockets, "list")?;
    if text.len() as u64 == MAX_LIST_BYTES {
        return Err(SandboxError::refused(
            Step::MaskSockets,
            "the list is too long",
        ));
    }
    let bound = reachable_paths(&text, cwd);
    let mut covered = 0;
    let mut cover = |path: &Path| {
        // What is not a socket here, or not to be seen by this user, is not to be reached either.
        let is_socket = fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if !is_socket {
            return Ok(());
        }
        covered += 1;
        if covered > MAX_MASKED_SOCKETS {
            return Err(SandboxError::refused(
                Step::MaskSockets,
                format!("more than {MAX_MASKED_SOCKETS} sockets"),
            ));
        }
        mounts::skip_missing(mounts::cover(path)).at(Step::MaskSockets, &path.to_string_lossy())
    };
    for path in &bound {
        cover(path)?;
    }
    let folders: BTreeSet<&Path> = bound.iter().filter_map(|path| path.parent()).collect();
    let entries = folders
        .into_iter()
        .filter_map(|folder| fs::read_dir(folder).ok());
    for entry in entries.flatten().flatten().take(MAX_LISTED_ENTRIES) {
        // The folder's own word, without a look at each file.
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            cover(&entry.path())?;
        }
    }
    Ok(())
}

/// The paths in `/proc/net/unix`, each once, without those below `/run`. A relative one may be
/// meant from anywhere; it is covered where the command is going to stand.
fn reachable_paths(list: &[u8], cwd: &Path) -> BTreeSet<PathBuf> {
    list.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let path = path_of(line)?;
            // Abstract names begin with '@'.
            if path.starts_with(b"@") {
                return None;
            }
            let path = cwd.join(std::ffi::OsStr::from_bytes(path));
            (!path.starts_with(mounts::RUN)).then_some(path)
        })
        .collect()
}

/// Num RefCount Protocol Flags Type St Inode Path; the path may have spaces.
fn path_of(line: &[u8]) -> Option<&[u8]> {
    let mut rest = line;
    for _ in 0..FIELDS_BEFORE_PATH {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        rest = &rest[start..];
        let end = rest.iter().position(|byte| *byte == b' ')?;
        rest = &rest[end..];
    }
    rest.get(1..).filter(|path| !path.is_empty())
}

/// Gives the sandbox its own `resolv.conf` and, where it would ask others, `nsswitch.conf`.
///
/// A missing `resolv.conf` stays missing: resolvers then ask 127.0.0.1, which is the gateway too.
pub(crate) fn resolver_files(addresses: &Addresses) -> Result<(), SandboxError> {
    let step = Step::ResolverFiles;
    if let Ok(found) = fs::symlink_metadata(RESOLV_CONF) {
        let own = PathBuf::from(format!("{}/resolv.conf", mounts::OWN));
        let text = format!("nameserver {}\noptions edns0\n", addresses.resolver4);
        fs::write(&own, &text).at(step, RESOLV_CONF)?;
        if found.is_symlink() {
            link_target(&text).at(step, RESOLV_CONF)?;
        }
        mounts::show(&own, Path::new(RESOLV_CONF)).at(step, RESOLV_CONF)?;
    }
    match read_limited(NSSWITCH_CONF) {
        Ok(text) => {
            if let Some(text) = with_own_hosts(&text) {
                let own = PathBuf::from(format!("{}/nsswitch.conf", mounts::OWN));
                fs::write(&own, text).at(step, NSSWITCH_CONF)?;
                mounts::show(
                    &own,
                    &fs::canonicalize(NSSWITCH_CONF).at(step, NSSWITCH_CONF)?,
                )
                .at(step, NSSWITCH_CONF)?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(SandboxError::setup(step, NSSWITCH_CONF, error)),
    }
}

/// Programs that read the link's target by its own name find the same text there.
fn link_target(text: &str) -> io::Result<()> {
    let target = Path::new("/etc").join(fs::read_link(RESOLV_CONF)?);
    let Some(target) = plain(&target).filter(|target| target.starts_with("/run")) else {
        return Ok(());
    };
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(target, text)
}

/// The path without `.` and `..`, as text.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            part => out.push(part),
        }
    }
    out.is_absolute().then_some(out)
}

fn read_limited(path: &str) -> io::Result<String> {
    let mut text = Vec::with_capacity(USUAL_FILE_BYTES);
    File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The text with `hosts: files dns`; none if that is what it says already.
fn with_own_hosts(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 32);
    let mut same = true;
    let mut seen = false;
    for line in text.lines() {
        match line.split_once(':') {
            Some((key, sources)) if key.trim() == "hosts" => {
                let sources = sources.split('#').next().unwrap_or_default();
                same &= !seen && sources.split_ascii_whitespace().eq(HOSTS_SOURCES);
                if !seen {
                    out.push_str("hosts: files dns\n");
                }
                seen = true;
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    if !seen {
        out.push_str("hosts: files dns\n");
    }
    (!seen || !same).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_paths_are_read_with_spaces_relative_ones_and_without_abstract_ones() {
        let list = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000: 00000002 00000000 00010000 0001 01 17 /tmp/a b.sock\n\
            0000: 00000002 00000000 00010000 0001 01 18 @/tmp/abstract\n\
            0000: 00000002 00000000 00010000 0001 01 19 /run/docker.sock\n\
            0000: 00000003 00000000 00000000 0001 03 20 /tmp/a b.sock\n\
            0000: 00000003 00000000 00000000 0001 03 21\n\
            0000: 00000002 00000000 00000000 0002 01 22 relative/path\n\
            0000: 00000002 00000000 00000000 0002 01 23 /var/lib/x/notify\n";
        let found: Vec<PathBuf> = reachable_paths(list, Path::new("/home/x"))
            .into_iter()
            .collect();
        let expected = [
            "/home/x/relative/path",
            "/tmp/a b.sock",
            "/var/lib/x/notify",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn nsswitch_keeps_everything_but_hosts() {
        let text = "passwd: files systemd\nhosts:  files mymachines resolve [!UNAVAIL=return] dns # x\ngroup: files\n";
        assert_eq!(
            with_own_hosts(text).unwrap(),
            "passwd: files systemd\nhosts: files dns\ngroup: files\n"
        );
        assert_eq!(
            with_own_hosts("hosts:\tfiles   dns\n"),
            None,
            "nothing to change"
        );
        assert!(
            with_own_hosts("passwd: files\n")
                .unwrap()
                .ends_with("hosts: files dns\n")
        );
        let twice = "hosts: files dns\nhosts: resolve\n";
        assert_eq!(with_own_hosts(twice).unwrap(), "hosts: files dns\n");
    }

    #[test]
    fn link_targets_are_made_plain() {
        let target = Path::new("/etc").join("../run/systemd/resolve/stub-resolv.conf");
        assert_eq!(
            plain(&target).unwrap(),
            Path::new("/run/systemd/resolve/stub-resolv.conf")
        );
    }
}
