//! Files as a reader meets them: not too long, opened by a comment, nothing skipped, every reason
//! code in the documentation.

use crate::source::{File, files, files_ending, none, shipped};

/// The longest file, in lines.
const MAX_FILE_LINES: usize = 700;

fn all() -> Vec<File> {
    ["crates", "src", "tests", "xtask"]
        .iter()
        .flat_map(|folder| files(folder))
        .collect()
}

#[test]
fn no_file_is_longer_than_a_person_reads() {
    let long = all()
        .into_iter()
        .map(|file| (file.text.lines().count(), file.path))
        .filter(|(count, _)| *count > MAX_FILE_LINES)
        .map(|(count, path)| format!("{path}: {count} lines"))
        .collect();
    none("files of more than 700 lines; each has one subject:", long);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = all()
        .into_iter()
        .filter(|file| !file.text.trim_start().starts_with("//!"))
        .map(|file| file.path)
        .collect();
    none("files that do not begin with a `//!` comment:", silent);
}

#[test]
fn no_test_is_switched_off() {
    // Put together, so that this file does not find itself.
    let switch = ["#[", "ignore"].concat();
    let off = all()
        .into_iter()
        .filter(|file| {
            file.text
                .lines()
                .any(|line| line.trim_start().starts_with(&switch))
        })
        .map(|file| file.path)
        .collect();
    none(
        "a test that does not run; it must run, or fail and say what it lacks:",
        off,
    );
}

/// The table in reason.rs is the only list; the documentation must explain each code of it.
#[test]
fn every_reason_is_documented() {
    let codes = reason_codes();
    assert!(
        codes.len() >= 20,
        "the reasons were not found in reason.rs: {codes:?}"
    );
    let documentation: String = files_ending("", "md")
        .into_iter()
        .map(|file| file.text)
        .collect();
    let missing = codes
        .into_iter()
        .filter(|code| !documentation.contains(&format!("`{code}`")))
        .collect();
    none(
        "reason codes that no .md file explains (as `code`):",
        missing,
    );
}

/// The codes are the first text in `= allow(`, `= deny(`, `= error(` and the rows made of them.
fn reason_codes() -> Vec<String> {
    let Some((_, file)) = shipped().find(|(_, file)| file.path == "crates/policy/src/reason.rs")
    else {
        panic!("crates/policy/src/reason.rs is gone: where are the reasons now?");
    };
    let text: String = file
        .code()
        .into_iter()
        .map(|(_, line)| line + "\n")
        .collect();
    let table = text.split("reasons! {").nth(1).unwrap_or("");
    let mut codes = Vec::new();
    for word in ["allow(", "deny(", "error("] {
        for part in table.split(word).skip(1) {
            let first = part
                .trim_start()
                .strip_prefix('"')
                .and_then(|rest| rest.split('"').next());
            codes.extend(first.map(str::to_owned));
        }
    }
    codes
}
