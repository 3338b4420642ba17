//! Takes the doors away, so that a namespace is what it was before: without network, never open.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::net::netlink::NETFILTER;

use super::links;
use crate::inside::{NO_IPV6, PORT_START};
use crate::link;
use crate::netlink;
use crate::nft::Transaction;
use crate::rules::{OPEN_SETS, TABLE};
use crate::spec::Addresses;

/// Loopback is the first device of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// What a namespace was before doors were put into it.
#[derive(Debug)]
pub(super) struct Before {
    /// The first port that needs no privilege.
    port_start: Option<String>,
    /// Whether its loopback had no IPv6.
    no_ipv6: Option<String>,
    was_up: bool,
}

impl Before {
    /// Looks at the calling thread's network namespace.
    pub(super) fn read(was_up: bool) -> Self {
        Self {
            port_start: fs::read_to_string(PORT_START).ok(),
            no_ipv6: fs::read_to_string(NO_IPV6).ok(),
            was_up,
        }
    }

    /// Makes the calling thread's network namespace that again. What fails is left: nothing of it leads
    /// out.
    pub(super) fn restore(&self, addresses: &Addresses) {
        link::remove(addresses, self.was_up);
        let _ = remove_rules();
        if let Some(start) = &self.port_start {
            let _ = fs::write(PORT_START, start);
        }
        if let Some(no_ipv6) = &self.no_ipv6 {
            let _ = fs::write(NO_IPV6, no_ipv6);
        }
        if !self.was_up {
            let _ = links::down(LOOPBACK_INDEX);
        }
    }
}

/// Removes the packet rules; `ENOENT` if there are none.
pub(super) fn remove_rules() -> io::Result<()> {
    transact(|tx| tx.delete_table())
}

/// Closes every destination that a lease has opened: nobody serves them.
pub(super) fn close_all() -> io::Result<()> {
    transact(|tx| {
        for set in OPEN_SETS {
            tx.flush_set(set.name);
        }
    })
}

fn transact(build: impl FnOnce(&mut Transaction)) -> io::Result<()> {
    let socket = netlink::open(Some(NETFILTER))?;
    let mut tx = Transaction::new(TABLE, 512);
    build(&mut tx);
    netlink::transact(socket.as_fd(), tx.finish())
}
