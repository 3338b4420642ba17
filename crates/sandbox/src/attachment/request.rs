//! What the caller asks of a holder, and how that reaches it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::{Addresses, NameFiles, OpenRules, Tap};
use crate::trust::in_memory;

/// Where a sandbox is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// The network namespace of a process. The sandbox ends with the process.
    Process {
        /// Its number in the caller's `/proc`.
        pid: u32,
        /// The folder of its mount namespace that becomes its root directory, where it has not yet: a
        /// container's, while its runtime prepares it. What no longer exists there is its root already.
        root: Option<PathBuf>,
    },
    /// The network namespace that this path names (`ip netns add`, `/proc/PID/ns/net`). The sandbox ends
    /// when the path no longer names it.
    Namespace(PathBuf),
    /// The network namespace of the caller, which it shares with the sandbox's programs, and its user: nobody else's
    /// packets leave. It stays cut off when the gateway ends.
    Shared {
        /// The user that the gateway has, or becomes ([`crate::become_gateway`]).
        user: u32,
    },
    /// A network namespace that the holder makes, with nothing in it but a TAP whose frames the gateway
    /// moves. The sandbox ends with its gateway.
    Device(Tap),
}

/// One sandbox to be attached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Where it is.
    pub attachment: Attachment,
    /// The addresses inside.
    pub addresses: Addresses,
    /// What the kernel lets through from the start.
    pub open: OpenRules,
    /// What the sandbox's files about names are to say, if they are to be shown over its own.
    pub files: Option<NameFiles>,
    /// What programs inside are to trust, shown over the system's lists.
    pub trust: Option<TrustContent>,
    /// Where further gateways of the same user may ask for the sockets, one after another: a Unix socket
    /// of type `SOCK_SEQPACKET`, in a folder that the sandbox does not see. Without it the doors vanish
    /// with the first gateway.
    pub listen: Option<PathBuf>,
}

/// The lists of authorities that programs inside trust.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrustContent {
    /// Every authority, PEM.
    pub bundle: Vec<u8>,
    /// The same as a Java trust store.
    pub java: Vec<u8>,
}

impl AttachRequest {
    /// As a file that exists in memory alone: it may be longer than a message.
    pub(crate) fn to_memory(&self) -> io::Result<OwnedFd> {
        in_memory(&serde_json::to_vec(self).map_err(io::Error::other)?)
    }

    pub(crate) fn from_memory(file: OwnedFd) -> io::Result<Self> {
        let bytes = crate::trust::read(file.into())?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }
}
