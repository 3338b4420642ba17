//! Running other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What goes wrong is told to a person, once.
pub type Result<T> = std::result::Result<T, String>;

/// The `PATH` of the sandboxes under test: a program that only the developer's own `PATH` has
/// does not count as installed.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// Where the tests' own tools are kept: `target/test-tools`.
pub fn tools_folder() -> PathBuf {
    root().join("target").join("test-tools")
}

/// Runs a program, shown first, with this process's output; its failure is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    eprintln!("xtask: {line}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cannot run `{line}`: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{line}` failed: {status}"))
    }
}

/// Runs a program and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run `{line}`: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{line}` failed: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program runs and ends well, silently.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether the system's `PATH` has a program.
pub fn has_program(name: &str) -> bool {
    SYSTEM_PATH
        .split(':')
        .any(|folder| Path::new(folder).join(name).is_file())
}

/// Whether this user is root.
pub fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|text| text.trim() == "0")
}

/// The words to put before a command that needs root: nothing as root, `sudo` where it asks no
/// password, `None` where neither is.
pub fn elevation() -> Option<Vec<&'static str>> {
    if is_root() {
        Some(vec![])
    } else if succeeds(Command::new("sudo").args(["-n", "true"])) {
        Some(vec!["sudo", "-n"])
    } else {
        None
    }
}

/// A command with the elevation's words before it.
pub fn elevated(elevation: &[&str], program: &str) -> Command {
    match elevation {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}
