//! `portcullis doctor`: what this host can do, and how to fix what it cannot.

use crate::command::Command;
use crate::output;
use crate::policy_options;
use crate::version::BUILD;
use std::fmt::Write as _;
use std::process::ExitCode;

/// The exit codes, as `--help` tells them.
const EXITS: &str = "Exit codes: 0 if `run` works here; 1 if not.";

/// Show what this host supports, and how to fix what it does not
#[derive(clap::Args)]
#[command(after_help = EXITS)]
pub struct Doctor;

impl Command for Doctor {
    fn run(self) -> ExitCode {
        run()
    }
}

/// Prints each check; exits 0 when `run` works here, 1 otherwise.
fn run() -> ExitCode {
    let mut text = format!("ok    build: {}\n", BUILD);
    let mut all = true;
    for check in portcullis_sandbox::doctor::checks() {
        let mark = match (check.ok, check.needed) {
            (true, _) => "ok  ",
            (false, true) => "FAIL",
            // `run` works without it; what needs it says so itself.
            (false, false) => "no  ",
        };
        all &= check.ok || !check.needed;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark}  {}: {}", check.name, check.found);
        if let (false, Some(fix)) = (check.ok, &check.fix) {
            let _ = writeln!(text, "      fix: {fix}");
        }
    }
    if let Some(proxy) = policy_options::callers_proxies().first() {
        let _ = writeln!(
            text,
            "note  upstream proxy: {proxy} is set here, but `run` uses it only with \
             `--upstream-proxy env`, or where a policy names it in [network.proxy]"
        );
    }
    let kept: Vec<_> = portcullis_sandbox::daemon_capabilities::kept().collect();
    let kept = kept.join(" ");
    let _ = match rustix::process::geteuid().is_root() {
        true => writeln!(
            text,
            "note  daemon: it serves everybody's namespaces, and of root's capabilities keeps {kept}"
        ),
        false => writeln!(
            text,
            "note  daemon: it serves namespaces that you have made; for those of others it is root with {kept}"
        ),
    };
    if output::data(&text) && all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
