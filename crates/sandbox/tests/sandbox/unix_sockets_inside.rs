//! Unix sockets that programs make inside work like anywhere, and those that are let in are reached.

use std::path::Path;

use crate::support::{PYTHON, User, bare, checked, is_root, python, run, users};
use crate::unix_sockets::{Service, TRIES};

/// What programs do with sockets of their own.
const OWN: &str = r#"
import array, os, socket, struct, subprocess, sys, tempfile, threading, multiprocessing.connection as mp
os.chdir(tempfile.mkdtemp())
def connect(path, kind=socket.SOCK_STREAM):
    client = socket.socket(socket.AF_UNIX, kind); client.connect(path); return client
def listen(path, kind=socket.SOCK_STREAM, backlog=5):
    server = socket.socket(socket.AF_UNIX, kind); server.bind(path); server.listen(backlog); return server
def user_of(end): return struct.unpack('3i', end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
def check(bound, asked, kind=socket.SOCK_STREAM):
    server = listen(bound, kind); client = connect(asked, kind); client.sendall(b'hello')
    peer, _ = server.accept()
    assert peer.recv(9) == b'hello'
    assert user_of(client) == (os.getpid(), os.getuid(), os.getgid()), user_of(client)
    assert user_of(peer)[0] > 0 and user_of(peer)[1:] == (os.getuid(), os.getgid()), user_of(peer)
    client.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))])
    assert len(socket.recv_fds(peer, 9, 1)[1]) == 1
    assert client.getpeername() == server.getsockname()
check('plain', 'plain'); check('packets', 'packets', socket.SOCK_SEQPACKET)
check(os.getcwd() + '/absolute', 'absolute'); check('\0abstract', '\0abstract')
os.symlink('linked', 'link'); check('linked', 'link')
here = os.open('.', os.O_RDONLY)
for prefix in '/proc/self/fd/%d/' % here, '/dev/fd/%d/' % here, '/proc/self/cwd/', '/proc/%d/cwd/' % os.getpid():
    name = 'p%d' % len(prefix); check(name, prefix + name)
server = listen('moved'); os.rename('moved', 'new place'); connect('new place')
os.link('new place', 'second'); connect('second')
# Refusals are what they are outside.
def fails(path, error):
    try: connect(path)
    except OSError as seen: assert type(seen) is error, seen
    else: assert False, path
fails('missing', FileNotFoundError); open('file', 'w'); fails('file', ConnectionRefusedError); listen('dead').close(); fails('dead', ConnectionRefusedError); fails('file/x', NotADirectoryError)
# A full listener: who waits waits, who does not is told, and others are served meanwhile.
full = listen('full', backlog=0); first = connect('full')
second = socket.socket(socket.AF_UNIX); second.setblocking(False)
try: second.connect('full'); assert False
except BlockingIOError: pass
third = socket.socket(socket.AF_UNIX)
waits = threading.Thread(target=third.connect, args=('full',)); waits.start()
limited = socket.socket(socket.AF_UNIX); limited.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 0, 50000))
try: limited.connect('full'); assert False
except BlockingIOError: pass
check('other', 'other')
assert waits.is_alive(); full.accept(); waits.join(10); assert not waits.is_alive()
# A program that has bound but does not listen yet is waited for a moment.
slow = socket.socket(socket.AF_UNIX); slow.bind('slow')
threading.Timer(0.04, slow.listen).start(); connect('slow')
# A signal ends the wait, and so does another's listener for TCP that is full.
import signal, time
def over(*_): raise InterruptedError
signal.signal(signal.SIGALRM, over)
busy = socket.socket(); busy.bind(('127.0.0.1', 0)); busy.listen(0)
held = [socket.socket() for _ in range(4)]
for one in held: one.setblocking(False); one.connect_ex(busy.getsockname())
for kind, address in (socket.AF_UNIX, 'full'), (socket.AF_INET, busy.getsockname()):
    begin = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try: socket.socket(kind).connect(address); assert False
    except InterruptedError: pass
    assert 0.2 < time.monotonic() - begin < 20
with mp.Listener('mp', 'AF_UNIX') as listener:
    threading.Thread(target=lambda: listener.accept().send('message')).start()
    assert mp.Client('mp').recv() == 'message'
# Namespaces made inside: the network's does not matter, and a bind mount shows the same file.
for how in ['unshare', '-Urn'], ['unshare', '-Urm'], ['unshare', '-Urmpf']:
    name = 'inner' + how[1]
    inner = subprocess.Popen([*how, sys.executable, '-c', 'import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]);'
        's.listen(); print(1, flush=True); s.accept()[0].sendall(b"from further inside")', name], stdout=subprocess.PIPE)
    inner.stdout.readline()
    assert connect(name).recv(99) == b'from further inside'
outer = listen('outer')
for how, place in (['unshare', '-Ur'], 'outer'), (['unshare', '-Urm', 'sh', '-c', 'mount --bind "$PWD" /mnt && exec "$@"', 'sh'], '/mnt/outer'):
    subprocess.run([*how, sys.executable, '-c', 'import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])', place], check=True)
# TCP as before: refused, accepted, not waited for.
tcp = socket.create_server(('127.0.0.1', 0)); socket.create_connection(tcp.getsockname()); tcp.accept()
later = socket.socket(); later.setblocking(False)
try: later.connect(tcp.getsockname())
except BlockingIOError: pass
tcp.accept()
udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(('127.0.0.1', 0))
sender = socket.socket(type=socket.SOCK_DGRAM); sender.connect(udp.getsockname()); sender.send(b'x'); assert udp.recv(9) == b'x'
libc = __import__('ctypes').CDLL(None, use_errno=True)
errno_of = lambda *a: (libc.connect(*a), __import__('ctypes').get_errno())[1]
assert errno_of(999, b'x' * 16, 16) == 9 and errno_of(0, b'x' * 16, 16) == 88, 'EBADF, ENOTSOCK'
assert errno_of(later.fileno(), 1, 16) == 14 and errno_of(later.fileno(), b'x' * 16, -1) == 22, 'EFAULT, EINVAL'
print('all')
"#;

#[test]
fn sockets_that_are_made_inside_work_as_anywhere() {
    for user in users() {
        let seen = python(user, &["--unix-sockets", "supervised"], OWN);
        assert_eq!(seen, "all\n", "{user:?}");
    }
}

#[test]
fn root_inside_is_whoever_it_has_become_to_its_peers() {
    if !is_root() {
        return;
    }
    let script = r#"
import os, socket, struct, tempfile
os.chdir(tempfile.mkdtemp()); os.chmod('.', 0o755); os.umask(0)
def listen(path, mode, group=0):
    server = socket.socket(socket.AF_UNIX); server.bind(path); os.chown(path, 0, group); os.chmod(path, mode); server.listen(); return server
server, closed, group = listen('open', 0o666), listen('closed', 0o600), listen('group', 0o660, 777)
def become(user):
    if os.fork(): return os.wait()
    os.setgroups([777, 888]); os.setresgid(user, user, user); os.setresuid(user, user, user)
    for path in 'open', 'closed', 'group':
        try: socket.socket(socket.AF_UNIX).connect(path); print(user, path, 'fine', flush=True)
        except PermissionError: print(user, path, 'refused', flush=True)
    os._exit(0)
for user in 1234, 0, 4321:
    become(user)
    print(struct.unpack('3i', server.accept()[0].getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:], flush=True)
"#;
    let seen = python(User::Caller, &["--unix-sockets", "supervised"], script);
    let expected: String = [(1234, "refused"), (0, "fine"), (4321, "refused")]
        .iter()
        .map(|(id, closed)| {
            format!("{id} open fine\n{id} closed {closed}\n{id} group fine\n({id}, {id})\n")
        })
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_socket_that_is_let_in_is_reached_and_no_other() {
    let masked = Path::new("/run/portcullis-test-let-in");
    for user in users() {
        // Only root can make a socket in the folder that is masked.
        for in_run in [false, true]
            .into_iter()
            .filter(|below| !below || is_root())
        {
            let mut service = Service::start();
            service.tell("bind other");
            let path = if in_run {
                let _ = std::fs::remove_dir_all(masked);
                std::fs::create_dir(masked).unwrap();
                masked.join("agent").to_str().unwrap().to_owned()
            } else {
                service.path("agent")
            };
            service.tell(&format!("bind {path}"));
            let options = ["--unix-socket", &path, "--unix-sockets", "supervised"];
            let words = [PYTHON, "-c", TRIES, &path, &service.path("other")];
            let seen = checked(run(user, &options, &words));
            let lines: Vec<&str> = seen.lines().collect();
            assert!(lines[0].starts_with("REACHED E"), "{user:?}: {seen}");
            assert!(!lines[1].contains("REACHED"), "{user:?}: {seen}");
            let options = ["--unix-socket", &path, "--unix-sockets", "none"];
            let refused = run(user, &options, &["true"]);
            assert_eq!(refused.status.code(), Some(125), "{refused:?}");
        }
        let _ = std::fs::remove_dir_all(masked);
        let no_socket = run(user, &["--unix-socket", "/etc/passwd"], &["true"]);
        assert_eq!(no_socket.status.code(), Some(125), "{no_socket:?}");
    }
}

#[test]
fn a_sandbox_in_a_sandbox_has_pairs_of_sockets_and_reaches_nothing_outside_itself() {
    let inner = r#"
import errno, socket
a, b = socket.socketpair(); a.send(b'through'); print(b.recv(9))
try: socket.socket(socket.AF_UNIX).connect('outer'); print('REACHED')
except OSError as error: print(errno.errorcode[error.errno])
tcp = socket.create_server(('127.0.0.1', 0)); socket.create_connection(tcp.getsockname()); print(tcp.accept() and 'tcp')
"#;
    let script = r#"
import os, socket, subprocess, sys, tempfile
os.chdir(tempfile.mkdtemp())
server = socket.socket(socket.AF_UNIX); server.bind('outer'); server.listen()
print(subprocess.run([sys.argv[1], '--', sys.executable, '-c', sys.argv[2]], stdout=subprocess.PIPE, text=True).stdout, end='')
"#;
    let words = [PYTHON, "-c", script, bare().to_str().unwrap(), inner];
    let seen = checked(run(User::Nobody, &[], &words));
    assert_eq!(seen, "b'through'\nEAFNOSUPPORT\ntcp\n");
}
