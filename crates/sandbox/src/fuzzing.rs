//! What the fuzz targets (`fuzz/`) reach that nobody else does; only built with `--cfg fuzzing`.
//!
//! Answers *around the gateway* and *the record* (docs/threats.md): these readers are handed what the
//! program sent or named, by way of the kernel.

use std::net::{Ipv4Addr, SocketAddr};

use crate::message::{Order, Report};
use crate::process::Transport;
use crate::refused::{Refused, RefusedLog};
use crate::{MountTable, connect, inside_sockets, process, socket_diag};

/// The client that tables and answers are searched for.
const CLIENT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15)), 40_000);

/// The packets in the kernel's log of refusals.
///
/// # Panics
/// `/dev/null` cannot be opened.
#[must_use]
pub fn refused_packets(log: &[u8]) -> Vec<Refused> {
    let nothing = std::fs::File::open("/dev/null").expect("it is always there");
    let mut found = Vec::new();
    // An error that the kernel reports ends the sandbox.
    let _ = RefusedLog::new(nothing.into()).parse(log, &mut found);
    found
}

/// The path in the address of a `connect`.
#[must_use]
pub fn path_in_address(address: &[u8]) -> Option<&[u8]> {
    connect::path_in(address)
}

/// Everything else, for panics alone: what the kernel tells of sockets and mounts, and what the
/// sandbox's own processes tell each other.
pub fn read_everything(bytes: &[u8]) {
    let _ = socket_diag::inode(bytes, CLIENT);
    let _ = inside_sockets::marks_in(bytes).count();
    let _ = MountTable::parse(bytes).other_settings().count();
    let text = String::from_utf8_lossy(bytes);
    for transport in [Transport::Tcp, Transport::Udp] {
        let _ = process::inode_in(&text, transport, CLIENT);
    }
    if let Some(order) = Order::decode(bytes) {
        assert_eq!(Order::decode(&order.encode()), Some(order));
    }
    if let Some(report) = Report::decode(bytes) {
        assert!(Report::decode(&report.encode()).is_some());
    }
    let _ = Report::decode_failure(bytes);
}
