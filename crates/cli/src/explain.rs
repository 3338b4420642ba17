//! `portcullis explain TARGET`: the policy's verdict offline, by the enforcement code itself; for a URL,
//! or a method and a URL, the verdict on that request.

use crate::EXIT_USAGE;
use crate::args::ExplainArgs;
use portcullis_names::Target;
use portcullis_policy::Verdict;
use std::process::ExitCode;

/// Prints the verdict (first word `allow` or `deny`); exits 0, 1, or 2 for an error.
pub fn main(args: ExplainArgs) -> ExitCode {
    let Ok(loaded) = crate::policy::load_to_look(&args.policy) else {
        return ExitCode::from(EXIT_USAGE);
    };
    let explanation = match loaded.policy.explain_url(&args.target) {
        Some(explained) => explained.map_err(str::to_owned),
        None => Target::from_policy(&args.target)
            .map(|target| loaded.policy.explain(&target))
            .map_err(|error| error.to_string()),
    };
    let explanation = match explanation {
        Ok(explanation) => explanation,
        Err(error) => {
            crate::talk::error(
                format_args!("{}: {error}", args.target),
                Some(
                    "TARGET is NAME, NAME:PORT, NAME:*, NAME:PORT/udp, CIDR, CIDR:PORT, URL or \
                     'METHOD URL'",
                ),
            );
            return ExitCode::from(EXIT_USAGE);
        }
    };
    crate::policy::show(&loaded.warnings);
    if !crate::talk::data(&format!("{explanation}\n")) {
        return ExitCode::from(EXIT_USAGE);
    }
    if explanation.verdict == Verdict::Allow {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}
