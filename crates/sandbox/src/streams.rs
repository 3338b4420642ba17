//! The standard streams, which are the command's as long as it runs.
//!
//! Nothing of the sandbox writes there meanwhile, not even a panic or the report that memory is out,
//! and no copy keeps a pipe open that the command has closed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr};

/// The first descriptor that is not a standard one.
const FIRST_EXTRA: i32 = 3;

/// Opens what takes their place.
pub(crate) fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Puts `null` in the place of all three, for good.
pub(crate) fn replace_by(null: &File) -> io::Result<()> {
    dup2_stdin(null)?;
    dup2_stdout(null)?;
    Ok(dup2_stderr(null)?)
}

/// The caller's own standard error, while `/dev/null` is in its place.
pub(crate) struct SavedStderr(Option<OwnedFd>);

impl SavedStderr {
    /// Puts it aside. One that is closed stays closed.
    pub(crate) fn put() -> io::Result<Self> {
        match fcntl_dupfd_cloexec(stderr(), FIRST_EXTRA) {
            Ok(kept) => {
                dup2_stderr(null()?)?;
                Ok(Self(Some(kept)))
            }
            Err(Errno::BADF) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts it back.
    pub(crate) fn put_back(self) {
        if let Some(kept) = self.0 {
            // What is replaced is `/dev/null`: there is nothing that could fail.
            let _ = dup2_stderr(kept);
        }
    }
}
