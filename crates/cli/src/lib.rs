//! The command line: each command is a file that owns its arguments and its help, and holds no logic
//! that another program would want.
//!
//! Messages follow one form: what happened, why, one hint. Data goes to stdout, messages to stderr.
#![forbid(unsafe_code)]

mod child_env;
mod command;
mod commands;
mod debug_log;
mod exit;
mod hidden_credentials;
mod launch;
mod output;
mod policy_options;
mod probe;
mod socket_env;
mod trust_env;
mod version;
mod written_file;

use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that `argv` names (`argv[0]` is the program itself) and gives its exit code.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let name = argv.get(1).and_then(|word| word.to_str()).unwrap_or("");
    if name == probe::COMMAND {
        return match probe::Arguments::try_parse_from(argv.into_iter().skip(1)) {
            Ok(arguments) => probe::main(&arguments),
            Err(_) => ExitCode::from(exit::USAGE),
        };
    }
    let bad_usage = ExitCode::from(commands::bad_usage(name));
    match commands::CommandLine::try_parse_from(&argv) {
        Ok(line) => match hidden_credentials::hide(&argv, line.upstream_proxy()) {
            Ok(()) => line.run(),
            Err(error) => {
                let what = format!("cannot hide the credentials on the command line: {error}");
                output::error(
                    what,
                    Some("put them in a file, and name it as `credentials_file` in the policy"),
                );
                bad_usage
            }
        },
        Err(error) => {
            // A closed stdout or stderr is the reader's choice, not our failure.
            let _ = error.print();
            if error.use_stderr() {
                bad_usage
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}
