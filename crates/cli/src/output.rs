//! What a person reads: what happened, why, one hint. Messages go to stderr, data to stdout.
//! Neither may end the program: exit codes say what happened to CMD or what the policy decided,
//! also when nobody reads along.

use portcullis_runner::Unresolved;
use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};

/// The most characters of a line that others have had a part in.
const MAX_LINE: usize = 400;

/// What failed, with the one hint that helps. Made the context of an error, it shows as itself.
#[derive(Debug)]
pub struct Hinted {
    what: String,
    hint: Option<&'static str>,
}

impl Hinted {
    /// The context for an error whose cause comes after `what`.
    pub fn new(what: impl Into<String>, hint: Option<&'static str>) -> Hinted {
        let what = what.into();
        Hinted { what, hint }
    }

    /// The context for a socket that cannot listen where it was told to.
    pub fn listening(what: impl Into<String>, error: &io::Error) -> Hinted {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => "another program is using it; `ss -lntup` shows which",
            ErrorKind::AddrNotAvailable => "use an address of this host",
            ErrorKind::PermissionDenied => {
                "only root may use ports below 1024; choose a higher port, or allow every user: \
                 sudo sysctl -w net.ipv4.ip_unprivileged_port_start=53"
            }
            _ => return Hinted::new(what, None),
        };
        Hinted::new(what, Some(hint))
    }
}

impl Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Says that something failed, with a hint where there is one.
pub fn error(what: impl Display, hint: Option<&str>) {
    line(format_args!("portcullis: {what}"));
    if let Some(hint) = hint {
        line(format_args!("  hint: {hint}"));
    }
}

/// The same of an error with its causes.
pub fn failure(error: &anyhow::Error) {
    let known = error.downcast_ref::<Hinted>().and_then(|known| known.hint);
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    let hint = causes.find_map(fix_of_limit).or(known);
    self::error(format_args!("{error:#}"), hint);
}

/// What to do where something had run out.
pub fn fix_of_limit(error: &io::Error) -> Option<&'static str> {
    portcullis_sandbox::fix_of_limit(error.raw_os_error()?)
}

/// Says which names kept everything from starting, each with its reason, and one hint.
pub fn unresolved(unresolved: &Unresolved) {
    let all = |code: &[&str]| {
        let mut names = unresolved.names.iter();
        names.all(|name| code.contains(&name.reason.as_str()))
    };
    let hint = if all(&["private-address"]) {
        "to allow a private address, add \"ADDRESS:PORT\" = \"allow\" to [network.addresses]"
    } else if all(&["dns-timeout", "dns-unreachable"]) {
        "check that the resolver is reachable, or choose another with --resolver ADDR"
    } else {
        "correct or remove these names, or start without them: --resolve on-demand"
    };
    error(unresolved, Some(hint));
}

/// One line on stderr. A stderr that takes nothing (closed, or on a full disk) is no failure.
pub fn line(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Data: lines that end with a line break. Gives whether stdout took it, having said why not; a
/// reader that has read enough (`| head -1`) is no failure.
pub fn data(text: &str) -> bool {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
            error(format_args!("cannot write to stdout: {cause}"), None);
            false
        }
        _ => true,
    }
}

/// Whether stderr is a terminal, where a closing paragraph is welcome.
pub fn stderr_is_terminal() -> bool {
    rustix::termios::isatty(io::stderr())
}

/// What a sandbox may have had a part in as one line of bounded length, which changes nothing on a terminal.
pub fn one_line(text: &str) -> String {
    let plain = |character: char| match character.is_control() {
        true => ' ',
        false => character,
    };
    text.chars().take(MAX_LINE).map(plain).collect()
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
