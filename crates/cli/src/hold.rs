//! The hidden command that a gateway starts to enter a sandbox: a process of its own with one thread.

use std::process::{Command, ExitCode};

/// Its name.
pub const COMMAND: &str = "__hold";
/// The program that runs.
const SELF: &str = "/proc/self/exe";

/// Starts one.
pub fn command() -> Command {
    own(COMMAND)
}

/// This program again, with a hidden command.
pub fn own(hidden: &str) -> Command {
    let mut command = Command::new(SELF);
    command.arg(hidden);
    command
}

/// What it does.
pub fn main() -> ExitCode {
    // Exit codes are a byte, and these are small.
    ExitCode::from(u8::try_from(portcullis_sandbox::hold()).unwrap_or(1))
}
