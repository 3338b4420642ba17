//! The kernel's gate in front of the gateway: what the leases tell it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use portcullis_names::PortSet;

/// The kernel's set of addresses that a sandbox may connect to.
pub trait AddressGate: Send + Sync {
    /// Lets the sandbox connect to `address` on `ports` for `ttl` from now on.
    ///
    /// Called before the answer that names the address is sent, so it must have taken effect when
    /// it returns. Called again to renew, and for other names' ports on the same address.
    ///
    /// # Errors
    /// The kernel's refusal; the answer is then not given out.
    fn open(&self, address: IpAddr, ports: &PortSet, ttl: Duration) -> io::Result<()>;

    /// The same for datagrams to `ports`. A gate that lets none through has nothing to open.
    ///
    /// # Errors
    /// As for [`AddressGate::open`].
    fn open_datagrams(&self, _address: IpAddr, _ports: &PortSet, _ttl: Duration) -> io::Result<()> {
        Ok(())
    }

    /// Refuses `address` on `ports` again, after a reload took them from every name there. What
    /// stays open is refused at accept all the same.
    ///
    /// # Errors
    /// The kernel's refusal.
    fn close(&self, _address: IpAddr, _ports: &PortSet) -> io::Result<()> {
        Ok(())
    }
}

/// A gate that has nothing to open: where no kernel set stands before the gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGate;

impl AddressGate for NoGate {
    fn open(&self, _address: IpAddr, _ports: &PortSet, _ttl: Duration) -> io::Result<()> {
        Ok(())
    }
}
