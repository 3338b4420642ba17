//! The policy changes while a program runs, or while `serve` serves: what is still allowed goes on,
//! what is not is reset, what is new works at once, and what is wrong changes nothing.
#![forbid(unsafe_code)]

mod attacks;
mod inside;
#[path = "../support/processes.rs"]
mod processes;
mod run;
mod serve;
#[path = "../support/mod.rs"]
mod support;

use serde_json::Value;
use std::path::Path;

/// What a log says about policy changes so far: reason and detail. The file may be in the middle of
/// a line.
fn changes(log: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let records = whole.lines().map(|line| -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    records
        .map(|record| (text(&record["reason"]), text(&record["detail"])))
        .filter(|(reason, _)| reason.starts_with("policy-re"))
        .collect()
}

/// How many changes were taken over, and how many not.
fn counts(log: &Path) -> (usize, usize) {
    let changes = changes(log);
    let of = |reason: &str| changes.iter().filter(|(is, _)| is == reason).count();
    (of("policy-reloaded"), of("policy-rejected"))
}

/// A policy that allows these.
fn allowing(names: &[&str]) -> String {
    let rules: String = names
        .iter()
        .map(|name| format!("\"{name}\" = \"allow\"\n"))
        .collect();
    format!("version = 1\n[network.domains]\n{rules}")
}

/// Replaces a file as careful programs do: a new file, then a rename.
#[track_caller]
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}
