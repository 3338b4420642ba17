//! The files that tell a program how to resolve names.
//!
//! Answers *around the gateway* (docs/threats.md): the sandbox's resolver is the gateway, and no service
//! of the host is asked in its place.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{At, SandboxError, Step};
use crate::mounts;
use crate::spec::{Addresses, NameFiles};

/// The most that is read of a resolver file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// A usual length of such a file, in bytes.
const USUAL_FILE_BYTES: usize = 4 * 1024;
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";
pub(crate) const HOSTS: &str = "/etc/hosts";
pub(crate) const NSSWITCH_CONF: &str = "/etc/nsswitch.conf";
const HOSTS_SOURCES: [&str; 2] = ["files", "dns"];

/// Gives the sandbox its own `resolv.conf` and, where it would ask others, `nsswitch.conf`.
///
/// A missing `resolv.conf` stays missing: resolvers then ask 127.0.0.1, which is the gateway too.
pub(crate) fn resolver_files(addresses: &Addresses, files: &NameFiles) -> Result<(), SandboxError> {
    let step = Step::ResolverFiles;
    if let Ok(found) = fs::symlink_metadata(RESOLV_CONF) {
        let own = PathBuf::from(format!("{}/resolv.conf", mounts::OWN));
        let text = format!("nameserver {}\n{}", addresses.resolver4, files.resolv_conf);
        fs::write(&own, &text).at(step, RESOLV_CONF)?;
        if found.is_symlink() {
            link_target(&own, &text).at(step, RESOLV_CONF)?;
        }
        mounts::show(&own, Path::new(RESOLV_CONF)).at(step, RESOLV_CONF)?;
    }
    if let Some(hosts) = &files.hosts
        && let Ok(target) = fs::canonicalize(HOSTS)
    {
        let own = PathBuf::from(format!("{}/hosts", mounts::OWN));
        fs::write(&own, hosts).at(step, HOSTS)?;
        mounts::show(&own, &target).at(step, HOSTS)?;
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
/// Nor can they change it, where their user could.
fn link_target(own: &Path, text: &str) -> io::Result<()> {
    let target = Path::new("/etc").join(fs::read_link(RESOLV_CONF)?);
    let Some(target) = plain(&target).filter(|target| target.starts_with("/run")) else {
        return match fs::canonicalize(RESOLV_CONF) {
            Ok(target) => mounts::show(own, &target),
            Err(_) => Ok(()),
        };
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
pub(crate) fn with_own_hosts(text: &str) -> Option<String> {
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
