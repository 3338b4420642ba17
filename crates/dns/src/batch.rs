//! Datagrams in batches: many for one system call, each with the address that was asked.
//!
//! Answers *exhaustion* (docs/threats.md): a query costs little more than its share of two system
//! calls. A thread's sockets share one [`BatchBuffers`], which is made once and used again: a flood
//! allocates nothing, and a thousand sandboxes need no more buffers than one.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg,
    sendmmsg,
};

use crate::pktinfo::{Info, LocalAddress, Reply};

/// Datagrams taken from a socket, and replies given to it, by one system call.
pub(crate) const BATCH: usize = 64;

/// Longest query read, bytes: one name and a few options. Slots of this size, which is no multiple
/// of 4 KiB, do not compete for the same lines of the processor's cache.
pub(crate) const MAX_QUERY_BYTES: usize = 1_984;

/// A socket's family: how the kernel tells addresses of it.
pub(crate) trait Family: SockaddrLike + Copy + Send + Sync + 'static {
    /// The address.
    fn address(&self) -> SocketAddr;

    /// Room for the one control message of this family. A reply must fill it: the kernel reads what
    /// is left over as another message.
    fn space() -> Vec<u8>;

    /// The asked address, if this message tells it.
    fn local_address(message: ControlMessageOwned) -> Option<LocalAddress>;

    /// Calls with the thread's buffers.
    fn with_buffers<R>(call: impl FnOnce(&mut BatchBuffers<Self>) -> R) -> R;
}

macro_rules! family {
    ($kind:ident, $address:ident, $info:ident, $told:ident) => {
        impl Family for $kind {
            fn address(&self) -> SocketAddr {
                $address::from(*self).into()
            }

            fn space() -> Vec<u8> {
                cmsg_space!($info)
            }

            fn local_address(message: ControlMessageOwned) -> Option<LocalAddress> {
                match message {
                    ControlMessageOwned::$told(info) => Some(info.into()),
                    _ => None,
                }
            }

            fn with_buffers<R>(call: impl FnOnce(&mut BatchBuffers<Self>) -> R) -> R {
                thread_local! {
                    static BUFFERS: RefCell<Option<Box<BatchBuffers<$kind>>>> = const { RefCell::new(None) };
                }
                BUFFERS.with(|buffers| {
                    // Taken out while it is in use: one that a panic left with replies in it is
                    // dropped, and another sandbox's socket never sends them.
                    let mut mine = buffers.take().unwrap_or_default();
                    let result = call(&mut mine);
                    buffers.replace(Some(mine));
                    result
                })
            }
        }
    };
}

family!(SockaddrIn, SocketAddrV4, in_pktinfo, Ipv4PacketInfo);
family!(SockaddrIn6, SocketAddrV6, in6_pktinfo, Ipv6PacketInfo);

/// What a thread reads queries into and writes replies from.
pub(crate) struct BatchBuffers<S> {
    pub inbox: Inbox<S>,
    pub outbox: Outbox<S>,
}

impl<S: Family> Default for BatchBuffers<S> {
    fn default() -> BatchBuffers<S> {
        BatchBuffers {
            inbox: Inbox::default(),
            outbox: Outbox::default(),
        }
    }
}

/// What is known of one datagram besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<S> {
    pub from: S,
    pub local: LocalAddress,
    /// It was longer than its slot.
    pub cut: bool,
    length: usize,
}

/// Received datagrams.
pub(crate) struct Inbox<S> {
    bound: MultiHeaders<S>,
    /// With room for the asked address.
    with_address: MultiHeaders<S>,
    slots: Vec<[u8; MAX_QUERY_BYTES]>,
    datagrams: Vec<Datagram<S>>,
}

impl<S: Family> Default for Inbox<S> {
    fn default() -> Inbox<S> {
        Inbox {
            bound: MultiHeaders::preallocate(BATCH, None),
            with_address: MultiHeaders::preallocate(BATCH, Some(S::space())),
            slots: vec![[0; MAX_QUERY_BYTES]; BATCH],
            datagrams: Vec::with_capacity(BATCH),
        }
    }
}

impl<S: Family> Inbox<S> {
    /// Takes what waits, without waiting: [`BATCH`] datagrams at most, in place of those before.
    /// Returns how many. `tells_address`: the socket tells the asked address.
    pub(crate) fn receive(&mut self, socket: &impl AsFd, tells_address: bool) -> io::Result<usize> {
        self.datagrams.clear();
        let headers = if tells_address {
            &mut self.with_address
        } else {
            &mut self.bound
        };
        let mut untold = false;
        {
            let mut slots = self.slots.iter_mut();
            let mut parts: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
                let slot: &mut [u8] = slots.next().map_or(&mut [], |slot| slot);
                [IoSliceMut::new(slot)]
            });
            let fd = socket.as_fd().as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            for message in recvmmsg(fd, headers, &mut parts, flags, None)? {
                let local = match tells_address {
                    true => message
                        .cmsgs()
                        .ok()
                        .and_then(|mut all| all.find_map(S::local_address)),
                    false => Some(LocalAddress::Bound),
                };
                untold |= local.is_none();
                self.datagrams.push(Datagram {
                    from: message.address.ok_or(Errno::EDESTADDRREQ)?,
                    local: local.unwrap_or(LocalAddress::Bound),
                    cut: message.flags.contains(MsgFlags::MSG_TRUNC),
                    length: message.bytes,
                });
            }
        }
        if untold {
            // The kernel leaves the room for control messages as small as it used it: a slot that
            // got none would never get one again.
            self.with_address = MultiHeaders::preallocate(BATCH, Some(S::space()));
        }
        Ok(self.datagrams.len())
    }

    /// Datagrams of the last batch, with their bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Datagram<S>, &[u8])> {
        self.datagrams
            .iter()
            .zip(&self.slots)
            .map(|(datagram, slot)| (datagram, &slot[..datagram.length.min(MAX_QUERY_BYTES)]))
    }
}

/// Replies that wait to be sent together.
pub(crate) struct Outbox<S> {
    bound: MultiHeaders<S>,
    /// With room for the address to reply from.
    with_address: MultiHeaders<S>,
    replies: Vec<Vec<u8>>,
    to: Vec<Option<S>>,
    from: Vec<LocalAddress>,
    sent: usize,
}

impl<S: Family> Default for Outbox<S> {
    fn default() -> Outbox<S> {
        Outbox {
            bound: MultiHeaders::preallocate(BATCH, None),
            with_address: MultiHeaders::preallocate(BATCH, Some(S::space())),
            replies: vec![Vec::new(); BATCH],
            to: Vec::with_capacity(BATCH),
            from: Vec::with_capacity(BATCH),
            sent: 0,
        }
    }
}

impl<S: Family> Outbox<S> {
    /// The buffer for the next reply, which [`Outbox::put`] then keeps. `None` when it is full.
    pub(crate) fn next(&mut self) -> Option<&mut Vec<u8>> {
        self.replies.get_mut(self.to.len())
    }

    /// Keeps the reply that stands in [`Outbox::next`].
    pub(crate) fn put(&mut self, datagram: &Datagram<S>) {
        self.to.push(Some(datagram.from));
        self.from.push(datagram.local);
    }

    /// Sends all replies, without waiting. Those that the socket has no room for are handed to
    /// `unsent`; one that the kernel refuses is lost, as datagrams may be.
    pub(crate) fn send(&mut self, socket: &impl AsFd, mut unsent: impl FnMut(Reply)) {
        while self.sent < self.to.len() {
            match self.send_some(socket) {
                Ok(count) => self.sent += count.max(1),
                Err(Errno::EAGAIN) => break,
                Err(_) => self.sent += 1,
            }
        }
        for index in self.sent..self.to.len() {
            if let Some(to) = self.to[index] {
                unsent(Reply {
                    to: to.address(),
                    from: self.from[index],
                    payload: self.replies[index].clone(),
                });
            }
        }
        self.sent = 0;
        self.to.clear();
        self.from.clear();
    }

    /// Sends the next replies that leave from one address.
    fn send_some(&mut self, socket: &impl AsFd) -> Result<usize, Errno> {
        let from = &self.from[self.sent..];
        let Some(&local) = from.first() else {
            return Ok(0);
        };
        let count = from.iter().take_while(|from| **from == local).count();
        let range = self.sent..self.sent + count;
        let mut replies = self.replies[range.clone()].iter();
        let parts: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSlice::new(replies.next().map_or(&[], |reply| reply))]);
        let parts = &parts[..count];
        let to = &self.to[range];
        let fd = socket.as_fd().as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let info = Info::of(local);
        let sent = match info.message() {
            Some(message) => {
                sendmmsg(fd, &mut self.with_address, parts, to, [message], flags)?.count()
            }
            None => sendmmsg(fd, &mut self.bound, parts, to, [], flags)?.count(),
        };
        Ok(sent)
    }
}
