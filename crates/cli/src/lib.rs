//! The command line: each command a file, none with logic that another program would want.
//!
//! Messages follow one form (what happened, why, one hint); stdout carries data and stderr talk.
#![forbid(unsafe_code)]

mod args;
mod check;
mod child_env;
mod conceal;
mod diagnose;
mod doctor;
mod explain;
mod launch;
mod learn;
mod policy;
mod probe;
mod run;
mod serve;
mod talk;
mod trust_env;

use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// The release, and the build as version control knows it (see `build.rs`).
pub(crate) const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("PORTCULLIS_BUILD_ID"),
    ")"
);
/// The same as records say it.
pub(crate) const BUILD: &str = concat!(
    "portcullis ",
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("PORTCULLIS_BUILD_ID"),
    ")"
);

/// Exit code of every command but `run` for bad flags and bad policies.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Exit code of `run` when Portcullis itself failed before CMD started.
pub(crate) const EXIT_BEFORE_START: u8 = 125;

/// Runs the command that `argv` names (`argv[0]` is the program itself) and gives its exit code.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let argv: Vec<OsString> = argv.into_iter().collect();
    // Bad flags of `run` exit 125, so that a script can tell them from CMD's own codes.
    let runs = argv.get(1).is_some_and(|word| word == "run");
    if argv.get(1).is_some_and(|word| word == probe::COMMAND) {
        return match args::ProbeArgs::try_parse_from(argv.into_iter().skip(1)) {
            Ok(args) => probe::main(args),
            Err(_) => ExitCode::from(EXIT_USAGE),
        };
    }
    match args::Cli::try_parse_from(&argv) {
        Ok(cli) => match conceal::conceal(&argv, cli.upstream_proxy()) {
            Ok(()) => args::dispatch(cli),
            Err(error) => {
                let what = format!("cannot take credentials off the command line: {error}");
                talk::error(what, Some("name them in the policy: credentials_file"));
                ExitCode::from(if runs { EXIT_BEFORE_START } else { EXIT_USAGE })
            }
        },
        Err(error) => {
            // A closed stdout or stderr is the reader's choice, not our failure.
            let _ = error.print();
            if !error.use_stderr() {
                ExitCode::SUCCESS
            } else if runs {
                ExitCode::from(EXIT_BEFORE_START)
            } else {
                ExitCode::from(EXIT_USAGE)
            }
        }
    }
}
