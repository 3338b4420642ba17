//! `portcullis detach`: ends a sandbox of a daemon.

use crate::command::Command;
use crate::control::{self, ControlOptions};
use portcullis_control::Name;
use std::process::ExitCode;

/// Take a sandbox's network away, and have its daemon forget it
#[derive(clap::Args)]
pub struct Detach {
    #[command(flatten)]
    control: ControlOptions,
    /// The sandbox, as `portcullis ps` lists it
    #[arg(value_parser = control::name)]
    sandbox: Name,
}

impl Command for Detach {
    fn run(self) -> ExitCode {
        let name = &self.sandbox;
        match self.control.ask(async |client| client.remove(name).await) {
            Ok(()) => ExitCode::SUCCESS,
            Err(code) => code,
        }
    }
}
