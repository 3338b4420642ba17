//! Thin wrappers over the system calls that the libraries do not have, or not as safe functions.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Pid;

/// The usual `-1` convention as a `Result`.
pub(crate) fn check(result: impl Into<i64>) -> io::Result<i64> {
    match result.into() {
        result if result < 0 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// Ends this process at once, without anything that was to be done at its exit.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: the call has no conditions and does not return.
    unsafe { libc::_exit(code) }
}

/// What of the stack is given back, in bytes; as much as it is likely to have grown.
const STACK_BYTES: usize = 64 * 1024;
/// What of it stays for the calls that give it back, in bytes: a page and the red zone.
const STACK_KEPT: usize = 4096 + 128;

/// Gives memory that is free back to the kernel: the allocator's, and what the stack has grown by in calls that have
/// returned. For a process that is going to do little for a long time.
pub(crate) fn give_back_memory() {
    // Elsewhere it stays.
    #[cfg(target_env = "gnu")]
    // SAFETY: the call looks at the allocator's own lists only.
    unsafe {
        libc::malloc_trim(0);
    }
    let here = 0_u8;
    // SAFETY: the call has no conditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).unwrap_or(STACK_BYTES);
    let top = (&raw const here as usize).saturating_sub(STACK_KEPT) & !(page - 1);
    // SAFETY: the stack grows down, so that nothing lives there; what is not mapped is skipped.
    unsafe {
        libc::madvise(
            (top - STACK_BYTES) as *mut libc::c_void,
            STACK_BYTES,
            libc::MADV_DONTNEED,
        );
    }
}

/// Makes a child process; none in the child itself.
///
/// # Safety
/// The calling process has a single thread: the child may then do anything.
pub(crate) unsafe fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the caller vouches for the single thread.
    let pid = check(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid as i32))
}

/// Makes a child process in new user and PID namespaces; none in the child itself.
///
/// # Safety
/// The calling process has a single thread: the child may then do anything.
pub(crate) unsafe fn fork_into_namespaces() -> io::Result<Option<Pid>> {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: a clone without a new stack is a fork; the caller vouches for the single thread.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    Ok(Pid::from_raw(pid as i32))
}

/// Sets an integer socket option.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option_to(fd, level, name, &[value as u32])
}

/// Sets a socket option that is made of words.
pub(crate) fn set_option_to(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &[u32],
) -> io::Result<()> {
    let length = size_of_val(value) as libc::socklen_t;
    // SAFETY: the option's value is the slice passed, with its size.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), length) })
        .map(drop)
}

/// Has a socket send and receive by one device only.
pub(crate) fn bind_to_device(fd: BorrowedFd<'_>, device: &str) -> io::Result<()> {
    let (level, name) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
    let length = device.len() as libc::socklen_t;
    // SAFETY: the option's value is the name passed, with its length; it needs no NUL.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, device.as_ptr().cast(), length) })
        .map(drop)
}

/// Polls several descriptors for input; true where one is readable, hung up or broken.
pub(crate) fn poll<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    wait: Option<Duration>,
) -> io::Result<[bool; N]> {
    let deadline = wait.map(|wait| Instant::now() + wait);
    let mut set = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut set, left.as_ref()) {
            Ok(_) => return Ok(set.map(|entry| !entry.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// How long to pause where the kernel cannot even wait.
const PAUSE: Duration = Duration::from_millis(10);

/// Polls as [`poll`] does. Where that fails, which the command must not be able to make the end of
/// anything, every descriptor counts as readable after a pause.
pub(crate) fn poll_or_pause<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    wait: Option<Duration>,
) -> [bool; N] {
    poll(fds, wait).unwrap_or_else(|_| {
        std::thread::sleep(wait.map_or(PAUSE, |wait| wait.min(PAUSE)));
        [true; N]
    })
}

/// Has the kernel send a signal to this process when there is something to read, or the other end is
/// closed, even while this process is stopped.
pub(crate) fn signal_on_input(fd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the calls take numbers alone.
    unsafe {
        let fd = fd.as_raw_fd();
        check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()))?;
        check(libc::fcntl(fd, F_SETSIG, signal))?;
        check(libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC))?;
    }
    Ok(())
}

/// `F_SETSIG`
const F_SETSIG: i32 = 10;

/// Waits until one descriptor is readable; false when the time is over.
pub(crate) fn poll_readable(fd: BorrowedFd<'_>, wait: Option<Duration>) -> io::Result<bool> {
    poll([fd], wait).map(|[ready]| ready)
}
