//! The Unix socket on which a daemon's guest has its network.
//!
//! Answers *around the gateway* (docs/threats.md): the daemon chooses the place, in a folder of its own, so that no
//! client's path leads it anywhere; and the file is its owner's alone from the moment that it can be found.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use portcullis_control::{Framing, Name};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use rustix::process::geteuid;

use crate::guest_link::GuestSocket;

/// Who may connect: the owner.
const MODE: u32 = 0o600;

/// The file; removed with this.
pub(crate) struct GuestFile(PathBuf);

impl GuestFile {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for GuestFile {
    fn drop(&mut self) {
        // Gone is what it is to be.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes the socket of a sandbox in the daemon's folder, in the place of one that an earlier daemon has left.
pub(crate) fn make(
    folder: &Path,
    name: &Name,
    framing: Framing,
    owner: u32,
) -> io::Result<(GuestFile, GuestSocket)> {
    let kind = match framing {
        Framing::Stream => SocketType::STREAM,
        Framing::Datagram => SocketType::DGRAM,
        Framing::Seqpacket => SocketType::SEQPACKET,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    // Made where nobody else can look, and moved once it is its owner's.
    let hidden = folder.join(format!(".{name}"));
    let _ = fs::remove_dir_all(&hidden);
    DirBuilder::new().mode(0o700).create(&hidden)?;
    let bound = place(
        &socket,
        &hidden.join("s"),
        &folder.join(format!("{name}.sock")),
        owner,
    );
    let _ = fs::remove_dir_all(&hidden);
    let file = bound?;
    let socket = GuestSocket::listening(kind, socket)?;
    Ok((file, socket))
}

fn place(socket: &OwnedFd, hidden: &Path, path: &Path, owner: u32) -> io::Result<GuestFile> {
    bind(socket, &SocketAddrUnix::new(hidden)?)?;
    fs::set_permissions(hidden, Permissions::from_mode(MODE))?;
    if geteuid().as_raw() != owner {
        chown(hidden, Some(owner), None)?;
    }
    fs::rename(hidden, path)?;
    Ok(GuestFile(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_file_is_its_owners_alone_and_replaces_what_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let name: Name = "vm".parse().unwrap();
        let me = geteuid().as_raw();
        for framing in [Framing::Stream, Framing::Datagram, Framing::Seqpacket] {
            fs::write(folder.path().join("vm.sock"), "left").unwrap();
            let (file, _socket) = make(folder.path(), &name, framing, me).unwrap();
            let found = fs::metadata(file.path()).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, MODE);
            assert_eq!(found.uid(), me);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            drop(file);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
