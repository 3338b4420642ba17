//! The kernel's set of open destinations as the resolver's address gate.
//!
//! It makes a refusal show at connect(), in the kernel, within microseconds. It is not what keeps a
//! program in: the gateway looks at lease and port again on every connection it accepts.

use portcullis_gateway::{AddressGate, PortSet};
use portcullis_sandbox::KernelSet;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Opens leased addresses in one sandbox's kernel.
pub(crate) struct KernelGate {
    pub set: Arc<KernelSet>,
    /// The UDP ports that have a socket inside. A port that came with a later policy has none until
    /// the next start, and is refused like any other.
    pub datagrams: PortSet,
}

impl AddressGate for KernelGate {
    fn open(&self, address: IpAddr, ports: &PortSet, ttl: Duration) -> io::Result<()> {
        self.set.allow(address, &ranges(ports), ttl)
    }

    fn open_datagrams(&self, address: IpAddr, ports: &PortSet, ttl: Duration) -> io::Result<()> {
        let served = ranges(&ports.intersection(&self.datagrams));
        self.set.allow_datagrams(address, &served, ttl)
    }

    fn close(&self, address: IpAddr, ports: &PortSet) -> io::Result<()> {
        self.set.remove(address, &ranges(ports))
    }
}

/// Port ranges as the kernel's rules take them.
pub(crate) fn ranges(ports: &PortSet) -> Vec<RangeInclusive<u16>> {
    ports
        .ranges()
        .iter()
        .map(|range| range.first..=range.last)
        .collect()
}
