//! Entering a network namespace that somebody else has made, and what is refused before; or making one.
//!
//! Answers *failing open* (docs/threats.md): a namespace with a way out that the doors do not close is
//! not taken for a sandbox.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, getegid, geteuid, pidfd_open, set_dumpable_behavior,
};

use super::links::{self, Link};
use super::request::Attachment;
use crate::error::{At, SandboxError, Step};
use crate::sys;

/// Loopback is the first device of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// `NS_GET_USERNS` and `NS_GET_NSTYPE` (ioctl_nsfs(2)).
const NS_GET_USERNS: libc::c_ulong = 0xb701;
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
/// A setting that only the network namespace has which a machine begins with (`net_core_table` of the kernel): seen
/// from any other, there is no such file.
const OF_FIRST_NETWORK: &str = "/proc/sys/net/core/dev_weight";
/// Pairs of devices, whose other end is in another namespace.
const VETH: &str = "veth";

/// Which namespace a descriptor or a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    pub(super) inode: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    pub(super) fn at(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::of(&fs::metadata(path)?))
    }
}

/// The namespace that this process is in now.
pub(super) struct Entered {
    pub(super) network: Identity,
    /// Readable when the process is gone that the sandbox is named by.
    pub(super) process: Option<OwnedFd>,
    /// The path that names the namespace, where it is named so.
    pub(super) path: Option<PathBuf>,
    /// That process's mount namespace, where it is another one than this process's own.
    pub(super) mounts: Option<OwnedFd>,
    /// Whether the loopback was up.
    pub(super) was_up: bool,
}

impl Entered {
    /// Whether the sandbox is gone, as far as its path tells.
    pub(super) fn is_gone(&self) -> bool {
        let names_it = |path| Identity::at(path).is_ok_and(|now| now == self.network);
        self.path.as_ref().is_some_and(|path| !names_it(path))
    }
}

/// Enters the namespace, and the user namespace that owns it where that is needed.
pub(super) fn enter(attachment: &Attachment) -> Result<Entered, SandboxError> {
    let (process, path) = match attachment {
        Attachment::Device(_) => return make(),
        Attachment::Shared { .. } => return stay(),
        Attachment::Process { pid, .. } => {
            (Some(process(*pid)?), format!("/proc/{pid}/ns/net").into())
        }
        Attachment::Namespace(path) => (None, path.clone()),
    };
    let network = open(&path)?;
    let mounts = match attachment {
        Attachment::Process { pid, .. } => mounts_of(*pid, network.as_fd()),
        Attachment::Namespace(_) | Attachment::Device(_) | Attachment::Shared { .. } => None,
    };
    // What was opened by the process's number is its own, if it still lives.
    if let Some(process) = &process
        && sys::poll_readable(process.as_fd(), Some(Duration::ZERO)).at(Step::Attach, "")?
    {
        return Err(gone(attachment));
    }
    let identity = Identity::of(&network.metadata().at(Step::Attach, "")?);
    let here = Identity::at("/proc/self/ns/net").at(Step::Attach, "/proc")?;
    // Only root may look, and nobody else could enter it.
    let hosts = Identity::at("/proc/1/ns/net").ok();
    if identity == here || Some(identity) == hosts {
        return Err(SandboxError::refused_for(
            Step::Attach,
            "this is the network namespace of the host, or of Portcullis itself: its programs are not in \
             a sandbox",
            libc::EINVAL,
        ));
    }
    join(network.as_fd())?;
    let was_up = check(&links::links().at(Step::Attach, "devices")?)?;
    Ok(Entered {
        network: identity,
        process,
        path: matches!(attachment, Attachment::Namespace(_)).then_some(path),
        mounts,
        was_up,
    })
}

/// The namespace that this process is in, whatever devices it has.
fn stay() -> Result<Entered, SandboxError> {
    if Path::new(OF_FIRST_NETWORK).exists() {
        return Err(SandboxError::refused_for(
            Step::Attach,
            "this is the network namespace of the host: the host itself would be cut off",
            libc::EINVAL,
        ));
    }
    Ok(Entered {
        network: Identity::at("/proc/self/ns/net").at(Step::Attach, "/proc")?,
        process: None,
        path: None,
        mounts: None,
        was_up: true,
    })
}

/// Moves this process into the network of a sandbox, and nothing else of it, to see what a program inside sees. The
/// process has one thread.
///
/// # Errors
/// There is no such namespace, it is the host's, or this user may not enter it.
pub fn look_from(attachment: &Attachment) -> Result<(), SandboxError> {
    // Programs inside may see this process, which has the host's files.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Step::Attach, "")?;
    enter(attachment).map(drop)
}

/// Makes a network namespace, and a user namespace that owns it where that is needed.
fn make() -> Result<Entered, SandboxError> {
    if unshare(CloneFlags::CLONE_NEWNET).is_err() {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
        unshare(flags).at(Step::Namespaces, "")?;
        number_user(user, group).at(Step::IdMap, "")?;
    }
    Ok(Entered {
        network: Identity::at("/proc/self/ns/net").at(Step::Attach, "/proc")?,
        process: None,
        path: None,
        mounts: None,
        was_up: false,
    })
}

/// Gives this process's user a number in its new user namespace, by which a gateway that asks later is known.
fn number_user(user: u32, group: u32) -> io::Result<()> {
    // Only then are these files its own. It holds nothing of a sandbox yet.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    let written = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {user} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {group} 1")));
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    written
}

fn process(pid: u32) -> Result<OwnedFd, SandboxError> {
    let known = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let opened = known.ok_or(Errno::SRCH);
    match opened.and_then(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Ok(process) => Ok(process),
        Err(Errno::SRCH | Errno::INVAL) => Err(gone(&Attachment::Process { pid, root: None })),
        Err(error) => Err(error).at(Step::Attach, ""),
    }
}

fn gone(attachment: &Attachment) -> SandboxError {
    let what = match attachment {
        Attachment::Process { pid, .. } => format!("there is no process {pid}, or it has ended"),
        Attachment::Namespace(path) => format!("nothing is at {}", path.display()),
        Attachment::Device(tap) => format!("there is no device {}", tap.name),
        Attachment::Shared { .. } => "there is no namespace of this process".to_owned(),
    };
    let errno = match attachment {
        Attachment::Process { .. } => libc::ESRCH,
        Attachment::Namespace(_) | Attachment::Device(_) | Attachment::Shared { .. } => {
            libc::ENOENT
        }
    };
    SandboxError::refused_for(Step::Attach, what, errno)
}

/// Opens what must be a network namespace.
fn open(path: &Path) -> Result<File, SandboxError> {
    let shown = path.to_string_lossy();
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(gone(&Attachment::Namespace(path.to_owned())));
        }
        opened => opened.at(Step::Attach, &shown)?,
    };
    // SAFETY: the call takes no argument.
    let kind = sys::check(unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) });
    if kind.is_ok_and(|kind| kind == i64::from(libc::CLONE_NEWNET)) {
        return Ok(file);
    }
    Err(SandboxError::refused_for(
        Step::Attach,
        format!("{shown} is no network namespace"),
        libc::EINVAL,
    ))
}

/// The mount namespace of a process, where it is the sandbox's: neither this one's own nor the host's (a service may
/// have one of its own), and owned as its network is. What is shown there is seen by nobody else's programs.
fn mounts_of(pid: u32, network: BorrowedFd<'_>) -> Option<OwnedFd> {
    let file = File::open(format!("/proc/{pid}/ns/mnt")).ok()?;
    let theirs = Identity::of(&file.metadata().ok()?);
    let is_other = |path: &str| Identity::at(path).map_or(true, |own| own != theirs);
    let others = ["/proc/self/ns/mnt", "/proc/1/ns/mnt"];
    let owner_of = |namespace: BorrowedFd<'_>| -> io::Result<Identity> {
        Ok(Identity::of(&File::from(owner(namespace)?).metadata()?))
    };
    let is_the_sandboxs = match (owner_of(file.as_fd()), owner_of(network)) {
        (Ok(mounts), Ok(network)) => mounts == network,
        _ => false,
    };
    (is_the_sandboxs && others.into_iter().all(is_other)).then(|| file.into())
}

/// Joins it; where that is not permitted, by its owner's user namespace.
fn join(network: BorrowedFd<'_>) -> Result<(), SandboxError> {
    let net = CloneFlags::CLONE_NEWNET;
    if setns(network, net).is_ok() {
        return Ok(());
    }
    let owner = owner(network).at(Step::Attach, "the owner of its namespace")?;
    setns(&owner, CloneFlags::CLONE_NEWUSER).at(Step::Attach, "its user namespace")?;
    setns(network, net).at(Step::Attach, "its network namespace")
}

/// The user namespace that owns another namespace.
pub(super) fn owner(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no argument, and returns a new descriptor.
    let fd = sys::check(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) })?;
    // SAFETY: nobody else has it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd as i32) })
}

/// Refuses devices that lead out. A veth may be there: it is taken down, and stays so. Returns whether
/// the loopback is up.
fn check(links: &[Link]) -> Result<bool, SandboxError> {
    let others = || {
        links
            .iter()
            .filter(|link| link.index != LOOPBACK_INDEX && link.is_up)
    };
    if let Some(link) = others().find(|link| link.kind != VETH) {
        let kind = Some(&*link.kind).filter(|kind| !kind.is_empty());
        let what = format!(
            "the namespace has the network device {} ({}), by which its programs reach a network",
            link.name,
            kind.unwrap_or("hardware"),
        );
        return Err(SandboxError::refused_for(Step::Attach, what, libc::EBUSY));
    }
    for veth in others() {
        links::down(veth.index).at(Step::Attach, &veth.name)?;
    }
    Ok(links
        .iter()
        .any(|link| link.index == LOOPBACK_INDEX && link.is_up))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_network_is_no_shared_one() {
        assert_eq!(stay().is_err(), Path::new(OF_FIRST_NETWORK).exists());
    }

    fn link(index: u32, kind: &str, is_up: bool) -> Link {
        Link {
            index,
            name: format!("d{index}"),
            kind: kind.to_owned(),
            is_up,
        }
    }

    #[test]
    fn only_the_loopback_and_devices_that_are_down_pass() {
        assert!(check(&[link(1, "", true)]).unwrap());
        assert!(!check(&[link(1, "", false), link(2, "ipip", false)]).unwrap());
        for kind in ["", "bridge", "tun", "wireguard"] {
            let error = check(&[link(1, "", true), link(2, kind, true)]).unwrap_err();
            assert!(error.to_string().contains("d2"), "{error}");
            assert!(error.fix().is_some());
        }
    }

    #[test]
    fn what_is_no_network_namespace_is_refused() {
        for path in ["/dev/null", "/proc/self/ns/user", "/etc"] {
            let error = open(Path::new(path)).unwrap_err();
            assert!(
                error.to_string().contains("no network namespace"),
                "{error}"
            );
        }
        let error = open(Path::new("/nowhere")).unwrap_err();
        assert!(error.to_string().contains("nothing is at"), "{error}");
        assert!(process(u32::MAX).is_err());
        assert!(process(0).is_err());
    }

    #[test]
    fn the_own_namespace_is_refused() {
        let own = Attachment::Process {
            pid: std::process::id(),
            root: None,
        };
        let error = enter(&own).err().unwrap();
        assert!(
            error.to_string().contains("of Portcullis itself"),
            "{error}"
        );
    }
}
