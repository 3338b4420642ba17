//! The options that say where decision records go and what they say of where they come from.

use crate::output::{self, Hinted};
use anyhow::Context;
use clap::Args;
use portcullis_gateway::{Label, LabelError, Labels};
use portcullis_runner::RecordConfig;
use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroU32;
use std::path::PathBuf;

// What `run`, `serve` and `learn` share. (No documentation: clap would show it as the command's own.)
#[derive(Args, Clone, Default)]
pub struct RecordOptions {
    /// Append decision records to FILE, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Most lines a minute for each kind of denial; further ones are counted, one line a second
    #[arg(long, value_name = "LINES", requires = "log")]
    log_budget: Option<NonZeroU32>,
    /// The host's name in records (default: its node name); with an empty NAME they have none
    #[arg(long, value_name = "NAME", requires = "log")]
    log_host: Option<String>,
    /// Put this label into every record (tenant=acme, job=1234); repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<Label>,
}

impl RecordOptions {
    /// Checks what no single option shows; what is wrong is already on stderr.
    pub fn check(&self) -> Result<(), ()> {
        if self.log.is_none() && !self.label.is_empty() {
            output::error(
                "--label goes into records, and there are none",
                Some("add --log FILE"),
            );
            return Err(());
        }
        if let Some(host) = &self.log_host
            && host.chars().any(char::is_control)
        {
            output::error(
                "--log-host: a name is one line of text",
                Some("remove its control characters"),
            );
            return Err(());
        }
        self.labels().map(drop).map_err(|error| {
            output::error(format_args!("--label: {error}"), None);
        })
    }

    /// The labels, for a daemon to check.
    pub fn label_values(&self) -> BTreeMap<String, String> {
        let labels = self.label.iter();
        let value = |label: &Label| (label.key().to_owned(), label.value().to_owned());
        labels.map(value).collect()
    }

    /// Opens the log, before anything starts, so that a bad path costs no run.
    ///
    /// # Errors
    /// That of opening it.
    pub fn open(&self) -> anyhow::Result<Option<File>> {
        let Some(path) = &self.log else {
            return Ok(None);
        };
        let opened = portcullis_gateway::open_records(path).with_context(|| {
            Hinted::new(
                format!("cannot write decision records to {}", path.display()),
                Some("--log takes a writable file in an existing folder"),
            )
        });
        opened.map(Some)
    }

    /// What the gateway records, into this log.
    ///
    /// # Errors
    /// The labels cannot be had together.
    pub fn config(&self, log: Option<File>) -> anyhow::Result<RecordConfig> {
        let labels = self.labels().context("--label")?;
        Ok(RecordConfig {
            log,
            denial_lines: self.log_budget,
            host: self.log_host.clone().unwrap_or_else(node_name),
            labels,
        })
    }

    fn labels(&self) -> Result<Labels, LabelError> {
        Labels::new(self.label.iter().cloned())
    }
}

/// What this host calls itself.
fn node_name() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}
