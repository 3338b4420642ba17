//! A Unix socket at a path: for its owner alone, never in the place of one that somebody listens on, and
//! gone in the end.

use crate::output::Hinted;
use anyhow::{Context, bail};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, flock, openat, statat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with,
};
use rustix::process::umask;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The file of a socket; removed when this is dropped, if it is still the same.
pub struct SocketFile {
    path: PathBuf,
    /// Device and number.
    file: (u64, u64),
}

impl SocketFile {
    /// Makes a socket of a type at a path. Call it while the process has one thread: the mask of new
    /// files is the process's.
    ///
    /// # Errors
    /// Somebody listens there, something else than a socket is there, or the folder does not permit it.
    pub fn bind(path: &Path, kind: SocketType) -> anyhow::Result<(SocketFile, OwnedFd)> {
        let shown = path.display();
        let address = SocketAddrUnix::new(path).with_context(|| {
            Hinted::new(
                format!("cannot make a socket at {shown}"),
                Some("the path of a socket has at most 107 bytes"),
            )
        })?;
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let held = openat(CWD, folder, flags, Mode::empty())
            .with_context(|| format!("cannot make a socket at {shown}"))?;
        // Of two that find nobody there, the second must not remove what the first has made. Without
        // this lock (some network file systems) only their timing keeps them apart.
        let _ = flock(&held, FlockOperation::LockExclusive);
        clear(path, &address)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None)
            .context("cannot make a Unix socket")?;
        let before = umask(Mode::from_raw_mode(0o177));
        let bound = bind(&socket, &address);
        umask(before);
        bound.with_context(|| format!("cannot make a socket at {shown}"))?;
        let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| format!("cannot find the socket at {shown}"))?;
        let file = SocketFile {
            path: path.to_owned(),
            file: (stat.st_dev, stat.st_ino),
        };
        Ok((file, socket))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn clear(path: &Path, address: &SocketAddrUnix) -> anyhow::Result<()> {
    let shown = path.display();
    let found = match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.with_context(|| format!("cannot look at {shown}"))?,
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        bail!(Hinted::new(
            format!("{shown} exists and is no socket"),
            Some("name another path, or remove it"),
        ));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let asking = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .context("cannot make a Unix socket")?;
    // Only this says that nobody is there; a socket of another type is in use as well.
    if connect(&asking, address) != Err(Errno::CONNREFUSED) {
        bail!(Hinted::new(
            format!("somebody listens on {shown}"),
            Some("name another path, or end what listens there"),
        ));
    }
    fs::remove_file(path).with_context(|| format!("cannot remove the old socket {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn the_file_is_its_owners_alone_and_goes_with_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
            let (file, _socket) = SocketFile::bind(&path, kind).unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            drop(file);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_socket_that_is_in_use_stays_whatever_its_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
            let (_file, socket) = SocketFile::bind(&path, kind).unwrap();
            if kind != SocketType::DGRAM {
                rustix::net::listen(&socket, 1).unwrap();
            }
            let before = fs::metadata(&path).unwrap().ino();
            let error = SocketFile::bind(&path, SocketType::STREAM).err().unwrap();
            assert!(error.to_string().contains("somebody listens"), "{error}");
            assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        }
    }

    #[test]
    fn what_a_killed_one_left_is_replaced_and_other_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        let (file, socket) = SocketFile::bind(&path, SocketType::STREAM).unwrap();
        std::mem::forget(file);
        drop(socket);
        assert!(path.exists());
        let (file, _socket) = SocketFile::bind(&path, SocketType::STREAM).unwrap();
        // Somebody else's by now.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let error = SocketFile::bind(&path, SocketType::STREAM).err().unwrap();
        assert!(error.to_string().contains("no socket"), "{error}");
    }
}
