//! What each command accepts. The texts here are the `--help` output.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Exit codes of `run`, as `--help` tells them.
const RUN_EXITS: &str = "\
Exit codes: CMD's own; 128+N when signal N ended it, also before it started; 124 on --timeout; 125
when Portcullis failed before CMD started, as when names did not resolve at start-up; 126 when CMD
cannot be executed; 127 when it is not found.";
/// The same of `learn`.
const LEARN_EXITS: &str = "\
Exit codes: CMD's own, as with `run`; 125 also when the policy cannot be written; 2 for bad flags.";
/// The same of `diagnose`.
const DIAGNOSE_EXITS: &str = "\
Exit codes: 0 reachable; 11 DNS, 12 TCP, 13 TLS or 14 HTTP refused or failed; 2 for bad flags and
policies; 125 when no sandbox starts.";
/// The same of `explain`.
const EXPLAIN_EXITS: &str = "Exit codes: 0 allow; 1 deny; 2 for bad flags and policies.";
/// The same of `serve`.
const SERVE_EXITS: &str = "\
Exit codes: 0 when ended by Ctrl-C or SIGTERM; 1 when it cannot serve, or names of a policy that
resolves them at start-up did not resolve; 2 for bad flags and policies.";
/// A first command for whoever asked for help.
const FIRST_STEP: &str = "\
Example: portcullis run --allow api.example.com -- curl https://api.example.com/";

/// The network door of a sandbox: a command gets exactly the network that a policy lists
#[derive(Parser)]
#[command(name = "portcullis", version = crate::VERSION, propagate_version = true, after_help = FIRST_STEP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run CMD in a sandbox whose only network is what the policy lists
    #[command(override_usage = "portcullis run [OPTIONS] -- <CMD>...", after_help = RUN_EXITS)]
    Run(RunArgs),
    /// Serve a policy on plain listeners of this host (DNS, HTTP proxy, SOCKS5)
    ///
    /// The policy's files are followed; SIGHUP reloads them at once.
    #[command(after_help = SERVE_EXITS)]
    Serve(ServeArgs),
    /// Find which layer refuses TARGET (DNS, TCP, TLS, HTTP), who refused, and what would allow it
    #[command(after_help = DIAGNOSE_EXITS)]
    Diagnose(DiagnoseArgs),
    /// Say what the policy decides for TARGET, with the rule and its file and line
    #[command(after_help = EXPLAIN_EXITS)]
    Explain(ExplainArgs),
    /// Run CMD with everything allowed and recorded, then write the policy that it needed
    #[command(
        override_usage = "portcullis learn [OPTIONS] --output <FILE> -- <CMD>...",
        after_help = LEARN_EXITS
    )]
    Learn(LearnArgs),
    /// Work with policy files
    Policy(PolicyArgs),
    /// Show what this host can do, and how to fix what it cannot
    Doctor,
}

impl Cli {
    /// What `--upstream-proxy` says.
    pub fn upstream_proxy(&self) -> Option<&str> {
        match &self.command {
            Command::Run(args) => args.policy.upstream_proxy.as_deref(),
            Command::Serve(args) => args.policy.upstream_proxy.as_deref(),
            Command::Diagnose(args) => args.policy.upstream_proxy.as_deref(),
            Command::Explain(args) => args.policy.upstream_proxy.as_deref(),
            Command::Learn(args) => args.upstream_proxy.as_deref(),
            Command::Policy(_) | Command::Doctor => None,
        }
    }
}

/// Which policy is in force: shared by `run`, `explain`, `diagnose` and `serve`.
#[derive(Args, Clone, Default)]
pub struct PolicyOptions {
    /// Policy file (TOML, YAML or JSON by its extension); repeat to merge several
    #[arg(long = "policy", value_name = "FILE")]
    pub policy: Vec<PathBuf>,
    /// Allow TARGET: NAME, NAME:PORT, NAME:*, CIDR or CIDR:PORT (a bare NAME is ports 80 and 443);
    /// with /udp behind a port, datagrams
    #[arg(long = "allow", value_name = "TARGET")]
    pub allow: Vec<String>,
    /// Deny TARGET; a denial always wins
    #[arg(long = "deny", value_name = "TARGET")]
    pub deny: Vec<String>,
    /// Upstream resolver, ADDR[:PORT], tls://HOST or https://HOST/PATH; repeat for several (default:
    /// the host's own)
    #[arg(long = "resolver", value_name = "RESOLVER")]
    pub resolver: Vec<String>,
    /// The company's forward proxy: http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT
    #[arg(long = "upstream-proxy", value_name = "URL")]
    pub upstream_proxy: Option<String>,
    /// When names without a wildcard are resolved (default: what the policy says, or on-demand)
    #[arg(long = "resolve", value_enum)]
    pub resolve: Option<ResolveAt>,
    /// Which addresses DNS gives out (default: what the policy says, or real)
    #[arg(long = "answers", value_enum)]
    pub answers: Option<Answers>,
}

/// When names are resolved.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResolveAt {
    /// When a program asks
    OnDemand,
    /// All of them before anything starts, which it does not if one fails
    Startup,
}

/// Which addresses DNS gives out.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Answers {
    /// The names' own
    Real,
    /// One of a private range for each name, so that raw TCP keeps its name
    Synthetic,
}

/// `portcullis run`.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub policy: PolicyOptions,
    /// Append decision records to FILE, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Decide and record, but refuse nothing except private addresses
    #[arg(long)]
    pub audit: bool,
    /// Reach the sandbox's PORT at 127.0.0.1:HOST_PORT of this host; repeatable
    #[arg(long, value_name = "HOST_PORT:PORT", value_parser = parse_publish)]
    pub publish: Vec<(u16, u16)>,
    /// Create TAP device NAME in the sandbox, for a VM that CMD starts
    #[arg(long, value_name = "NAME")]
    pub tap: Option<String>,
    /// End the whole process tree after DURATION (30s, 5m, 1h; a bare number is seconds)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Drop the closing paragraph about what was denied
    #[arg(long, short)]
    pub quiet: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `portcullis serve`.
#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub policy: PolicyOptions,
    /// Answer DNS on ADDR:PORT (UDP and TCP)
    #[arg(long, value_name = "ADDR:PORT")]
    pub dns: Option<SocketAddr>,
    /// HTTP proxy on ADDR:PORT
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<SocketAddr>,
    /// SOCKS5 proxy on ADDR:PORT
    #[arg(long, value_name = "ADDR:PORT")]
    pub socks5: Option<SocketAddr>,
    /// Write the certificate that programs must trust for inspected names to FILE (PEM)
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// Append decision records to FILE, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// `portcullis diagnose`.
#[derive(Args)]
pub struct DiagnoseArgs {
    #[command(flatten)]
    pub policy: PolicyOptions,
    /// NAME or NAME:PORT (default port 443)
    pub target: String,
}

/// `portcullis explain`.
#[derive(Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub policy: PolicyOptions,
    /// NAME, NAME:PORT, CIDR or CIDR:PORT
    pub target: String,
}

/// `portcullis learn`.
#[derive(Args)]
pub struct LearnArgs {
    /// Where to write the policy (TOML)
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Upstream resolver, ADDR[:PORT], tls://HOST or https://HOST/PATH; repeat for several (default:
    /// the host's own)
    #[arg(long = "resolver", value_name = "RESOLVER")]
    pub resolver: Vec<String>,
    /// The company's forward proxy: http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT
    #[arg(long = "upstream-proxy", value_name = "URL")]
    pub upstream_proxy: Option<String>,
    /// Append decision records to FILE, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Args)]
struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Validate policy files: errors and warnings with file, line, column and a suggestion
    Check(CheckArgs),
}

/// `portcullis policy check`.
#[derive(Args)]
pub struct CheckArgs {
    /// Policy files, merged in this order
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `portcullis __probe`, the inner half of `diagnose`: no command for people, so that neither help
/// nor the suggestions for a mistyped command know it.
#[derive(Parser)]
pub struct ProbeArgs {
    /// NAME:PORT
    pub target: String,
    /// Write results to this descriptor instead of stdout
    #[arg(long)]
    pub report_fd: Option<i32>,
}

/// Carries out a parsed command line.
pub fn dispatch(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Run(args) => crate::run::main(args),
        Command::Serve(args) => crate::serve::main(args),
        Command::Diagnose(args) => crate::diagnose::main(args),
        Command::Explain(args) => crate::explain::main(args),
        Command::Learn(args) => crate::learn::main(args),
        Command::Policy(PolicyArgs {
            command: PolicyCommand::Check(args),
        }) => crate::check::main(args),
        Command::Doctor => crate::doctor::main(),
    }
}

fn parse_publish(text: &str) -> Result<(u16, u16), String> {
    let hint = "expected HOST_PORT:PORT, such as 8080:3000";
    let (host, inside) = text.split_once(':').ok_or(hint)?;
    match (host.parse(), inside.parse()) {
        (Ok(host), Ok(inside)) if host != 0 && inside != 0 => Ok((host, inside)),
        _ => Err(hint.to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = "expected a duration such as 30s, 5m, 1h or 250ms";
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| hint)?;
    let seconds = match unit {
        "" | "s" => number,
        "ms" => number / 1_000.0,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(hint.to_owned()),
    };
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| hint)?;
    if duration.is_zero() {
        Err("a timeout must be longer than 0".to_owned())
    } else {
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7_200)));
        for bad in ["", "0", "s", "-1", "1d", "1e400", "NaN"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn published_ports_are_two_numbers() {
        assert_eq!(parse_publish("8080:3000"), Ok((8080, 3000)));
        for bad in ["8080", "0:1", "1:0", "a:b", "1:2:3", "70000:1"] {
            assert!(parse_publish(bad).is_err(), "{bad}");
        }
    }
}
