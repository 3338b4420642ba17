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
    let Ok(loaded) = crate::policy::load_to_look(&options) else {
        return ExitCode::from(EXIT_USAGE);
    };
    crate::policy::show(&loaded.warnings);
    let open = crate::policy::open_secrets(&loaded);
    for (path, mode) in &open {
        let path = path.display();
        crate::talk::error(
            format_args!(
                "warning: {path} holds credentials, and others may read it (mode {mode:o})"
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
    if crate::talk::data(&summary) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_USAGE)
    }
}
