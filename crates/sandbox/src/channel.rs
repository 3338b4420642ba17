//! The sandbox's inner channels: small messages with descriptors over a Unix seqpacket pair.
//!
//! One packet is one message, so there is no framing to get wrong. Both ends are ours; the
//! command never holds one (all are close-on-exec, and the command's other descriptors go too).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The longest message, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4096;
/// The most descriptors in one message.
const MAX_FDS: usize = 96;
/// Room for the descriptors' control message, in bytes.
const CONTROL_BYTES: usize = 512;

/// What the gateway says to the sandbox's first process: the first byte of a message.
#[repr(u8)]
pub(crate) enum ToInit {
    /// The gateway serves.
    Ready = 1,
    /// The gateway cannot start; a text follows.
    Failed = 2,
    /// Make a TCP socket; 4 or 6 follows.
    NewTcpSocket = 3,
    /// What programs inside trust: three files.
    Trust = 4,
}

/// What the sandbox's first process says to the gateway.
#[repr(u8)]
pub(crate) enum FromInit {
    /// Here are the sockets.
    Sockets = 1,
    /// Here is the socket that was asked for.
    TcpSocket = 2,
    /// It could not be made.
    NoSocket = 3,
}

/// One end of a seqpacket pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// A connected pair, close-on-exec.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = crate::sys::socketpair_seqpacket()?;
        Ok((Self(a), Self(b)))
    }

    /// Sends one message; never raises SIGPIPE.
    pub(crate) fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.len() > MAX_MESSAGE_BYTES || fds.len() > MAX_FDS {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let mut iov = libc::iovec {
            iov_base: message.as_ptr().cast_mut().cast(),
            iov_len: message.len(),
        };
        let mut control = Control([0; CONTROL_BYTES]);
        // SAFETY: an all-zero msghdr is a valid empty one.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        if !fds.is_empty() {
            let bytes = size_of_val(fds);
            header.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: CMSG_SPACE only computes; MAX_FDS descriptors fit in CONTROL_BYTES.
            header.msg_controllen = unsafe { libc::CMSG_SPACE(bytes as u32) } as _;
            // SAFETY: msg_control points at CONTROL_BYTES zeroed, aligned bytes, of which
            // msg_controllen are described, so the first header exists and has room for the fds.
            unsafe {
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(bytes as u32) as _;
                let data = libc::CMSG_DATA(first).cast::<RawFd>();
                for (index, fd) in fds.iter().enumerate() {
                    data.add(index).write_unaligned(fd.as_raw_fd());
                }
            }
        }
        loop {
            // SAFETY: header describes live buffers of this frame.
            let sent =
                unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Receives one message and its descriptors; an empty message is the end of file.
    pub(crate) fn receive_with_fds(&self, wait: Duration) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        if !crate::sys::poll_readable(self.0.as_fd(), Some(wait))? {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        let mut message = [0_u8; MAX_MESSAGE_BYTES];
        let mut iov = libc::iovec {
            iov_base: message.as_mut_ptr().cast(),
            iov_len: message.len(),
        };
        let mut control = Control([0; CONTROL_BYTES]);
        // SAFETY: an all-zero msghdr is a valid empty one.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES as _;
        let mut resets = 0;
        let length = loop {
            // SAFETY: header describes live buffers of this frame.
            let got = unsafe {
                libc::recvmsg(self.0.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC)
            };
            if let Ok(length) = usize::try_from(got) {
                break length;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                // The peer ended without having read all: said once, before its last words.
                io::ErrorKind::ConnectionReset if resets == 0 => resets += 1,
                _ => return Err(error),
            }
        };
        let mut fds = Vec::new();
        // SAFETY: the kernel filled msg_control and set msg_controllen; the CMSG macros stay
        // within it, and each descriptor it reports is new and owned by nobody else.
        unsafe {
            let mut next = libc::CMSG_FIRSTHDR(&raw const header);
            while !next.is_null() {
                if (*next).cmsg_level == libc::SOL_SOCKET && (*next).cmsg_type == libc::SCM_RIGHTS {
                    let bytes = (*next).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                    let data = libc::CMSG_DATA(next).cast::<RawFd>();
                    for index in 0..bytes / size_of::<RawFd>() {
                        fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                    }
                }
                next = libc::CMSG_NXTHDR(&raw const header, next);
            }
        }
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        Ok((message[..length].to_vec(), fds))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Aligned room for control messages.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

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
        let (message, fds) = b.receive_with_fds(Duration::from_secs(1)).unwrap();
        assert_eq!((message.as_slice(), fds.len()), (b"hello".as_slice(), 2));
        let (message, fds) = b.receive_with_fds(Duration::from_secs(1)).unwrap();
        assert_eq!((message.as_slice(), fds.len()), (b"again".as_slice(), 0));
        drop(a);
        let (message, _) = b.receive_with_fds(Duration::from_secs(1)).unwrap();
        assert!(
            message.is_empty(),
            "a closed peer reads as an empty message"
        );
    }

    #[test]
    fn last_words_arrive_though_the_peer_had_not_read_all() {
        let (a, b) = Channel::pair().unwrap();
        a.send(b"unread", &[]).unwrap();
        b.send(b"last words", &[]).unwrap();
        drop(b);
        assert_eq!(
            a.receive_with_fds(Duration::from_secs(1)).unwrap().0,
            b"last words"
        );
        assert!(
            a.receive_with_fds(Duration::from_secs(1))
                .unwrap()
                .0
                .is_empty()
        );
    }

    #[test]
    fn oversized_messages_are_refused() {
        let (a, _b) = Channel::pair().unwrap();
        assert!(a.send(&[0; MAX_MESSAGE_BYTES + 1], &[]).is_err());
    }

    #[test]
    fn silence_times_out() {
        let (a, _b) = Channel::pair().unwrap();
        let error = a.receive_with_fds(Duration::from_millis(5)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    }

    #[test]
    fn cut_keeps_characters_whole() {
        let text = "é".repeat(MAX_MESSAGE_BYTES);
        assert!(cut(&text).len() <= MAX_MESSAGE_BYTES / 2);
    }
}
