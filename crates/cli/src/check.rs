//! `portcullis policy check FILE…`: what is wrong with a policy, before anything runs on it.

use crate::EXIT_USAGE;
use crate::args::{CheckArgs, PolicyOptions};
use std::process::ExitCode;

/// Prints a line a file set; warnings and errors go to stderr. Exits 0 or 2.
pub fn main(args: CheckArgs) -> ExitCode {
    let options = PolicyOptions {
        policy: args.files,
        ..PolicyOptions::default()
    };
    let Ok(loaded) = crate::policy::load(&options) else {
        return ExitCode::from(EXIT_USAGE);
    };
    crate::policy::show(&loaded.warnings);
    let warnings = match loaded.warnings.len() {
        0 => "no warnings".to_owned(),
        1 => "1 warning".to_owned(),
        count => format!("{count} warnings"),
    };
    let summary = format!("ok: {} rules, {warnings}\n", loaded.policy.rule_count());
    if crate::talk::data(&summary) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_USAGE)
    }
}
