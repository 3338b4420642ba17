//! The daemon's figures: those of each sandbox that is served, and how many there are.

use std::fmt::Write;
use std::sync::Arc;

use portcullis_gateway::{Metrics, SandboxMetrics, openmetrics};

use super::entry::Entry;

/// The last line of an exposition (OpenMetrics 1.0).
const END: &str = "# EOF\n";

/// OpenMetrics text.
pub(crate) fn text(build: &str, all: &[Arc<Entry>]) -> String {
    let served = all.iter().filter_map(|entry| {
        let metrics = entry.served()?.gateway().metrics();
        Some((entry.kept().new.name, metrics))
    });
    let served: Vec<(_, Metrics)> = served.collect();
    let gateways = served.iter().map(|(name, metrics)| SandboxMetrics {
        sandbox: name.as_str(),
        metrics,
    });
    let text = openmetrics(build, &gateways.collect::<Vec<_>>());
    let mut text = text.strip_suffix(END).unwrap_or(&text).to_owned();
    text.push_str("# TYPE portcullis_sandboxes gauge\n");
    text.push_str("# HELP portcullis_sandboxes Sandboxes that the daemon knows, by whether they are served.\n");
    let cut_off = all.len() - served.len();
    for (state, count) in [("serving", served.len()), ("cut-off", cut_off)] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "portcullis_sandboxes{{state=\"{state}\"}} {count}");
    }
    text.push_str(END);
    text
}
