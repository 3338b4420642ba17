//! The commands. A new one is a file here and a line in the list below.

mod attach;
mod attach_by_daemon;
pub mod cni;
mod detach;
mod diagnose;
mod doctor;
mod explain;
mod hook;
mod learn;
mod policy;
mod ps;
mod run;
mod serve;
mod serve_daemon;
mod top;
mod vm_socket;

use crate::command::Command as _;
use crate::{exit, version};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The commands, in the order of `--help`: the name, and the type that is its arguments.
macro_rules! commands {
    ($($name:ident: $arguments:ty,)+) => {
        #[derive(Subcommand)]
        enum Command {
            $($name($arguments),)+
        }

        impl Command {
            fn upstream_proxy(&self) -> Option<&str> {
                match self {
                    $(Command::$name(arguments) => arguments.upstream_proxy(),)+
                }
            }

            fn run(self) -> ExitCode {
                match self {
                    $(Command::$name(arguments) => arguments.run(),)+
                }
            }
        }

        /// The exit code for bad flags of the command of this name.
        pub fn bad_usage(command: &str) -> u8 {
            $(if command == stringify!($name).to_ascii_lowercase() {
                return <$arguments as crate::command::Command>::BAD_USAGE;
            })+
            exit::USAGE
        }
    };
}

commands! {
    Run: run::Run,
    Serve: serve::Serve,
    Attach: attach::Attach,
    Detach: detach::Detach,
    VmSocket: vm_socket::VmSocket,
    Hook: hook::Hook,
    Cni: cni::Cni,
    Diagnose: diagnose::Diagnose,
    Explain: explain::Explain,
    Learn: learn::Learn,
    Policy: policy::PolicyCommands,
    Ps: ps::Ps,
    Top: top::Top,
    Doctor: doctor::Doctor,
}

/// A first command for whoever asked for help.
const FIRST_STEP: &str = "\
Example: portcullis run --allow api.example.com -- curl https://api.example.com/";

/// Run a command with exactly the network that a policy lists
#[derive(Parser)]
#[command(
    name = "portcullis",
    version = version::VERSION,
    propagate_version = true,
    after_help = FIRST_STEP
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

impl CommandLine {
    /// What `--upstream-proxy` says.
    pub fn upstream_proxy(&self) -> Option<&str> {
        self.command.upstream_proxy()
    }

    /// Carries out the command and gives its exit code.
    pub fn run(self) -> ExitCode {
        self.command.run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn each_command_says_what_it_does() {
        for command in CommandLine::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn only_bad_flags_of_run_exit_like_a_failed_start() {
        let codes = ["run", "Run", "serve", "learn", "", "other"].map(bad_usage);
        assert_eq!(codes, [exit::BEFORE_START, 2, 2, 2, 2, 2]);
    }
}
