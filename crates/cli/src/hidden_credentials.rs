//! Credentials that stand on the command line, where everybody on the host, and the sandbox, could
//! read them (`ps`, `/proc/PID/cmdline`).
//!
//! Answers *the record* (docs/threats.md) for process lists: the program starts itself again without them, before
//! it does anything else, and finds them in a variable that only its own user can read and that CMD
//! never gets. A file or a variable that the policy names leaves no such moment.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The same as `--upstream-proxy`, for a URL that holds credentials.
pub const VARIABLE: &str = "PORTCULLIS_UPSTREAM_PROXY";
const FLAG: &str = "--upstream-proxy";
/// The program that runs.
const SELF: &str = "/proc/self/exe";

/// Starts the program again where this URL, which `argv` gave as `--upstream-proxy`, has credentials.
/// Comes back where it has none.
///
/// # Errors
/// It cannot be started again.
pub fn hide(argv: &[OsString], url: Option<&str>) -> io::Result<()> {
    let Some(url) = url.filter(|url| url.contains('@')) else {
        return Ok(());
    };
    let Some((program, rest)) = argv.split_first() else {
        return Ok(());
    };
    let mut restarted = Command::new(SELF);
    restarted
        .arg0(program)
        .args(without(rest))
        .env(VARIABLE, url);
    Err(restarted.exec())
}

/// The URL of the variable.
pub fn hidden() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|url| !url.is_empty())
}

/// The arguments without the flag: the first such word is ours, whatever CMD's own are.
fn without(argv: &[OsString]) -> Vec<OsString> {
    let joined = format!("{FLAG}=");
    let at = argv
        .iter()
        .position(|word| word == FLAG || word.as_encoded_bytes().starts_with(joined.as_bytes()));
    let mut rest = argv.to_vec();
    if let Some(at) = at {
        let words = if argv[at] == OsStr::new(FLAG) { 2 } else { 1 };
        rest.drain(at..(at + words).min(argv.len()));
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_flag_is_taken_out_with_its_value() {
        let argv = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        for (line, left) in [
            ("run --upstream-proxy http://u:p@h -- id", "run -- id"),
            ("run --upstream-proxy=http://u:p@h -- id", "run -- id"),
            (
                "run --upstream-proxy http://u:p@h -- x --upstream-proxy y",
                "run -- x --upstream-proxy y",
            ),
            ("run -- id", "run -- id"),
            ("run --upstream-proxy", "run"),
        ] {
            assert_eq!(without(&argv(line)), argv(left), "{line}");
        }
        assert!(hide(&argv("portcullis run"), Some("http://h:1")).is_ok());
        assert!(hide(&argv("portcullis run"), None).is_ok());
    }
}
