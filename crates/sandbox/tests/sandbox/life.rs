//! Birth and death: exit codes, signals, job control, time limits, who dies with whom.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Killed, User, command, folder, mark, marked_process, python, run, shell, until, users,
};

#[test]
fn each_outcome_has_its_exit_code() {
    for user in users() {
        let code = |words: &[&str]| run(user, &[], words).status.code();
        assert_eq!(code(&["true"]), Some(0));
        assert_eq!(code(&["sh", "-c", "exit 7"]), Some(7));
        assert_eq!(code(&["sh", "-c", "kill -TERM $$"]), Some(143));
        assert_eq!(code(&["sh", "-c", "kill -KILL $$"]), Some(137));
        assert_eq!(code(&["no-such-command-here"]), Some(127));
        assert_eq!(code(&["/nonexistent/path"]), Some(127));
        assert_eq!(code(&["/etc/passwd"]), Some(126));
        assert_eq!(code(&["/tmp"]), Some(126));
    }
}

#[test]
fn a_script_without_an_interpreter_line_is_the_shells() {
    let folder = folder();
    let script = folder.path().join("script");
    fs::write(&script, "echo from script $1\n").unwrap();
    shell(User::Nobody, &[], "true");
    std::os::unix::fs::chown(&script, None, None).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let output = run(User::Nobody, &[], &[script.to_str().unwrap(), "x"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from script x\n");
}

#[test]
fn nothing_is_written_when_all_is_well() {
    let output = run(User::Nobody, &[], &["true"]);
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}

/// Leaves the job, and then stops it: the parent of the sandbox is in it.
const STOP_THE_JOB: &str = "
import os, signal, time
if os.fork() == 0:
    os.setsid()
    os.execvp('sleep', ['sleep', 'MARK'])
time.sleep(0.1)
os.kill(0, signal.SIGSTOP)
time.sleep(1000)
";

#[test]
fn stopping_the_parent_does_not_stop_the_time_limit() {
    use std::os::unix::process::CommandExt;
    let mark = mark();
    let script = STOP_THE_JOB.replace("MARK", &mark);
    let mut inside = command(
        User::Nobody,
        &["--timeout-ms", "400"],
        &[crate::support::PYTHON, "-c", &script],
    );
    // A job of its own: the test is not to be stopped.
    inside.process_group(0);
    let start = Instant::now();
    let output = crate::support::output(inside);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(marked_process(&mark).is_none());
}

#[test]
fn the_time_limit_ends_the_whole_tree_also_one_that_ignores_signals() {
    let mark = mark();
    let script = format!("trap '' TERM; sleep {mark} & sleep {mark}; sleep {mark}");
    let start = Instant::now();
    let output = run(
        User::Nobody,
        &["--timeout-ms", "300"],
        &["sh", "-c", &script],
    );
    assert_eq!(output.status.code(), Some(124));
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(marked_process(&mark), None);
    // One that ends by itself keeps its code.
    assert_eq!(
        run(User::Nobody, &["--timeout-ms", "30000"], &["false"])
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn a_double_forked_child_does_not_outlive_the_command() {
    let mark = mark();
    shell(
        User::Nobody,
        &[],
        &format!("(setsid sleep {mark} >/dev/null 2>&1 &) ; sleep 0.1"),
    );
    assert_eq!(marked_process(&mark), None);
}

#[test]
fn a_failed_self_proof_starts_nothing() {
    let mark = mark();
    let words = ["sh", "-c", "echo started; sleep 1"];
    let mute = run(User::Nobody, &["--mute"], &words);
    assert_eq!(mute.status.code(), Some(125));
    let text = String::from_utf8_lossy(&mute.stderr);
    assert!(
        text.contains("start-up check failed") && text.contains("did not answer"),
        "{text}"
    );
    assert!(mute.stdout.is_empty());

    let leaky = run(User::Nobody, &["--open", "192.0.2.1:9"], &words);
    assert_eq!(leaky.status.code(), Some(125));
    let text = String::from_utf8_lossy(&leaky.stderr);
    assert!(
        text.contains("start-up check failed") && text.contains("not refused"),
        "{text}"
    );
    assert!(leaky.stdout.is_empty());
    assert_eq!(marked_process(&mark), None);
}

#[test]
fn a_gateway_that_cannot_start_or_dies_at_once_ends_the_run() {
    let failed = run(User::Nobody, &["--fail"], &["echo", "started"]);
    assert_eq!(failed.status.code(), Some(125));
    assert!(
        String::from_utf8_lossy(&failed.stderr).contains("no upstream"),
        "{failed:?}"
    );
    assert!(failed.stdout.is_empty());
    let died = run(User::Nobody, &["--die"], &["echo", "started"]);
    assert_eq!(died.status.code(), Some(125));
    assert!(died.stdout.is_empty());
}

#[test]
fn when_the_gateway_is_killed_everything_inside_ends() {
    for user in users() {
        let mark = mark();
        let folder = folder();
        let pid_file = folder.path().join("pid");
        let options = ["--pid-file", pid_file.to_str().unwrap()];
        let words = ["sh", "-c", &format!("setsid sleep {mark} & sleep {mark}")];
        let mut child = Killed(
            command(user, &options, &words)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        until("the command", || marked_process(&mark).is_some());
        let gateway: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        // SAFETY: the gateway of this test's own child.
        assert_eq!(unsafe { libc::kill(gateway, libc::SIGKILL) }, 0);
        let status = child.0.wait().unwrap();
        assert_eq!(
            status.code(),
            Some(137),
            "{user:?}: 125 would mean that it never started"
        );
        assert_eq!(marked_process(&mark), None, "{user:?}");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut child.0.stderr.take().unwrap(), &mut text).unwrap();
        assert!(text.contains("gateway was killed by signal 9"), "{text}");
    }
}

#[test]
fn when_the_parent_is_killed_sandbox_and_gateway_end() {
    for user in users() {
        let mark = mark();
        let folder = folder();
        let pid_file = folder.path().join("pid");
        let options = ["--pid-file", pid_file.to_str().unwrap()];
        let mut child = Killed(command(user, &options, &["sleep", &mark]).spawn().unwrap());
        until("the command", || marked_process(&mark).is_some());
        let gateway = fs::read_to_string(&pid_file).unwrap();
        child.0.kill().unwrap();
        until("the tree's end", || marked_process(&mark).is_none());
        until("the gateway's end", || {
            fs::read_to_string(format!("/proc/{gateway}/stat"))
                .map_or(true, |stat| stat.contains(") Z "))
        });
    }
}

#[test]
fn signals_sent_to_the_parent_reach_the_command() {
    for signal in ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"] {
        let script = format!(
            "trap 'echo got {signal}; exit 3' {signal}; echo ready; while :; do sleep 0.05; done"
        );
        let mut child = Killed(
            command(User::Nobody, &[], &["bash", "-c", &script])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let number = match signal {
            "HUP" => libc::SIGHUP,
            "INT" => libc::SIGINT,
            "QUIT" => libc::SIGQUIT,
            "TERM" => libc::SIGTERM,
            "USR1" => libc::SIGUSR1,
            "USR2" => libc::SIGUSR2,
            _ => libc::SIGWINCH,
        };
        // SAFETY: this test's own child.
        unsafe { libc::kill(child.0.id() as i32, number) };
        assert_eq!(lines.next().unwrap().unwrap(), format!("got {signal}"));
        assert_eq!(child.0.wait().unwrap().code(), Some(3), "{signal}");
    }
}

#[test]
fn an_ignored_hangup_stays_ignored_and_broken_pipes_end_writers() {
    let script = "trap '' HUP; exec \"$@\"";
    let mut nohup = command(
        User::Nobody,
        &[],
        &["grep", "-E", "SigIgn|SigBlk", "/proc/self/status"],
    );
    let inner: Vec<_> = std::iter::once(nohup.get_program().to_owned())
        .chain(nohup.get_args().map(ToOwned::to_owned))
        .collect();
    nohup = std::process::Command::new("sh");
    nohup.args(["-c", script, "sh"]).args(inner);
    let seen = crate::support::checked(crate::support::output(nohup));
    let field = |name: &str| {
        let line = seen.lines().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    // The C library keeps 32 and 33 for itself, and a runner may have left them ignored.
    assert_eq!(
        field("SigIgn") & 0x7fff_ffff,
        1,
        "only HUP is ignored, PIPE is not: {seen}"
    );
    assert_eq!(field("SigBlk"), 0, "nothing is blocked: {seen}");
}

/// Runs an interactive shell with job control on a terminal, as a person does.
#[test]
fn ctrl_z_stops_the_command_and_the_shell_sees_it() {
    let bare = crate::support::bare().to_str().unwrap();
    let drop = if crate::support::is_root() {
        "setpriv --reuid 65534 --regid 65534 --clear-groups "
    } else {
        ""
    };
    let script = format!(
        r#"
import os, pty, select, time, sys
pid, fd = pty.fork()
if pid == 0:
    os.chdir('/tmp')
    os.execv('/bin/bash', ['bash', '--norc', '--noediting', '-i'])
seen = b''
def expect(text, seconds=50):
    global seen
    end = time.time() + seconds
    while text not in seen:
        left = end - time.time()
        if left <= 0: sys.exit('no %r in %r' % (text, seen))
        if select.select([fd], [], [], left)[0]: seen += os.read(fd, 4096)
    seen = seen[seen.index(text) + len(text):]
def say(text): os.write(fd, text)
say(b"PS1='pro''mpt> '; stty -echo\n"); expect(b'prompt> ')
say(b"{drop}{bare} -- sh -c 'echo be''gun; exec cat'\n"); expect(b'begun')
say(b'ping\n'); expect(b'ping')
say(b'\x1a'); expect(b'Stopped'); expect(b'prompt> ')
say(b'fg\n'); expect(b'{bare}'); say(b'again\n'); expect(b'again')
say(b'\x03'); expect(b'prompt> ')
say(b'echo code $?\n'); expect(b'code 130')
say(b"{drop}{bare} -- bash --norc -i -c 'tty >/dev/null && echo in''teractive'\n"); expect(b'interactive'); expect(b'prompt> ')
say(b"{drop}{bare} -- bash --norc --noediting -i\n"); time.sleep(0.5)
say(b"exit 5\n"); expect(b'prompt> '); say(b'echo code $?\n'); expect(b'code 5')
say(b'cat\n'); say(b'still mine\n'); expect(b'still mine'); say(b'\x04'); expect(b'prompt> ')
print('fine')
"#
    );
    let mut child = std::process::Command::new(crate::support::PYTHON);
    child.args(["-c", &script]);
    assert_eq!(
        crate::support::checked(crate::support::output(child)),
        "fine\n"
    );
}

#[test]
fn a_pipelines_neighbours_are_not_disturbed() {
    let bare = crate::support::bare().to_str().unwrap();
    let mut shell = std::process::Command::new("sh");
    shell.args([
        "-c",
        &format!("yes | {bare} -- head -1 | cat; echo x | {bare} -- cat"),
    ]);
    assert_eq!(
        crate::support::checked(crate::support::output(shell)),
        "y\nx\n"
    );
}

#[test]
fn two_sandboxes_at_once_do_not_meet() {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(|| {
                python(
                    User::Nobody,
                    &[],
                    "import socket, time\nl = socket.socket(); l.bind(('10.0.2.15', 4444)); l.listen()\n\
                     time.sleep(0.2); l.setblocking(False)\n\
                     try: l.accept(); print('met')\nexcept BlockingIOError: print('alone')",
                )
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), "alone\n");
    }
}

#[test]
fn a_killed_first_process_ends_the_run_with_an_error() {
    let mark = mark();
    let mut child = Killed(
        command(User::Nobody, &[], &["sleep", &mark])
            .spawn()
            .unwrap(),
    );
    until("the command", || marked_process(&mark).is_some());
    let command = marked_process(&mark).unwrap();
    let stat = fs::read_to_string(format!("/proc/{command}/stat")).unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let first: i32 = after.split_whitespace().nth(1).unwrap().parse().unwrap();
    // SAFETY: the sandbox of this test's own child.
    unsafe { libc::kill(first, libc::SIGKILL) };
    let status = child.0.wait().unwrap();
    assert!(
        status.code().is_some_and(|code| code != 0) || status.signal().is_some(),
        "{status:?}"
    );
    assert_eq!(marked_process(&mark), None);
}
