//! `portcullis attach --daemon NAME`: has a daemon serve the sandbox, and returns.

use crate::control::{self, ControlOptions};
use crate::exit::USAGE;
use crate::output;
use crate::policy_options::{self, PolicyOptions};
use portcullis_control::{AttachTo, ClientError, Name, NewSandbox, PolicyText, ProblemKind};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// What only a gateway in the foreground does.
const FOREGROUND: [&str; 13] = [
    "log",
    "log_budget",
    "log_host",
    "debug_log",
    "publish",
    "resolv_conf",
    "ca_cert",
    "allow",
    "deny",
    "resolver",
    "upstream_proxy",
    "resolve",
    "answers",
];

// Which daemon, and as what. (No documentation: clap would show it as the command's own.)
#[derive(clap::Args)]
pub struct ByDaemon {
    /// Have a daemon serve it under this name, and return; --policy names one file, which is sent
    #[arg(long, value_name = "NAME", value_parser = control::name, conflicts_with_all = FOREGROUND)]
    pub daemon: Option<Name>,
    #[command(flatten)]
    control: ControlOptions,
}

impl ByDaemon {
    /// Refuses what makes no sense together; it is said already.
    pub fn check(&self) -> Result<(), ()> {
        if self.daemon.is_none() && self.control.control.is_some() {
            output::error(
                "--control names a daemon, but not how it should call the sandbox",
                Some("add --daemon NAME, or remove --control"),
            );
            return Err(());
        }
        Ok(())
    }

    /// Asks the daemon.
    pub fn attach(
        &self,
        name: Name,
        attach: AttachTo,
        policy: &PolicyOptions,
        labels: BTreeMap<String, String>,
        audit: bool,
    ) -> ExitCode {
        let policy = match policy.policy.as_slice() {
            [] => PolicyText::default(),
            [file] => match policy_options::text(file) {
                Ok(policy) => policy,
                Err(()) => return ExitCode::from(USAGE),
            },
            _ => {
                output::error(
                    "a daemon takes one policy file for a sandbox",
                    Some("put the policies into one file"),
                );
                return ExitCode::from(USAGE);
            }
        };
        let new = NewSandbox {
            name,
            attach,
            policy,
            labels,
            audit,
        };
        match (self.control).try_ask(async |client| client.create(&new).await) {
            Ok(made) => {
                if let Some(note) = &made.note {
                    output::line(format_args!("portcullis: warning: {note}"));
                }
                ExitCode::SUCCESS
            }
            Err(error) => {
                control::refused(&error);
                match &error {
                    ClientError::Refused(problem) if problem.is(ProblemKind::Invalid) => {
                        ExitCode::from(USAGE)
                    }
                    _ => ExitCode::FAILURE,
                }
            }
        }
    }
}
