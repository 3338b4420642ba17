//! `portcullis explain TARGET`: the policy's verdict offline, by the enforcement code itself; for a URL,
//! or a method and a URL, the verdict on that request.

use crate::command::Command;
use crate::control::{self, ControlOptions};
use crate::exit::USAGE;
use crate::output;
use crate::policy_options::{self, PolicyOptions};
use crate::search::in_full;
use portcullis_control::Name as SandboxName;
use portcullis_names::Target;
use portcullis_policy::Verdict;
use std::process::ExitCode;

/// The exit codes, as `--help` tells them.
const EXITS: &str = "Exit codes: 0 allow; 1 deny; 2 for bad flags and policies.";

/// Show what the policy decides for TARGET, and the rule with its file and line
#[derive(clap::Args)]
#[command(after_help = EXITS)]
pub struct Explain {
    #[command(flatten)]
    policy: PolicyOptions,
    /// Ask the policy in force for this sandbox of a daemon
    #[arg(long, value_name = "NAME", value_parser = control::name, conflicts_with_all = control::POLICY_OPTIONS)]
    sandbox: Option<SandboxName>,
    #[command(flatten)]
    control: ControlOptions,
    /// Print JSON (with --sandbox)
    #[arg(long, requires = "sandbox")]
    json: bool,
    /// NAME, NAME:PORT, NAME:PORT/udp, CIDR, CIDR:PORT, a URL, or 'METHOD URL' in quotes
    target: String,
}

impl Command for Explain {
    fn upstream_proxy(&self) -> Option<&str> {
        self.policy.upstream_proxy.as_deref()
    }

    fn run(self) -> ExitCode {
        run(&self)
    }
}

/// What may be explained.
const TARGETS: &str =
    "TARGET is NAME, NAME:PORT, NAME:*, NAME:PORT/udp, CIDR, CIDR:PORT, URL or 'METHOD URL'";

/// The same of the policy in force in a daemon.
fn ask_daemon(args: &Explain, sandbox: &SandboxName) -> ExitCode {
    let targets = vec![args.target.clone()];
    let asked = (args.control).ask(async |client| client.explain(sandbox, targets).await);
    let explained = match asked {
        Ok(explained) => explained,
        Err(code) => return code,
    };
    if let Some(error) = explained.iter().find(|one| one.is_error()) {
        output::error(&error.text, Some(TARGETS));
        return ExitCode::from(USAGE);
    }
    if args.json && control::json(&explained) != ExitCode::SUCCESS {
        return ExitCode::from(USAGE);
    }
    let Some(explained) = explained.first() else {
        return ExitCode::from(USAGE);
    };
    if !args.json && !output::data(&format!("{}\n", explained.text)) {
        return ExitCode::from(USAGE);
    }
    match explained.is_allowed() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    }
}

/// Prints the verdict (first word `allow` or `deny`); exits 0, 1, or 2 for an error.
fn run(args: &Explain) -> ExitCode {
    if let Some(sandbox) = &args.sandbox {
        return ask_daemon(args, sandbox);
    }
    if args.control.names_no_sandbox() {
        return ExitCode::from(USAGE);
    }
    if args.json {
        output::error(
            "--json is for a sandbox of a daemon",
            Some("add --sandbox NAME"),
        );
        return ExitCode::from(USAGE);
    }
    let Ok(loaded) = policy_options::load_to_look(&args.policy) else {
        return ExitCode::from(USAGE);
    };
    let in_full = in_full(&loaded.policy, &args.target);
    let asked = in_full.as_ref().map_or(&args.target, |full| &full.target);
    let target = Target::from_policy(asked);
    let explanation = match loaded.policy.explain_url(asked) {
        Some(explained) => explained.map_err(str::to_owned),
        None => target
            .as_ref()
            .map(|target| loaded.policy.explain(target))
            .map_err(ToString::to_string),
    };
    let explanation = match explanation {
        Ok(explanation) => explanation,
        Err(error) => {
            let hint = target.err().and_then(|error| error.hint());
            output::error(
                format_args!("{}: {error}", args.target),
                Some(hint.as_deref().unwrap_or(TARGETS)),
            );
            return ExitCode::from(USAGE);
        }
    };
    policy_options::show(&loaded.warnings);
    let note = in_full.map_or_else(String::new, |full| format!("{full}\n"));
    if !output::data(&format!("{explanation}\n{note}")) {
        return ExitCode::from(USAGE);
    }
    if explanation.verdict == Verdict::Allow {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}
