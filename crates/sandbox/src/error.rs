//! Why a sandbox could not be made: which step, which errno, and the exact fix where one is known.
//!
//! Answers *failing open* (docs/threats.md): a step that fails ends the run before the command starts.

use std::io;

/// The steps, each with what it does and what is said where it fails, to be followed by the reason.
macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident: $sentence:literal,)+) => {
        /// The steps of making a sandbox, as they travel from the sandbox's first process to its
        /// parent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Step { $($(#[$doc])* $name,)+ }

        impl Step {
            const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// What failed, to be followed by the reason.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)+ }
            }
        }
    };
}

steps! {
    /// Preparing in the parent: pipes, sockets, signals, descriptors.
    Prepare: "cannot prepare the sandbox",
    /// Starting the gateway's process.
    Fork: "cannot start the gateway process",
    /// Making the user and PID namespaces.
    UserNamespace: "cannot create a user namespace",
    /// Writing the id maps.
    IdMap: "cannot map user and group ids",
    /// Making the network, mount, IPC and UTS namespaces.
    Namespaces: "cannot create the network and mount namespaces",
    /// Loopback, addresses, routes.
    Network: "cannot configure the sandbox's loopback interface",
    /// The TAP device.
    Tap: "cannot create the TAP device",
    /// Listeners inside.
    Listeners: "cannot listen inside the sandbox",
    /// Packet rules.
    Rules: "cannot install the packet rules",
    /// Handing the sockets to the gateway.
    HandOver: "cannot pass the sockets to the gateway",
    /// A mount.
    Mount: "cannot set up the sandbox's mounts",
    /// A new `/proc`.
    Proc: "cannot mount /proc for the sandbox",
    /// Keeping the command from the host's Unix sockets.
    SuperviseSockets: "cannot keep the command from the host's Unix sockets",
    /// Letting in some of them.
    LetInSocket: "cannot let in a Unix socket of the host",
    /// `/etc/resolv.conf` or `/etc/nsswitch.conf`.
    ResolverFiles: "cannot set up the sandbox's resolver files",
    /// Standard descriptors that would reach around the sandbox.
    Descriptors: "a standard stream would bypass the sandbox",
    /// Going to the working directory.
    WorkingDirectory: "cannot enter the working directory",
    /// The gateway's start.
    Gateway: "the gateway could not start",
    /// The gateway's end before that.
    GatewayEnd: "the gateway ended while it was starting",
    /// The probe that must be refused.
    ProbeRefused: "start-up check failed: a connection that must be refused was not refused",
    /// The probe that must be answered.
    ProbeAnswered: "start-up check failed: the sandbox's resolver did not answer",
    /// Dropping privileges and the system call filter.
    Confine: "cannot confine the command",
    /// The command's own user namespace.
    InnerNamespace: "cannot create the command's own user namespace",
    /// Entering a sandbox that somebody else has made.
    Attach: "cannot attach to the sandbox",
    /// The certificates that programs inside trust.
    TrustFiles: "cannot install the trusted certificates in the sandbox",
}

impl Step {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The exact fix for this errno, where one is known.
    pub fn fix(self, errno: i32) -> Option<&'static str> {
        match (self, errno) {
            (Self::UserNamespace | Self::InnerNamespace, libc::ENOSPC) => {
                Some("raise the limit: sudo sysctl -w user.max_user_namespaces=15000")
            }
            (
                Self::UserNamespace | Self::InnerNamespace | Self::IdMap,
                libc::EPERM | libc::EACCES,
            ) => Some(
                "allow unprivileged user namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1 \
                 kernel.apparmor_restrict_unprivileged_userns=0 (set those that exist; in a container, add \
                 --security-opt seccomp=unconfined)",
            ),
            (Self::Namespaces, libc::EPERM) => Some(
                "allow capabilities in user namespaces: \
                 sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (Self::Namespaces, libc::ENOSPC) => Some(
                "raise the limits: sudo sysctl -w user.max_net_namespaces=15000 user.max_mnt_namespaces=15000",
            ),
            (Self::Proc, libc::EPERM) => Some(
                "other mounts cover parts of /proc: in Docker, add --security-opt systempaths=unconfined; \
                 inside another `portcullis run`, run the outer one as a user other than root",
            ),
            (Self::SuperviseSockets, libc::EBUSY) => Some(
                "nothing: system calls are supervised already, as inside another sandbox, and programs \
                 have no Unix sockets but pairs; start Portcullis outside of it to have them",
            ),
            (Self::SuperviseSockets, libc::EPERM | libc::EACCES) => Some(
                "let processes be looked at by those with permission: \
                 sudo sysctl -w kernel.yama.ptrace_scope=2 (or lower); or run with --unix-sockets none",
            ),
            (Self::Attach, libc::EPERM | libc::EACCES) => Some(
                "attach as the user who started the sandbox, where that one made its user namespace, or as root",
            ),
            (Self::Attach, libc::ESRCH) => Some(
                "name a process that runs in the sandbox (podman inspect --format '{{.State.Pid}}' NAME)",
            ),
            (Self::Attach, libc::ENOENT) => {
                Some("check the path; `ip netns add NAME` makes a namespace at /run/netns/NAME")
            }
            (Self::Attach, libc::EBUSY) => Some(
                "start it without a network: podman run --network none, bwrap --unshare-net, unshare --net",
            ),
            (Self::Attach, libc::EADDRINUSE) => {
                Some("end the other gateway, or the program (`ss -lntup` inside lists them)")
            }
            (Self::Attach, libc::EINVAL) => Some(
                "name a process in a network namespace of its own, or that namespace by its path \
                 (/run/netns/NAME)",
            ),
            (Self::Tap, libc::ENOENT) => Some("load the driver: sudo modprobe tun"),
            (Self::Tap, libc::EACCES | libc::EPERM) => {
                Some("let users open the device: sudo chmod 666 /dev/net/tun")
            }
            (Self::Rules, libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT) => Some(
                "load the kernel's packet filter: sudo modprobe -a nf_tables nft_tproxy nft_socket \
                 nft_log nfnetlink_log nft_reject_inet",
            ),
            (Self::WorkingDirectory, libc::ENOENT) => {
                Some("the current folder was deleted; change to one that exists")
            }
            (Self::WorkingDirectory, libc::EACCES) => Some("change to a folder that you may enter"),
            (Self::GatewayEnd, 0) | (Self::HandOver, libc::EPIPE | libc::ECONNRESET) => Some(
                "it may have had too little memory or too few processes: raise the limits `ulimit -v`, \
                 `ulimit -d` and `ulimit -u`",
            ),
            _ => fix_of_limit(errno),
        }
    }
}

/// What to do where something has run out, whatever it was for.
pub fn fix_of_limit(errno: i32) -> Option<&'static str> {
    match errno {
        libc::EAGAIN => Some(
            "this user has too many processes and threads, or too little memory for another one: end \
             some, or raise the limits `ulimit -u` and `ulimit -v`",
        ),
        libc::EMFILE => Some("raise the limit of open files: ulimit -n 1024"),
        libc::ENFILE => Some(
            "this host has too many files open: close some, or raise the limit with \
             sudo sysctl -w fs.file-max=1000000",
        ),
        libc::EFBIG => Some("raise the limit of a file's size: ulimit -f unlimited"),
        libc::ENOMEM => Some("free some memory, or raise the limits `ulimit -v` and `ulimit -d`"),
        libc::ENOSPC | libc::EDQUOT => Some("free some space on that disk"),
        _ => None,
    }
}

/// Why a sandbox could not be made. The command has not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A system call of one step failed.
    #[error("{}{}: {source}", step.sentence(), context(detail))]
    Setup {
        /// Which step.
        step: Step,
        /// What exactly, may be empty.
        detail: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A step failed for a reason of our own.
    #[error("{}: {detail}", step.sentence())]
    Refused {
        /// Which step.
        step: Step,
        /// Why.
        detail: String,
        /// The kernel's error behind it, or 0.
        errno: i32,
    },
    /// The caller's request cannot be met.
    #[error("{0}")]
    Invalid(String),
}

fn context(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(" ({detail})")
    }
}

impl SandboxError {
    /// A command or a change that makes it work, where one is known.
    pub fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Setup { step, source, .. } => step.fix(source.raw_os_error().unwrap_or(0)),
            Self::Refused { step, errno, .. } => step.fix(*errno),
            Self::Invalid(_) => None,
        }
    }

    /// Which step failed, if one did.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Setup { step, .. } | Self::Refused { step, .. } => Some(*step),
            Self::Invalid(_) => None,
        }
    }

    pub(crate) fn setup(step: Step, detail: impl Into<String>, source: io::Error) -> Self {
        Self::Setup {
            step,
            detail: detail.into(),
            source,
        }
    }

    pub(crate) fn refused(step: Step, detail: impl Into<String>) -> Self {
        Self::refused_for(step, detail, 0)
    }

    /// The same with the kernel's error that was the cause.
    pub(crate) fn refused_for(step: Step, detail: impl Into<String>, errno: i32) -> Self {
        Self::Refused {
            step,
            detail: detail.into(),
            errno,
        }
    }
}

/// Names the step at which a system call failed.
pub(crate) trait At<T> {
    fn at(self, step: Step, detail: &str) -> Result<T, SandboxError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: Step, detail: &str) -> Result<T, SandboxError> {
        self.map_err(|source| SandboxError::setup(step, detail, source.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_codes_are_distinct_and_read_back() {
        for step in Step::ALL.iter().copied() {
            assert_eq!(Step::from_code(step as u8), Some(step));
            assert!(!step.sentence().is_empty());
        }
        assert_eq!(Step::from_code(200), None);
    }
}
