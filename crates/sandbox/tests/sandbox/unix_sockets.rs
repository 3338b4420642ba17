//! Attacks by Unix sockets with a path: none leads to a program of the host, as root too.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{
    Killed, LIMIT, PYTHON, User, checked, command, folder, output, python, run, until, users,
};

/// The ways in which the sandbox keeps the host's sockets out on this kernel.
const WAYS: [&str; 2] = ["supervised", "none"];

/// A service of the host: it takes down each visitor, and does what standard input says.
const SERVICE: &str = r#"
import os, socket, sys, threading
os.umask(0)
def visited():
    with open('visitors', 'a') as file: file.write('x')
def serve(server):
    while True:
        visitor, _ = server.accept()
        visited()
        try: visitor.sendall(b'at your service')
        except OSError: pass
        visitor.close()
def bind(path):
    for kind, end in (socket.SOCK_STREAM, ''), (socket.SOCK_SEQPACKET, '.packets'):
        server = socket.socket(socket.AF_UNIX, kind)
        server.bind(path + end); server.listen(64)
        threading.Thread(target=serve, args=(server,), daemon=True).start()
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.bind(path + '.datagrams')
    threading.Thread(target=lambda: (datagrams.recv(9), visited()), daemon=True).start()
for line in sys.stdin:
    what, *names = line.split()
    {'bind': bind, 'rename': os.rename, 'link': os.link}[what](*names)
    print('done', flush=True)
"#;

/// A service with its own folder.
pub struct Service {
    folder: tempfile::TempDir,
    child: Killed,
    answers: BufReader<std::process::ChildStdout>,
}

impl Service {
    pub fn start() -> Self {
        Self::of(Command::new(PYTHON))
    }

    /// The same in a network namespace of its own, as in a container.
    fn in_a_namespace() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", PYTHON]);
        Self::of(unshare)
    }

    fn of(mut python: Command) -> Self {
        let folder = folder();
        let child = python
            .args(["-c", SERVICE])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child: Child = child.unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self {
            folder,
            child: Killed(child),
            answers,
        }
    }

    pub fn tell(&mut self, order: &str) {
        let stdin = self.child.0.stdin.as_mut().unwrap();
        writeln!(stdin, "{order}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{order}");
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn visitors(&self) -> usize {
        std::fs::read(self.path("visitors")).map_or(0, |file| file.len())
    }
}

/// Tries every kind of socket at some paths; prints what did not fail, or how it failed.
pub const TRIES: &str = r#"
import errno, socket, sys
def attempt(kind, path):
    try:
        client = socket.socket(socket.AF_UNIX, kind)
        client.settimeout(20)
        client.connect(path)
        return 'REACHED'
    except OSError as error:
        return errno.errorcode[error.errno]
for path in sys.argv[1:]:
    print(attempt(socket.SOCK_STREAM, path), attempt(socket.SOCK_SEQPACKET, path + '.packets'),
          attempt(socket.SOCK_DGRAM, path + '.datagrams'))
"#;

#[test]
fn a_socket_file_that_nobody_serves_is_refused_as_anywhere() {
    let folder = folder();
    let dead = folder.path().join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    std::fs::set_permissions(&dead, std::fs::Permissions::from_mode(0o777)).unwrap();
    for user in users() {
        let words = [PYTHON, "-c", TRIES, dead.to_str().unwrap()];
        let seen = checked(run(user, &["--unix-sockets", "supervised"], &words));
        assert_eq!(seen, "ECONNREFUSED ENOENT ESOCKTNOSUPPORT\n", "{user:?}");
    }
}

fn each() -> Vec<(User, &'static str)> {
    let users = users().into_iter();
    users.flat_map(|user| WAYS.map(|way| (user, way))).collect()
}

#[test]
fn a_service_of_the_host_is_out_of_reach_in_another_network_namespace_moved_or_linked() {
    for mut service in [Service::start(), Service::in_a_namespace()] {
        for order in ["bind agent", "bind moved", "rename moved elsewhere"] {
            service.tell(order);
        }
        service.tell("bind linked");
        service.tell("link linked second");
        let paths = ["agent", "elsewhere", "second"].map(|name| service.path(name));
        // Outside it answers: the test would see a hole.
        let mut outside = Command::new(PYTHON);
        outside.args(["-c", TRIES]).args(&paths[..1]);
        assert_eq!(checked(output(outside)), "REACHED REACHED REACHED\n");
        until("both visits are taken down", || service.visitors() == 2);
        for (user, way) in each() {
            let mut words = vec![PYTHON, "-c", TRIES];
            words.extend(paths.iter().map(String::as_str));
            let seen = checked(run(user, &["--unix-sockets", way], &words));
            let expected = match way {
                "none" => "EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT",
                _ => "EACCES EACCES ESOCKTNOSUPPORT",
            };
            assert_eq!(seen.lines().next(), Some(expected), "{user:?} {way}");
            assert!(!seen.contains("REACHED"), "{user:?} {way}: {seen}");
        }
        assert_eq!(service.visitors(), 2);
    }
}

#[test]
fn a_socket_that_is_bound_after_the_start_is_out_of_reach() {
    let mut service = Service::start();
    for (number, (user, way)) in each().into_iter().enumerate() {
        let path = service.path(&format!("later{number}"));
        let script = format!(
            "import os, time\nprint('stands', flush=True)\n\
             while not os.path.exists('{path}.datagrams'): time.sleep(0.01)\n{TRIES}"
        );
        let words = [PYTHON, "-c", &script, &path];
        let mut inside = command(user, &["--unix-sockets", way], &words);
        let mut child = inside.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "stands");
        service.tell(&format!("bind later{number}"));
        let seen = lines.next().unwrap().unwrap();
        assert!(
            seen.starts_with("EA") && !seen.contains("REACHED"),
            "{way}: {seen}"
        );
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(service.visitors(), 0);
}

/// Every way to write a path, in nested namespaces too.
const SPELLINGS: &str = r#"
import ctypes, errno, os, socket, subprocess, sys, threading
folder, = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
seen = []
def attempt(what, path, length=None):
    # The address by hand: Python would refuse some.
    client = socket.socket(socket.AF_UNIX)
    address = (1).to_bytes(2, sys.byteorder) + path
    if libc.connect(client.fileno(), address, length or len(address)) == 0: print('REACHED', what)
    else: seen.append((errno.errorcode[ctypes.get_errno()], what))
agent = folder.encode() + b'/agent'
attempt('plain', agent); attempt('with NUL', agent + b'\0'); attempt('garbage behind', agent + b'\0' * 50 + b'x' * 58, 110)
missing = 108 - len(agent)
attempt('108 bytes without NUL', folder.encode() + b'/' * missing + b'/agent')
attempt('as many bytes as an IPv6 address', b'/' * 4 + agent, 28)
os.chdir(folder)
attempt('relative', b'agent'); attempt('16 bytes', b'/' * 0 + b'./' + b'/' * 6 + b'agent\0')
attempt('28 bytes', b'./' + b'/' * 18 + b'agent\0')
os.chdir('/tmp'); attempt('up and down', b'../' * 9 + agent[1:])
here = os.open(folder, os.O_RDONLY)
for prefix in '/proc/self/fd/%d', '/proc/thread-self/fd/%d', '/dev/fd/%d', '/proc/%d/fd/%%d' % os.getpid():
    attempt(prefix, (prefix % here).encode() + b'/agent')
os.chdir('/')
for root in '/proc/self/root', '/proc/%d/root' % os.getpid(), '/proc/1/root', '/proc/2/root', '/proc/self/cwd':
    attempt(root, root.encode() + agent)
attempt('the file itself', b'/proc/self/fd/%d' % os.open(folder + '/agent', os.O_PATH))
own = folder + '/own%d' % os.getuid()
os.mkdir(own)
os.symlink(folder + '/agent', own + '/symbolic'); attempt('symbolic', (own + '/symbolic').encode())
try: os.link(folder + '/agent', own + '/hard'); attempt('hard', (own + '/hard').encode())
except OSError: pass
try: os.rename(folder + '/agent', own + '/moved'); attempt('moved', (own + '/moved').encode()); os.rename(own + '/moved', folder + '/agent')
except OSError: pass
thread = threading.Thread(target=attempt, args=('a thread', agent)); thread.start(); thread.join()
if os.fork() == 0:
    attempt('a child', agent); os._exit(0)
os.wait()
nested = "import socket\ntry: socket.socket(socket.AF_UNIX).connect('%s/agent'); print('REACHED')\nexcept OSError: print('refused')"
for how in (['unshare', '-Ur'], ['unshare', '-Urm'], ['unshare', '-Urn'], ['unshare', '-Urmnpf'],
            ['unshare', '-Ur', 'chroot', '/'], ['unshare', '-Urm', 'sh', '-c', 'mount --bind %s /mnt && exec "$@"' % folder, 'sh']):
    for place in [folder] + ['/mnt'] * ('--bind' in str(how)):
        done = subprocess.run(how + [sys.executable, '-c', nested % place], capture_output=True, text=True)
        if done.stdout != 'refused\n': print(how, place, done)
print(len(seen) >= 20, [seen for seen in seen if seen[0] != 'EACCES' and seen[1] not in ('/proc/1/root', '/proc/2/root', 'as many bytes as an IPv6 address')])
"#;

#[test]
fn no_spelling_of_a_path_and_no_namespace_reaches_a_service_of_the_host() {
    let mut service = Service::start();
    service.tell("bind agent");
    for user in users() {
        let place = service.folder.path().to_str().unwrap();
        let words = [PYTHON, "-c", SPELLINGS, place];
        let seen = checked(run(user, &["--unix-sockets", "supervised"], &words));
        assert_eq!(seen, "True []\n", "{user:?}");
    }
    assert_eq!(service.visitors(), 0);
}

/// Exchanges descriptor, address, link and folder while calls are looked at.
const RACES: &str = r#"
import ctypes, os, socket, sys, tempfile, threading, time
agent, seconds = sys.argv[1].encode(), float(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(tempfile.mkdtemp())
own = socket.socket(socket.AF_UNIX); own.bind('own'); own.listen(4096)
tcp = socket.socket(); tcp.bind(('127.0.0.1', 0)); tcp.listen(4096)
inet = (2).to_bytes(2, sys.byteorder) + tcp.getsockname()[1].to_bytes(2, 'big') + bytes([127, 0, 0, 1]) + bytes(8)
unix = lambda path: (1).to_bytes(2, sys.byteorder) + path + b'\0' * (108 - len(path))
bait, prey = unix(os.getcwd().encode() + b'/own'), unix(agent)
address = ctypes.create_string_buffer(bait, 110)
end = time.monotonic() + seconds
reached, tries, fine = [], [0], [0]
def accept(server):
    server.settimeout(0.2)
    while time.monotonic() < end:
        try: server.accept()[0].close()
        except OSError: pass
def flip_memory():
    while time.monotonic() < end:
        ctypes.memmove(address, prey, 110); ctypes.memmove(address, bait, 110)
        ctypes.memmove(address, inet, 16); ctypes.memmove(address, prey, 110)
def flip_links():
    while time.monotonic() < end:
        for target in agent, b'own':
            os.symlink(target, b'new'); os.rename(b'new', b'link')
def flip_descriptor():
    # One number that is a TCP socket now and a Unix socket then.
    while time.monotonic() < end:
        with socket.socket() as one, socket.socket(socket.AF_UNIX) as other:
            for _ in range(20):
                os.dup2(one.fileno(), 200); os.dup2(other.fileno(), 200)
            check(other)
def check(client):
    try: peer = client.getpeername()
    except OSError: return
    if 'agent' in str(peer): reached.append(peer)
    else: fine[0] += 1
def connect(how):
    while time.monotonic() < end:
        tries[0] += 1
        with socket.socket(socket.AF_UNIX) as client:
            if how == 'memory': libc.connect(client.fileno(), address, 110)
            elif how == 'descriptor': libc.connect(200, prey, 110); libc.connect(200, address, 16)
            else: libc.connect(client.fileno(), unix(b'link'), 110)
            check(client)
os.symlink('own', 'link')
threads = [threading.Thread(target=accept, args=(server,)) for server in (own, tcp)]
threads += [threading.Thread(target=flip) for flip in (flip_memory, flip_links, flip_descriptor)]
threads += [threading.Thread(target=connect, args=(how,)) for how in ('memory', 'descriptor', 'link')]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(reached, tries[0] > 100, fine[0] > 0)
"#;

#[test]
fn exchanging_descriptor_address_or_link_during_a_connect_reaches_nothing() {
    let mut service = Service::start();
    service.tell("bind agent");
    for user in users() {
        let words = [PYTHON, "-c", RACES, &service.path("agent"), "3"];
        let seen = checked(run(user, &["--unix-sockets", "supervised"], &words));
        assert_eq!(seen, "[] True True\n", "{user:?}");
    }
    assert_eq!(service.visitors(), 0);
}

/// Makes a socket of its own, gives its file's number up, and tries what has the number next.
const REUSED: &str = r#"
import os, socket, sys
os.chdir(sys.argv[1])
for _ in range(30):
    mine = socket.socket(socket.AF_UNIX); mine.bind('mine'); mine.listen()
    socket.socket(socket.AF_UNIX).connect('mine')
    mine.close(); os.unlink('mine')
    print('free', flush=True); sys.stdin.readline()
    try: socket.socket(socket.AF_UNIX).connect('theirs'); print('REACHED', flush=True)
    except PermissionError: print('refused', flush=True)
    sys.stdin.readline()
"#;

#[test]
fn the_number_of_a_socket_file_that_is_gone_stands_for_nothing() {
    let folder = folder();
    let theirs = folder.path().join("theirs");
    for user in users() {
        let words = [PYTHON, "-c", REUSED, folder.path().to_str().unwrap()];
        let mut inside = command(user, &["--unix-sockets", "supervised"], &words);
        let inside = inside.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut inside = inside.spawn().unwrap();
        let mut input = inside.stdin.take().unwrap();
        let mut lines = BufReader::new(inside.stdout.take().unwrap()).lines();
        for _ in 0..30 {
            assert_eq!(lines.next().unwrap().unwrap(), "free", "{user:?}");
            let _listener = UnixListener::bind(&theirs).unwrap();
            let all = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(&theirs, all).unwrap();
            writeln!(input).unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), "refused", "{user:?}");
            std::fs::remove_file(&theirs).unwrap();
            writeln!(input).unwrap();
        }
        assert!(inside.wait().unwrap().success());
    }
}

#[test]
fn a_sandbox_passes_no_descriptor_to_another() {
    let folder = folder();
    let path = folder.path().join("hand-over").to_str().unwrap().to_owned();
    let give = format!(
        "import os, socket\nos.umask(0)\ns = socket.socket(socket.AF_UNIX); s.bind({path:?}); s.listen()\n\
         print('ready', flush=True)\ns.settimeout(3)\n\
         try: print('REACHED', s.accept())\nexcept TimeoutError: print('alone')"
    );
    for user in users() {
        let mut giver = command(user, &[], &[PYTHON, "-c", &give]);
        let mut giver = giver.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(giver.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let taker = run(user, &[], &[PYTHON, "-c", TRIES, &path]);
        assert!(checked(taker).starts_with("EACCES "), "{user:?}");
        assert_eq!(lines.next().unwrap().unwrap(), "alone", "{user:?}");
        giver.wait().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_listener_of_the_host_is_not_the_programs_by_a_connection_that_it_accepted() {
    let folder = folder();
    let path = folder.path().join("service");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let script = format!(
        "import ctypes, socket\nlibc = ctypes.CDLL(None)\nlibc.listen(0, 5)\n\
         socket.socket(fileno=0).shutdown(socket.SHUT_RDWR); libc.listen(0, 5)\n\
         try: socket.socket(socket.AF_UNIX).connect({path:?}); print('REACHED')\n\
         except PermissionError: print('refused')"
    );
    for user in users() {
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let mut inside = command(
            user,
            &["--unix-sockets", "supervised"],
            &[PYTHON, "-c", &script],
        );
        inside.stdin(Stdio::from(std::os::fd::OwnedFd::from(accepted)));
        assert_eq!(checked(output(inside)), "refused\n", "{user:?}");
    }
}

#[test]
fn folders_full_of_socket_files_keep_nobody_from_starting() {
    let folder = folder();
    let mut service = Service::start();
    service.tell("bind agent");
    for number in 0..4_300 {
        // Nobody listens on these.
        let path = folder.path().join(number.to_string());
        drop(UnixListener::bind(path).unwrap());
    }
    let _one = UnixListener::bind(folder.path().join("listens")).unwrap();
    for number in 0..66_000 {
        let path = folder.path().join(format!("file{number}"));
        std::fs::File::create(path).unwrap();
    }
    for (user, way) in each() {
        let start = Instant::now();
        let words = [PYTHON, "-c", TRIES, &service.path("agent")];
        let seen = checked(run(user, &["--unix-sockets", way], &words));
        assert!(
            seen.starts_with("EA") && !seen.contains("REACHED"),
            "{way}: {seen}"
        );
        assert!(start.elapsed() < Duration::from_secs(20), "{way}");
    }
}

#[test]
fn the_supervisors_end_is_the_sandboxs() {
    // Where a signal gets through to it at all.
    let script = "import os, signal, time\n\
        try: os.kill(2, signal.SIGKILL)\n\
        except PermissionError: print('refused'); raise SystemExit\n\
        time.sleep(60)";
    for user in users() {
        let start = Instant::now();
        let seen = run(
            user,
            &["--unix-sockets", "supervised"],
            &[PYTHON, "-c", script],
        );
        let held = seen.stdout == b"refused\n" || !seen.status.success();
        assert!(held && start.elapsed() < LIMIT / 2, "{user:?}: {seen:?}");
    }
}

/// The supervisor is a process inside, with powers over the program: the program has none over it.
#[test]
fn the_supervisor_cannot_be_looked_at_or_entered() {
    let script = r#"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(open('/proc/2/comm').read().strip() != '', libc.ptrace(16, 2, 0, 0), libc.syscall(438, libc.syscall(434, 2, 0), 3, 0))
for name in 'mem', 'environ', 'maps', 'fd/3', 'root', 'cwd':
    try: os.stat('/proc/2/' + name) if '/' in name else open('/proc/2/' + name); print('opened', name)
    except OSError: pass
"#;
    for user in users() {
        let seen = python(user, &["--unix-sockets", "supervised"], script);
        assert_eq!(seen, "True -1 -1\n", "{user:?}");
    }
}

#[test]
fn abstract_sockets_of_the_host_are_out_of_reach() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("portcullis-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "import socket\ntry: socket.socket(socket.AF_UNIX).connect('\\0{name}'); print('connected')\n\
         except ConnectionRefusedError: print('refused')"
    );
    assert_eq!(python(User::Nobody, &[], &script), "refused\n");
}
