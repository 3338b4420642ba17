//! A connection as it came in.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_record::Protocol;
use tracing::debug;

use crate::socket;

/// Connections that came in so far, of every sandbox of the process.
static ACCEPTED: AtomicU64 = AtomicU64::new(0);

/// A connection as it came in: what it speaks, between which ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inbound {
    /// Its number, by which traces of it are found.
    pub(crate) conn: u64,
    pub(crate) protocol: Protocol,
    /// The program's end.
    pub(crate) from: Option<SocketAddr>,
    /// The end that it reached.
    pub(crate) to: Option<SocketAddr>,
}

impl Inbound {
    /// As accept(2) told.
    pub(crate) fn new(protocol: Protocol, from: SocketAddr, to: Option<SocketAddr>) -> Inbound {
        let inbound = Inbound {
            conn: ACCEPTED.fetch_add(1, Ordering::Relaxed) + 1,
            protocol,
            from: Some(socket::plain(from)),
            to: to.map(socket::plain),
        };
        let Inbound { conn, from, to, .. } = inbound;
        debug!(conn, ?protocol, ?from, ?to, "accepted");
        inbound
    }

    /// A connection that could not be taken.
    pub(crate) fn nobody(protocol: Protocol) -> Inbound {
        Inbound {
            conn: 0,
            protocol,
            from: None,
            to: None,
        }
    }

    /// The same connection, where what is said on it is another protocol.
    pub(crate) fn speaking(self, protocol: Protocol) -> Inbound {
        Inbound { protocol, ..self }
    }
}
