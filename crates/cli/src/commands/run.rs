//! `portcullis run -- CMD`: a sandbox whose only network is the gateway.
//!
//! CMD's stdin, stdout and stderr are its own: this writes to stderr only when it fails before CMD
//! starts, or, where somebody reads it (`--summary`), a warning before CMD starts and one closing
//! paragraph at the end.

use crate::child_env::ProxyEnv;
use crate::command::Command;
use crate::debug_log::DebugLog;
use crate::exit::{BEFORE_START, RECORDS_MISSING};
use crate::launch::{
    Finished, Launch, PublishedPort, die_of_terminal_signal, failed, finish, launch,
};
use crate::output::{self, line};
use crate::policy_options::{self, PolicyOptions};
use crate::record_options::RecordOptions;
use crate::work_tree;
use portcullis_policy::{DurationError, Mode, parse_duration};
use portcullis_runner::{GuestConfig, Report};
use portcullis_sandbox::{Keyring, UnixSockets};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Lines of the closing paragraph about what was denied.
const MAX_CLOSING_LINES: usize = 8;

/// What to do about a file that git cannot replace.
const ELSEWHERE: &str = "name files outside of the work tree, as in --policy ~/.config/portcullis/policy.toml; \
                         --quiet leaves this out";

/// The exit codes, as `--help` tells them.
const EXITS: &str = "\
Exit codes: CMD's own; 128+N if signal N ended CMD, or came before it started; 123 with --strict-log,
if decision records are missing; 124 on --timeout; 125 if Portcullis failed before CMD started, for
instance if names did not resolve at start-up; 126 if CMD cannot be executed; 127 if CMD is not found.";

/// Run CMD in a sandbox whose only network is what the policy lists
#[derive(clap::Args)]
#[command(override_usage = "portcullis run [OPTIONS] -- <CMD>...", after_help = EXITS)]
pub struct Run {
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    records: RecordOptions,
    /// Exit with 123 if decision records are missing at the end (with --log)
    #[arg(long, requires = "log")]
    strict_log: bool,
    /// Append what the gateway does, step by step, to FILE (PORTCULLIS_LOG sets how much)
    #[arg(long, value_name = "FILE")]
    debug_log: Option<PathBuf>,
    /// Record decisions but refuse nothing except private addresses
    #[arg(long)]
    audit: bool,
    /// Forward 127.0.0.1:HOST_PORT of this host to PORT in the sandbox; repeatable
    #[arg(long, value_name = "HOST_PORT:PORT", value_parser = parse_publish)]
    publish: Vec<PublishedPort>,
    /// Create TAP device NAME in the sandbox, for a VM that CMD starts
    #[arg(long, value_name = "NAME")]
    tap: Option<String>,
    /// Largest packet that the guest on it is told to use, in bytes
    #[arg(
        long,
        value_name = "BYTES",
        requires = "tap",
        default_value_t = GuestConfig::DEFAULT_MTU,
        value_parser = clap::value_parser!(u16).range(i64::from(GuestConfig::MTU.0)..=i64::from(GuestConfig::MTU.1))
    )]
    tap_mtu: u16,
    /// Proxy variables that CMD is given; without any, everything works directly
    #[arg(long, value_name = "WHICH", value_enum, default_value_t)]
    proxy_env: ProxyEnv,
    /// Let CMD reach the Unix socket at PATH (an agent, a database); repeatable
    #[arg(long, value_name = "PATH")]
    unix_socket: Vec<PathBuf>,
    /// How CMD is kept from all other Unix sockets of this host
    #[arg(long, value_name = "HOW", value_enum, default_value_t = UnixSocketsChoice::Auto)]
    unix_sockets: UnixSocketsChoice,
    /// Stop CMD and everything it started after DURATION (30s, 5m, 1h30m; a number alone is seconds)
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    timeout: Option<Duration>,
    /// Kernel keyrings that CMD has: none of yours, or your session's
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = KeyringChoice::Fresh)]
    keyring: KeyringChoice,
    /// When to report at the end what was denied, lost or not applied: by itself on a terminal and
    /// where CI is set
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Summary::Auto)]
    summary: Summary,
    /// The same as --summary never
    #[arg(long, short, conflicts_with = "summary")]
    quiet: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The values of `--summary`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Summary {
    /// If stderr is a terminal, or CI is set
    Auto,
    /// Whatever stderr is
    Always,
    /// Not at all
    Never,
}

impl Summary {
    fn is_wanted(self) -> bool {
        let ci = || std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        match self {
            Self::Auto => output::stderr_is_terminal() || ci(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// The values of `--unix-sockets`. CMD's own sockets work in all but the last.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum UnixSocketsChoice {
    /// The first of these that works here
    Auto,
    /// A process of the sandbox carries out each connect(); no Unix datagram sockets
    Supervised,
    /// The kernel refuses (Linux 7.1 or newer); CMD can mount nothing
    Landlock,
    /// CMD has no Unix sockets but pairs
    None,
}

impl From<UnixSocketsChoice> for UnixSockets {
    fn from(choice: UnixSocketsChoice) -> Self {
        match choice {
            UnixSocketsChoice::Auto => Self::Auto,
            UnixSocketsChoice::Supervised => Self::Supervised,
            UnixSocketsChoice::Landlock => Self::Landlock,
            UnixSocketsChoice::None => Self::None,
        }
    }
}

/// The values of `--keyring`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum KeyringChoice {
    /// A session keyring of its own, and no calls that reach keys
    Fresh,
    /// The session keyring of whoever starts CMD (Kerberos caches of type KEYRING)
    Inherit,
}

impl From<KeyringChoice> for Keyring {
    fn from(choice: KeyringChoice) -> Self {
        match choice {
            KeyringChoice::Fresh => Self::Fresh,
            KeyringChoice::Inherit => Self::Inherit,
        }
    }
}

impl Command for Run {
    const BAD_USAGE: u8 = BEFORE_START;

    fn upstream_proxy(&self) -> Option<&str> {
        self.policy.upstream_proxy.as_deref()
    }

    fn run(self) -> ExitCode {
        run(self)
    }
}

/// Runs CMD and gives its exit code, or 125 when it never started.
fn run(args: Run) -> ExitCode {
    let before_start = ExitCode::from(BEFORE_START);
    if args.records.check().is_err() {
        return before_start;
    }
    let mode = if args.audit {
        Mode::Audit
    } else {
        Mode::Enforce
    };
    let Ok(mut followed) = policy_options::follow(args.policy.clone(), mode) else {
        return before_start;
    };
    let mut read_only = policy_options::files(&args.policy, &followed.loaded);
    for folder in policy_options::own_folders(&read_only) {
        // Where nothing is heard of it, only what is saved in place counts.
        if followed.reload.files.cover(&folder).is_ok() {
            read_only.push(folder);
        }
    }
    let hidden = policy_options::secrets(&followed.loaded);
    policy_options::keep_hidden(&mut followed.reload, hidden.clone());
    let is_told = !args.quiet && args.summary.is_wanted();
    if is_told {
        let logs = args.records.log.iter().chain(&args.debug_log);
        let files = read_only.iter().chain(logs).map(PathBuf::as_path);
        if let Some(warning) = work_tree::warning(files) {
            output::error(warning, Some(ELSEWHERE));
        }
    }
    let policy = followed.loaded.policy;
    let result = Launch::new(policy, args.command.clone()).and_then(|plain| {
        let debug_log = args.debug_log.as_deref().map(DebugLog::open).transpose()?;
        launch(Launch {
            read_only,
            hidden,
            records: args.records,
            debug_log,
            publish: args.publish,
            tap: args.tap,
            tap_mtu: args.tap_mtu,
            proxy_env: args.proxy_env,
            unix_sockets: args.unix_sockets.into(),
            let_in: args.unix_socket,
            keyring: args.keyring.into(),
            timeout: args.timeout,
            // Flags and pipes alone do not change.
            reload: Some(followed.reload).filter(|reload| reload.files.can_change()),
            ..plain
        })
    });
    match result {
        Ok(Finished { status, report }) => {
            if is_told {
                closing(report.as_ref());
            }
            let command = args.command[0].to_string_lossy();
            let code = finish(status, report.as_ref(), &command);
            // Without a report the gateway died, and nobody knows what it recorded.
            let complete = report.is_some_and(|report| report.record_error.is_none());
            if args.strict_log && !complete {
                ExitCode::from(RECORDS_MISSING)
            } else {
                die_of_terminal_signal(status);
                code
            }
        }
        Err(error) => {
            failed(&error);
            before_start
        }
    }
}

/// One paragraph, when something was denied, lost or not applied.
fn closing(report: Option<&Report>) {
    let Some(report) = report else {
        let what = "the gateway left no report: decision records may be incomplete";
        return output::error(what, None);
    };
    if let Some(error) = &report.record_error {
        output::error(
            format_args!("decision records are incomplete: {error}"),
            None,
        );
    }
    if let Some(why) = &report.misplaced {
        output::error(why, None);
    }
    if let Some(why) = &report.rejected {
        output::error(
            format_args!("the latest change to the policy was not applied: {why}"),
            Some(
                "the previous policy stayed in force; `portcullis policy check FILE` shows every error",
            ),
        );
    }
    if report.denied.is_empty() {
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
            // What no policy allows, a flag does.
            line(if suggestion.starts_with("--") {
                "    to let it in, add to the command line:"
            } else {
                "    to allow it, add to the policy:"
            });
            line(output::indented(suggestion, 6));
        }
    }
    if report.denied.len() > MAX_CLOSING_LINES {
        let more = report.denied.len() - MAX_CLOSING_LINES;
        line(format_args!(
            "  and {more} more (--log FILE records them all)"
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

pub(super) fn parse_publish(text: &str) -> Result<PublishedPort, String> {
    let hint = "expected HOST_PORT:PORT, such as 8080:3000";
    let (host, inside) = text.split_once(':').ok_or(hint)?;
    match (host.parse(), inside.parse()) {
        (Ok(host), Ok(inside)) if host != 0 && inside != 0 => Ok(PublishedPort { host, inside }),
        _ => Err(hint.to_owned()),
    }
}

/// Reads a duration as policy files have it, and a number alone as seconds, as timeout(1) does.
fn parse_timeout(text: &str) -> Result<Duration, DurationError> {
    if text.ends_with(|last: char| last.is_ascii_digit()) {
        parse_duration(&format!("{text}s"))
    } else {
        parse_duration(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_duration_or_seconds() {
        assert_eq!(parse_timeout("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_timeout("1.5"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_timeout("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_timeout("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_timeout("1h30m"), Ok(Duration::from_secs(5_400)));
        for bad in ["", "0", "s", "-1", "1e400", "NaN"] {
            assert!(parse_timeout(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn published_ports_are_two_numbers() {
        let port = PublishedPort {
            host: 8080,
            inside: 3000,
        };
        assert_eq!(parse_publish("8080:3000"), Ok(port));
        for bad in ["8080", "0:1", "1:0", "a:b", "1:2:3", "70000:1"] {
            assert!(parse_publish(bad).is_err(), "{bad}");
        }
    }
}
