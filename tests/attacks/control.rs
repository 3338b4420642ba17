//! What a program could do to the processes that hold it, and to those of its user: control groups,
//! limits, keys, floods of stops. Whatever it tries, the network stays what the policy lists, and the
//! record is whole.

use crate::support::{Sandbox, sandbox, world};
use portcullis_testkit::World;
use std::time::{Duration, Instant};

/// Tries each way once, says which worked, then asks for a listed and an unlisted name.
const ATTACKS: &str = r#"
import ctypes, os, platform, resource, signal, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'
add, request, control = (217, 218, 219) if arm else (248, 249, 250)
def inside(script):
    return subprocess.run(['unshare', '-Urm', *script], capture_output=True).returncode == 0
worked = []
def attempt(name, done):
    if done: worked.append(name)
attempt('control group namespace', inside(['-C', 'true']))
attempt('control groups v2', inside(['mount', '-t', 'cgroup2', 'x', '/mnt']))
attempt('freezer', inside(['mount', '-t', 'cgroup', '-o', 'freezer', 'x', '/mnt']))
libc.syscall(435, 0, 0); attempt('clone3', ctypes.get_errno() != 38)
for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_AS):
    for process in (1, 2):
        try: resource.prlimit(process, which, (0, 0)); worked.append('limit')
        except OSError: pass
for ring in range(-8, 0):
    attempt('add_key', libc.syscall(add, b'user', b'left', b'x', 1, ring) >= 0)
    attempt('keyctl', libc.syscall(control, 0, ring, 1) >= 0)
    attempt('request_key', libc.syscall(request, b'user', b'left', 0, ring) >= 0)
command = os.getpid()
if os.fork() == 0:
    for _ in range(3000): os.kill(command, signal.SIGSTOP); os.kill(command, signal.SIGCONT)
    os._exit(0)
os.wait()
print('worked:', worked)
for name in ('api.example.com', 'evil.example.net'):
    print(name, subprocess.run(['getent', 'ahostsv4', name], capture_output=True).returncode)
sys.stdout.flush()
os._exit(9)
"#;

fn both<'w>(world: &'w World) -> [Sandbox<'w>; 2] {
    let allowed = || sandbox(world).allow("api.example.com");
    [allowed(), allowed().as_root()]
}

#[test]
fn control_groups_limits_keys_and_stops_change_nothing_outside() {
    let world = world();
    for run in both(&world) {
        let ran = run.python(ATTACKS);
        // Not 125: the command did start, and its own code is what counts.
        ran.assert_code(9);
        let expected = "worked: []\napi.example.com 0\nevil.example.net 2\n";
        assert_eq!(ran.out(), expected, "{ran}");
        let denials = ran
            .records
            .denials("dns", "not-in-allowlist", "evil.example.net");
        assert!(!denials.is_empty(), "{ran}");
        world.assert_never_asked("evil");
    }
}

#[test]
fn stops_without_end_do_not_hold_up_the_time_limit() {
    let world = world();
    let storm = "
import os, signal
command = os.getpid()
if os.fork() == 0:
    while True: os.kill(command, signal.SIGSTOP); os.kill(command, signal.SIGCONT)
while True: signal.pause()
";
    for run in both(&world) {
        let start = Instant::now();
        run.args(&["--timeout", "1s"])
            .python(storm)
            .assert_code(124);
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn descriptors_in_flight_leave_the_users_next_run_alone() {
    let world = world();
    let program = r#"
import array, os, socket, subprocess, sys
null = os.open('/dev/null', 0)
many = array.array('i', [null] * 253)
pairs, full = [], False
while not full:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pair[0].setblocking(False); pairs.append(pair)
    try:
        while True: pair[0].sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
    except BlockingIOError: pass
    except OSError: full = True
open('full', 'w').close()
while not os.path.exists('seen'): os.sched_yield()
"#;
    let first = sandbox(&world);
    let mut hostile = first
        .command(&["python3", "-c", program])
        .spawn()
        .expect("the first run");
    let full = world.home().join("full");
    let start = Instant::now();
    while !full.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing is full");
        std::thread::sleep(Duration::from_millis(20));
    }
    let next = sandbox(&world)
        .allow("api.example.com")
        .sh("getent ahostsv4 api.example.com");
    world.file("seen", "");
    let ended = hostile.wait();
    next.assert_ok();
    assert!(ended.is_ok_and(|status| status.success()));
}
