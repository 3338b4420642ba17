//! `cargo xtask tidy`: formatting, lints, features, house rules, packages. Runs all and tells of each.

use crate::shell::{Result, root, run};
use std::process::Command;

const CHECKS: [&[&str]; 5] = [
    &["fmt", "--all", "--check"],
    &[
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ],
    // The library without its features, as an embedder may build it.
    &[
        "check",
        "--package",
        "portcullis-gateway",
        "--no-default-features",
        "--quiet",
    ],
    &["test", "--quiet", "--package", "xtask", "--test", "house"],
    // Whether each crate could be published: its metadata, its files, the versions it asks for. What
    // it compiles to is seen above. By then everything is fetched.
    &[
        "package",
        "--workspace",
        "--exclude",
        "portcullis-workbench",
        "--exclude",
        "portcullis-testkit",
        "--exclude",
        "xtask",
        "--no-verify",
        "--allow-dirty",
        "--offline",
        "--quiet",
    ],
];

/// Runs every check, the later ones also when an earlier one fails.
pub fn run_all() -> Result<()> {
    let failures: Vec<String> = CHECKS
        .iter()
        .filter_map(|words| run(Command::new("cargo").args(*words).current_dir(root())).err())
        .collect();
    if failures.is_empty() {
        eprintln!("xtask: tidy");
        Ok(())
    } else {
        Err(format!("not tidy:\n  {}", failures.join("\n  ")))
    }
}
