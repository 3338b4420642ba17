//! The terminal is CMD's own: job control through a real shell on a pseudo-terminal, no injected
//! input, and one closing paragraph at most.

use crate::support::{portcullis, require, sandbox, world};
use portcullis_testkit::{World, exec};
use std::time::Duration;

/// What types and reads at the terminal.
const PERSON: &str = include_str!("terminal.py");
/// More than the person's patience for one step, times the steps.
const SESSION_TIMEOUT: Duration = Duration::from_secs(180);
const PROMPT: &str = "your turn> $";
/// Waits until the terminal is a job's: what is typed sooner is for the shell.
const JOB: &str = "a job has the terminal";

/// A session at an interactive bash: wait for the first, type the second, and so on. Gives all
/// that was shown.
#[track_caller]
fn session(world: &World, steps: &[(&str, &str)]) -> String {
    require("bash");
    require("python3");
    let person = world.file("terminal.py", PERSON);
    let steps = world.file("steps.json", serde_json::to_vec(steps).expect("texts"));
    let mut python = world.command("python3");
    let done = exec::run(python.arg(person).arg(steps), SESSION_TIMEOUT);
    let done = done.unwrap_or_else(|error| panic!("cannot run python3: {error}"));
    assert!(done.ok(), "{done}");
    done.out()
}

fn run(arguments: &str) -> String {
    format!("{} run {arguments}\n", portcullis().display())
}

/// A program that tells of each time it is continued. It waits for the signal rather than handles
/// it: a handler that is due just before a `sleep` runs after it.
const TELLS: &str = "import os, signal\n\
     signal.signal(signal.SIGINT, signal.SIG_DFL)\n\
     signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])\n\
     print('has begun', flush=True)\n\
     while signal.sigwait([signal.SIGCONT]): os.write(1, b'goes on\\n')\n";

/// Ctrl-Z stops CMD, never the gateway; the shell sees it; `fg` goes on; Ctrl-C ends.
#[test]
fn job_control_is_the_shells() {
    let world = world();
    let program = world.file("tells.py", TELLS);
    let start = run(&format!(
        "--allow api.example.com -- python3 {}",
        program.display()
    ));
    let shown = session(
        &world,
        &[
            (PROMPT, &start),
            ("has begun", "\x1a"),
            (r"\[1\]\+  Stopped", ""),
            // run and CMD stand still, the gateway does not.
            (PROMPT, "ps -o stat= -p $(jobs -p) | sed 's/^/run is /'\n"),
            ("^run is T", ""),
            (
                PROMPT,
                "ps -o stat= --ppid $(jobs -p) | sort | sed 's/^/child is /'\n",
            ),
            ("^child is S[^\n]*\n(.*\n)?child is S", ""),
            (PROMPT, "fg\n"),
            ("goes on", "\x1a"),
            (r"\[1\]\+  Stopped", ""),
            (PROMPT, "bg\n"),
            ("goes on", "jobs\n"),
            // The program may speak after the prompt: what is typed now does not wait for one.
            ("Running", "fg\n"),
            (JOB, "\x03"),
            (r"\^C", ""),
            (PROMPT, "echo code $?\n"),
            ("^code 130", ""),
            (PROMPT, "jobs; echo no more jobs\n"),
            ("^no more jobs", ""),
        ],
    );
    assert!(!shown.contains("portcullis:"), "{shown}");
}

/// A shell stops its loop where a program dies of the terminal's signal, and goes on where it exits
/// with a code of its own.
#[test]
fn ctrl_c_ends_a_shells_loop_as_it_does_outside() {
    let world = world();
    let program = world.file("tells.py", TELLS);
    let start = run(&format!("-- python3 {}", program.display()));
    let round = format!("{}; echo round-$i", start.trim_end());
    let shown = session(
        &world,
        &[
            (PROMPT, &format!("for i in 1 2 3; do {round}; done\n")),
            ("has begun", "\x03"),
            (PROMPT, "echo code $?\n"),
            ("^code 130", ""),
        ],
    );
    assert!(!shown.contains("round-1"), "{shown}");
    // A program that takes the signal as an order to end in its own time is not one that died.
    let own = run("-- sh -c 'trap \"exit 7\" INT; echo has begun; while :; do sleep 0.1; done'");
    let shown = session(
        &world,
        &[
            (PROMPT, &own),
            ("^has begun", "\x03"),
            (PROMPT, "echo code $?\n"),
            ("^code 7", ""),
        ],
    );
    assert!(!shown.contains("portcullis:"), "{shown}");
}

#[test]
fn ctrl_backslash_and_a_terminals_end_reach_the_program() {
    let world = world();
    let program = world.file("tells.py", TELLS);
    let start = run(&format!("-- python3 {}", program.display()));
    session(
        &world,
        &[
            (PROMPT, "ulimit -c 0\n"),
            (PROMPT, &start),
            ("has begun", "\x1c"),
            (PROMPT, "echo code $?\n"),
            ("^code 131", ""),
        ],
    );
}

#[test]
fn programs_in_a_pipeline_and_full_screen_programs_have_the_terminal() {
    let world = world();
    let start = run("-- sh -c 'stty size < /dev/tty; test -t 0 && test -t 1 && echo both; tty'");
    let piped = run("-- sh -c 'read line < /dev/tty; echo \"got $line\"' | tr a-z A-Z");
    session(
        &world,
        &[
            (PROMPT, "stty rows 33 cols 111\n"),
            (PROMPT, &start),
            ("^33 111", ""),
            ("^both", ""),
            ("^/dev/pts/", ""),
            (PROMPT, &piped),
            ("run -- ", "typed text\n"),
            ("^GOT TYPED TEXT", ""),
            (PROMPT, "echo still here\n"),
            ("^still here", ""),
        ],
    );
}

/// TIOCSTI would type a command into the operator's own shell; TIOCLINUX pastes into a console.
#[test]
fn input_cannot_be_injected_into_the_terminal() {
    let world = world();
    let program = world.file(
        "inject.py",
        "import fcntl, os, termios\n\
         for request in (termios.TIOCSTI, termios.TIOCSTI | 1 << 32, 0x541c):\n    \
           for byte in b'echo injected\\n':\n        \
             try: fcntl.ioctl(0, request, bytes([byte])); print('was taken')\n        \
             except (OSError, OverflowError, ValueError) as e: last = e\n    \
           print('refused:', getattr(last, 'errno', last))\n",
    );
    let start = run(&format!("-- python3 {}", program.display()));
    let shown = session(
        &world,
        &[
            (PROMPT, &start),
            ("^refused: 1\\b", ""),
            (PROMPT, "echo afterwards\n"),
            ("^afterwards", ""),
        ],
    );
    assert!(
        !shown.contains("was taken") && !shown.contains("injected"),
        "{shown}"
    );
}

/// The closing paragraph: on a terminal and in CI, once, after CMD's own output, unless `--quiet`; always
/// or never with `--summary`.
#[test]
fn one_closing_paragraph_where_somebody_reads_it() {
    let world = world();
    let denied = "getent hosts evil.example.net; getent hosts evil.example.net; echo last words";
    let allowed = "getent hosts api.example.com; echo last words";
    let shown = |flags: &str, script: &str| {
        let start = run(&format!(
            "--allow api.example.com {flags} -- sh -c '{script}'"
        ));
        let all = session(
            &world,
            &[(PROMPT, &start), ("^last words", ""), (PROMPT, "")],
        );
        let after = all
            .rsplit_once("last words\r\n")
            .map(|(_, after)| after.to_owned());
        after.unwrap_or_else(|| panic!("no last words: {all}"))
    };
    let closing = shown("", denied);
    assert!(
        closing.contains("portcullis:") && closing.contains("evil.example.net"),
        "{closing}"
    );
    assert!(
        closing.contains("\"evil.example.net") && closing.contains("= \"allow\""),
        "{closing}"
    );
    assert!(closing.matches("portcullis:").count() == 1, "{closing}");
    let never = shown("--summary never", denied);
    for silent in [shown("--quiet", denied), never, shown("", allowed)] {
        assert!(
            !silent.contains("portcullis") && !silent.contains("evil"),
            "{silent}"
        );
    }
    // Without a terminal for standard error there is none, whatever stdin and stdout are.
    for (ci, flags, paragraphs) in [
        ("", &[][..], 0),
        ("true", &[], 1),
        ("1", &["--quiet"], 0),
        ("1", &["--summary", "never"], 0),
        ("", &["--summary", "always"], 1),
    ] {
        let ran = sandbox(&world).env("CI", ci).args(flags).sh(denied);
        let said = ran.err();
        let found = said.matches("portcullis:").count();
        assert_eq!(found, paragraphs, "CI={ci} {flags:?}: {ran}");
        assert_eq!(said.is_empty(), paragraphs == 0, "{ran}");
        ran.assert_out("last words\n");
    }
}

/// A terminal that goes away ends the tree where `run` leads the session (`xterm -e`, `ssh -t`):
/// the kernel then tells the leader alone.
#[test]
fn a_vanished_terminal_ends_the_tree() {
    require("python3");
    let world = world();
    let script = "import os, pty, sys, time\n\
        pid, terminal = pty.fork()\n\
        if pid == 0: os.execv(sys.argv[1], [sys.argv[1], 'run', '--', 'sh', '-c', 'echo begun; sleep 600'])\n\
        while b'begun' not in os.read(terminal, 4096): pass\n\
        os.close(terminal)\n\
        deadline = time.monotonic() + 40\n\
        while time.monotonic() < deadline:\n\
        \x20   if os.waitpid(pid, os.WNOHANG)[0]: sys.exit(0)\n\
        \x20   time.sleep(0.01)\n\
        sys.exit('run is still there')\n";
    let mut python = world.command("python3");
    let done = exec::run(
        python.args(["-c", script]).arg(portcullis()),
        SESSION_TIMEOUT,
    );
    let done = done.unwrap_or_else(|error| panic!("cannot run python3: {error}"));
    assert!(done.ok(), "{done}");
}
