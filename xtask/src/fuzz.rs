//! `cargo xtask fuzz`: builds every fuzz target on stable Rust and runs each for a while.
//!
//! The flags are those of `cargo fuzz … -s none`: coverage without a sanitizer. The readers have no unsafe
//! code, so what is looked for is a panic, a failed assertion, or an input that takes too long.

use crate::shell::{Result, root, run};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How long each target runs unless it is told, in seconds.
const DEFAULT_SECONDS: u32 = 60;
/// Longest that a target may take for one input, in seconds.
const INPUT_SECONDS: u32 = 20;
/// Most memory of one target, in MiB.
const MEMORY_MIB: u32 = 2048;
/// What the compiler adds so that libFuzzer sees which branches an input takes.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// The flags are for this alone: what runs while cargo builds is built without.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs the targets that are named, or all of them; `--seconds N` says how long each.
///
/// # Errors
/// A target does not build, or found something; all that did are named.
pub fn fuzz(args: &[&str]) -> Result<()> {
    let (seconds, named) = match args {
        ["--seconds", seconds, named @ ..] => {
            let read = seconds
                .parse()
                .map_err(|_| format!("`{seconds}` is no number of seconds"));
            (read?, named)
        }
        named => (DEFAULT_SECONDS, named),
    };
    let folder = root().join("fuzz");
    let targets = targets(&folder)?;
    if let Some(unknown) = named
        .iter()
        .find(|name| !targets.iter().any(|target| target == *name))
    {
        return Err(format!(
            "no fuzz target `{unknown}`; there are {}",
            targets.join(", ")
        ));
    }
    let wanted = |target: &String| named.is_empty() || named.contains(&target.as_str());
    let chosen: Vec<String> = targets.into_iter().filter(wanted).collect();
    let mut build = Command::new("cargo");
    build.current_dir(&folder).env("RUSTFLAGS", COVERAGE).args([
        "build",
        "--release",
        "--quiet",
        "--target",
        TARGET,
    ]);
    for target in &chosen {
        build.args(["--bin", target]);
    }
    run(&mut build)?;
    let (left, failed) = (Mutex::new(VecDeque::from(chosen)), Mutex::new(Vec::new()));
    let next = || {
        left.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(target) = next() {
                    if let Err(error) = run_target(&folder, &target, seconds) {
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(error);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}

/// The targets: the files of their folder.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("fuzz_targets");
    let files = fs::read_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let stem = |path: &Path| path.file_stem().and_then(OsStr::to_str).map(str::to_owned);
    let mut targets: Vec<String> = files.filter_map(|file| stem(&file.ok()?.path())).collect();
    targets.sort_unstable();
    Ok(targets)
}

/// Runs one target, from the seeds in the tree and what it found before.
fn run_target(folder: &Path, target: &str, seconds: u32) -> Result<()> {
    let built = folder.join("target");
    let (found, log) = (
        built.join("corpus").join(target),
        built.join(format!("{target}.log")),
    );
    let failed = |error: std::io::Error| format!("{target}: {error}");
    fs::create_dir_all(&found).map_err(failed)?;
    let output = File::create(&log).map_err(failed)?;
    let mut command = Command::new(built.join(TARGET).join("release").join(target));
    command
        .arg(&found)
        .arg(folder.join("corpus").join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/{target}-", built.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output);
    eprintln!("xtask: fuzzing {target} for {seconds} s");
    match command.status().map_err(failed)?.success() {
        true => Ok(()),
        false => Err(format!("{target} found something: see {}", log.display())),
    }
}
