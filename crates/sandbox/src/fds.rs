//! Which descriptors the command inherits: none that would bypass the sandbox.
//!
//! Answers *around the gateway* (docs/threats.md). A socket belongs to the namespace in which it was
//! made, and a directory to the mounts under which it was opened, so an inherited one would be a way
//! out. Pipes and plain files stay (make's jobserver, process substitution). A dangerous standard
//! stream ends the run before it begins.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, fstat, fstatfs, major, minor};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, getpeername, sockopt};
use rustix::termios::isatty;

use crate::error::{SandboxError, Step};
use crate::sys;

/// The first descriptor that is not a standard one.
const FIRST_EXTRA: RawFd = 3;
/// The most extra descriptors that are handed on.
const MAX_KEPT: usize = 1024;
/// The memory devices that are harmless: null, zero, full, random, urandom, by minor number.
const HARMLESS_MEMORY: [u32; 5] = [3, 5, 7, 8, 9];
const MEMORY_MAJOR: u32 = 1;
/// Kernel file systems whose plain files are handles on namespaces, processes or settings.
const KERNEL_FILE_SYSTEMS: [i64; 9] = [
    0x9fa0,      // proc
    0x6e73_6673, // nsfs
    0x5049_4446, // pidfs
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0xcafe_4a11, // bpf
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
];

/// What kind of thing a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    File,
    Terminal,
    HarmlessDevice,
    ConnectedUnixSocket,
    Dangerous(&'static str),
}

/// Files of which the command must have no descriptor, whatever they are called: records, policy,
/// credentials. A descriptor goes around every mount over a file's names.
pub(crate) struct Guarded(Vec<GuardedFile>);

struct GuardedFile {
    device: u64,
    inode: u64,
    path: PathBuf,
}

impl Guarded {
    /// The files and pipes among these. Folders are never handed on, and a device such as `/dev/null`
    /// keeps nothing.
    pub(crate) fn new<'p>(paths: impl Iterator<Item = &'p Path>) -> Guarded {
        let file = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            let kind = found.file_type();
            (kind.is_file() || kind.is_fifo()).then(|| GuardedFile {
                device: found.dev(),
                inode: found.ino(),
                path: fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
            })
        };
        Guarded(paths.filter_map(file).collect())
    }

    /// The file that a descriptor is of, if it is one of these.
    fn find(&self, fd: RawFd) -> Option<&Path> {
        let stat = fstat(borrow(fd)).ok()?;
        let same = |file: &&GuardedFile| (file.device, file.inode) == (stat.st_dev, stat.st_ino);
        self.0.iter().find(same).map(|file| file.path.as_path())
    }
}

/// Refuses standard descriptors that would reach around the sandbox, or to a guarded file.
pub(crate) fn check_standard(guarded: &Guarded) -> Result<(), SandboxError> {
    for (fd, name) in [(0, "stdin"), (1, "stdout"), (2, "stderr")] {
        if let Some(path) = guarded.find(fd) {
            let path = path.display();
            return Err(SandboxError::refused(
                Step::Descriptors,
                format!(
                    "{name} is {path}, which the command must not reach; use another file or a pipe"
                ),
            ));
        }
        match kind(fd) {
            Ok(Kind::Dangerous(what)) => {
                return Err(SandboxError::refused(
                    Step::Descriptors,
                    format!("{name} is {what}; use a pipe instead, for example `| cat`"),
                ));
            }
            Ok(_) => {}
            Err(Errno::BADF) => {}
            Err(error) => return Err(SandboxError::setup(Step::Descriptors, name, error.into())),
        }
    }
    Ok(())
}

/// The inherited descriptors that the command keeps besides the standard ones; none of a guarded file.
///
/// Called before anything else is opened. What this program opened itself is close-on-exec and
/// so is not counted as inherited.
pub(crate) fn inherited(guarded: &Guarded) -> io::Result<Vec<RawFd>> {
    let mut kept = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<RawFd>().ok())
        else {
            continue;
        };
        let inherited = fd >= FIRST_EXTRA
            && fcntl_getfd(borrow(fd)).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC));
        let harmless = matches!(kind(fd), Ok(Kind::Pipe | Kind::File));
        if inherited && harmless && guarded.find(fd).is_none() && kept.len() < MAX_KEPT {
            kept.push(fd);
        }
    }
    Ok(kept)
}

/// Closes, on exec, every descriptor but the standard ones and `kept`.
pub(crate) fn hand_on(kept: &[RawFd]) -> io::Result<()> {
    let mark = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: nothing is closed yet, only marked.
    unsafe { close_range(FIRST_EXTRA, RawFd::MAX, mark)? };
    for fd in kept {
        fcntl_setfd(borrow(*fd), FdFlags::empty())?;
    }
    Ok(())
}

/// Closes every descriptor but `needed` (standard ones too, unless they are in it).
///
/// # Safety
/// Nothing that owns another descriptor may be used or dropped afterwards.
pub(crate) unsafe fn close_all_but(needed: &mut [RawFd]) -> io::Result<()> {
    needed.sort_unstable();
    let mut from = 0;
    for fd in needed.iter().copied().chain([RawFd::MAX]) {
        if fd > from {
            // SAFETY: the caller says that nobody uses what is closed.
            unsafe { close_range(from, fd - 1, 0)? };
        }
        from = fd.saturating_add(1);
    }
    Ok(())
}

/// Closes or marks a range of descriptors, both ends included.
///
/// # Safety
/// Nothing that owns a descriptor that is closed may be used or dropped afterwards.
unsafe fn close_range(from: RawFd, to: RawFd, flags: u32) -> io::Result<()> {
    // SAFETY: the caller vouches for what is closed; the call takes three numbers.
    sys::check(unsafe { libc::syscall(libc::SYS_close_range, from, to, flags) }).map(drop)
}

fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: an inherited descriptor stays open, since nothing here owns it; one that was never
    // open is only asked about, which the kernel refuses.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn kind(fd: RawFd) -> Result<Kind, Errno> {
    let fd = borrow(fd);
    let stat = fstat(fd)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Kind::Pipe,
        FileType::RegularFile => plain_file(fd)?,
        FileType::Socket => socket(fd),
        FileType::Directory => Kind::Dangerous("a directory"),
        FileType::CharacterDevice => {
            if isatty(fd) {
                Kind::Terminal
            } else if major(stat.st_rdev) == MEMORY_MAJOR
                && HARMLESS_MEMORY.contains(&minor(stat.st_rdev))
            {
                Kind::HarmlessDevice
            } else {
                Kind::Dangerous("a device")
            }
        }
        FileType::BlockDevice => Kind::Dangerous("a block device"),
        _ => Kind::Dangerous("a kernel object"),
    })
}

fn plain_file(fd: BorrowedFd<'_>) -> Result<Kind, Errno> {
    #[allow(
        clippy::unnecessary_cast,
        reason = "the field's type differs between machines"
    )]
    let kind = fstatfs(fd)?.f_type as i64;
    Ok(if KERNEL_FILE_SYSTEMS.contains(&kind) {
        Kind::Dangerous("a kernel file")
    } else {
        Kind::File
    })
}

/// Only a connected Unix stream is no way out: it cannot be connected elsewhere.
fn socket(fd: BorrowedFd<'_>) -> Kind {
    if sockopt::socket_domain(fd) != Ok(AddressFamily::UNIX) {
        return Kind::Dangerous("a network socket");
    }
    let kind = sockopt::socket_type(fd);
    let stream = kind == Ok(SocketType::STREAM) || kind == Ok(SocketType::SEQPACKET);
    if stream && getpeername(fd).is_ok() {
        Kind::ConnectedUnixSocket
    } else {
        Kind::Dangerous("an unconnected or datagram socket")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    #[test]
    fn sockets_folders_and_kernel_handles_are_dangerous() {
        let folder = File::open("/").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (datagram, _other) = UnixDatagram::pair().unwrap();
        let place = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(place.path().join("s")).unwrap();
        let namespace = File::open("/proc/self/ns/net").unwrap();
        let status = File::open("/proc/self/status").unwrap();
        let fds = [
            folder.as_raw_fd(),
            tcp.as_raw_fd(),
            udp.as_raw_fd(),
            datagram.as_raw_fd(),
            listener.as_raw_fd(),
            namespace.as_raw_fd(),
            status.as_raw_fd(),
        ];
        for fd in fds {
            assert!(matches!(kind(fd).unwrap(), Kind::Dangerous(_)), "{fd}");
        }
    }

    #[test]
    fn a_guarded_file_is_found_by_any_name_and_any_descriptor() {
        let place = tempfile::tempdir().unwrap();
        let (log, link) = (place.path().join("log"), place.path().join("link"));
        let written = File::create(&log).unwrap();
        fs::hard_link(&log, &link).unwrap();
        let other = File::create(place.path().join("other")).unwrap();
        let null = File::open("/dev/null").unwrap();
        let paths = [link.as_path(), Path::new("/dev/null"), place.path()];
        let guarded = Guarded::new(paths.into_iter());
        let read = File::open(&log).unwrap();
        for file in [&written, &read] {
            assert_eq!(guarded.find(file.as_raw_fd()), Some(link.as_path()));
        }
        for file in [&other, &null] {
            assert_eq!(guarded.find(file.as_raw_fd()), None);
        }
    }

    #[test]
    fn pipes_files_null_and_connected_streams_stay() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert_eq!(kind(read.as_raw_fd()).unwrap(), Kind::Pipe);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(kind(file.as_raw_fd()).unwrap(), Kind::File);
        let null = File::open("/dev/null").unwrap();
        assert_eq!(kind(null.as_raw_fd()).unwrap(), Kind::HarmlessDevice);
        let (stream, _other) = UnixStream::pair().unwrap();
        assert_eq!(kind(stream.as_raw_fd()).unwrap(), Kind::ConnectedUnixSocket);
    }
}
