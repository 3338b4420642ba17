//! `portcullis diagnose TARGET`: which layer says no, who said it, and the one line to add.
//!
//! Outside a sandbox it starts one under the given policy and walks the layers from inside, so what
//! it sees is what a program sees; inside a sandbox it walks from where it is.

use crate::args::DiagnoseArgs;
use crate::launch::{Launch, host_resolvers, launch};
use crate::probe::{COMMAND, Finding, Layer, split_target, target_text, walk};
use crate::{EXIT_BEFORE_START, EXIT_USAGE};
use anyhow::Context;
use portcullis_names::{Pattern, Target};
use portcullis_policy::{Policy, Reason, Resolve, Verdict};
use portcullis_runner::Report;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;

/// Largest set of findings that is read back, bytes.
const MAX_FINDINGS_BYTES: u64 = 60_000;

/// Exits 0 when reachable, 11 DNS, 12 TCP, 13 TLS, 14 HTTP, 2 usage, 125 when no sandbox starts.
pub fn main(args: DiagnoseArgs) -> ExitCode {
    let usable = |(name, port): &(String, u16)| match Target::from_policy(&target_text(name, *port))
    {
        Ok(Target::Name { pattern, .. }) => matches!(pattern, Pattern::Exact(_)),
        Ok(Target::Net { .. }) => true,
        Err(_) => false,
    };
    let Some((name, port)) = split_target(&args.target).filter(usable) else {
        crate::talk::error(
            format_args!("{}: not a target", args.target),
            Some("TARGET is NAME or NAME:PORT, such as api.example.com:443"),
        );
        return ExitCode::from(EXIT_USAGE);
    };
    let inside = std::env::var_os("PORTCULLIS").is_some_and(|value| value == "1");
    if inside && args.policy.policy.is_empty() && args.policy.allow.is_empty() {
        let findings = walk(&name, port);
        return conclude(&name, port, &findings, None, None);
    }
    let Ok(loaded) = crate::policy::load(&args.policy) else {
        return ExitCode::from(EXIT_USAGE);
    };
    let read_only = crate::policy::files(&args.policy, &loaded);
    let files = (read_only, crate::policy::secrets(&loaded));
    match walk_in_sandbox(&name, port, &loaded.policy, files) {
        Ok((findings, report)) => conclude(
            &name,
            port,
            &findings,
            report.as_ref(),
            Some(&loaded.policy),
        ),
        Err(error) => {
            crate::run::failed(&error);
            ExitCode::from(EXIT_BEFORE_START)
        }
    }
}

fn walk_in_sandbox(
    name: &str,
    port: u16,
    policy: &Policy,
    (read_only, hidden): (Vec<PathBuf>, Vec<PathBuf>),
) -> anyhow::Result<(Vec<Finding>, Option<Report>)> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    // The sandbox keeps inherited pipes; this one carries the findings out.
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty())
        .context("cannot pass a pipe on")?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let target = target_text(name, port);
    let command: Vec<OsString> = vec![
        program.into(),
        COMMAND.into(),
        target.into(),
        "--report-fd".into(),
        writer.as_raw_fd().to_string().into(),
    ];
    let (outcome, report) = launch(Launch {
        policy: policy.clone(),
        read_only,
        hidden,
        resolvers: host_resolvers(policy)?,
        log: None,
        publish: Vec::new(),
        tap: None,
        timeout: None,
        collect: true,
        // A name that is dead is what it looks for, not a reason to find nothing.
        resolve: Some(Resolve::OnDemand),
        reload: None,
        command,
    })?;
    drop(writer);
    let mut text = String::new();
    reader
        .take(MAX_FINDINGS_BYTES)
        .read_to_string(&mut text)
        .context("cannot read the findings")?;
    let findings: Vec<Finding> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if findings.is_empty() {
        anyhow::bail!("the probe inside the sandbox ended ({outcome:?}) without a finding");
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
            .iter()
            .any(|reason| reason.code() == error.reason)
    });
    match failed.layer {
        Layer::Tls | Layer::Http if unreached && !failed.refused_by_policy => Layer::Tcp,
        layer => layer,
    }
}

/// Prints the conclusion and gives its exit code; 125 when it cannot be printed.
fn conclude(
    name: &str,
    port: u16,
    findings: &[Finding],
    report: Option<&Report>,
    policy: Option<&Policy>,
) -> ExitCode {
    let mut text = String::new();
    match conclusion(&mut text, (name, port), findings, report, policy) {
        Ok(code) if crate::talk::data(&text) => ExitCode::from(code),
        _ => ExitCode::from(EXIT_BEFORE_START),
    }
}

/// Writes what each layer showed, then the culprit and the change, and gives the exit code.
fn conclusion(
    text: &mut String,
    (name, port): (&str, u16),
    findings: &[Finding],
    report: Option<&Report>,
    policy: Option<&Policy>,
) -> Result<u8, std::fmt::Error> {
    for finding in findings {
        let (number, layer) = label(finding.layer);
        let mark = if finding.ok { "ok  " } else { "FAIL" };
        writeln!(
            text,
            "{number} {layer:<4} {mark} {} ({:.1} ms)",
            finding.saw, finding.milliseconds
        )?;
    }
    let Some(failed) = findings.iter().find(|finding| !finding.ok) else {
        writeln!(text, "reachable: {name}:{port}")?;
        return Ok(0);
    };
    let failed_layer = layer_of(failed, report);
    let (_, layer) = label(failed_layer);
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
            "failed at {layer} beyond the gateway: policy allowed it, the way there did not"
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
    if refused {
        let explained = policy
            .zip(Target::from_policy(&target_text(name, port)).ok())
            .map(|(policy, target)| policy.explain(&target));
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
                writeln!(text, "{}", crate::talk::indented(&lines, 4))?;
            }
            None if policy.is_none() => {
                writeln!(
                    text,
                    "to allow it: ask the sandbox's operator for --allow {name}:{port}"
                )?;
            }
            None => {}
        }
    }
    Ok(match failed_layer {
        Layer::Dns => 11,
        Layer::Tcp => 12,
        Layer::Tls => 13,
        Layer::Http => 14,
    })
}

fn label(layer: Layer) -> (u8, &'static str) {
    match layer {
        Layer::Dns => (1, "DNS"),
        Layer::Tcp => (2, "TCP"),
        Layer::Tls => (3, "TLS"),
        Layer::Http => (4, "HTTP"),
    }
}
