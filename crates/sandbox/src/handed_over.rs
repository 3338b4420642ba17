//! A listening socket that a service manager has made before this process, and hands over (sd_listen_fds(3)).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;
/// Whom they are for, and how many they are.
const PROCESS: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";

/// Whether it was taken already: it has one owner.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The one socket that is handed over to this process, if one is. Call it before anything else opens descriptors.
///
/// # Errors
/// More than one is handed over, or something else than a listening Unix stream socket.
pub fn handed_over_socket() -> io::Result<Option<UnixListener>> {
    let number = |variable| -> Option<u64> { std::env::var(variable).ok()?.parse().ok() };
    if number(PROCESS) != Some(std::process::id().into()) {
        return Ok(None);
    }
    let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why.to_owned()));
    match number(COUNT) {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(_) => return wrong("the service manager hands over more than one socket"),
    }
    // Nobody but this function has the number, and it has it once.
    if TAKEN.swap(true, Ordering::AcqRel)
        || std::fs::symlink_metadata(format!("/proc/self/fd/{FIRST}")).is_err()
    {
        return wrong("the socket of the service manager is not there");
    }
    // SAFETY: it is open, and was opened for this process before it began; nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST) };
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    let is_stream = sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM);
    let is_unix = sockopt::socket_domain(&socket).is_ok_and(|domain| domain == AddressFamily::UNIX);
    let listens = sockopt::socket_acceptconn(&socket).is_ok_and(|listens| listens);
    match is_stream && is_unix && listens {
        true => Ok(Some(socket.into())),
        false => wrong("what the service manager hands over is no listening Unix stream socket"),
    }
}
