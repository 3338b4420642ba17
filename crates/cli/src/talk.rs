//! How the command line talks: what happened, why, one hint. Talk goes to stderr.

use std::fmt::Display;

/// Says that something failed, with a hint where there is one.
pub fn error(what: impl Display, hint: Option<&str>) {
    eprintln!("portcullis: {what}");
    if let Some(hint) = hint {
        eprintln!("  hint: {hint}");
    }
}

/// Whether stderr is a terminal, where a closing paragraph is welcome.
pub fn stderr_is_terminal() -> bool {
    rustix::termios::isatty(std::io::stderr())
}

/// A policy line, or several, indented under what they would allow.
pub fn indented(lines: &str, by: usize) -> String {
    let margin = " ".repeat(by);
    lines
        .lines()
        .map(|line| format!("{margin}{line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
