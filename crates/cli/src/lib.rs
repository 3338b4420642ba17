//! The command line: each command is a file that owns its arguments and its help, and holds no logic
//! that another program would want.
//!
//! Messages follow one form: what happened, why, one hint. Data goes to stdout, messages to stderr.
#![forbid(unsafe_code)]

mod child_env;
mod command;
mod commands;
mod control;
mod debug_log;
mod exit;
mod handed_in;
mod hidden_credentials;
mod hold;
mod launch;
mod output;
mod policy_options;
mod probe;
mod record_options;
mod search;
mod service_manager;
mod signals;
mod socket_env;
mod socket_file;
mod trust_env;
mod vantage;
mod version;
mod work_tree;
mod written_file;

use clap::Parser;
use rustix::process::{Resource, getrlimit};
use std::ffi::OsString;
use std::process::ExitCode;

/// The smallest stack for the first thread, bytes: with less, it would end with SIGSEGV.
const MIN_STACK_BYTES: u64 = 256 * 1024;

/// The limit of the stack, where it is too small to read a command line.
fn small_stack() -> Option<u64> {
    let limit = getrlimit(Resource::Stack).current;
    limit.filter(|bytes| *bytes < MIN_STACK_BYTES)
}

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
    if name == hold::COMMAND {
        return hold::main();
    }
    if commands::cni::is_called(argv.len()) {
        return commands::cni::main();
    }
    let bad_usage = ExitCode::from(commands::bad_usage(name));
    if let Some(bytes) = small_stack() {
        let what = format!("the stack may have {bytes} bytes, and {MIN_STACK_BYTES} are needed");
        output::error(what, Some("raise the limit: ulimit -s 8192"));
        return bad_usage;
    }
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
