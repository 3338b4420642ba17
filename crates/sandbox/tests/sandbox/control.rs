//! Attacks on other processes and on what they share with the sandbox: control groups, limits,
//! priorities, signals, keys, and what the kernel counts for a user. Each as an ordinary user and as
//! root.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use crate::support::{
    Killed, PYTHON, User, bare, checked, command, folder, is_root, output, python, shell, users,
};

/// What the attacks' scripts begin with.
const PRELUDE: &str = r#"
import ctypes, errno, os, platform, resource, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    return 'done' if libc.syscall(number, *arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
def entered(flags):
    """Whether a child gets new namespaces."""
    child = os.fork()
    if child == 0:
        os._exit(0 if libc.unshare(flags) == 0 else ctypes.get_errno())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return errno.errorcode.get(code, 'entered')
arm = platform.machine() == 'aarch64'
"#;

fn attack(user: User, options: &[&str], script: &str) -> String {
    python(user, options, &format!("{PRELUDE}{script}"))
}

#[test]
fn no_control_group_namespace_is_to_be_had_and_all_others_are() {
    for user in users() {
        let seen = attack(
            user,
            &[],
            r#"
USER, CGROUP = 0x10000000, 0x02000000
print(entered(USER | CGROUP), entered(USER | 0x20000 | CGROUP))
# mount, PID, network, IPC, UTS, time
print({entered(USER | kind) for kind in (0, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x80)})
libc.unshare(USER)
print(entered(CGROUP))
"#,
        );
        let expected = "ENOSPC ENOSPC\n{'entered'}\nENOSPC\n";
        assert_eq!(seen, expected, "{user:?}");
    }
}

#[test]
fn control_groups_are_neither_mounted_anew_nor_entered_by_a_new_process() {
    for user in users() {
        let seen = attack(
            user,
            &[],
            r#"
import glob
libc.unshare(0x10000000 | 0x20000)
for kind, options in (('cgroup2', None), ('cgroup', b'freezer'), ('cgroup', b'none,name=systemd')):
    print(libc.mount(b'x', b'/mnt', kind.encode(), 0, options), errno.errorcode[ctypes.get_errno()])
# clone3 into each group that is there, through a folder that cannot be written.
for folder in glob.glob('/sys/fs/cgroup') + glob.glob('/sys/fs/cgroup/*/'):
    try: group = os.open(folder, os.O_PATH)
    except OSError: continue
    arguments = struct.pack('11Q', 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, group)
    result = call(435, arguments, len(arguments))
    if result != 'ENOSYS': print(folder, result)
"#,
        );
        let refused = "-1 EPERM\n".repeat(3);
        assert_eq!(seen, refused, "{user:?}");
    }
}

/// Runs `bare -- WORDS` as the user in mounts of its own, which a script arranges as root.
fn with_mounts(user: User, arrange: &str, words: &[&str]) -> std::process::Output {
    let inside = command(user, &[], words);
    let mut outer = Command::new("unshare");
    outer.args([
        "--mount",
        "sh",
        "-c",
        &format!("{arrange}; exec \"$@\""),
        "sh",
    ]);
    outer.arg(inside.get_program()).args(inside.get_args());
    outer.current_dir("/tmp").stdin(Stdio::null());
    output(outer)
}

#[test]
fn a_second_mount_of_the_kernels_file_systems_is_no_way_to_them() {
    if !is_root() {
        return; // Only root can mount them in other places.
    }
    let folder = folder();
    let place = folder.path().to_str().unwrap();
    let arrange = format!(
        "cd {place} && mkdir -p proc 'a sys' groups part && mount -t proc x proc && \
         mount -t sysfs x 'a sys' && mount -t cgroup2 x groups && \
         mount --bind /proc/sys part && cd /tmp"
    );
    let look = format!(
        "cd {place}; [ -w proc/sys/kernel/core_pattern ] && echo open core_pattern; \
         (: >> part/kernel/core_pattern) 2>/dev/null && echo open part; \
         for file in groups/cgroup.procs 'a sys/kernel/uevent_seqnum' 'a sys/kernel/profiling'; do \
         [ -w \"$file\" ] && echo open $file; done; \
         ls proc | grep -c '^[0-9]'; ls groups/cgroup.procs"
    );
    for user in users() {
        let seen = checked(with_mounts(user, &arrange, &["sh", "-c", &look]));
        let (count, rest) = seen.split_once('\n').unwrap();
        // The sandbox's own processes, not the host's.
        assert!(count.parse::<u32>().unwrap() <= 5, "{user:?}: {seen}");
        assert_eq!(rest, "groups/cgroup.procs\n", "{user:?}");
    }
}

#[test]
fn limits_priorities_and_processors_of_the_sandboxs_processes_cannot_be_changed() {
    for user in users() {
        let seen = attack(
            user,
            &[],
            r#"
def attempts(process):
    for name in sorted(name for name in dir(resource) if name.startswith('RLIMIT_')):
        which = getattr(resource, name)
        for limits in ((0, 0), resource.getrlimit(which)):
            try: resource.prlimit(process, which, limits); print('changed', name)
            except PermissionError: pass
    mask, zero = ctypes.c_ulong(1), ctypes.c_int(0)
    numbers = (122, 119, 118, 274, 140, 30) if arm else (203, 144, 142, 314, 141, 251)
    affinity, scheduler, parameters, attributes, priority, io = numbers
    idle = struct.pack('IIQiIQQQ', 48, 5, 0, 0, 0, 0, 0, 0)
    seen = [call(affinity, process, 8, ctypes.byref(mask)),
        call(scheduler, process, 5, ctypes.byref(zero)),
        call(parameters, process, ctypes.byref(zero)), call(attributes, process, idle, 0),
        call(priority, 0, process, 19), call(priority, 1, 0, 19), call(priority, 2, os.getuid(), 19),
        call(priority, 2, 0, 19), call(io, 1, process, 3 << 13), call(io, 2, 0, 3 << 13),
        call(io, 3, os.getuid(), 3 << 13)]
    return set(seen)
print(attempts(1) | attempts(2))
libc.unshare(0x10000000)   # with every capability over a namespace of one's own
print(attempts(1) | attempts(2))
# One's own are one's own.
resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
os.setpriority(os.PRIO_PROCESS, 0, 5); os.setpriority(os.PRIO_PROCESS, os.getpid(), 6)
os.sched_setaffinity(0, os.sched_getaffinity(0)); os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
print(os.getpriority(os.PRIO_PROCESS, 0))
"#,
        );
        assert_eq!(seen, "{'EPERM'}\n{'EPERM'}\n6\n", "{user:?}");
    }
}

#[test]
fn the_first_process_cannot_be_looked_into_or_written_to() {
    for user in users() {
        let seen = shell(
            user,
            &[],
            "for name in oom_score_adj autogroup coredump_filter mem clear_refs; do \
             (: >> /proc/1/$name) 2>/dev/null && echo open $name; done; true",
        );
        assert_eq!(seen, "", "{user:?}");
    }
}

/// Sends a signal to its own group by every call that does.
const SIGNAL_THE_GROUP: &str = "
import fcntl, os, signal, socket
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for number in (signal.SIGUSR1, signal.SIGTERM):
    for send in (lambda: os.kill(0, number), lambda: os.killpg(0, number), lambda: os.kill(-1, number)):
        try: send()
        except OSError: pass
    # And by the kernel, for input on a socket.
    one, two = socket.socketpair()
    fcntl.fcntl(one, fcntl.F_SETSIG, number) if hasattr(fcntl, 'F_SETSIG') else fcntl.fcntl(one, 10, number)
    fcntl.fcntl(one, fcntl.F_SETOWN, -os.getpgrp() or os.getpid())
    fcntl.fcntl(one, fcntl.F_SETFL, fcntl.fcntl(one, fcntl.F_GETFL) | os.O_ASYNC)
    two.send(b'x')
print('sent')
";

#[test]
fn signals_to_its_own_group_do_not_reach_the_callers_processes() {
    for user in users() {
        let inside = command(user, &[], &[PYTHON, "-c", SIGNAL_THE_GROUP]);
        // A caller in the same group, which a signal would end.
        let mut caller = Command::new("sh");
        caller.args(["-c", "\"$@\"; echo alive", "sh"]);
        caller.arg(inside.get_program()).args(inside.get_args());
        caller.process_group(0).current_dir("/tmp");
        let seen = output(caller);
        assert_eq!(seen.status.signal(), None, "{user:?}: {seen:?}");
        assert_eq!(checked(seen), "sent\nalive\n", "{user:?}");
    }
}

/// Makes a session keyring with a key, and becomes a sandbox.
const WITH_A_KEY: &str = r#"
import ctypes, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'
add, control = (217, 219) if arm else (248, 250)
libc.syscall(control, 1, 0)
key = libc.syscall(add, b'user', b'portcullis-test', b'secret', 6, -3)
assert key > 0, ctypes.get_errno()
libc.syscall(control, 5, key, 0x3f3f0000)
os.environ['KEY'] = str(key)
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// Tries every call on every keyring, and on the key by its number.
const KEY_CALLS: &str = r#"
add, request, control = (217, 218, 219) if arm else (248, 249, 250)
key = int(os.environ['KEY'])
keyrings = range(-8, 0)
seen = {call(add, b'user', b'left-behind', b'x', 1, ring) for ring in keyrings}
seen |= {call(request, b'user', b'portcullis-test', 0, ring) for ring in keyrings}
text = ctypes.create_string_buffer(64)
for which in [key, *keyrings]:
    seen |= {call(control, operation, which, text, 64, 0) for operation in range(0, 33)}
seen |= {call(control, 8, key, ring) for ring in keyrings}          # link
seen |= {call(control, 10, ring, b'user', b'portcullis-test', 0) for ring in keyrings}  # search
print(seen, text.raw.strip(b'\0'))
"#;

fn with_a_key(user: User, options: &[&str], script: &str) -> String {
    let script = format!("{PRELUDE}{script}");
    let inside = command(user, options, &[PYTHON, "-c", &script]);
    let mut outer = Command::new("sh");
    // The key is the user's own: it is made after the user has changed, just before `bare`.
    outer.args(["-c", "exec \"$@\"", "sh"]);
    for word in std::iter::once(inside.get_program()).chain(inside.get_args()) {
        if word == bare() {
            outer.args([PYTHON, "-c", WITH_A_KEY]);
        }
        outer.arg(word);
    }
    checked(output(outer))
}

#[test]
fn no_call_reaches_a_key_of_the_callers() {
    for user in users() {
        let seen = with_a_key(user, &[], KEY_CALLS);
        assert_eq!(seen, "{'ENOSYS'} b''\n", "{user:?}");
    }
}

#[test]
fn inherited_keyrings_are_the_callers_and_nothing_is_requested_of_the_host() {
    let script = r#"
add, request, control = (217, 218, 219) if arm else (248, 249, 250)
text = ctypes.create_string_buffer(6)
print(call(control, 11, int(os.environ['KEY']), text, 6, 0), text.raw,
      call(control, 10, -3, b'user', b'portcullis-test', 0), call(request, b'user', b'x', 0, -3))
"#;
    for user in users() {
        let seen = with_a_key(user, &["--keyring-inherit"], script);
        assert_eq!(seen, "done b'secret' done ENOSYS\n", "{user:?}");
    }
}

/// A user of the test's own, since the kernel counts for each user: the tests beside it would take
/// part. `limits` is given to `prlimit`.
fn own_user(id: u32, limits: &[&str], words: &[&str]) -> Command {
    let id = id.to_string();
    let mut command = Command::new("prlimit");
    command.args(limits);
    command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
    command.arg(bare()).arg("--").args(words);
    command.current_dir("/tmp").stdin(Stdio::piped());
    command
}

/// Starts an exhausting program, waits until it has used up what it can, and runs the same user's
/// next sandbox. Returns what the first one said.
fn next_run_after(id: u32, limits: &[&str], exhausting: &str) -> String {
    let script = format!("{PRELUDE}{exhausting}");
    let mut first = own_user(id, limits, &[PYTHON, "-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(first.stdout.take().unwrap());
    lines.read_line(&mut said).unwrap();
    let first = Killed(first);
    let mut next = own_user(id, limits, &["echo", "next"]);
    next.stdin(Stdio::null());
    let seen = output(next);
    assert_eq!(seen.status.code(), Some(0), "{said}: {seen:?}");
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "next\n");
    end(first);
    said
}

/// Lets it go on to its end, which the end of its input is.
fn end(mut killed: Killed) {
    let child: &mut Child = &mut killed.0;
    drop(child.stdin.take());
    let _ = child.wait();
}

/// Holds what has been taken until the test has seen the next sandbox.
const HOLD: &str = "\nimport sys; sys.stdin.read()\n";

#[test]
fn descriptors_in_flight_leave_some_for_the_users_next_sandbox() {
    if !is_root() {
        return; // Needs a user of its own.
    }
    let script = r#"
import array, socket
null = os.open('/dev/null', 0)
many = array.array('i', [null] * 253)
pairs, sent, full = [], 0, None
while full is None:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pair[0].setblocking(False); pairs.append(pair)
    try:
        while True:
            pair[0].sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)]); sent += 253
    except BlockingIOError: pass
    except OSError as error: full = errno.errorcode[error.errno]
print(full, sent, flush=True)
"#;
    for (id, limit) in [(61_101, "1024"), (61_102, "4096"), (61_103, "20000")] {
        let limits = [format!("--nofile={limit}:{limit}")];
        let said = next_run_after(id, &[&limits[0]], &format!("{script}{HOLD}"));
        assert!(said.starts_with("ETOOMANYREFS "), "{limit}: {said}");
    }
}

#[test]
fn process_ids_leave_some_for_the_users_next_sandbox() {
    if !is_root() {
        return; // Needs a user of its own.
    }
    let script = r#"
import signal
children, full = 0, None
while full is None:
    try: child = os.fork()
    except OSError as error: full = errno.errorcode[error.errno]; break
    if child == 0:
        signal.pause(); os._exit(0)
    children += 1
print(full, children, flush=True)
"#;
    let said = next_run_after(61_104, &["--nproc=400:400"], &format!("{script}{HOLD}"));
    assert!(said.starts_with("EAGAIN "), "{said}");
    let children: u32 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((300..350).contains(&children), "{said}");
}

#[test]
fn namespaces_watches_queues_and_signals_leave_some_for_the_users_next_sandbox() {
    if !is_root() {
        return; // Needs a user of its own.
    }
    // As many of each as the kernel gives; each line names what refused.
    let script = r#"
import signal, time
def until_refused(take, most=200000):
    for count in range(most):
        if (refused := take()) is not None: return refused
    return 'no end'
def inotify():
    fd = libc.inotify_init()
    return None if fd >= 0 else errno.errorcode[ctypes.get_errno()]
def queued():
    # To itself, blocked.
    value = libc.sigqueue(os.getpid(), signal.SIGRTMIN, ctypes.c_void_p(0))
    return None if value == 0 else errno.errorcode[ctypes.get_errno()]
def pipes():
    try: os.pipe()
    except OSError as error: return errno.errorcode[error.errno]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
seen = [until_refused(inotify), until_refused(queued)]
# Namespaces, each held by a descriptor.
def namespace(flag, name):
    ready, go = os.pipe(), None
    child = os.fork()
    if child == 0:
        code = 0 if libc.unshare(flag) == 0 else ctypes.get_errno()
        os.write(ready[1], bytes([code])); signal.pause()
    code = os.read(ready[0], 1)[0]
    os.close(ready[0]); os.close(ready[1])
    if code == 0: held.append(os.open(f'/proc/{child}/ns/{name}', os.O_RDONLY))
    os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
    return errno.errorcode[code] if code else None
held = []
user = os.getuid()
libc.unshare(0x10000000)
for name, text in (('setgroups', 'deny'), ('uid_map', f'{user} {user} 1'), ('gid_map', f'{user} {user} 1')):
    with open('/proc/self/' + name, 'w') as file: file.write(text)
seen.append(until_refused(lambda: namespace(0x4000000, 'uts')))
others = len(held)
seen.append(until_refused(lambda: namespace(0x10000000, 'user')))
seen.append(until_refused(pipes))
print(*seen, others, len(held) - others, flush=True)
"#;
    let limits = ["--nofile=20000:20000", "--sigpending=4000:4000"];
    let said = next_run_after(61_105, &limits, &format!("{script}{HOLD}"));
    let words: Vec<&str> = said.split_whitespace().collect();
    let expected = ["EMFILE", "EAGAIN", "ENOSPC", "ENOSPC", "EMFILE"];
    assert_eq!(words[..5], expected, "{said}");
    for held in &words[5..] {
        assert!((900..=1024).contains(&held.parse().unwrap()), "{said}");
    }
}

#[test]
fn the_command_keeps_the_callers_soft_limit_of_descriptors() {
    let mut inside = command(User::Nobody, &[], &["sh", "-c", "ulimit -Sn; ulimit -Hn"]);
    // SAFETY: only setrlimit is called between fork and exec.
    unsafe {
        inside.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 700,
                rlim_max: 4096,
            };
            match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    // The soft limit is the caller's own; the hard one is below.
    assert_eq!(checked(output(inside)), "700\n3584\n");
}
