//! A program in the sandbox that does what it is told, a line at a time.
// Each test program uses its own part of this.
#![allow(dead_code)]

use crate::processes::said;
use crate::support::{Sandbox, require};
use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

const PROGRAM: &str = r#"
import errno, resource, socket, subprocess, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
flows = {}
# No word: the gateway would wait for the rest of a request.
PING = bytes([1, 2, 3, 4])
def ended(error):
    return "reset" if isinstance(error, ConnectionResetError) else errno.errorcode.get(error.errno, str(error))
def ping(flow):
    try:
        flow.sendall(PING)
        got = b""
        while len(got) < 4:
            more = flow.recv(4 - len(got))
            if not more:
                return "closed"
            got += more
        return "ok" if got == PING else repr(got)
    except OSError as error:
        return ended(error)
def wait(flow):
    try:
        while True:
            if not flow.recv(65536):
                return "closed"
    except OSError as error:
        return ended(error)
def do(what, *args):
    if what == "open":
        key, host, port = args
        try:
            flows[key] = socket.create_connection((host, int(port)), 60)
        except socket.gaierror:
            return "no-name"
        except OSError as error:
            return ended(error)
        return ping(flows[key])
    if what == "connect":
        host, port = args
        try:
            socket.create_connection((host, int(port)), 60).close()
            return "ok"
        except socket.gaierror:
            return "no-name"
        except OSError as error:
            return ended(error)
    if what == "ping":
        return ping(flows[args[0]])
    if what == "wait":
        return wait(flows[args[0]])
    if what == "many":
        key, host, port, number = args
        return ",".join(sorted({do("open", f"{key}{n}", host, port) for n in range(int(number))}))
    if what == "all":
        how, key, number = args
        return ",".join(sorted({do(how, f"{key}{n}") for n in range(int(number))}))
    if what == "name":
        try:
            return socket.getaddrinfo(args[0], None, socket.AF_INET)[0][4][0]
        except socket.gaierror:
            return "none"
    if what == "sh":
        done = subprocess.run(["sh", "-c", " ".join(args)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return (done.stdout + done.stderr).replace("\n", "|")
    if what == "py":
        try:
            exec(bytes.fromhex(args[0]).decode(), kept)
            return str(kept.get("said", "")).replace("\n", "|")
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))
kept = {}
for line in sys.stdin:
    print(do(*line.rstrip("\n").split(" ")), flush=True)
"#;

/// The program, and the pipes to it.
pub struct Inside {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

impl Inside {
    /// Starts it; returns once it answers.
    #[track_caller]
    pub fn start(sandbox: &Sandbox<'_>) -> Inside {
        Inside::start_as(&mut Inside::command(sandbox))
    }

    /// How it is started, for tests that hand something on to it.
    pub fn command(sandbox: &Sandbox<'_>) -> Command {
        require("python3");
        sandbox.command(&["python3", "-c", PROGRAM])
    }

    /// Its own command line, for sandboxes that others start.
    pub fn argv() -> [&'static str; 3] {
        require("python3");
        ["python3", "-c", PROGRAM]
    }

    /// Starts it by such a command.
    #[track_caller]
    pub fn start_as(command: &mut Command) -> Inside {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let (answers, errors) = said(&mut child);
        let mut inside = Inside {
            input: child.stdin.take(),
            child,
            answers,
            errors: Some(errors),
        };
        inside.expect("sh echo started", "started|");
        inside
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it run a Python program; gives what that calls `said`, or the error that ended it. Variables
    /// are kept for the next one.
    #[track_caller]
    pub fn python(&mut self, program: &str) -> String {
        let hex: String = program.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("py {hex}"))
    }

    /// Tells it what to do, and what it answers.
    #[track_caller]
    pub fn ask(&mut self, what: &str) -> String {
        let input = self.input.as_mut().expect("it listens");
        writeln!(input, "{what}").unwrap_or_else(|error| panic!("{what}: {error}"));
        self.answers
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("no answer to {what:?}: {error}"))
    }

    /// The same with the one right answer.
    #[track_caller]
    pub fn expect(&mut self, what: &str, answer: &str) {
        assert_eq!(self.ask(what), answer, "{what}");
    }

    /// Lets it end; gives how, and what the whole run wrote to standard error.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, String) {
        drop(self.input.take());
        let status = self.child.wait().expect("it was started");
        let errors = self.errors.take().and_then(|errors| errors.join().ok());
        (status, errors.unwrap_or_default())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
