//! Attacks on what the sandbox's processes tell each other: floods of news, and processes that are
//! stopped and read none. Whoever ends first, everything inside ends within a second, and the time
//! limit holds.

use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{
    Killed, PYTHON, User, command, folder, mark, marked_process, output, until, users,
};

/// A grandchild stops and continues the command so often (0 is for ever), whose sleeping child has a
/// mark; then the command ends with code 7.
const STORM: &str = "
import os, signal, subprocess, sys, time
many, command = int(sys.argv[1]), os.getpid()
marked = subprocess.Popen(['sleep', sys.argv[2]])
storm = os.fork()
if storm == 0:
    count = 0
    while count < many or many == 0:
        os.kill(command, signal.SIGSTOP); os.kill(command, signal.SIGCONT); count += 1
    os._exit(0)
while os.waitpid(-1, os.WNOHANG)[0] != storm: time.sleep(0.001)
os._exit(7)
";

/// Makes orphans, faster than anybody reaps them, for ever.
const ORPHANS: &str = "
import os, subprocess, sys
marked = subprocess.Popen(['sleep', sys.argv[2]])
while True:
    child = os.fork()
    if child == 0:
        for _ in range(20):
            if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
";

const TIMED_OUT: i32 = 124;
/// How soon the first process ends when another one has, apart from what it waits for a processor.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How soon everything inside has ended then, with time for a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// The flag of a process that is ending, in its `/proc/PID/stat` (`PF_EXITING`).
const EXITING: u64 = 4;

#[test]
fn a_command_that_is_stopped_and_continued_ten_thousand_times_keeps_its_exit_code() {
    for user in users() {
        let mut inside = command(user, &[], &[PYTHON, "-c", STORM, "10000", &mark()]);
        inside.process_group(0);
        assert_eq!(output(inside).status.code(), Some(7), "{user:?}");
    }
}

#[test]
fn floods_of_news_do_not_stop_the_time_limit() {
    for (script, user) in [STORM, ORPHANS]
        .into_iter()
        .zip(users().into_iter().cycle())
    {
        let mark = mark();
        let options = ["--timeout-ms", "700"];
        let mut inside = command(user, &options, &[PYTHON, "-c", script, "0", &mark]);
        inside.process_group(0);
        let start = Instant::now();
        let ended = output(inside);
        assert_eq!(ended.status.code(), Some(TIMED_OUT), "{user:?}: {ended:?}");
        assert!(start.elapsed() < SOON * 2);
        assert_eq!(marked_process(&mark), None, "{user:?}");
    }
}

/// A sandbox in a flood, with the process id of its gateway.
struct Flooded {
    run: Killed,
    gateway: i32,
    mark: String,
    _folder: tempfile::TempDir,
}

impl Flooded {
    fn start(user: User, options: &[&str], script: &str) -> Self {
        let (mark, folder) = (mark(), folder());
        let pid_file = folder.path().join("pid");
        let mut options = options.to_vec();
        options.extend(["--pid-file", pid_file.to_str().unwrap()]);
        let mut inside = command(user, &options, &[PYTHON, "-c", script, "0", &mark]);
        inside.process_group(0).stderr(Stdio::piped());
        let run = Killed(inside.spawn().unwrap());
        until("the flood", || marked_process(&mark).is_some());
        let gateway = std::fs::read_to_string(&pid_file).unwrap();
        // The channels fill.
        std::thread::sleep(Duration::from_millis(300));
        Self {
            run,
            gateway: gateway.parse().unwrap(),
            mark,
            _folder: folder,
        }
    }

    fn parent(&self) -> i32 {
        self.run.0.id() as i32
    }

    /// Does what ends one of the processes, and waits until nothing is left inside.
    fn ends_by(&self, end: impl FnOnce()) {
        let first = self.first_process();
        let before = waited(first) + waited(own_thread());
        let start = Instant::now();
        end();
        until("the first process's end", || is_ending(first));
        let took = start.elapsed();
        let delays = waited(first) + waited(own_thread());
        let took = took.saturating_sub(delays.saturating_sub(before));
        assert!(took < AT_ONCE, "the first process went on for {took:?}");
        until("the end inside", || marked_process(&self.mark).is_none());
        assert!(start.elapsed() < SOON);
    }

    /// The sandbox's first process: the parent's child that is number 1 in its namespace.
    fn first_process(&self) -> i32 {
        let parent = self.parent();
        let children = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let mut children = children.split_whitespace();
        let is_first = |child: &&str| {
            let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
            let numbers = status.lines().find(|line| line.starts_with("NSpid:"));
            numbers.is_some_and(|line| line.ends_with("\t1"))
        };
        children.find(is_first).unwrap().parse().unwrap()
    }
}

/// How long a thread has waited for a processor, ready to run; nothing for one that is gone.
fn waited(thread: i32) -> Duration {
    let times = std::fs::read_to_string(format!("/proc/{thread}/schedstat")).unwrap_or_default();
    let waited = times.split_whitespace().nth(1);
    Duration::from_nanos(waited.map_or(0, |waited| waited.parse().unwrap()))
}

fn own_thread() -> i32 {
    // SAFETY: it has no arguments.
    unsafe { libc::gettid() }
}

/// Whether a process is ending or has ended, by the kernel's own word.
fn is_ending(process: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else {
        return true;
    };
    // Behind the name, which is in brackets: state, parent, group, session, terminal and its group, flags.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let flags: u64 = fields.split_whitespace().nth(6).unwrap().parse().unwrap();
    flags & EXITING != 0
}

fn send(process: i32, signal: i32) {
    // SAFETY: a process of this test's own.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
}

fn code(child: &mut Child) -> Option<i32> {
    child.wait().unwrap().code()
}

#[test]
fn when_the_gateway_dies_in_a_flood_everything_inside_ends_although_the_parent_stands_still() {
    for script in [STORM, ORPHANS] {
        for user in users() {
            let mut flooded = Flooded::start(user, &[], script);
            send(flooded.parent(), libc::SIGSTOP);
            flooded.ends_by(|| send(flooded.gateway, libc::SIGKILL));
            // And the parent goes on by itself. 125 would mean that the command never started.
            assert_eq!(code(&mut flooded.run.0), Some(137), "{user:?}");
        }
    }
}

#[test]
fn when_the_parent_dies_in_a_flood_everything_inside_ends_although_the_gateway_stands_still() {
    for user in users() {
        let flooded = Flooded::start(user, &[], STORM);
        send(flooded.gateway, libc::SIGSTOP);
        flooded.ends_by(|| send(flooded.parent(), libc::SIGKILL));
        // Nobody is left who would end it.
        send(flooded.gateway, libc::SIGKILL);
    }
}

#[test]
fn the_time_limit_holds_in_a_flood_with_parent_and_gateway_stopped() {
    for user in users() {
        let mut flooded = Flooded::start(user, &["--timeout-ms", "1000"], STORM);
        send(flooded.gateway, libc::SIGSTOP);
        send(flooded.parent(), libc::SIGSTOP);
        let start = Instant::now();
        assert_eq!(code(&mut flooded.run.0), Some(TIMED_OUT), "{user:?}");
        assert!(start.elapsed() < SOON * 2, "{user:?}");
        assert_eq!(marked_process(&flooded.mark), None, "{user:?}");
    }
}
