//! `cargo xtask test`: everything from a bare checkout to the closing line of the test runner.

use crate::shell::{Result, root, run, succeeds};
use crate::{machine, packages, tools};
use std::process::Command;
use std::time::Instant;

/// What is in the names of the tests that `--fast` leaves out.
const SLOW_WORDS: [&str; 3] = ["qemu", "java", "slow_"];

/// What begins the names of the tests that only [`programs`] runs: they download a gigabyte.
const HEAVY: &str = "heavy_";

/// Everything that the tests need besides cargo.
pub fn prepare(fast: bool) -> Result<()> {
    packages::install(fast)?;
    machine::prepare(fast)?;
    tools::node_packages()?;
    if fast {
        return Ok(());
    }
    tools::schemathesis()?;
    tools::guest_kernel()?;
    tools::nss_resolve()
}

/// Runs all tests, or those that the filters name.
fn run_all(fast: bool, filters: &[&str]) -> Result<()> {
    let begin = Instant::now();
    prepare(fast)?;
    run(&mut cargo(&["build", "--workspace", "--bins"]))?;
    // The programs in documentation comments; the other runner does not know them.
    if filters.is_empty() {
        run(&mut cargo(&["test", "--workspace", "--doc", "--quiet"]))?;
    }
    let result = if succeeds(Command::new("cargo").args(["nextest", "--version"])) {
        nextest(fast, filters)
    } else {
        plain(fast, filters)
    };
    let seconds = begin.elapsed().as_secs();
    let left_out = if fast { ", without the slow ones" } else { "" };
    match &result {
        Ok(()) => eprintln!("xtask: all tests passed{left_out}, {seconds} s with all set-up"),
        Err(_) => eprintln!("xtask: tests failed after {seconds} s"),
    }
    result
}

/// Runs the bypass hunter alone, for longer than the tests do.
pub fn hunt(seconds: &str) -> Result<()> {
    prepare(true)?;
    run(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let mut command = cargo(&[
        "test",
        "--package",
        "portcullis-workbench",
        "--test",
        "hunter",
    ]);
    command.args(["--", "--nocapture", "--test-threads=1"]);
    run(command.env("PORTCULLIS_HUNT_SECONDS", seconds))
}

/// Tries every program of the table, the large ones too.
pub fn programs() -> Result<()> {
    prepare(true)?;
    packages::install_large()?;
    tools::large()?;
    run(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let mut command = cargo(&[
        "test",
        "--package",
        "portcullis-workbench",
        "--test",
        "programs",
    ]);
    run(command.args(["--", "--test-threads=1"]))
}

/// Reads the command line.
pub fn test(words: &[&str]) -> Result<()> {
    let fast = words.contains(&"--fast");
    let filters: Vec<&str> = words
        .iter()
        .copied()
        .filter(|word| *word != "--fast")
        .collect();
    run_all(fast, &filters)
}

fn nextest(fast: bool, filters: &[&str]) -> Result<()> {
    let settings = format!("portcullis:{}", root().join("xtask/nextest.toml").display());
    let mut command = cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]);
    command.args(["--tool-config-file", &settings]);
    let left_out = left_out(fast).map(|word| format!("not test({word})"));
    let all: Vec<String> = left_out.collect();
    command.args(["--filterset", &all.join(" and ")]);
    command.args(filters);
    run(&mut command)
}

fn plain(fast: bool, filters: &[&str]) -> Result<()> {
    let mut command = cargo(&[
        "test",
        "--workspace",
        "--lib",
        "--bins",
        "--tests",
        "--examples",
        "--no-fail-fast",
    ]);
    command.args(filters.first()).arg("--");
    for word in left_out(fast) {
        command.args(["--skip", word]);
    }
    run(&mut command)
}

fn left_out(fast: bool) -> impl Iterator<Item = &'static str> {
    let slow = SLOW_WORDS.into_iter().filter(move |_| fast);
    slow.chain([HEAVY])
}

/// cargo in the repository, with the variables by which the tests find what was prepared.
fn cargo(words: &[&str]) -> Command {
    let programs = root().join("target/debug");
    let tools = crate::shell::tools_folder();
    let mut command = Command::new("cargo");
    command
        .args(words)
        .current_dir(root())
        .env("PORTCULLIS_BIN", programs.join("portcullis"))
        .env("PORTCULLIS_WORLD_BIN", programs.join("portcullis-world"))
        .env("PORTCULLIS_TEST_TOOLS", tools)
        .env_remove("CARGO_TARGET_DIR");
    command
}
