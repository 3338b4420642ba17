//! The devices of a network namespace: which there are besides the loopback, and which lead out.

use std::io;
use std::os::fd::AsFd;

use netlink_packet_route::link::{LinkFlags, LinkMessage};

use crate::netlink::{self, Batch};

/// Room for one packet of the kernel's list, in bytes.
const LIST_BYTES: usize = 64 * 1024;
/// The most packets that are read of it.
const MAX_PACKETS: usize = 64;
/// Bytes of a message before its attributes (`struct ifinfomsg`).
const HEAD_BYTES: usize = 16;
const ATTR_NAME: u16 = 3;
const ATTR_LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const UP: u32 = 1;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Such as `veth`; empty for the loopback and for hardware.
    pub(super) kind: String,
    pub(super) is_up: bool,
}

/// The devices of the calling thread's network namespace.
pub(super) fn links() -> io::Result<Vec<Link>> {
    let socket = netlink::open(netlink::ROUTE)?;
    let mut batch = Batch::default();
    batch.emit(libc::RTM_GETLINK, libc::NLM_F_DUMP, &LinkMessage::default());
    netlink::send_batch(socket.as_fd(), batch)?;
    let mut found = Vec::new();
    let mut buffer = vec![0; LIST_BYTES];
    for _ in 0..MAX_PACKETS {
        let length = netlink::receive(socket.as_fd(), &mut buffer)?;
        let mut rest = &buffer[..length];
        while let Some((header, body, after)) = netlink::next_message(rest) {
            match i32::from(header.kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => netlink::result(body)?,
                _ => found.extend(link(body)),
            }
            rest = after;
        }
    }
    Err(io::Error::other("there are too many devices"))
}

fn link(body: &[u8]) -> Option<Link> {
    let number = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let mut link = Link {
        index: number(4)?,
        name: String::new(),
        kind: String::new(),
        is_up: number(8)? & UP != 0,
    };
    let mut attributes = body.get(HEAD_BYTES..)?;
    while let Some((kind, value, after)) = netlink::next_attr(attributes) {
        match kind {
            ATTR_NAME => link.name = text(value),
            ATTR_LINK_INFO => {
                let mut parts = value;
                while let Some((kind, value, after)) = netlink::next_attr(parts) {
                    if kind == INFO_KIND {
                        link.kind = text(value);
                    }
                    parts = after;
                }
            }
            _ => {}
        }
        attributes = after;
    }
    Some(link)
}

fn text(value: &[u8]) -> String {
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).replace(char::is_control, "\u{FFFD}")
}

/// Takes a device down.
pub(super) fn down(index: u32) -> io::Result<()> {
    let socket = netlink::open(netlink::ROUTE)?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.change_mask = LinkFlags::Up;
    let mut batch = Batch::default();
    batch.emit(libc::RTM_NEWLINK, 0, &link);
    batch.acknowledge();
    netlink::transact(socket.as_fd(), batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found() {
        let links = links().unwrap();
        let lo = links.iter().find(|link| link.index == 1).unwrap();
        assert_eq!((&*lo.name, &*lo.kind), ("lo", ""));
    }

    #[test]
    fn a_message_that_is_cut_off_is_harmless() {
        let mut batch = Batch::default();
        let mut link = LinkMessage::default();
        link.header.index = 7;
        batch.emit(libc::RTM_NEWLINK, 0, &link);
        batch.attr_str(ATTR_NAME, "eth0");
        let nest = batch.nest(ATTR_LINK_INFO);
        batch.attr_str(INFO_KIND, "veth");
        batch.end(nest);
        let bytes = batch.into_bytes();
        let (_, body, _) = netlink::next_message(&bytes).unwrap();
        let whole = super::link(body).unwrap();
        assert_eq!(
            (&*whole.name, &*whole.kind, whole.index),
            ("eth0", "veth", 7)
        );
        for end in 0..body.len() {
            let _ = super::link(&body[..end]);
        }
    }
}
