//! The helper processes of a world: they run in its namespaces, never in the test process.
//!
//! `serve` is the internet: it makes the world's user namespace and its own network namespace,
//! starts `hold`, joins the two with a veth and plays every server. `hold` keeps the host's
//! network and mount namespaces. `enter` becomes a program in the host's namespaces.

mod enter;
mod hold;
pub(crate) mod namespaces;
mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

/// The first argument of every helper process.
pub(crate) const HELPER_WORD: &str = "__world";

pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let word = args.first().and_then(|a| a.to_str()).unwrap_or("");
    let rest = args.get(1..).unwrap_or(&[]);
    let result = match word {
        "serve" => serve::main(rest),
        "hold" => hold::main(rest),
        "enter" => enter::main(rest),
        other => Err(anyhow::anyhow!("unknown helper {other:?}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-world {word}: {error:#}");
            ExitCode::from(125)
        }
    }
}
