//! `portcullis ps`: the sandboxes of a daemon.

use crate::command::Command;
use crate::control::{self, ControlOptions};
use crate::exit::USAGE;
use crate::output;
use portcullis_control::{Sandbox, State};
use std::process::ExitCode;

/// List the sandboxes of a daemon that are yours
#[derive(clap::Args)]
pub struct Ps {
    #[command(flatten)]
    control: ControlOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command for Ps {
    fn run(self) -> ExitCode {
        let all = match self.control.ask(async |client| client.list().await) {
            Ok(all) => all,
            Err(code) => return code,
        };
        if self.json {
            return control::json(&all);
        }
        match output::data(&listed(&all)) {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(USAGE),
        }
    }
}

/// A line for each, below a line of titles.
pub fn listed(all: &[Sandbox]) -> String {
    let titles = [
        "NAME", "STATE", "OWNER", "RULES", "ALLOWED", "DENIED", "FAILED", "WHY",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|one| {
        vec![
            one.name.to_string(),
            state(one).to_owned(),
            one.owner.to_string(),
            one.rules.to_string(),
            one.decisions.allow.to_string(),
            (one.decisions.deny + one.decisions.audit).to_string(),
            one.decisions.error.to_string(),
            output::one_line(one.error.as_deref().unwrap_or_default()),
        ]
    }));
    control::table(&rows)
}

fn state(sandbox: &Sandbox) -> &'static str {
    match sandbox.state {
        State::Serving if sandbox.audit => "audit",
        State::Serving => "serving",
        State::CutOff => "cut off",
    }
}
