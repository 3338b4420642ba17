//! `portcullis learn -o FILE -- CMD`: runs CMD with everything but private addresses allowed and
//! recorded, then writes the policy that it needed: what it connected to, and names whose other
//! records it asked for (a Kerberos client finds its KDC by SRV). A name that was only resolved is a
//! comment, since the lookup alone does not show that it is needed.

use crate::command::Command;
use crate::exit::{BEFORE_START, USAGE};
use crate::launch::{Finished, Launch, die_of_terminal_signal, failed, finish, launch};
use crate::output::{self, Hinted};
use crate::policy_options::{self, PolicyOptions};
use crate::record_options::RecordOptions;
use crate::written_file::WrittenFile;
use anyhow::{Context, bail};
use portcullis_policy::{Mode, Policy, Resolve};
use portcullis_runner::{LookedUp, Report};
use portcullis_sandbox::ExitStatus;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Seek, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// The exit codes, as `--help` tells them.
const EXITS: &str = "\
Exit codes: CMD's own, as with `run`; 125 also if the policy cannot be written; 2 for bad flags.";

/// Run CMD with everything allowed and recorded, then write the policy that it needed
#[derive(clap::Args)]
#[command(
    override_usage = "portcullis learn [OPTIONS] --output <FILE> -- <CMD>...",
    after_help = EXITS
)]
pub struct Learn {
    /// Where to write the policy (TOML)
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Upstream resolver, ADDR[:PORT], tls://HOST or https://HOST/PATH; repeat for several (default:
    /// the host's own)
    #[arg(long = "resolver", value_name = "RESOLVER")]
    resolver: Vec<String>,
    /// Upstream proxy: http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT; env takes the one of
    /// your own https_proxy, http_proxy, all_proxy and no_proxy
    #[arg(long = "upstream-proxy", value_name = "URL")]
    upstream_proxy: Option<String>,
    #[command(flatten)]
    records: RecordOptions,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Command for Learn {
    fn upstream_proxy(&self) -> Option<&str> {
        self.upstream_proxy.as_deref()
    }

    fn run(self) -> ExitCode {
        run(&self)
    }
}

/// Runs CMD and gives its exit code; 125 when it never started or the policy cannot be written, 2
/// for bad flags.
fn run(args: &Learn) -> ExitCode {
    let options = PolicyOptions {
        resolver: args.resolver.clone(),
        upstream_proxy: args.upstream_proxy.clone(),
        ..PolicyOptions::default()
    };
    let (Ok(loaded), Ok(())) = (policy_options::load(&options), args.records.check()) else {
        return ExitCode::from(USAGE);
    };
    match learn(args, loaded.policy.with_mode(Mode::Audit)) {
        Ok(code) => code,
        Err(error) => {
            failed(&error);
            ExitCode::from(BEFORE_START)
        }
    }
}

fn learn(args: &Learn, policy: Policy) -> anyhow::Result<ExitCode> {
    // Opened first: a policy that cannot be written should not cost a whole run.
    let mut output = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&args.output)
        .with_context(|| {
            Hinted::new(
                format!("cannot write the policy to {}", args.output.display()),
                Some("--output takes a writable file in an existing folder"),
            )
        })?;
    let written = WrittenFile::check("--output", &args.output, &output)?;
    let Finished { status, report } = launch(Launch {
        read_only: vec![args.output.clone()],
        records: args.records.clone(),
        collect: true,
        resolve: Some(Resolve::OnDemand),
        ..Launch::new(policy, args.command.clone())?
    })?;
    let never_ran = matches!(
        status,
        ExitStatus::NotFound(_) | ExitStatus::NotExecutable(_)
    );
    let command = args.command[0].to_string_lossy();
    let code = finish(status, report.as_ref(), &command);
    if never_ran {
        // Nothing was learned: what the file held before, a policy perhaps, is worth more.
        return Ok(code);
    }
    let report = report.context("the gateway left no report, so no policy was written")?;
    if let Some(why) = written.moved() {
        bail!("{why}, so no policy was written");
    }
    let text = policy_text(&report);
    output
        .set_len(0)
        .and_then(|()| output.rewind())
        .and_then(|()| output.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write the policy to {}", args.output.display()))?;
    if output::stderr_is_terminal() {
        output::line(format_args!("portcullis: wrote {}", args.output.display()));
    }
    die_of_terminal_signal(status);
    Ok(code)
}

/// The policy as TOML: exact names and ports that were used, each on a line of its own.
fn policy_text(report: &Report) -> String {
    let mut names: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    let mut addresses: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for used in &report.used {
        let table = if used.is_address {
            &mut addresses
        } else {
            &mut names
        };
        let ports = table.entry(&used.target).or_default();
        if !ports.contains(&used.port) {
            ports.push(used.port);
        }
    }
    let mut text = String::from(
        "# Written by `portcullis learn`: what one run used. Read it before you rely on it.\nversion = 1\n",
    );
    text.push_str("\n[network.domains]\n");
    for (name, ports) in &mut names {
        write_rules(&mut text, name, ports);
    }
    for looked_up in &report.looked_up {
        let LookedUp { name, records } = looked_up;
        if names.contains_key(name.as_str()) {
            continue;
        }
        // Writing to a String cannot fail.
        let _ = if records.is_empty() {
            writeln!(
                text,
                "# looked up, never connected to: \"{name}\" = \"allow\""
            )
        } else {
            let records: Vec<&str> = records.iter().map(String::as_str).collect();
            writeln!(
                text,
                "\"{name}\" = \"allow\"   # asked for its {}",
                records.join(", ")
            )
        };
    }
    if !addresses.is_empty() {
        text.push_str("\n[network.addresses]\n# connected to without a name\n");
        for (address, ports) in &mut addresses {
            let bits = if address.contains(':') { 128 } else { 32 };
            let target = if bits == 128 {
                format!("[{address}/{bits}]")
            } else {
                format!("{address}/{bits}")
            };
            ports.sort_unstable();
            for port in ports {
                let _ = writeln!(text, "\"{target}:{port}\" = \"allow\"");
            }
        }
    }
    if !report.denied.is_empty() {
        text.push_str(
            "\n# Refused even while learning (private addresses need a rule of their own):\n",
        );
        for denied in &report.denied {
            let _ = writeln!(text, "#   {}: {}", denied.target, denied.reason);
        }
    }
    text
}

fn write_rules(text: &mut String, name: &str, ports: &mut [u16]) {
    ports.sort_unstable();
    let web = ports.iter().all(|port| [80, 443].contains(port));
    if web && ports.len() == 2 {
        let _ = writeln!(text, "\"{name}\" = \"allow\"");
        return;
    }
    for port in ports {
        let _ = writeln!(text, "\"{name}:{port}\" = \"allow\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_policy::Input;
    use portcullis_runner::Used;

    #[test]
    fn what_was_used_is_what_is_written_and_it_loads() {
        let used = |target: &str, port, is_address| Used {
            target: target.into(),
            port,
            is_address,
        };
        let looked_up = |name: &str, records: &[&str]| LookedUp {
            name: name.into(),
            records: records.iter().map(|record| (*record).into()).collect(),
        };
        let report = Report {
            used: vec![
                used("b.example", 443, false),
                used("b.example", 80, false),
                used("a.example", 22, false),
                used("203.0.113.9", 7, true),
                used("2001:db8::9", 7, true),
            ],
            looked_up: vec![
                looked_up("a.example", &["TXT"]),
                looked_up("only.example", &[]),
                looked_up("_ldap._tcp.example", &["SRV"]),
            ],
            ..Report::default()
        };
        let text = policy_text(&report);
        let input = Input::File {
            path: "learned.toml".into(),
            text: text.clone(),
        };
        let loaded = Policy::load(&[input], &mut |_| Err(std::io::ErrorKind::NotFound.into()));
        let policy = loaded
            .map_err(|errors| format!("{errors:?}\n{text}"))
            .unwrap()
            .policy;
        for (target, allowed) in [
            ("a.example:22", true),
            ("a.example:443", false),
            ("b.example:80", true),
            ("b.example:443", true),
            ("only.example:443", false),
            ("_ldap._tcp.example", true),
            ("203.0.113.9:7", true),
            ("203.0.113.10:7", false),
            ("[2001:db8::9]:7", true),
        ] {
            let explained = policy.explain(&portcullis_names::Target::from_policy(target).unwrap());
            assert_eq!(
                explained.verdict == portcullis_policy::Verdict::Allow,
                allowed,
                "{target}\n{text}"
            );
        }
    }
}
