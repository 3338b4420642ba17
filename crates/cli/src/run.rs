//! `portcullis run -- CMD`: a sandbox whose only network is the gateway.
//!
//! CMD's stdin, stdout and stderr are its own: this writes to stderr only when it fails before CMD
//! starts, or, on a terminal, one closing paragraph when something was denied.

use crate::EXIT_BEFORE_START;
use crate::args::RunArgs;
use crate::launch::{Launch, host_resolvers, launch};
use crate::talk::line;
use portcullis_policy::Mode;
use portcullis_runner::{Report, Unresolved};
use portcullis_sandbox::{Outcome, SandboxError};
use std::process::ExitCode;

/// Lines of the closing paragraph about what was denied.
const MAX_CLOSING_LINES: usize = 8;

/// Runs CMD and gives its exit code, or 125 when it never started.
pub fn main(args: RunArgs) -> ExitCode {
    let before_start = ExitCode::from(EXIT_BEFORE_START);
    let mode = if args.audit {
        Mode::Audit
    } else {
        Mode::Enforce
    };
    let Ok(mut followed) = crate::policy::follow(args.policy.clone(), mode) else {
        return before_start;
    };
    let read_only = crate::policy::files(&args.policy, &followed.loaded);
    let hidden = crate::policy::secrets(&followed.loaded);
    crate::policy::keep_hidden(&mut followed.reload, hidden.clone());
    let policy = followed.loaded.policy;
    let result = host_resolvers(&policy).and_then(|resolvers| {
        launch(Launch {
            policy,
            read_only,
            hidden,
            resolvers,
            log: args.log,
            publish: args.publish,
            tap: args.tap,
            timeout: args.timeout,
            collect: false,
            resolve: None,
            // Flags and pipes alone do not change.
            reload: Some(followed.reload).filter(|reload| reload.files.can_change()),
            command: args.command.clone(),
        })
    });
    match result {
        Ok((outcome, report)) => {
            if !args.quiet {
                closing(report.as_ref());
            }
            finish(outcome, &args.command[0].to_string_lossy())
        }
        Err(error) => {
            failed(&error);
            before_start
        }
    }
}

/// Says why CMD never ran, and what to do.
pub fn failed(error: &anyhow::Error) {
    if let Some(unresolved) = error.downcast_ref::<Unresolved>() {
        return crate::talk::unresolved(unresolved);
    }
    match error.downcast_ref::<SandboxError>() {
        // Its own text ends with the cause: the chain would say it twice.
        Some(error) => crate::talk::error(error, error.fix()),
        None => crate::talk::failure(error),
    }
}

/// Turns an outcome into the exit code, with a word where CMD itself could not say it.
pub fn finish(outcome: Outcome, command: &str) -> ExitCode {
    if let Some(message) = outcome.message(command) {
        crate::talk::error(message, None);
    }
    // Exit codes are a byte; the sandbox gives nothing larger.
    ExitCode::from(u8::try_from(outcome.exit_code()).unwrap_or(EXIT_BEFORE_START))
}

/// One paragraph, on a terminal only, when something was denied.
fn closing(report: Option<&Report>) {
    let Some(report) = report else { return };
    if let Some(error) = &report.record_error {
        // Records that could not be written are an operator's business even without a terminal,
        // but CMD's stderr may be a file it owns: say it where a person reads, and exit as CMD did.
        if crate::talk::stderr_is_terminal() {
            crate::talk::error(
                format_args!("decision records are incomplete: {error}"),
                None,
            );
        }
    }
    if let Some(why) = &report.rejected
        && crate::talk::stderr_is_terminal()
    {
        crate::talk::error(
            format_args!("a change of the policy was not taken over: {why}"),
            Some("the policy before it stayed in force; `portcullis policy check FILE` shows all"),
        );
    }
    if report.denied.is_empty() || !crate::talk::stderr_is_terminal() {
        return;
    }
    let total = count(report.denied_total, "request was", "requests were");
    line(format_args!("portcullis: {total} denied:"));
    for denied in report.denied.iter().take(MAX_CLOSING_LINES) {
        let times = if denied.count > 1 {
            format!(" ({} times)", denied.count)
        } else {
            String::new()
        };
        line(format_args!(
            "  {}: {}{times}",
            denied.target, denied.reason
        ));
        if let Some(suggestion) = &denied.suggestion {
            line("    to allow it, add to the policy:");
            line(crate::talk::indented(suggestion, 6));
        }
    }
    if report.denied.len() > MAX_CLOSING_LINES {
        let more = report.denied.len() - MAX_CLOSING_LINES;
        line(format_args!(
            "  and {more} more (--log FILE keeps them all)"
        ));
    }
}

fn count(number: u64, one: &str, many: &str) -> String {
    if number == 1 {
        format!("1 {one}")
    } else {
        format!("{number} {many}")
    }
}
