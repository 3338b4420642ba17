//! Sockets for servers inside, made there by the sandbox's first process.
//!
//! Answers *addresses* (docs/threats.md): such a socket reaches what the sandbox's own loopback has, and
//! nothing of the host.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use portcullis_gateway::{HostsFile, Inside, Own};
use portcullis_names::Name;
use portcullis_sandbox::{Addresses, Control, Family};

/// Makes them.
pub(crate) struct InsideSockets(pub(crate) Arc<Control>);

impl Inside for InsideSockets {
    fn tcp_socket(&self, ipv6: bool) -> io::Result<OwnedFd> {
        let family = if ipv6 { Family::V6 } else { Family::V4 };
        self.0.new_tcp_socket(family)
    }
}

/// What means the sandbox itself to a program that asks a proxy. Nothing behind a TAP, whose guest means
/// itself.
pub(crate) fn own(
    addresses: &Addresses,
    hostname: Option<Name>,
    hosts: Arc<HostsFile>,
) -> Option<Own> {
    let guest_asks = addresses.own4 != Addresses::new().own4;
    (!guest_asks).then(|| Own {
        addresses: vec![addresses.own4.into(), addresses.own6.into()],
        hostname,
        hosts,
    })
}
