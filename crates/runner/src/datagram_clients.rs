//! The sockets inside from which datagrams come: whether they are there, and errors for them.

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_gateway::{DatagramClients, DatagramEnds, Untaken};
use portcullis_sandbox::{Addresses, DatagramErrors, Processes, Unreachable};

/// The clients of one sandbox.
pub(crate) struct Clients {
    processes: Arc<Processes>,
    errors: DatagramErrors,
    own: [IpAddr; 2],
}

impl Clients {
    pub(crate) fn new(
        processes: Arc<Processes>,
        errors: DatagramErrors,
        addresses: &Addresses,
    ) -> Clients {
        Clients {
            processes,
            errors,
            own: [addresses.own4.into(), addresses.own6.into()],
        }
    }
}

impl DatagramClients for Clients {
    /// Of clients with other addresses (a guest behind a TAP) nobody here can tell.
    fn is_gone(&self, ends: DatagramEnds) -> bool {
        let ip = ends.client.ip().to_canonical();
        let is_own = ip.is_loopback() || self.own.contains(&ip);
        is_own && self.processes.is_gone(ends.client, ends.server)
    }

    fn tell(&self, ends: DatagramEnds, why: Untaken) {
        let why = match why {
            Untaken::Refused => Unreachable::Port,
            Untaken::Unreachable => Unreachable::Network,
            Untaken::Prohibited => Unreachable::Prohibited,
        };
        // Lost as any message on a network may be.
        let _ = self.errors.send(why, ends.client, ends.server);
    }
}
