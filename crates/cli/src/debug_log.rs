//! What the gateway does, step by step, for whoever operates it (`tracing`). Nothing is written unless
//! it is asked for, and never to CMD's own output.

use crate::output::Hinted;
use crate::written_file::WrittenFile;
use anyhow::Context;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// What is written: a level such as `debug`, or levels by crate such as `portcullis_dns=trace`.
const VARIABLE: &str = "PORTCULLIS_LOG";
/// What is written to a file where the variable says nothing.
const DEFAULT_FILTER: &str = "debug";

/// A debug log that is open, and what goes into it.
pub struct DebugLog {
    written: WrittenFile,
    file: File,
    filter: EnvFilter,
}

impl DebugLog {
    /// Opens the file before anything starts, so that a bad path costs no run.
    pub fn open(path: &Path) -> anyhow::Result<DebugLog> {
        let filter = filter()?.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
        let file = portcullis_gateway::open_records(path).with_context(|| {
            Hinted::new(
                format!("cannot write the debug log to {}", path.display()),
                Some("--debug-log takes a writable file in an existing folder"),
            )
        })?;
        Ok(DebugLog {
            written: WrittenFile::check("--debug-log", path, &file)?,
            file,
            filter,
        })
    }

    /// Where it is.
    pub fn written(&self) -> &WrittenFile {
        &self.written
    }

    /// Writes from now on; called in the gateway's own process.
    pub fn start(self) {
        let lines = tracing_subscriber::fmt()
            .with_env_filter(self.filter)
            .with_ansi(false)
            .with_writer(Arc::new(self.file));
        // There is no other subscriber in this process.
        let _ = lines.try_init();
    }
}

/// Writes to stderr from now on, where the variable asks for it.
///
/// # Errors
/// The variable is no filter.
pub fn start_on_stderr() -> anyhow::Result<()> {
    if let Some(filter) = filter()? {
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(io::stderr);
        // There is no other subscriber in this process.
        let _ = lines.try_init();
    }
    Ok(())
}

fn filter() -> anyhow::Result<Option<EnvFilter>> {
    let Some(text) = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let filter = EnvFilter::try_new(&text).with_context(|| {
        let hint = "use a level such as debug, or levels by crate such as portcullis_dns=trace";
        Hinted::new(
            format!("{VARIABLE}={text} is not a valid filter"),
            Some(hint),
        )
    })?;
    Ok(Some(filter))
}
