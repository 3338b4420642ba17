//! The sandbox's inner channels: small messages with descriptors over a Unix seqpacket pair.
//!
//! One packet is one message, so there is no framing to get wrong. Nothing here waits for a reader: who
//! does not read, because it has been stopped or flooded, holds up nobody. Both ends are ours; the
//! command never holds one (all are close-on-exec, and the command's other descriptors go too).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// The longest message, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4096;
/// The most descriptors in one message.
const MAX_FDS: usize = 96;
/// Room for the descriptors' control message, in bytes.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// What the gateway says to the sandbox's first process: the first byte of a message.
#[repr(u8)]
pub(crate) enum ToInit {
    /// The gateway serves.
    Ready = 1,
    /// The gateway cannot start; a text follows.
    Failed = 2,
    /// Make a TCP socket; 4 or 6 follows.
    NewTcpSocket = 3,
    /// What programs inside trust: four files.
    Trust = 4,
    /// To a holder: attach this sandbox; the request comes as a file.
    Attach = 5,
    /// To a holder: take the doors away and end.
    Detach = 6,
}

/// What the sandbox's first process says to the gateway.
#[repr(u8)]
pub(crate) enum FromInit {
    /// Here are the sockets; their names follow.
    Sockets = 1,
    /// Here is the socket that was asked for.
    TcpSocket = 2,
    /// It could not be made.
    NoSocket = 3,
    /// From a holder: it could not attach; the error follows.
    Failed = 4,
    /// From a holder: the doors stand; the namespace's number follows, and why its files are its own.
    Attached = 5,
}

/// What one packet brought.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its bytes; none at the end of file.
    pub(crate) bytes: Vec<u8>,
    /// The descriptors that came with it.
    pub(crate) fds: Vec<OwnedFd>,
}

/// One end of a seqpacket pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// A connected pair, close-on-exec.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (a, b) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Sends one message; never raises SIGPIPE, and never waits.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where the channel is full.
    pub(crate) fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.as_fd(), message, fds)
    }

    /// Receives one message, which must come within `wait`.
    pub(crate) fn receive(&self, wait: Duration) -> io::Result<Message> {
        receive(self.as_fd(), wait)
    }

    /// Receives one message if it is there already.
    pub(crate) fn receive_now(&self) -> io::Result<Option<Message>> {
        receive_now(self.as_fd())
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// [`Channel::send`] on a seqpacket socket that is somebody else's.
pub(crate) fn send(to: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if message.len() > MAX_MESSAGE_BYTES || fds.len() > MAX_FDS {
        return Err(Errno::MSGSIZE.into());
    }
    let mut room = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut room);
    // There is room for as many as are allowed.
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE.into());
    }
    let parts = [IoSlice::new(message)];
    loop {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(to, &parts, &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// [`Channel::receive`] on a seqpacket socket that is somebody else's.
pub(crate) fn receive(from: BorrowedFd<'_>, wait: Duration) -> io::Result<Message> {
    if !crate::sys::poll_readable(from, Some(wait))? {
        return Err(Errno::TIMEDOUT.into());
    }
    // Nobody else reads it.
    receive_now(from)?.ok_or_else(|| Errno::TIMEDOUT.into())
}

fn receive_now(from: BorrowedFd<'_>) -> io::Result<Option<Message>> {
    let mut bytes = [0_u8; MAX_MESSAGE_BYTES];
    let mut room = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let mut resets = 0;
    let got = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        match recvmsg(from, &mut parts, &mut control, flags) {
            Ok(got) => break got,
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            // The peer ended without having read all: said once, before its last words.
            Err(Errno::CONNRESET) if resets == 0 => resets += 1,
            Err(error) => return Err(error.into()),
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = part {
            fds.extend(some);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        // There is room for as many as anybody sends: this process may not have that many.
        return Err(Errno::MFILE.into());
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE.into());
    }
    let bytes = bytes[..got.bytes].to_vec();
    Ok(Some(Message { bytes, fds }))
}

/// Cuts a text so that it fits in a message with room to spare.
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_MESSAGE_BYTES / 2);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (a, b) = Channel::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        a.send(b"hello", &[file.as_fd(), file.as_fd()]).unwrap();
        a.send(b"again", &[]).unwrap();
        let got = b.receive(Duration::from_secs(1)).unwrap();
        assert_eq!((&*got.bytes, got.fds.len()), (&b"hello"[..], 2));
        let got = b.receive(Duration::from_secs(1)).unwrap();
        assert_eq!((&*got.bytes, got.fds.len()), (&b"again"[..], 0));
        drop(a);
        let got = b.receive(Duration::from_secs(1)).unwrap();
        assert!(
            got.bytes.is_empty(),
            "a closed peer reads as an empty message"
        );
    }

    #[test]
    fn last_words_arrive_though_the_peer_had_not_read_all() {
        let (a, b) = Channel::pair().unwrap();
        a.send(b"unread", &[]).unwrap();
        b.send(b"last words", &[]).unwrap();
        drop(b);
        let wait = Duration::from_secs(1);
        assert_eq!(a.receive(wait).unwrap().bytes, b"last words");
        assert!(a.receive(wait).unwrap().bytes.is_empty());
    }

    #[test]
    fn the_largest_message_passes_and_larger_ones_are_refused() {
        let (a, b) = Channel::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        a.send(&[1; MAX_MESSAGE_BYTES], &[file.as_fd(); MAX_FDS])
            .unwrap();
        let got = b.receive(Duration::from_secs(1)).unwrap();
        assert_eq!(
            (got.bytes.len(), got.fds.len()),
            (MAX_MESSAGE_BYTES, MAX_FDS)
        );
        assert!(a.send(&[0; MAX_MESSAGE_BYTES + 1], &[]).is_err());
        assert!(a.send(&[0], &[file.as_fd(); MAX_FDS + 1]).is_err());
    }

    #[test]
    fn a_full_channel_refuses_and_does_not_wait() {
        let (a, b) = Channel::pair().unwrap();
        let full = (0..100_000).find_map(|_| a.send(b"x", &[]).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        while b.receive_now().unwrap().is_some() {}
        a.send(b"again", &[]).unwrap();
        assert_eq!(b.receive_now().unwrap().unwrap().bytes, b"again");
    }

    #[test]
    fn silence_times_out() {
        let (a, _b) = Channel::pair().unwrap();
        let error = a.receive(Duration::from_millis(5)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::TIMEDOUT.raw_os_error()));
    }

    #[test]
    fn cut_keeps_characters_whole() {
        let text = "é".repeat(MAX_MESSAGE_BYTES);
        assert!(cut(&text).len() <= MAX_MESSAGE_BYTES / 2);
    }
}
