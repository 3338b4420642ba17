//! Netlink messages, many in one packet, and the answers to them.
//!
//! Everything the sandbox configures goes through here instead of through spawned tools: a whole
//! configuration is one system call. The kernel handles a request before `sendmsg` returns, so
//! the answers are there at once, and an error of any message in a packet fails the packet.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use netlink_packet_core::Emitable;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with,
};

/// Netlink attributes and messages are padded to this many bytes.
const ALIGN: usize = 4;
/// The length of `struct nlmsghdr`, in bytes.
const HEADER_BYTES: usize = 16;
/// Room for one packet of answers, in bytes.
const ANSWER_BYTES: usize = 16 * 1024;
/// The largest packet that is sent, in bytes: it fits the default send buffer of a socket.
const MAX_SEND_BYTES: usize = 128 * 1024;
/// The most packets of answers that are read for one request: one for each of its messages.
const MAX_ANSWERS: usize = 64 * 1024;

/// Messages being built.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    message: Option<usize>,
    sequence: u32,
}

/// Where a nested attribute began.
#[must_use]
pub(crate) struct NestedAttr(usize);

impl Batch {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            message: None,
            sequence: 0,
        }
    }

    /// Begins a message; its fixed part follows the netlink header.
    pub(crate) fn message(&mut self, kind: u16, flags: i32, fixed: &[u8]) {
        self.finish();
        self.sequence += 1;
        self.message = Some(self.bytes.len());
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        self.pad();
    }

    /// Adds a message that a library lays out behind the netlink header.
    pub(crate) fn emit(&mut self, kind: u16, flags: i32, message: &impl Emitable) {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        self.message(kind, flags, &body);
    }

    /// Asks for an acknowledgement of the message being built.
    pub(crate) fn acknowledge(&mut self) {
        if let Some(start) = self.message {
            let at = start + 6;
            let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
            let flags = (flags | libc::NLM_F_ACK as u16).to_ne_bytes();
            self.bytes[at..at + 2].copy_from_slice(&flags);
        }
    }

    /// Adds an attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = (ALIGN + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Adds a string attribute, with its NUL.
    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) {
        let length = (ALIGN + value.len() + 1) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// Adds a number in network order, as nf_tables wants it.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Begins a nested attribute.
    pub(crate) fn nest(&mut self, kind: u16) -> NestedAttr {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0_u16.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        NestedAttr(start)
    }

    /// Ends a nested attribute.
    pub(crate) fn end(&mut self, nest: NestedAttr) {
        let length = (self.bytes.len() - nest.0) as u16;
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(ALIGN) {
            self.bytes.push(0);
        }
    }

    fn finish(&mut self) {
        if let Some(start) = self.message.take() {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// Ends the last message and gives all bytes.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.finish();
        self.bytes
    }
}

/// Sends a packet of messages. The kernel has carried them out when this returns, or has put its
/// refusal on the socket.
pub(crate) fn send_batch(fd: BorrowedFd<'_>, batch: Batch) -> io::Result<()> {
    let bytes = batch.into_bytes();
    if bytes.len() > MAX_SEND_BYTES {
        return Err(Errno::TOOBIG.into());
    }
    send(fd, &bytes, SendFlags::empty())?;
    Ok(())
}

/// Sends a packet of messages, of which exactly one (the last that is not a batch's end) asks for
/// an acknowledgement, and waits for that.
///
/// # Errors
/// The first refusal. Each message that fails has an answer of its own, with the acknowledgement behind
/// them: all are taken off the socket, or the next request would take one for its own.
pub(crate) fn transact(fd: BorrowedFd<'_>, batch: Batch) -> io::Result<()> {
    send_batch(fd, batch)?;
    let mut buffer = [0_u8; ANSWER_BYTES];
    let mut refusal = None;
    for _ in 0..MAX_ANSWERS {
        let length = match receive(fd, &mut buffer) {
            Err(Errno::AGAIN) if refusal.is_some() => break,
            received => received?,
        };
        let mut rest = &buffer[..length];
        while let Some((header, body, after)) = next_message(rest) {
            if header.kind == libc::NLMSG_ERROR as u16 {
                match result(body) {
                    Ok(()) if refusal.is_none() => return Ok(()),
                    Ok(()) => {}
                    Err(error) => refusal = refusal.or(Some(error)),
                }
            }
            rest = after;
        }
    }
    Err(refusal.unwrap_or_else(|| Errno::BADMSG.into()))
}

/// What an `NLMSG_ERROR` says: zero is an acknowledgement.
pub(crate) fn result(body: &[u8]) -> io::Result<()> {
    match body
        .get(..4)
        .and_then(|code| code.try_into().ok())
        .map(i32::from_ne_bytes)
    {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(Errno::BADMSG.into()),
    }
}

/// Receives one packet that is there.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    recv(fd, buffer, RecvFlags::DONTWAIT).map(|(length, _)| length)
}

/// The parts of a message's header that matter here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u16,
}

/// Splits the first message off a packet: its header, its body, the rest.
pub(crate) fn next_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER_BYTES..length)?;
    let after = bytes
        .get(length.next_multiple_of(ALIGN)..)
        .unwrap_or_default();
    Some((Header { kind }, body, after))
}

/// Splits the first attribute off a message: its kind without flags, its value, the rest.
pub(crate) fn next_attr(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
    let value = bytes.get(ALIGN..length)?;
    let after = bytes
        .get(length.next_multiple_of(ALIGN)..)
        .unwrap_or_default();
    Some((kind & libc::NLA_TYPE_MASK as u16, value, after))
}

/// `NETLINK_ROUTE`, which is number 0.
pub(crate) const ROUTE: Option<Protocol> = None;

/// A netlink socket of the namespace the caller is in.
pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, protocol)?;
    // The kernel picks the address.
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// What the kernel answers to one message: zero, or an error's number.
    fn answer(code: i32) -> Vec<u8> {
        let mut batch = Batch::default();
        batch.message(libc::NLMSG_ERROR as u16, 0, &(-code).to_ne_bytes());
        batch.into_bytes()
    }

    #[test]
    fn the_answers_to_a_request_that_failed_twice_are_not_those_to_the_next() {
        let (ours, kernels) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let request = |answers: &[i32]| {
            for code in answers {
                send(&kernels, &answer(*code), SendFlags::empty()).unwrap();
            }
            let mut batch = Batch::default();
            batch.message(16, 0, &[]);
            let errno = |error: io::Error| error.raw_os_error();
            transact(ours.as_fd(), batch).map_err(errno)
        };
        assert_eq!(
            request(&[libc::ENOENT, libc::EEXIST]),
            Err(Some(libc::ENOENT))
        );
        assert_eq!(request(&[0]), Ok(()));
        assert_eq!(request(&[libc::ENOENT, 0]), Err(Some(libc::ENOENT)));
        assert_eq!(request(&[libc::EBUSY]), Err(Some(libc::EBUSY)));
    }

    #[test]
    fn messages_and_nests_carry_their_lengths() {
        let mut batch = Batch::default();
        batch.message(16, 0, &[1, 2, 3, 4]);
        let nest = batch.nest(7);
        batch.attr_str(1, "abc");
        batch.attr_be32(2, 5);
        batch.end(nest);
        batch.message(17, 0, &[]);
        batch.acknowledge();
        let bytes = batch.into_bytes();
        let (header, body, rest) = next_message(&bytes).unwrap();
        assert_eq!(header.kind, 16);
        assert_eq!(body[..4], [1, 2, 3, 4]);
        let (kind, value, after) = next_attr(&body[4..]).unwrap();
        assert_eq!((kind, after.len()), (7, 0));
        let (kind, text, value) = next_attr(value).unwrap();
        assert_eq!((kind, text), (1, b"abc\0".as_slice()));
        assert_eq!(next_attr(value).unwrap().1, [0, 0, 0, 5]);
        let (header, _, rest) = next_message(rest).unwrap();
        assert_eq!((header.kind, rest.len()), (17, 0));
    }

    #[test]
    fn truncated_messages_are_no_messages() {
        let mut batch = Batch::default();
        batch.message(16, 0, &[1, 2, 3, 4]);
        batch.attr(3, b"value");
        let bytes = batch.into_bytes();
        for end in 0..bytes.len() - 1 {
            assert!(next_message(&bytes[..end]).is_none());
        }
        assert!(
            next_attr(&[3, 0, 0, 0]).is_none(),
            "a length below its own header"
        );
    }
}
