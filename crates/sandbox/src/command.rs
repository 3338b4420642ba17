//! The command's process, from its fork to `execve`: the inner user namespace, the filter, the
//! descriptors, the signals.
//!
//! Answers *around the gateway* (docs/threats.md). The outer user namespace owns the network and the
//! mounts. The command lives in an inner one and so has no capability over either, whoever its user
//! is.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::execve;
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};

use crate::channel::Channel;
use crate::error::{At, SandboxError, Step};
use crate::fds;
use crate::ids::IdMaps;
use crate::limits::{self, Descriptors};
use crate::message::Report;
use crate::seccomp::UnixCalls;
use crate::signals::Saved;
use crate::spec::{Keyring, UnixSockets};
use crate::unix_supervisor::ToSupervisor;
use crate::{landlock, seccomp, sys};

/// Where commands are looked for when the environment does not say.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";
/// The longest path that is tried, in bytes.
const MAX_PATH_BYTES: usize = libc::PATH_MAX as usize;
/// How long the two processes wait for each other's short steps.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// What the command's process exits with where it could not become the command.
const EXIT_NOT_STARTED: i32 = 127;

const READY_FOR_MAPS: u8 = 1;
const MAPPED: u8 = 2;
const GO: u8 = 3;
const FAILED: u8 = 4;

/// The command in the form that the kernel takes.
#[derive(Debug)]
pub(crate) struct Command {
    argv: Vec<CString>,
    env: Vec<CString>,
    path: Vec<u8>,
}

impl Command {
    pub(crate) fn new(
        argv: &[OsString],
        env: &BTreeMap<OsString, OsString>,
    ) -> Result<Self, SandboxError> {
        let invalid = |_| {
            SandboxError::Invalid(
                "the command line or the environment contains a NUL byte".to_owned(),
            )
        };
        if argv.first().is_none_or(|name| name.is_empty()) {
            return Err(SandboxError::Invalid("no command given".to_owned()));
        }
        let argv = argv
            .iter()
            .map(|word| CString::new(word.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(invalid)?;
        let path = env.get(OsStr::new("PATH"));
        let path = path.map_or(DEFAULT_PATH, |value| value.as_bytes()).to_vec();
        let env = env
            .iter()
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<_, _>>()
            .map_err(invalid)?;
        Ok(Self { argv, env, path })
    }

    /// Replaces this process; returns the errno of the attempt that counts.
    fn execute(&self) -> i32 {
        let mut result = Errno::ENOENT;
        for path in candidates(self.argv[0].as_bytes(), &self.path) {
            let Err(error) = execve(&path, &self.argv, &self.env);
            match error {
                // A script without an interpreter line is the shell's, as with execvp.
                Errno::ENOEXEC => {
                    let shell = c"/bin/sh";
                    let mut words = vec![shell, &path];
                    words.extend(self.argv[1..].iter().map(CString::as_c_str));
                    let Err(_) = execve(shell, &words, &self.env);
                    return error as i32;
                }
                Errno::ENOENT | Errno::ENOTDIR => {
                    if result == Errno::ENOENT {
                        result = error;
                    }
                }
                // Go on looking, but remember that something was there.
                Errno::EACCES => result = error,
                _ => return error as i32,
            }
        }
        result as i32
    }
}

/// Whether an errno of `execve` means that there is no such command.
pub(crate) fn not_found(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::ENOTDIR)
}

/// The paths that a name stands for.
fn candidates(name: &[u8], path: &[u8]) -> Vec<CString> {
    if name.contains(&b'/') {
        return CString::new(name).into_iter().collect();
    }
    path.split(|byte| *byte == b':')
        .filter_map(|folder| {
            let folder = if folder.is_empty() { b"." } else { folder };
            let full = OsString::from_vec([folder, b"/", name].concat());
            let short = full.len() < MAX_PATH_BYTES;
            short
                .then(|| CString::new(OsStr::as_bytes(&full)).ok())
                .flatten()
        })
        .collect()
}

/// A command's process that waits for its start.
pub(crate) struct Waiting {
    pub(crate) pid: Pid,
    channel: Channel,
}

/// What the command's process needs besides the command.
pub(crate) struct Confinement<'a> {
    pub(crate) maps: &'a IdMaps,
    pub(crate) kept: &'a [RawFd],
    pub(crate) signals: &'a Saved,
    pub(crate) descriptors: Descriptors,
    pub(crate) keyring: Keyring,
    pub(crate) unix_sockets: UnixSockets,
    /// Sockets of the host that the command may reach.
    pub(crate) let_in: &'a [PathBuf],
    /// Who carries out the command's `connect` calls, where somebody may have to.
    pub(crate) supervisor: Option<ToSupervisor>,
}

/// Forks the command's process. It enters its own user namespace and waits.
pub(crate) fn fork(command: &Command, with: &Confinement<'_>) -> Result<Waiting, SandboxError> {
    let (ours, theirs) = Channel::pair().at(Step::InnerNamespace, "channel")?;
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { sys::fork() }.at(Step::InnerNamespace, "fork")? {
        None => {
            drop(ours);
            // A panic must end here: what is above on the stack is the first process's own code.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let message = match become_inner(&theirs, with) {
                    Ok(()) => no_exec(command.execute()),
                    Err(error) => Report::encode_failure(&error),
                };
                let _ = theirs.send(&message, &[]);
            }));
            sys::exit(EXIT_NOT_STARTED)
        }
        Some(pid) => Ok(Waiting { pid, channel: ours }),
    }
}

fn no_exec(errno: i32) -> Vec<u8> {
    let mut message = vec![FAILED];
    message.extend_from_slice(&errno.to_ne_bytes());
    message
}

fn become_inner(channel: &Channel, with: &Confinement<'_>) -> Result<(), SandboxError> {
    // Inherited as "not dumpable" from the first process, which would hide this process's own id
    // maps from it.
    set_dumpable_behavior(DumpableBehavior::Dumpable).at(Step::InnerNamespace, "")?;
    limits::lower_for_namespace().at(Step::Confine, "limits")?;
    unshare(CloneFlags::CLONE_NEWUSER).at(Step::InnerNamespace, "")?;
    if with.maps.privileged() {
        channel
            .send(&[READY_FOR_MAPS], &[])
            .at(Step::InnerNamespace, "")?;
        expect(channel, MAPPED)?;
    } else {
        with.maps.write_own().at(Step::InnerNamespace, "id maps")?;
    }
    expect(channel, GO)?;
    // From here on nothing of the sandbox is left but the channel, which closes at exec.
    fds::hand_on(with.kept).at(Step::Confine, "descriptors")?;
    with.signals.restore_for_command();
    if with.keyring == Keyring::Fresh {
        leave_keyring();
    }
    landlock::scope_signals().at(Step::Confine, "signals")?;
    filter_calls(with)?;
    with.descriptors
        .lower_for_command()
        .at(Step::Confine, "limits")
}

/// Puts the system call filter in force, and whatever keeps the command from the host's Unix sockets.
fn filter_calls(with: &Confinement<'_>) -> Result<(), SandboxError> {
    let filter = |unix| {
        let program = seccomp::program(unix, with.keyring);
        seccomp::install(&program).at(Step::Confine, "system call filter")
    };
    if let Some(supervisor) = &with.supervisor {
        match seccomp::install_asking(&seccomp::program(UnixCalls::Ask, with.keyring)) {
            Ok(listener) => return supervisor.hand_over(&listener),
            // A filter around this one asks somebody already, and only one can; or none can here.
            Err(_) if with.unix_sockets == UnixSockets::Auto => supervisor.not_needed()?,
            Err(error) => return Err(error).at(Step::SuperviseSockets, ""),
        }
    }
    let restricted = || landlock::restrict_unix_sockets(with.let_in);
    if with.unix_sockets != UnixSockets::None
        && restricted().at(Step::SuperviseSockets, "Landlock")?
    {
        return filter(UnixCalls::Free);
    }
    if with.unix_sockets == UnixSockets::Landlock {
        return Err(SandboxError::refused(
            Step::SuperviseSockets,
            "this kernel's Landlock does not know Unix sockets (Linux 7.1 does)",
        ));
    }
    if let Some(path) = with.let_in.first() {
        return Err(SandboxError::refused(
            Step::SuperviseSockets,
            format!(
                "{} cannot be let in: the sandbox can have no Unix sockets at all here",
                path.display()
            ),
        ));
    }
    filter(UnixCalls::Pairs)
}

/// Leaves the caller's session keyring, where the kernel itself looks keys up (AFS, NFS).
///
/// In a kernel without keys, and where the user has no key left to make, nothing changes: the filter
/// lets no call reach a key.
fn leave_keyring() {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: without a name the call makes a new keyring and reads no memory.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            anonymous,
        )
    };
}

fn expect(channel: &Channel, what: u8) -> Result<(), SandboxError> {
    let message = channel
        .receive(STEP_TIMEOUT)
        .at(Step::InnerNamespace, "wait")?;
    if message.bytes.first() == Some(&what) {
        Ok(())
    } else {
        Err(SandboxError::refused(
            Step::InnerNamespace,
            "the sandbox's first process exited",
        ))
    }
}

/// What became of the start.
pub(crate) enum Started {
    Running,
    NoExec(i32),
}

impl Waiting {
    /// Writes the id maps if that is this side's part.
    pub(crate) fn map(&self, maps: &IdMaps) -> Result<(), SandboxError> {
        if !maps.privileged() {
            return Ok(());
        }
        let message = self.channel.receive(STEP_TIMEOUT);
        let message = message.at(Step::InnerNamespace, "wait")?.bytes;
        if message.first() != Some(&READY_FOR_MAPS) {
            return Err(failure(&message));
        }
        maps.write_for(self.pid)
            .at(Step::InnerNamespace, "id maps")?;
        self.channel
            .send(&[MAPPED], &[])
            .at(Step::InnerNamespace, "")
    }

    /// Lets the command begin; returns once `execve` has succeeded or failed.
    pub(crate) fn start(self) -> Result<Started, SandboxError> {
        // A process that has failed already is not there to hear it, but what it said is.
        let _ = self.channel.send(&[GO], &[]);
        let message = self.channel.receive(STEP_TIMEOUT);
        let message = message.at(Step::Confine, "wait")?.bytes;
        match message.first() {
            None => Ok(Started::Running),
            Some(&FAILED) => {
                let errno = message.get(1..5).and_then(|bytes| bytes.try_into().ok());
                Ok(Started::NoExec(errno.map_or(libc::EIO, i32::from_ne_bytes)))
            }
            Some(_) => Err(failure(&message)),
        }
    }
}

fn failure(message: &[u8]) -> SandboxError {
    Report::decode_failure(message)
        .unwrap_or_else(|| SandboxError::refused(Step::InnerNamespace, "its process exited"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_in_the_commands_own_path() {
        let of = |name: &str, path: &str| {
            candidates(name.as_bytes(), path.as_bytes())
                .into_iter()
                .map(|path| path.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(of("ls", "/bin:/usr/bin"), ["/bin/ls", "/usr/bin/ls"]);
        assert_eq!(of("ls", "/bin::x"), ["/bin/ls", "./ls", "x/ls"]);
        assert_eq!(of("./ls", "/bin"), ["./ls"]);
        assert!(of("ls", &"a".repeat(MAX_PATH_BYTES)).is_empty());
    }

    #[test]
    fn nul_bytes_and_empty_commands_are_refused() {
        let none = BTreeMap::new();
        assert!(Command::new(&[], &none).is_err());
        assert!(Command::new(&["".into()], &none).is_err());
        assert!(Command::new(&["a\0b".into()], &none).is_err());
        assert!(Command::new(&["a".into()], &[("x".into(), "\0".into())].into()).is_err());
        assert!(Command::new(&["a".into()], &[("x".into(), "y".into())].into()).is_ok());
    }
}
