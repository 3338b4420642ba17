//! What the end-to-end tests share: a world, a sandboxed run in it, its decision records.
//!
//! ```text
//! let world = support::world();
//! let ran = support::sandbox(&world).allow("api.example.com").run(&["curl", "-sS", URL]);
//! ran.assert_ok();
//! ran.assert_one_denial("dns", "not-in-allowlist", "evil.example.net");
//! world.assert_never_asked("evil");
//! ```
// Each test program uses its own part of this.
#![allow(dead_code, unused_imports)]

mod attachment;
mod records;
mod tools;

pub use attachment::Attachment;

pub use records::{Records, read_records, seconds_between};
pub use tools::{
    folder_of_tools, guest_kernel, node_modules, nss_resolve, require, require_kernel,
};

use portcullis_testkit::exec::{self, Finished};
use portcullis_testkit::{World, WorldSpec};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a sandboxed program may take unless the test says otherwise: much longer than it does,
/// since it only ends what hangs.
pub const TIMEOUT: Duration = Duration::from_secs(90);

/// The standard world.
pub fn world() -> World {
    world_from(WorldSpec::standard())
}

/// A world of the test's own making.
pub fn world_from(spec: WorldSpec) -> World {
    World::start(spec.demo_helper(env!("CARGO_BIN_EXE_portcullis-demo")))
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// The product: `$PORTCULLIS_BIN`, or else the working bench, which is the same command line.
pub fn portcullis() -> PathBuf {
    match std::env::var_os("PORTCULLIS_BIN") {
        Some(path) => {
            assert!(
                Path::new(&path).is_file(),
                "PORTCULLIS_BIN names {path:?}, which is not there: `cargo build --bins`"
            );
            path.into()
        }
        None => env!("CARGO_BIN_EXE_portcullis-demo").into(),
    }
}

/// `portcullis run ARGS --log FILE -- CMD` in the world, with [`TIMEOUT`].
pub fn sandboxed(world: &World, args: &[&str], cmd: &[&str]) -> Ran {
    sandbox(world).args(args).run(cmd)
}

/// `portcullis ARGS` in the world: every command but `run`.
pub fn command(world: &World, args: &[&str]) -> Finished {
    finish(world.command(portcullis()).args(args), TIMEOUT)
}

/// Runs any command with a time limit; one that cannot be started fails the test.
pub fn finish(command: &mut Command, limit: Duration) -> Finished {
    exec::run(command, limit).unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// The beginning of a sandboxed run.
pub fn sandbox(world: &World) -> Sandbox<'_> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Sandbox {
        world,
        as_root: false,
        args: Vec::new(),
        env: Vec::new(),
        input: Vec::new(),
        limit: TIMEOUT,
        number,
        log: world.home().join(format!("decisions-{number}.jsonl")),
    }
}

/// A sandboxed run in the making.
pub struct Sandbox<'w> {
    world: &'w World,
    as_root: bool,
    args: Vec<String>,
    env: Vec<(String, String)>,
    input: Vec<u8>,
    limit: Duration,
    number: usize,
    log: PathBuf,
}

impl Sandbox<'_> {
    /// `--allow TARGET`.
    pub fn allow(self, target: &str) -> Self {
        self.args(&["--allow", target])
    }

    /// `--deny TARGET`.
    pub fn deny(self, target: &str) -> Self {
        self.args(&["--deny", target])
    }

    /// `--policy FILE` with this content; `extension` is `toml`, `yaml` or `json`.
    pub fn policy(self, extension: &str, text: &str) -> Self {
        let name = format!("policy-{}-{}.{extension}", self.number, self.args.len());
        let path = self.world.file(&name, text);
        self.args(&["--policy", &path.display().to_string()])
    }

    /// More arguments before the `--`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// A variable in the operator's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What the program reads on standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Another time limit.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// As uid 0 of the world's user namespace.
    #[allow(clippy::wrong_self_convention)] // a step of the builder, named after what it does
    pub fn as_root(mut self) -> Self {
        self.as_root = true;
        self
    }

    /// Where the decision records go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The whole command, for tests that start it themselves (signals, terminals, background).
    pub fn command<S: AsRef<OsStr>>(&self, cmd: &[S]) -> Command {
        let command_of = |program: &OsStr| match self.as_root {
            true => self.world.command_as_root(program),
            false => self.world.command(program),
        };
        let mut command = match Attachment::current() {
            Attachment::Run => {
                let mut command = command_of(portcullis().as_os_str());
                command.arg("run");
                command
            }
            other => {
                require("python3");
                let text = include_str!("elsewhere.py");
                let script = self.world.file("elsewhere.py", text);
                let mut command = command_of("python3".as_ref());
                command.arg(script).arg(other.kind()).arg(portcullis());
                command
            }
        };
        command
            .args(&self.args)
            .arg("--log")
            .arg(&self.log)
            .arg("--")
            .args(cmd);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end.
    pub fn run<S: AsRef<OsStr>>(&self, cmd: &[S]) -> Ran {
        let mut command = self.command(cmd);
        let finished = exec::run_with_input(&mut command, &self.input, self.limit)
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Ran {
            finished,
            records: read_records(&self.log),
        }
    }

    /// Runs a shell script.
    pub fn sh(&self, script: &str) -> Ran {
        self.run(&["sh", "-c", script])
    }

    /// Runs a Python program.
    pub fn python(&self, program: &str) -> Ran {
        require("python3");
        self.run(&["python3", "-c", program])
    }

    /// Runs a Node program; `require('ws')` works.
    pub fn node(&self, program: &str) -> Ran {
        require("node");
        self.run(&["node", "-e", program])
    }
}

/// A sandboxed run that has ended.
pub struct Ran {
    /// What the program did.
    pub finished: Finished,
    /// What the gateway recorded.
    pub records: Records,
}

impl Ran {
    /// The program's standard output as text.
    pub fn out(&self) -> String {
        self.finished.out()
    }

    /// The program's standard error as text.
    pub fn err(&self) -> String {
        self.finished.err()
    }

    /// Its exit code.
    pub fn code(&self) -> Option<i32> {
        self.finished.code()
    }

    /// Fails the test unless the program ended with 0 in time.
    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        assert!(self.finished.ok(), "the program failed: {self}");
        self
    }

    /// Fails the test unless the program ended in time with this code.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert!(
            !self.finished.timed_out && self.code() == Some(code),
            "not {code}: {self}"
        );
        self
    }

    /// Fails the test unless standard output contains this.
    #[track_caller]
    pub fn assert_out(&self, part: &str) -> &Self {
        assert!(self.out().contains(part), "stdout lacks {part:?}: {self}");
        self
    }

    /// Fails the test unless standard output or standard error contains this.
    #[track_caller]
    pub fn assert_said(&self, part: &str) -> &Self {
        let said = self.out() + &self.err();
        assert!(
            said.contains(part),
            "the program did not say {part:?}: {self}"
        );
        self
    }

    /// Fails the test unless exactly one record denies this name (or address) at this layer, with
    /// this reason; at `dns` exactly one for each record type that was asked for, since libc asks
    /// for A and AAAA. What a slow program asked again after a second or more has its own
    /// record (RECORDS.md); within one second equal ones share theirs.
    #[track_caller]
    pub fn assert_one_denial(&self, layer: &str, reason: &str, whom: &str) -> &Self {
        let found = self.records.denials(layer, reason, whom);
        let twice = found.iter().enumerate().any(|(index, one)| {
            let equal = |other: &&&serde_json::Value| {
                other["qtype"] == one["qtype"] && seconds_between(one, other) < 0.99
            };
            found[index + 1..].iter().any(|other| equal(&other))
        });
        assert!(
            !found.is_empty() && !twice,
            "{} denials of {whom} at {layer} with {reason}, not 1: {self}",
            found.len()
        );
        self
    }

    /// Fails the test unless nothing was denied.
    #[track_caller]
    pub fn assert_no_denial(&self) -> &Self {
        assert!(
            self.records.all_denials().is_empty(),
            "something was denied: {self}"
        );
        self
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n--- records\n{}", self.finished, self.records)
    }
}
