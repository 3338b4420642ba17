//! What the commands that speak to a daemon share: its socket, and the words for what it refuses.

use crate::exit::USAGE;
use crate::output;
use portcullis_control::{Client, ClientError, Finding, Level, Name, Problem};
use rustix::process::geteuid;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

/// The variable that names the control socket.
const VARIABLE: &str = "PORTCULLIS_CONTROL";
/// The socket's place in a folder for what runs.
const SOCKET: &str = "portcullis/control.sock";
/// The folder's place among what a program keeps.
const STATE: &str = "portcullis";

// Which daemon. (No documentation: clap would show it as the command's own.)
#[derive(clap::Args, Clone, Default)]
pub struct ControlOptions {
    /// The daemon's control socket (default: $PORTCULLIS_CONTROL, or the place where `serve` makes it)
    #[arg(long = "control", value_name = "SOCKET")]
    pub control: Option<PathBuf>,
}

/// The options of a policy on the command line, which a daemon's sandbox has of its own.
pub const POLICY_OPTIONS: [&str; 7] = [
    "policy",
    "allow",
    "deny",
    "resolver",
    "upstream_proxy",
    "resolve",
    "answers",
];

impl ControlOptions {
    /// Whether a daemon is named for nothing, which is said.
    pub fn names_no_sandbox(&self) -> bool {
        if self.control.is_some() {
            output::error(
                "--control names a daemon, but no sandbox of it is named",
                Some("add --sandbox NAME; `portcullis ps` lists them"),
            );
        }
        self.control.is_some()
    }

    /// Asks the daemon, on a runtime for it alone. What is refused is already on stderr.
    pub fn ask<T>(
        &self,
        asking: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
    ) -> Result<T, ExitCode> {
        if self.control.is_none() && default_socket().is_none() {
            output::error(
                "which daemon is meant is not known",
                Some("name its control socket with --control SOCKET or in PORTCULLIS_CONTROL"),
            );
            return Err(ExitCode::from(USAGE));
        }
        self.try_ask(asking).map_err(|error| {
            refused(&error);
            ExitCode::from(USAGE)
        })
    }

    /// The same for whoever passes on why it is refused.
    pub fn try_ask<T>(
        &self,
        asking: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let Some(socket) = self.control.clone().or_else(default_socket) else {
            let text = "its control socket is not known";
            return Err(ClientError::Broken(text.to_owned()));
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(asking(Client::new(socket))),
            Err(error) => Err(ClientError::Broken(error.to_string())),
        }
    }
}

/// The control socket where nobody names one; none if there is no place for it.
pub fn default_socket() -> Option<PathBuf> {
    let named = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
    if let Some(socket) = named(VARIABLE) {
        return Some(socket.into());
    }
    if geteuid().is_root() {
        return Some(PathBuf::from("/run").join(SOCKET));
    }
    Some(PathBuf::from(named("XDG_RUNTIME_DIR")?).join(SOCKET))
}

/// Where a daemon keeps what it must know, where nobody names a place.
pub fn default_state() -> Option<PathBuf> {
    let named = |variable| std::env::var_os(variable).filter(|value: &_| !OsStr::is_empty(value));
    if geteuid().is_root() {
        return Some(PathBuf::from("/var/lib").join(STATE));
    }
    let folder = named("XDG_STATE_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(named("HOME")?).join(".local/state")))?;
    Some(folder.join(STATE))
}

/// A sandbox's name on the command line.
pub fn name(text: &str) -> Result<Name, String> {
    text.parse().map_err(str::to_owned)
}

pub fn refused(error: &ClientError) {
    match error {
        ClientError::Refused(problem) => problem_on_stderr(problem),
        ClientError::Unreachable { .. } => output::error(
            error,
            Some(
                "start it with `portcullis serve --control SOCKET`, or name its socket with --control",
            ),
        ),
        ClientError::Broken(_) => output::error(
            error,
            Some("it serves programs of its own host only; its messages may say more"),
        ),
    }
}

fn problem_on_stderr(problem: &Problem) {
    output::error(&problem.title, problem.detail.as_deref());
    for finding in &problem.findings {
        findings_on_stderr(std::slice::from_ref(finding));
    }
}

/// Why a request was refused: in one sentence, and what there is besides.
pub fn text_of(error: &ClientError) -> (String, String) {
    let mut details = Vec::new();
    if let ClientError::Refused(problem) = error {
        details.extend(problem.detail.clone());
        let findings = problem.findings.iter();
        details
            .extend(findings.map(|finding| format!("line {}: {}", finding.line, finding.message)));
    }
    (error.to_string(), details.join("; "))
}

/// What a policy's author should know.
pub fn findings_on_stderr(findings: &[Finding]) {
    for finding in findings {
        let level = match finding.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        let place = match finding.line {
            0 => String::new(),
            line => format!("line {line}, column {}: ", finding.column),
        };
        output::line(format_args!("{level}: {place}{}", finding.message));
        if let Some(hint) = &finding.hint {
            output::line(format_args!("hint: {hint}"));
        }
    }
}

/// JSON as data: one value, on lines of its own.
pub fn json(value: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) if output::data(&format!("{text}\n")) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(USAGE),
        Err(error) => {
            output::error(error, None);
            ExitCode::from(USAGE)
        }
    }
}

/// Lines of columns, each as wide as its widest value.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_value() {
        let rows = [["NAME", "STATE"], ["a-long-name", "x"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "NAME         STATE\na-long-name  x\n");
    }
}
