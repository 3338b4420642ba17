//! Runs a program with a time limit and keeps what it said.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long output may trickle in after the program itself has ended.
const LINGER: Duration = Duration::from_secs(5);
/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(2);

/// A program that ended, by itself or at the limit.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// How long it took, from before it was started.
    pub elapsed: Duration,
    /// Whether it was killed at the limit.
    pub timed_out: bool,
}

impl Finished {
    /// Its exit code; `None` after a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether it ended by itself with 0.
    pub fn ok(&self) -> bool {
        self.status.success() && !self.timed_out
    }

    /// Its standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let limit = if self.timed_out {
            " (killed at the time limit)"
        } else {
            ""
        };
        write!(
            f,
            "{} after {:?}{limit}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.elapsed,
            self.out().trim_end(),
            self.err().trim_end()
        )
    }
}

/// Runs a program without input. It gets a process group of its own, which is killed at the limit.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command, limit: Duration) -> std::io::Result<Finished> {
    run_with_input(command, b"", limit)
}

/// Runs a program with this standard input.
///
/// # Errors
/// When it cannot be started.
pub fn run_with_input(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
) -> std::io::Result<Finished> {
    let start = Instant::now();
    command.process_group(0);
    command.stdin(if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    });
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program that reads nothing must not block the test: its pipe is written from aside.
        std::thread::spawn(move || stdin.write_all(&input));
    }
    let out = Collector::start(child.stdout.take());
    let err = Collector::start(child.stderr.take());
    let (status, timed_out) = wait(&mut child, start + limit)?;
    let elapsed = start.elapsed();
    let deadline = Instant::now() + LINGER;
    let (stdout, stderr) = (out.finish(deadline), err.finish(deadline));
    Ok(Finished {
        status,
        stdout,
        stderr,
        elapsed,
        timed_out,
    })
}

/// Waits for a program until the deadline, then kills its process group (where it leads one).
///
/// # Errors
/// When the program cannot be waited for.
pub fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<(ExitStatus, bool)> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        if Instant::now() >= deadline {
            if let Ok(pid) = i32::try_from(child.id()) {
                let group = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = child.kill();
            return Ok((child.wait()?, true));
        }
        std::thread::sleep(POLL);
    }
}

/// Reads a pipe aside.
struct Collector(Arc<Mutex<(Vec<u8>, bool)>>);

impl Collector {
    fn start(pipe: Option<impl Read + Send + 'static>) -> Collector {
        let shared = Arc::new(Mutex::new((Vec::new(), pipe.is_none())));
        if let Some(mut pipe) = pipe {
            let shared = shared.clone();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                loop {
                    let count = pipe.read(&mut buffer).unwrap_or(0);
                    let mut state = shared.lock().unwrap_or_else(|e| e.into_inner());
                    state.0.extend_from_slice(&buffer[..count]);
                    if count == 0 {
                        state.1 = true;
                        return;
                    }
                }
            });
        }
        Collector(shared)
    }

    fn finish(self, deadline: Instant) -> Vec<u8> {
        loop {
            let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
            if state.1 || Instant::now() >= deadline {
                return std::mem::take(&mut state.0);
            }
            drop(state);
            std::thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_ends_the_whole_group() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; sleep 60 & wait"]);
        let done = run(&mut command, Duration::from_millis(300)).unwrap();
        assert!(done.timed_out && !done.ok());
        assert_eq!(done.out(), "begun\n");
        assert!(done.elapsed < Duration::from_secs(5));
    }

    #[test]
    fn input_output_and_code_come_back() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat; echo no >&2; exit 7"]);
        let done = run_with_input(&mut command, b"yes", Duration::from_secs(10)).unwrap();
        assert_eq!(
            (done.code(), done.out(), done.err()),
            (Some(7), "yes".into(), "no\n".into())
        );
    }
}
