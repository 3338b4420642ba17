//! `portcullis policy check FILE…`: what is wrong with a policy, before anything runs on it.

use crate::command::Command;
use crate::exit::USAGE;
use crate::output;
use crate::policy_options::{self, PolicyOptions};
use std::path::PathBuf;
use std::process::ExitCode;

/// Work with policy files
#[derive(clap::Args)]
pub struct PolicyCommands {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(clap::Subcommand)]
enum PolicyCommand {
    Check(Check),
}

/// The exit codes, as `--help` tells them.
const EXITS: &str = "Exit codes: 0 if every file loads, also with warnings; 2 if one does not.";

/// Check policy files, and show each error and warning with its place and a suggestion
#[derive(clap::Args)]
#[command(after_help = EXITS)]
struct Check {
    /// Policy files, merged in this order
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Command for PolicyCommands {
    fn run(self) -> ExitCode {
        match self.command {
            PolicyCommand::Check(args) => check(args),
        }
    }
}

/// Prints one line; warnings and errors go to stderr. Exits 0 or 2.
fn check(args: Check) -> ExitCode {
    let options = PolicyOptions {
        policy: args.files,
        ..PolicyOptions::default()
    };
    let Ok(loaded) = policy_options::load_to_look(&options) else {
        return ExitCode::from(USAGE);
    };
    policy_options::show(&loaded.warnings);
    let open = policy_options::open_secrets(&loaded);
    for (path, mode) in &open {
        let path = path.display();
        output::error(
            format_args!(
                "warning: {path} holds credentials, but other users can read it (mode {mode:o})"
            ),
            Some(&format!("chmod 600 {path}")),
        );
    }
    let warnings = match loaded.warnings.len() + open.len() {
        0 => "no warnings".to_owned(),
        1 => "1 warning".to_owned(),
        count => format!("{count} warnings"),
    };
    let summary = format!("ok: {} rules, {warnings}\n", loaded.policy.rule_count());
    if output::data(&summary) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(USAGE)
    }
}
