//! Processes as the machine sees them, whatever namespace they are in: a sandbox's are ordinary
//! processes outside, found by a word of their command line that no other process has.
// Each test program uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a condition may take to come true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until a condition is true; fails the test when it does not become so.
#[track_caller]
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// A number of seconds to sleep that names this very process: `sleep 3000.PID`.
pub fn marker() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("30{number:02}.{}", std::process::id())
}

/// The processes one of whose arguments is this word.
pub fn with_argument(word: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|argument| argument == word.as_bytes())
        })
        .collect()
}

/// Whether a process runs (a zombie does not).
pub fn runs(pid: u32) -> bool {
    !["", "Z", "X"].contains(&status(pid).get("State").map_or("", |state| &state[..1]))
}

/// The fields of `/proc/PID/status`.
fn status(pid: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// The two children of a `portcullis run`.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The gateway.
    pub gateway: u32,
    /// The sandbox's first process.
    pub init: u32,
}

/// Finds them: only the first process is in a process namespace of its own.
#[track_caller]
pub fn family(run: u32) -> Family {
    let depth = |pid: u32| {
        status(pid)
            .get("NSpid")
            .map_or(0, |numbers| numbers.split_whitespace().count())
    };
    let path = format!("/proc/{run}/task/{run}/children");
    let children = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    let (inner, outer): (Vec<u32>, Vec<u32>) = children.partition(|pid| depth(*pid) > depth(run));
    match (&outer[..], &inner[..]) {
        ([gateway], [init]) => Family {
            gateway: *gateway,
            init: *init,
        },
        _ => panic!("{run} has not the two children of a run: {outer:?} and {inner:?}"),
    }
}

/// Sends a signal as a person would.
#[track_caller]
pub fn kill(signal: &str, pid: u32) {
    let done = Command::new("/bin/kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status();
    assert!(
        done.as_ref().is_ok_and(ExitStatus::success),
        "kill -{signal} {pid}: {done:?}"
    );
}

/// Sets a limit of a running process from outside, as prlimit(1) does.
#[track_caller]
pub fn limit(world: &portcullis_testkit::World, pid: u32, limit: &str) {
    let mut command = world.command_as_root("prlimit");
    let done = command.args([&format!("--pid={pid}"), limit]).output();
    assert!(
        done.as_ref().is_ok_and(|done| done.status.success()),
        "{limit}: {done:?}"
    );
}

/// What a program writes: the lines of its standard output as they come, and its whole standard error,
/// whichever of them is piped.
pub fn said(child: &mut Child) -> (Receiver<String>, JoinHandle<String>) {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let out = out.into_iter().flat_map(|out| BufReader::new(out).lines());
        for line in out.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut err) = err {
            let _ = err.read_to_string(&mut text);
        }
        text
    });
    (lines, errors)
}

/// A program in the background whose lines can be waited for. Ended with the test.
pub struct Background {
    child: Child,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

impl Background {
    #[track_caller]
    pub fn start(command: &mut Command) -> Background {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let (lines, errors) = said(&mut child);
        Background {
            child,
            lines,
            errors: Some(errors),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of standard output.
    #[track_caller]
    pub fn wait_line(&self, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut instead = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line == wanted => return,
                Ok(line) => instead.push(line),
                Err(error) => panic!("the program said {instead:?}, not {wanted:?}: {error}"),
            }
        }
    }

    /// Waits for the next line of standard output.
    #[track_caller]
    pub fn next_line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|error| panic!("the program says nothing: {error}"))
    }

    /// Waits for its end; gives how it ended and its standard error.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, String) {
        let mut status = None;
        until("the program's end", || {
            status = self.child.try_wait().unwrap_or(None);
            status.is_some()
        });
        let errors = self.errors.take().and_then(|errors| errors.join().ok());
        (status.expect("it has ended"), errors.unwrap_or_default())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
