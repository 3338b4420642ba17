//! `portcullis diagnose TARGET`: which layer says no, who said it, and the one line to add.
//!
//! Outside a sandbox it starts one under the given policy and walks the layers from inside, so what
//! it sees is what a program sees; inside a sandbox it walks from where it is.

use crate::command::Command;
use crate::exit::{BEFORE_START, USAGE};
use crate::launch::{Finished, Launch, die_of_terminal_signal, failed as failed_to_start, launch};
use crate::output;
use crate::policy_options::{self, PolicyOptions};
use crate::probe::{COMMAND, Endpoint, Finding, Layer, walk};
use crate::search::in_full;
use anyhow::Context;
use portcullis_names::{Pattern, Target, Transport};
use portcullis_policy::{Answers, Loaded, Policy, Reason, Resolve, Verdict};
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
    let inside = std::env::var_os("PORTCULLIS").is_some_and(|value| value == "1");
    if inside && args.policy.policy.is_empty() && args.policy.allow.is_empty() {
        let findings = walk(&endpoint);
        return conclude(&endpoint, &findings, None, None);
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
            conclude(&endpoint, &findings, report.as_ref(), Some(&loaded.policy))
        }
        Err(error) => {
            failed_to_start(&error);
            ExitCode::from(BEFORE_START)
        }
    }
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
    let findings: Vec<Finding> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
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
    policy: Option<&Policy>,
) -> ExitCode {
    let mut text = String::new();
    match conclusion(&mut text, endpoint, findings, report, policy) {
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
    policy: Option<&Policy>,
) -> Result<u8, std::fmt::Error> {
    for finding in findings {
        let (layer, saw) = (finding.layer, &finding.saw);
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
    if let Some(policy) = policy.filter(|_| !refused) {
        write_proxy_hint(text, policy, layer)?;
    }
    if refused {
        let written = endpoint.to_string();
        let explained = policy.and_then(|policy| {
            let full = in_full(policy, &written);
            let target = full.map_or(written, |full| full.target);
            Some(policy.explain(&Target::from_policy(&target).ok()?))
        });
        if let Some(explained) = &explained
            && let Some(rule) = &explained.rule
        {
            match &explained.source {
                Some(source) => writeln!(text, "rule: {rule} ({source})")?,
                None => writeln!(text, "rule: {rule}")?,
            }
        }
        // The explanation knows the port that was asked about; a lookup's denial does not.
        let suggestion = explained
            .filter(|explained| explained.verdict != Verdict::Allow)
            .and_then(|explained| explained.suggestion)
            .or_else(|| denial.and_then(|denial| denial.suggestion.clone()));
        match suggestion {
            Some(lines) => {
                writeln!(text, "to allow it, add to the policy:")?;
                writeln!(text, "{}", output::indented(&lines, 4))?;
            }
            None if policy.is_none() => {
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

/// What an upstream proxy could have to do with a destination that cannot be reached.
fn write_proxy_hint(text: &mut String, policy: &Policy, layer: Layer) -> std::fmt::Result {
    let settings = policy.settings();
    let callers = policy_options::callers_proxies();
    if settings.upstream.is_empty() {
        let Some(proxy) = callers.first() else {
            return Ok(());
        };
        return writeln!(
            text,
            "hint: {proxy} is set here but not used; `--upstream-proxy env` takes it"
        );
    }
    if layer == Layer::Dns && settings.dns.answers == Answers::Real {
        writeln!(
            text,
            "hint: if only the upstream proxy can resolve this name, use `--answers synthetic`"
        )?;
    }
    Ok(())
}
