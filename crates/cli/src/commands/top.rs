//! `portcullis top`: the sandboxes of a daemon and what they do, as it happens.

use super::ps::listed;
use crate::command::Command;
use crate::control::ControlOptions;
use portcullis_control::{Client, ClientError, Sandbox};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// The top left corner, and nothing below it (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Show the sandboxes of a daemon, again and again until Ctrl-C
///
/// Where stdout is no terminal it looks once, unless --looks or --json says otherwise.
#[derive(clap::Args)]
pub struct Top {
    #[command(flatten)]
    control: ControlOptions,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Look this often, then end
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    looks: Option<u64>,
    /// Print a line of JSON for each look, until Ctrl-C or until nobody reads them
    #[arg(long)]
    json: bool,
}

impl Command for Top {
    fn run(self) -> ExitCode {
        let live = std::io::stdout().is_terminal();
        let looks = match self.looks {
            Some(looks) => looks,
            None if live || self.json => u64::MAX,
            None => 1,
        };
        let pause = Duration::from_secs(self.interval);
        let shown = self.control.ask(async |client| {
            for look in 0..looks {
                if look > 0 {
                    tokio::time::sleep(pause).await;
                }
                if !self.show(&client, live).await? {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        match shown {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::SUCCESS,
            Err(code) => code,
        }
    }
}

impl Top {
    /// Looks once; false where nobody reads it.
    async fn show(&self, client: &Client, live: bool) -> Result<bool, ClientError> {
        let mut all = client.list().await?;
        if self.json {
            let line = serde_json::to_string(&all);
            let line = line.map_err(|error| ClientError::Broken(error.to_string()))?;
            return Ok(written(&format!("{line}\n")));
        }
        // Those that are refused most come first.
        all.sort_by_key(|one| std::cmp::Reverse(one.decisions.deny + one.decisions.audit));
        let clear = if live { CLEAR } else { "" };
        Ok(written(&format!(
            "{clear}{}{}",
            heading(&all),
            listed(&all)
        )))
    }
}

/// Whether somebody has read it: nobody looks on who has closed the pipe.
fn written(text: &str) -> bool {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}

fn heading(all: &[Sandbox]) -> String {
    let sum = |count: fn(&Sandbox) -> u64| all.iter().map(count).sum::<u64>();
    let plural = if all.len() == 1 { "" } else { "es" };
    format!(
        "{} sandbox{plural}, {} allowed, {} denied, {} failed\n\n",
        all.len(),
        sum(|one| one.decisions.allow),
        sum(|one| one.decisions.deny + one.decisions.audit),
        sum(|one| one.decisions.error),
    )
}
