//! `portcullis diagnose TARGET`: which layer says no, who said it, and the one line to add.
//!
//! Outside a sandbox it starts one under the given policy and walks the layers from inside, so what
//! it sees is what a program sees; inside a sandbox it walks from where it is.

use crate::command::Command;
use crate::control::{self, ControlOptions};
use crate::exit::{BEFORE_START, USAGE};
use crate::hold;
use crate::launch::{Finished, Launch, die_of_terminal_signal, failed as failed_to_start, launch};
use crate::output;
use crate::policy_options::{self, PolicyOptions};
use crate::probe::{COMMAND, Endpoint, Finding, Layer, walk};
use crate::search::in_full;
use anyhow::Context;
use portcullis_control::{AttachTo, Explained, Name as SandboxName};
use portcullis_names::{Pattern, Target, Transport};
use portcullis_policy::{Answers, Loaded, Policy, Reason, Resolve};
use portcullis_runner::Report;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

/// Exit code where a layer failed, less the layer's number: 11 is DNS, 14 HTTP.
const FAILED_AT: u8 = 10;
/// Largest set of findings that is read back, bytes.
const MAX_FINDINGS_BYTES: u64 = 60_000;

/// The exit codes, as `--help` tells them.
const EXITS: &str = "\
Exit codes: 0 reachable; 11 DNS, 12 TCP, 13 TLS or 14 HTTP refused or failed; 2 for bad flags and
policies; 125 if no sandbox starts.";

/// Find which layer refuses TARGET (DNS, TCP, TLS or HTTP), why, and what would allow it
#[derive(clap::Args)]
#[command(after_help = EXITS)]
pub struct Diagnose {
    #[command(flatten)]
    policy: PolicyOptions,
    /// Walk in this sandbox of a daemon: a container or namespace that it has attached
    #[arg(long, value_name = "NAME", value_parser = control::name, conflicts_with_all = control::POLICY_OPTIONS)]
    sandbox: Option<SandboxName>,
    #[command(flatten)]
    control: ControlOptions,
    /// NAME or NAME:PORT (default port 443)
    target: String,
}

impl Command for Diagnose {
    fn upstream_proxy(&self) -> Option<&str> {
        self.policy.upstream_proxy.as_deref()
    }

    fn run(self) -> ExitCode {
        run(&self)
    }
}

fn run(args: &Diagnose) -> ExitCode {
    let usable = |endpoint: &Endpoint| match Target::from_policy(&endpoint.to_string()) {
        Ok(Target::Name { pattern, .. }) => matches!(pattern, Pattern::Exact(_)),
        Ok(Target::Net { .. }) => true,
        Err(_) => false,
    };
    let target = Target::from_policy(&args.target);
    if let Ok(target) = &target
        && target.transport() == Transport::Udp
    {
        let explain = format!("ask the policy: `portcullis explain {target}`");
        output::error("no layer answers for datagrams", Some(&explain));
        return ExitCode::from(USAGE);
    }
    let Some(endpoint) = Endpoint::parse(&args.target).filter(usable) else {
        let hint = target.err().and_then(|why| why.hint());
        let hint = hint.as_deref();
        output::error(
            format_args!("invalid target `{}`", args.target),
            hint.or(Some(
                "TARGET is NAME or NAME:PORT, such as api.example.com:443",
            )),
        );
        return ExitCode::from(USAGE);
    };
    if let Some(sandbox) = &args.sandbox {
        return in_sandbox_of_daemon(args, sandbox, &endpoint);
    }
    if args.control.names_no_sandbox() {
        return ExitCode::from(USAGE);
    }
    let inside = std::env::var_os("PORTCULLIS").is_some_and(|value| value == "1");
    if inside && args.policy.policy.is_empty() && args.policy.allow.is_empty() {
        let findings = walk(&endpoint);
        return conclude(&endpoint, &findings, None, Ruled::default());
    }
    if endpoint.is_loopback() {
        let hint = format!(
            "run `portcullis diagnose` in the sandbox that has the server; the host's own loopback is {}",
            endpoint.at_host()
        );
        let what = format!("inside a sandbox, {endpoint} is the sandbox itself");
        output::error(what, Some(&hint));
        return ExitCode::from(USAGE);
    }
    let Ok(loaded) = policy_options::load(&args.policy) else {
        return ExitCode::from(USAGE);
    };
    match walk_in_sandbox(&endpoint, &args.policy, &loaded) {
        Ok((findings, report)) => {
            let ruled = Ruled::by(&loaded.policy, &endpoint);
            conclude(&endpoint, &findings, report.as_ref(), ruled)
        }
        Err(error) => {
            failed_to_start(&error);
            ExitCode::from(BEFORE_START)
        }
    }
}

/// Walks in the network that a daemon serves, and asks the daemon what its policy says.
fn in_sandbox_of_daemon(args: &Diagnose, name: &SandboxName, endpoint: &Endpoint) -> ExitCode {
    let targets = vec![endpoint.to_string()];
    let asked = (args.control).ask(async |client| {
        let sandbox = client.get(name).await?;
        Ok((sandbox, client.explain(name, targets).await?))
    });
    let (sandbox, explained) = match asked {
        Ok(asked) => asked,
        Err(code) => return code,
    };
    let place = match &sandbox.attach {
        AttachTo::Pid { pid, .. } => ["--pid".into(), pid.to_string().into()],
        AttachTo::Netns { path } => ["--netns".into(), path.clone().into_os_string()],
        _ => {
            output::error(
                format_args!("`{name}` has no network on this host to walk in"),
                Some(
                    "run `portcullis diagnose` in the guest, or ask `portcullis explain --sandbox NAME TARGET`",
                ),
            );
            return ExitCode::from(USAGE);
        }
    };
    match probe_from(place, endpoint) {
        Ok(findings) => {
            let explained = explained.into_iter().next().filter(|one| !one.is_error());
            let ruled = explained.map(Ruled::from).unwrap_or_default();
            conclude(endpoint, &findings, None, ruled)
        }
        Err(error) => {
            output::failure(&error);
            ExitCode::from(BEFORE_START)
        }
    }
}

/// What the probe finds in a network that this user may enter.
fn probe_from(place: [OsString; 2], endpoint: &Endpoint) -> anyhow::Result<Vec<Finding>> {
    let probe = hold::own(COMMAND)
        .arg(endpoint.to_string())
        .args(place)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start the probe")?;
    let findings = read_findings(&String::from_utf8_lossy(&probe.stdout));
    if findings.is_empty() {
        anyhow::bail!("the probe found nothing and ended ({})", probe.status);
    }
    Ok(findings)
}

fn read_findings(text: &str) -> Vec<Finding> {
    let findings = text.lines().map(serde_json::from_str);
    findings.filter_map(Result::ok).collect()
}

fn walk_in_sandbox(
    endpoint: &Endpoint,
    options: &PolicyOptions,
    loaded: &Loaded,
) -> anyhow::Result<(Vec<Finding>, Option<Report>)> {
    let (reader, writer) = std::io::pipe().context("cannot create a pipe")?;
    // The sandbox keeps inherited pipes; this one carries the findings out.
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty())
        .context("cannot pass a pipe to the sandbox")?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let command: Vec<OsString> = vec![
        program.into(),
        COMMAND.into(),
        endpoint.to_string().into(),
        "--report-fd".into(),
        writer.as_raw_fd().to_string().into(),
    ];
    let Finished { status, report } = launch(Launch {
        read_only: policy_options::files(options, loaded),
        hidden: policy_options::secrets(loaded),
        collect: true,
        // A name that is dead is what it looks for, not a reason to find nothing.
        resolve: Some(Resolve::OnDemand),
        ..Launch::new(loaded.policy.clone(), command)?
    })?;
    drop(writer);
    let mut text = String::new();
    reader
        .take(MAX_FINDINGS_BYTES)
        .read_to_string(&mut text)
        .context("cannot read what the probe found")?;
    let findings = read_findings(&text);
    if findings.is_empty() {
        die_of_terminal_signal(status);
        anyhow::bail!("the probe in the sandbox found nothing and ended ({status:?})");
    }
    Ok((findings, report))
}

/// The layer that failed. Where the gateway could not reach the upstream, that shows inside as
/// silence or an end of whatever was spoken first; the gateway itself knows that it was TCP.
fn layer_of(failed: &Finding, report: Option<&Report>) -> Layer {
    let on_the_way = [
        Reason::ConnectionRefused,
        Reason::ConnectionTimeout,
        Reason::Unreachable,
    ];
    let error = report.and_then(|report| report.errors.last());
    let unreached = error.is_some_and(|error| {
        on_the_way
            .map(Reason::code)
            .contains(&error.reason.as_str())
    });
    match failed.layer {
        Layer::Tls | Layer::Http if unreached && !failed.refused_by_policy => Layer::Tcp,
        layer => layer,
    }
}

/// Prints the conclusion and gives its exit code; 125 when it cannot be printed.
fn conclude(
    endpoint: &Endpoint,
    findings: &[Finding],
    report: Option<&Report>,
    ruled: Ruled,
) -> ExitCode {
    let mut text = String::new();
    match conclusion(&mut text, endpoint, findings, report, ruled) {
        Ok(code) if output::data(&text) => ExitCode::from(code),
        _ => ExitCode::from(BEFORE_START),
    }
}

/// Writes what each layer showed, then the culprit and the change, and gives the exit code.
fn conclusion(
    text: &mut String,
    endpoint: &Endpoint,
    findings: &[Finding],
    report: Option<&Report>,
    ruled: Ruled,
) -> Result<u8, std::fmt::Error> {
    for finding in findings {
        // A sandbox may have had a part in the words.
        let (layer, saw) = (finding.layer, output::one_line(&finding.saw));
        let (number, milliseconds) = (layer.number(), finding.milliseconds);
        let mark = if finding.ok { "ok  " } else { "FAIL" };
        writeln!(
            text,
            "{number} {layer:<4} {mark} {saw} ({milliseconds:.1} ms)"
        )?;
    }
    let Some(failed) = findings.iter().find(|finding| !finding.ok) else {
        writeln!(text, "reachable: {endpoint}")?;
        return Ok(0);
    };
    let layer = layer_of(failed, report);
    if endpoint.is_loopback() {
        writeln!(
            text,
            "failed at {layer}: {endpoint} is the sandbox itself, and no policy is asked"
        )?;
        writeln!(text, "the host's own loopback is {}", endpoint.at_host())?;
        return Ok(FAILED_AT + layer.number());
    }
    let denial = report.and_then(|report| report.denied.last());
    let refused = failed.refused_by_policy || denial.is_some();
    if refused {
        writeln!(
            text,
            "refused at {layer} by the policy of this sandbox, not by the service"
        )?;
    } else {
        writeln!(
            text,
            "failed at {layer} beyond the gateway: the policy allows it, but the network cannot reach it"
        )?;
    }
    if let Some(denial) = denial {
        writeln!(text, "reason: {} ({})", denial.reason, denial.sentence)?;
    } else if let Some(error) = report.and_then(|report| report.errors.last()) {
        writeln!(text, "reason: {} ({})", error.reason, error.sentence)?;
        if let Some(detail) = &error.detail {
            writeln!(text, "detail: {detail}")?;
        }
    }
    if let Some(answers) = ruled.upstream.filter(|_| !refused) {
        write_proxy_hint(text, answers, layer)?;
    }
    if refused {
        if let Some(rule) = &ruled.rule {
            match &ruled.source {
                Some(source) => writeln!(text, "rule: {rule} ({source})")?,
                None => writeln!(text, "rule: {rule}")?,
            }
        }
        // The explanation knows the port that was asked about; a lookup's denial does not.
        let suggestion =
            (ruled.suggestion).or_else(|| denial.and_then(|denial| denial.suggestion.clone()));
        match suggestion {
            Some(lines) => {
                writeln!(text, "to allow it, add to the policy:")?;
                writeln!(text, "{}", output::indented(&lines, 4))?;
            }
            None if !ruled.is_known => {
                writeln!(
                    text,
                    "to allow it: ask the sandbox's operator for --allow {endpoint}"
                )?;
            }
            None => {}
        }
    }
    Ok(FAILED_AT + layer.number())
}

/// What the policy says to a target.
#[derive(Default)]
struct Ruled {
    /// Whether the policy was asked at all.
    is_known: bool,
    rule: Option<String>,
    source: Option<String>,
    /// The lines that would allow it, if it is not allowed.
    suggestion: Option<String>,
    /// How names are answered, and whether there is an upstream proxy, where that is known.
    upstream: Option<Upstream>,
}

/// What a policy says of the way out.
#[derive(Clone, Copy)]
struct Upstream {
    has_proxy: bool,
    answers: Answers,
}

impl Ruled {
    fn by(policy: &Policy, endpoint: &Endpoint) -> Ruled {
        let written = endpoint.to_string();
        let target = in_full(policy, &written).map_or(written, |full| full.target);
        let explained = Target::from_policy(&target).map(|target| policy.explain(&target));
        let ruled = explained.map_or_else(
            |_| Ruled::default(),
            |one| Ruled::from(Explained::from(one)),
        );
        let settings = policy.settings();
        Ruled {
            is_known: true,
            upstream: Some(Upstream {
                has_proxy: !settings.upstream.is_empty(),
                answers: settings.dns.answers,
            }),
            ..ruled
        }
    }
}

impl From<Explained> for Ruled {
    fn from(explained: Explained) -> Ruled {
        let is_allowed = explained.is_allowed();
        Ruled {
            is_known: true,
            rule: explained.rule,
            source: explained.source,
            suggestion: explained.suggestion.filter(|_| !is_allowed),
            upstream: None,
        }
    }
}

/// What an upstream proxy could have to do with a destination that cannot be reached.
fn write_proxy_hint(text: &mut String, upstream: Upstream, layer: Layer) -> std::fmt::Result {
    let callers = policy_options::callers_proxies();
    if !upstream.has_proxy {
        let Some(proxy) = callers.first() else {
            return Ok(());
        };
        return writeln!(
            text,
            "hint: {proxy} is set here but not used; `--upstream-proxy env` takes it"
        );
    }
    if layer == Layer::Dns && upstream.answers == Answers::Real {
        writeln!(
            text,
            "hint: if only the upstream proxy can resolve this name, use `--answers synthetic`"
        )?;
    }
    Ok(())
}
