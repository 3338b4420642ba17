//! Reading a whole file, without believing half of one.

use super::identity::Stamp;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// What is read at once, bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Reads an open file from its beginning, at most `max_bytes` and one more, so that its reader sees
/// that it is too large. Its offset does not move, and no lease can refuse it.
///
/// # Errors
/// Those of reading; `WouldBlock` for a file that changed meanwhile.
pub(super) fn whole(file: &File, max_bytes: u64) -> io::Result<String> {
    let stamp = || Ok::<Stamp, io::Error>(rustix::fs::fstat(file)?.into());
    let before = stamp()?;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) <= max_bytes {
        let start = bytes.len();
        let room = (max_bytes + 1 - start as u64).min(CHUNK_BYTES as u64) as usize;
        bytes.resize(start + room, 0);
        let read = file.read_at(&mut bytes[start..], start as u64)?;
        bytes.truncate(start + read);
        if read == 0 {
            break;
        }
    }
    if stamp()? != before {
        return Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "it changed while it was read",
        ));
    }
    text(bytes)
}

/// Reads a pipe or the like to its end, at most `max_bytes` and one more.
pub(super) fn stream(file: File, max_bytes: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    text(bytes)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not valid UTF-8"))
}
