//! One `connect`, carried out on a copy of the descriptor and of the address.
//!
//! Answers *around the gateway* (docs/threats.md).

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat, readlinkat};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::caller::has_signal;
use crate::inside_sockets::FileId;
use crate::notification::{Notification, errno};
use crate::sys;

/// The longest address that the kernel takes, in bytes.
pub(crate) const MAX_ADDRESS_BYTES: usize = 128;
/// `ERESTARTSYS`: the kernel delivers the signal that waits and then, where the program wants that,
/// begins the call again.
const BEGIN_AGAIN: Errno = Errno::from_raw_os_error(512);
/// How long a program has between `bind` and `listen` before its socket is taken for one of the host's.
const TIME_TO_LISTEN: Duration = Duration::from_millis(100);
/// What stands before the path in a Unix address, in bytes.
const FAMILY_BYTES: usize = size_of::<libc::sa_family_t>();

/// Where a `connect` leads.
#[derive(Debug)]
pub(crate) enum Target {
    /// To the address as it is, which is not a path.
    Address([u8; MAX_ADDRESS_BYTES], usize),
    /// To this file.
    File(OwnedFd),
}

/// The path in an address, if it is that of a Unix socket with a path.
pub(crate) fn path_in(address: &[u8]) -> Option<&[u8]> {
    let (family, path) = address.split_first_chunk::<FAMILY_BYTES>()?;
    let unix = libc::sa_family_t::from_ne_bytes(*family) == libc::AF_UNIX as libc::sa_family_t;
    // A first byte of zero means a name of the network namespace, and no byte any name.
    let path = path.split(|byte| *byte == 0).next()?;
    (unix && !path.is_empty()).then_some(path)
}

impl Target {
    /// Connects; none where a program that waits has to wait on. Unless this one is `patient`, it does
    /// not wait at all; a signal ends its patience.
    pub(crate) fn reach(&self, socket: &OwnedFd, patient: bool) -> Result<Option<()>, Errno> {
        if patient {
            return match self.connect(socket) {
                Err(Errno::INTR) => Ok(None),
                result => result.map(Some),
            };
        }
        let flags = fcntl_getfl(socket)?;
        if flags.contains(OFlags::NONBLOCK) {
            return self.connect(socket).map(Some);
        }
        fcntl_setfl(socket, flags | OFlags::NONBLOCK)?;
        let result = self.connect(socket);
        fcntl_setfl(socket, flags)?;
        match result {
            Err(Errno::INPROGRESS | Errno::ALREADY) => Ok(None),
            Err(Errno::AGAIN) if is_unix(socket)? => Ok(None),
            result => result.map(Some),
        }
    }

    /// Whether anybody serves the socket file: one that nobody does is refused as anywhere.
    ///
    /// A socket for datagrams asks. Whoever serves connections does not notice, since the kernel says
    /// that the kinds differ; and who serves datagrams does not, since none is sent.
    pub(crate) fn is_served(&self) -> Result<(), Errno> {
        let kind = SocketType::DGRAM;
        let asking = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        match self.connect(&asking) {
            Err(Errno::CONNREFUSED) => Err(Errno::CONNREFUSED),
            _ => Ok(()),
        }
    }

    fn connect(&self, socket: &OwnedFd) -> Result<(), Errno> {
        match self {
            Self::Address(address, length) => connect(socket, &address[..*length]),
            Self::File(file) => {
                let mut address = (libc::AF_UNIX as libc::sa_family_t).to_ne_bytes().to_vec();
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                address.extend_from_slice(path.as_bytes());
                connect(socket, &address)
            }
        }
    }
}

fn connect(socket: &OwnedFd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: the address is live and has the length given; what it says is the kernel's to check.
    let done = unsafe {
        libc::connect(
            socket.as_fd().as_raw_fd(),
            address.as_ptr().cast(),
            address.len() as libc::socklen_t,
        )
    };
    errno(sys::check(done)).map(drop)
}

/// Which file this is, if it is that of a socket.
pub(crate) fn socket_file(file: &OwnedFd) -> Result<FileId, Errno> {
    let stat = fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
        Ok(FileId::of(&stat))
    } else {
        Err(Errno::CONNREFUSED)
    }
}

pub(crate) fn is_unix(socket: &OwnedFd) -> Result<bool, Errno> {
    Ok(sockopt::socket_domain(socket)? == AddressFamily::UNIX)
}

/// A `connect` that could not be carried out at once.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) call: u64,
    thread: u32,
    socket: OwnedFd,
    target: Target,
    /// The file of a socket that is not known to be made inside. Nothing connects to it as long as that
    /// is so.
    unknown: Option<FileId>,
    /// When the program's own limit for it is over, and what it is told then.
    limit: Option<(Instant, Errno)>,
}

impl Waiting {
    pub(crate) fn new(call: &Notification, socket: OwnedFd, target: Target) -> Result<Self, Errno> {
        let wait = sockopt::socket_timeout(&socket, Timeout::Send)?;
        let over = if is_unix(&socket)? {
            Errno::AGAIN
        } else {
            Errno::INPROGRESS
        };
        let end = wait.and_then(|wait| Instant::now().checked_add(wait));
        Ok(Self {
            call: call.id,
            thread: call.thread,
            socket,
            target,
            unknown: None,
            limit: end.map(|end| (end, over)),
        })
    }

    /// To a file that is known as soon as its program listens, or refused as a file without permission
    /// is.
    pub(crate) fn to_be_known(
        call: &Notification,
        socket: OwnedFd,
        target: Target,
        file: FileId,
    ) -> Self {
        Self {
            call: call.id,
            thread: call.thread,
            socket,
            target,
            unknown: Some(file),
            limit: Some((Instant::now() + TIME_TO_LISTEN, Errno::ACCESS)),
        }
    }

    /// Looks whether the file is known now.
    pub(crate) fn look_again(&mut self, is_inside: impl FnOnce(FileId) -> bool) {
        if self.unknown.is_some_and(is_inside) {
            self.unknown = None;
            // From now on it is waited for as any other.
            self.limit = None;
        }
    }

    /// The socket's path, where it belongs to the host and this result says that it is not reached.
    pub(crate) fn refused(&self, result: Result<(), Errno>) -> Option<CString> {
        match (&self.target, self.unknown, result) {
            (Target::File(file), Some(_), Err(Errno::ACCESS)) => {
                let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                readlinkat(CWD, link, Vec::new()).ok()
            }
            _ => None,
        }
    }

    /// Tries again; none where it has to wait on.
    pub(crate) fn try_again(&self) -> Option<Result<(), Errno>> {
        let reached = match self.unknown {
            None => self.target.reach(&self.socket, false),
            Some(_) => Ok(None),
        };
        match reached {
            Ok(None) => match self.limit {
                Some((end, over)) if end <= Instant::now() => Some(Err(over)),
                // Signals wait for a supervised call's end.
                _ if has_signal(self.thread) => Some(Err(BEGIN_AGAIN)),
                _ => None,
            },
            Ok(Some(())) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::socket;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn unix(path: &[u8]) -> Vec<u8> {
        [&(libc::AF_UNIX as u16).to_ne_bytes()[..], path].concat()
    }

    #[test]
    fn a_path_is_told_from_every_other_address() {
        assert_eq!(path_in(&unix(b"/a/b")), Some(&b"/a/b"[..]));
        assert_eq!(path_in(&unix(b"x\0rest")), Some(&b"x"[..]));
        let long = [b'a'; 108];
        assert_eq!(path_in(&unix(&long)), Some(&long[..]));
        assert_eq!(path_in(&unix(b"\0abstract")), None);
        assert_eq!(path_in(&unix(b"")), None);
        assert_eq!(path_in(b""), None);
        assert_eq!(path_in(b"\x01"), None);
        let inet = [&(libc::AF_INET as u16).to_ne_bytes()[..], b"/a"].concat();
        assert_eq!(path_in(&inet), None);
    }

    #[test]
    fn a_full_listener_is_waited_for_within_the_programs_own_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listening = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
        rustix::net::bind(&listening, &address).unwrap();
        rustix::net::listen(&listening, 0).unwrap();
        let listener = UnixListener::from(listening);
        let first = UnixStream::connect(&path).unwrap();
        let file = |path| rustix::fs::open(path, OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let second = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let target = Target::File(file(&path));
        assert_eq!(target.reach(&second, false), Ok(None));
        assert!(!fcntl_getfl(&second).unwrap().contains(OFlags::NONBLOCK));
        let call = Notification {
            id: 1,
            thread: std::process::id(),
            architecture: 0,
            number: 0,
            arguments: [0; 6],
        };
        let waiting = Waiting::new(&call, second, target).unwrap();
        assert_eq!(waiting.try_again(), None);
        let third = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let limit = Some(Duration::from_millis(1));
        sockopt::set_socket_timeout(&third, Timeout::Send, limit).unwrap();
        let limited = Waiting::new(&call, third, Target::File(file(&path))).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(limited.try_again(), Some(Err(Errno::AGAIN)));
        drop((listener.accept().unwrap(), first));
        assert_eq!(waiting.try_again(), Some(Ok(())));
        // A program that does not wait is told at once.
        let flags = SocketFlags::NONBLOCK;
        let fourth = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let target = Target::File(file(&path));
        assert_eq!(target.reach(&fourth, false), Err(Errno::AGAIN));
    }

    #[test]
    fn internet_addresses_are_connected_to_as_they_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut address = [0; MAX_ADDRESS_BYTES];
        address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        address[2..4].copy_from_slice(&port.to_be_bytes());
        address[4..8].copy_from_slice(&[127, 0, 0, 1]);
        let target = Target::Address(address, 16);
        for patient in [true, false] {
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            while target.reach(&socket, patient).unwrap().is_none() {}
            let stream = TcpStream::from(socket);
            assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        }
        // On a socket of another family, the kernel refuses it.
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        assert_eq!(target.reach(&socket, true), Err(Errno::INVAL));
    }
}
