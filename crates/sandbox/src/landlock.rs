//! What the kernel's Landlock keeps the command from, where the kernel has it: signals beyond the
//! sandbox (Linux 6.12), and the host's Unix sockets (Linux 7.1).
//!
//! Answers *around the gateway* (docs/threats.md). The command is in its caller's process group, as
//! every command of a shell is, and a signal to the group would reach the sandbox's parent and the
//! caller's own processes.
//!
//! Where sockets are kept away this way, the kernel refuses every lookup of a socket's path, for
//! connections and for datagrams, unless the socket was made inside. It costs nothing for each call.
//! But a rule about files forbids mounts as well, and with them a sandbox inside the sandbox.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

/// Keeps the signals of the calling thread, and of all that it will start, from processes that are
/// not below it; false where the kernel has no such scope, which leaves things as they are.
pub(crate) fn scope_signals() -> io::Result<bool> {
    let scoped = || {
        all_or_nothing()
            .scope(Scope::Signal)?
            .create()?
            .restrict_self()
    };
    let status = scoped().map_err(|error| os_error(&error))?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

/// Keeps the calling thread, and all that it will start, from Unix sockets that are not made inside,
/// but for those at some paths; false where the kernel cannot, which leaves things as they are.
pub(crate) fn restrict_unix_sockets(but_at: &[PathBuf]) -> io::Result<bool> {
    take_away(AccessFs::ResolveUnix, but_at)
}

/// Takes a right to files away everywhere but at some paths.
fn take_away(right: AccessFs, but_at: &[PathBuf]) -> io::Result<bool> {
    let refused = |error| os_error(&error);
    // Every set of rules takes away `Refer` (to move files between folders) unless it gives it.
    let rules = all_or_nothing()
        .handle_access(right | AccessFs::Refer)
        .and_then(Ruleset::create)
        .map_err(refused)?;
    let root = beneath(Path::new("/"), AccessFs::Refer)?;
    let mut rules = rules.add_rule(root).map_err(refused)?;
    for path in but_at {
        rules = rules.add_rule(beneath(path, right)?).map_err(refused)?;
    }
    let status = rules.restrict_self().map_err(refused)?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced)
}

/// A set of rules that an older kernel leaves out as a whole.
fn all_or_nothing() -> Ruleset {
    Ruleset::default().set_compatibility(CompatLevel::SoftRequirement)
}

fn beneath(path: &Path, right: AccessFs) -> io::Result<PathBeneath<PathFd>> {
    let place = PathFd::new(path).map_err(|error| os_error(&error))?;
    Ok(PathBeneath::new(place, right))
}

/// The kernel's own answer: what is reported across processes is its number.
fn os_error(error: &(dyn Error + 'static)) -> io::Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(errno) = error.downcast_ref().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(errno);
        }
        cause = error.source();
    }
    io::Error::from_raw_os_error(libc::EIO)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_right_is_taken_away_but_at_some_paths_and_files_can_still_be_moved() {
        let folder = tempfile::tempdir().unwrap();
        let allowed = folder.path().join("allowed");
        fs::create_dir(&allowed).unwrap();
        let other = folder.path().to_owned();
        // The restriction is the thread's. It is a right that older kernels have too.
        thread::spawn(move || {
            assert!(take_away(AccessFs::MakeSock, std::slice::from_ref(&allowed)).unwrap());
            let refused = UnixListener::bind(other.join("s")).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            UnixListener::bind(allowed.join("s")).unwrap();
            fs::write(other.join("file"), "text").unwrap();
            fs::rename(other.join("file"), allowed.join("file")).unwrap();
            fs::hard_link(allowed.join("file"), other.join("link")).unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_kernel_without_the_right_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _served = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let refuses = restrict_unix_sockets(&[]).unwrap();
            let connected = std::os::unix::net::UnixStream::connect(&path);
            assert_eq!(connected.is_err(), refuses);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_path_that_is_not_there_is_named_by_its_errno() {
        let gone = Path::new("/nowhere/at/all");
        let error = beneath(gone, AccessFs::Refer).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
