//! Policies that change while a program runs, and what the record says about it.
// Each test program uses its own part of this.
#![allow(dead_code)]

use serde_json::Value;
use std::path::Path;

/// What a log says about policy changes so far: reason and detail. The file may be in the middle of
/// a line.
pub fn changes(log: &Path) -> Vec<(String, String)> {
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
pub fn counts(log: &Path) -> (usize, usize) {
    let changes = changes(log);
    let of = |reason: &str| changes.iter().filter(|(is, _)| is == reason).count();
    (of("policy-reloaded"), of("policy-rejected"))
}

/// A policy that allows these.
pub fn allowing(names: &[&str]) -> String {
    let rules: String = names
        .iter()
        .map(|name| format!("\"{name}\" = \"allow\"\n"))
        .collect();
    format!("version = 1\n[network.domains]\n{rules}")
}

/// Replaces a file as careful programs do: a new file, then a rename.
#[track_caller]
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}
