//! `portcullis explain TARGET`: the policy's verdict offline, by the enforcement code itself.

use crate::EXIT_USAGE;
use crate::args::ExplainArgs;
use portcullis_names::Target;
use portcullis_policy::Verdict;
use std::process::ExitCode;

/// Prints the verdict (first word `allow` or `deny`); exits 0, 1, or 2 for an error.
pub fn main(args: ExplainArgs) -> ExitCode {
    let target = match Target::from_policy(&args.target) {
        Ok(target) => target,
        Err(error) => {
            crate::talk::error(
                format_args!("{}: {error}", args.target),
                Some("TARGET is NAME, NAME:PORT, NAME:*, CIDR or CIDR:PORT"),
            );
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let Ok(loaded) = crate::policy::load_to_look(&args.policy) else {
        return ExitCode::from(EXIT_USAGE);
    };
    crate::policy::show(&loaded.warnings);
    let explanation = loaded.policy.explain(&target);
    if !crate::talk::data(&format!("{explanation}\n")) {
        return ExitCode::from(EXIT_USAGE);
    }
    if explanation.verdict == Verdict::Allow {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}
