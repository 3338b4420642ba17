//! `portcullis policy`: what is wrong with a policy, before anything runs on it; a policy for a sandbox of a
//! daemon.

use crate::command::Command;
use crate::control::{self, ControlOptions};
use crate::exit::USAGE;
use crate::output;
use crate::policy_options::{self, PolicyOptions};
use portcullis_control::Name;
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
    Push(Push),
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

/// The exit codes of `push`.
const PUSH_EXITS: &str = "Exit codes: 0 if it is in force; 2 if not, and then nothing has changed.";

/// Put a policy in force for a sandbox of a daemon, under live traffic
#[derive(clap::Args)]
#[command(after_help = PUSH_EXITS)]
struct Push {
    #[command(flatten)]
    control: ControlOptions,
    /// The sandbox
    #[arg(value_name = "NAME", value_parser = control::name)]
    sandbox: Name,
    /// Policy file (TOML, YAML or JSON by its extension)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command for PolicyCommands {
    fn run(self) -> ExitCode {
        match self.command {
            PolicyCommand::Check(args) => check(args),
            PolicyCommand::Push(args) => push(&args),
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
    let rules = loaded.policy.rule_count();
    let plural = if rules == 1 { "" } else { "s" };
    let summary = format!("ok: {rules} rule{plural}, {warnings}\n");
    if output::data(&summary) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(USAGE)
    }
}

/// Sends a file to the daemon, and says what came of it.
fn push(args: &Push) -> ExitCode {
    let Ok(policy) = policy_options::text(&args.file) else {
        return ExitCode::from(USAGE);
    };
    let pushed = (args.control).ask(async |client| client.put_policy(&args.sandbox, &policy).await);
    let applied = match pushed {
        Ok(applied) => applied,
        Err(code) => return code,
    };
    if args.json {
        return control::json(&applied);
    }
    control::findings_on_stderr(&applied.findings);
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let (rules, cut) = (applied.rules, applied.cut);
    let done = format!(
        "in force: {rules} rule{}, {cut} flow{} cut\n",
        plural(rules),
        plural(cut)
    );
    match output::data(&done) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(USAGE),
    }
}
