//! A descriptor kept back, for a file that has to be opened when there is no other left.
//!
//! Answers *exhaustion* (docs/threats.md): the program can use up the gateway's descriptors with its
//! connections.

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// A descriptor in reserve; none after it was used and could not be replaced yet.
#[derive(Debug, Default)]
pub(super) struct Spare(Option<OwnedFd>);

impl Spare {
    /// Takes one into reserve, where there is none and one is free.
    pub(super) fn refill(&mut self) {
        if self.0.is_none() {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            self.0 = openat(CWD, "/dev/null", flags, Mode::empty()).ok();
        }
    }

    /// Opens something, at the reserve's expense where no other descriptor is left.
    pub(super) fn open(
        &mut self,
        mut open: impl FnMut() -> rustix::io::Result<OwnedFd>,
    ) -> rustix::io::Result<OwnedFd> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) if self.0.take().is_some() => open(),
            result => result,
        }
    }
}
