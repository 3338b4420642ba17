//! Leases: which name gave out which address, on which ports, until when.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use portcullis_names::{Name, PortSet};

use crate::Clock;

/// The kernel's set of addresses that a sandbox may connect to.
pub trait AddressGate: Send + Sync {
    /// Lets the sandbox connect to `address` on `ports` for `ttl` from now on.
    ///
    /// Called before the answer that names the address is sent, so it must have taken effect when
    /// it returns. Called again to renew.
    ///
    /// # Errors
    /// The kernel's refusal; the answer is then not given out.
    fn open(&self, address: IpAddr, ports: &PortSet, ttl: Duration) -> io::Result<()>;
}

/// A gate that has nothing to open: where no kernel set stands before the gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGate;

impl AddressGate for NoGate {
    fn open(&self, _address: IpAddr, _ports: &PortSet, _ttl: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// Why an address could not be leased; the answer is then not given out.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The table holds as many fresh leases as it may.
    #[error("too many leased addresses")]
    Full,
    /// The kernel did not take the address.
    #[error("the kernel's gate did not open: {0}")]
    Gate(#[from] io::Error),
}

/// One sandbox's leases.
pub struct Leases {
    gate: Box<dyn AddressGate>,
}

impl Leases {
    /// An empty table in front of `gate`.
    pub fn new(gate: Box<dyn AddressGate>, _clock: Clock) -> Leases {
        Leases { gate }
    }

    /// Records that `name` owns `address` on `ports`, and opens the gate for it.
    ///
    /// # Errors
    /// See [`GrantError`].
    pub fn grant(
        &self,
        address: IpAddr,
        _name: &Name,
        ports: &PortSet,
        ttl: Duration,
    ) -> Result<(), GrantError> {
        self.gate.open(address, ports, ttl)?;
        Ok(())
    }

    /// The listed names that own `address` now.
    pub fn names_for(&self, _address: IpAddr) -> Vec<Name> {
        Vec::new()
    }
}
