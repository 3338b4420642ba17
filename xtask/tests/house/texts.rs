//! Files as a reader meets them: not too long, opened by a comment, nothing skipped, every reason
//! code in the documentation, every threat that a comment names in the list of threats.

use crate::source::{File, files, files_ending, none, root, shipped};

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

/// The list of threats that comments name.
const THREATS: &str = "docs/threats.md";

/// A comment that points to the list of threats names a heading of it, or an attack that stands there
/// in bold: *exhaustion* (docs/threats.md).
#[test]
fn threats_that_comments_name_are_listed() {
    let list = std::fs::read_to_string(root().join(THREATS)).expect(THREATS);
    let headings = list.lines().filter_map(|line| line.strip_prefix("## "));
    let prose: String = list.split('`').step_by(2).collect();
    let attacks = prose.split("**").skip(1).step_by(2);
    let known: Vec<String> = headings.chain(attacks).map(plain).collect();
    assert!(!known.is_empty(), "{THREATS} has no headings");
    let (mut pointers, mut broken) = (0, Vec::new());
    for file in all() {
        for comment in comments(&file.text) {
            if !comment.contains(THREATS) {
                continue;
            }
            pointers += 1;
            let named = emphasised(&comment);
            if named.is_empty() {
                broken.push(format!("{}: names no heading: {comment}", file.path));
            }
            let unknown = named
                .into_iter()
                .filter(|name| !known.contains(&plain(name)));
            broken.extend(unknown.map(|name| format!("{}: *{name}*", file.path)));
        }
    }
    assert!(pointers > 0, "no comment points to {THREATS}");
    none("threats that docs/threats.md does not list:", broken);
}

/// No comment points to a list, a contract or a numbered case that is no file of this repository. The
/// files below tests/cases have numbers of their own.
#[test]
fn comments_point_to_nothing_that_is_not_here() {
    // Put together, so that this file does not find itself.
    let elsewhere = [
        ["THR", "EATS"],
        ["the cont", "ract"],
        ["among the thr", "eats"],
    ];
    let elsewhere = elsewhere.map(|halves| halves.concat());
    let mut broken = Vec::new();
    for file in all() {
        for comment in comments(&file.text) {
            let numbered = !file.path.starts_with("tests/cases/") && names_a_case(&comment);
            if numbered || elsewhere.iter().any(|word| comment.contains(word)) {
                broken.push(format!("{}: {comment}", file.path));
            }
        }
    }
    none(
        "comments that point to what is not in this repository:",
        broken,
    );
}

/// Whether a comment says "case" and a number.
fn names_a_case(comment: &str) -> bool {
    let words: Vec<&str> = comment.split_whitespace().collect();
    words.windows(2).any(|pair| {
        let word = pair[0].trim_start_matches(|c: char| !c.is_alphabetic());
        word.eq_ignore_ascii_case("case") && pair[1].starts_with(|c: char| c.is_ascii_digit())
    })
}

/// The comments of a file: lines that follow each other are one.
fn comments(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut before = false;
    for line in text.lines() {
        let comment = line.trim_start().strip_prefix("//");
        if let Some(comment) = comment {
            let comment = comment.trim_start_matches(['/', '!']).trim();
            match found.last_mut().filter(|_| before) {
                Some(last) => last.extend([" ", comment]),
                None => found.push(comment.to_owned()),
            }
        }
        before = comment.is_some();
    }
    found
}

/// A name in small letters, on one line.
fn plain(name: &str) -> String {
    let words: Vec<&str> = name.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// What stands between `*` and `*`, outside of code.
fn emphasised(comment: &str) -> Vec<String> {
    let prose: String = comment.split('`').step_by(2).collect();
    let parts = prose.split('*').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
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
