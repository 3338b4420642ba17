//! What a command is.

use crate::exit;
use std::process::ExitCode;

/// A command. Its arguments are its fields, its help is their documentation, and
/// `commands::commands!` lists it.
pub trait Command: clap::Args {
    /// The exit code for bad flags.
    const BAD_USAGE: u8 = exit::USAGE;

    /// What `--upstream-proxy` says, where the command takes that.
    fn upstream_proxy(&self) -> Option<&str> {
        None
    }

    /// Carries it out and gives its exit code.
    fn run(self) -> ExitCode;
}
