//! Thin safe wrappers over the system calls that several files need.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The usual `-1` convention as a `Result`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The same for raw system calls.
pub(crate) fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes a descriptor the kernel has just returned.
///
/// # Safety
/// `fd` is the result of a system call that makes a new descriptor, or negative with errno set.
pub(crate) unsafe fn own(fd: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the caller says that a non-negative fd is new and unowned.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A connected pair of Unix seqpacket sockets, close-on-exec.
pub(crate) fn socketpair_seqpacket() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: fds has room for the two descriptors.
    check(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    })?;
    // SAFETY: both descriptors are new.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A pipe (read end, write end), close-on-exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: fds has room for the two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both descriptors are new.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A socket, close-on-exec; `kind` may carry `SOCK_NONBLOCK`.
pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket makes a new descriptor or fails.
    unsafe { own(libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol)) }
}

/// Sets an integer socket option.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option's value is the integer passed, with its size.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Reads an integer socket option.
pub(crate) fn get_option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: value has room for `length` bytes.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

/// Polls several descriptors for input; true where one is readable, hung up or broken.
pub(crate) fn poll<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    wait: Option<Duration>,
) -> io::Result<[bool; N]> {
    let deadline = wait.map(|wait| Instant::now() + wait);
    let mut set = fds.map(|fd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| libc::timespec {
            tv_sec: left.as_secs() as libc::time_t,
            tv_nsec: left.subsec_nanos().into(),
        });
        let pointer = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: set holds N entries; timeout outlives the call.
        match check(unsafe {
            libc::ppoll(
                set.as_mut_ptr(),
                N as libc::nfds_t,
                pointer,
                std::ptr::null(),
            )
        }) {
            Ok(_) => return Ok(set.map(|entry| entry.revents != 0)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until one descriptor is readable; false when the time is over.
pub(crate) fn poll_readable(fd: BorrowedFd<'_>, wait: Option<Duration>) -> io::Result<bool> {
    poll([fd], wait).map(|[ready]| ready)
}
