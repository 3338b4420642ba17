//! The commands beside `run`: `explain`, `policy check`, `doctor`, `diagnose`, `learn`, `serve`.
#![forbid(unsafe_code)]

mod diagnose;
mod doctor;
mod learn;
mod offline;
#[path = "../support/processes.rs"]
mod processes;
mod serve;
#[path = "../support/mod.rs"]
mod support;

/// The lines below a line that ends with this text, without their indentation: what a message
/// proposes to add.
fn lines_below(text: &str, end: &str) -> String {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.trim_end().ends_with(end))
        .skip(1);
    let mut found = String::new();
    while let Some(line) = lines.next().filter(|line| line.starts_with("  ")) {
        found.push_str(line.trim());
        found.push('\n');
    }
    found
}
