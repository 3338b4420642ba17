"""Runs a program in a sandbox that `portcullis run` has not made: `elsewhere.py KIND PORTCULLIS ARGS... -- CMD...`.

Takes the arguments of `portcullis run` that all commands have, and ends as CMD does. KIND is `process` and `namespace`
(attached by process and by path), `daemon` (attached by process through a daemon of its own) or `guest` (behind a
device whose frames go to `vm-socket`). As in a container, CMD has no capability over its network, which is the one of
an ordinary user's `unshare`.
"""
import fcntl, json, os, select, signal, socket, struct, subprocess, sys, tempfile, threading, time

KIND, PORTCULLIS = sys.argv[1:3]
ARGS = sys.argv[3:sys.argv.index('--')]
CMD = sys.argv[sys.argv.index('--') + 1:]
PATIENCE = 60
MAC = '52:54:00:12:34:56'
PROXY, SOCKS = 'http://10.0.2.2:3128', 'socks5h://10.0.2.2:1080'
PLAIN = ['setpriv', '--no-new-privs', '--bounding-set=-all', '--inh-caps=-all', '--']
os.environ['PATH'] = os.environ['PATH'] + ':/usr/sbin:/sbin'


def option(name):
    return ARGS[ARGS.index(name) + 1] if name in ARGS else None


INSPECTS = '--policy' in ARGS and 'inspect' in open(option('--policy')).read()


def until(what, is_so):
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            sys.exit(f'elsewhere.py: not in time: {what}')
        time.sleep(0.01)


def end(process):
    process.send_signal(signal.SIGTERM)
    if process.wait(PATIENCE) != 0:
        sys.exit(f'elsewhere.py: the gateway ended with {process.returncode}')


class Sandbox:
    """CMD in namespaces of its own, waiting until somebody serves them."""

    def __init__(self, setup=''):
        ready, told = os.pipe()
        go, self.go = os.pipe()
        trust = ' [ -s "$CA" ] && cat "$CA" >>"$SSL_CERT_FILE";' if INSPECTS and setup else ''
        script = f'{setup}echo >&{told}; read x <&{go};{trust} exec {told}>&- {go}<&-; exec "$@"'
        self.process = subprocess.Popen(['unshare', '-rnm', 'bash', '-c', script, 'bash', *PLAIN, *CMD],
                                        pass_fds=[told, go], env=self.environment())
        os.close(told)
        os.close(go)
        if os.read(ready, 1) != b'\n':
            sys.exit('elsewhere.py: there is no sandbox')
        os.close(ready)
        self.pid = self.process.pid

    @staticmethod
    def environment():
        env = dict(os.environ, NO_PROXY='localhost,127.0.0.1,::1', no_proxy='localhost,127.0.0.1,::1', PORTCULLIS='1')
        for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
            env[name] = PROXY
        if INSPECTS and 'CA' not in env:
            # The sandbox's own lists of certificates are shown with the gateway's authority in them.
            for name in ('SSL_CERT_FILE', 'CURL_CA_BUNDLE'):
                env.pop(name, None)
        return env

    def run(self):
        os.write(self.go, b'\n')
        os.close(self.go)
        return self.process.wait()


def own_trust():
    """Options for a gateway that shows its sandbox no files: where to write its authority, which is then trusted."""
    if not INSPECTS:
        return []
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o755)
    trusted = f'{folder}/trusted.pem'
    with open(trusted, 'w') as out:
        out.write(open(os.environ['SSL_CERT_FILE']).read())
    os.environ.update(CA=f'{folder}/ca.pem', SSL_CERT_FILE=trusted, CURL_CA_BUNDLE=trusted)
    return ['--ca-cert', f'{folder}/ca.pem']


def gateway(*args):
    """A gateway with the arguments that are meant for it; says where it has got to on a pipe."""
    return subprocess.Popen([PORTCULLIS, *args, *ARGS], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def attached(*by):
    """Attached by these, and serving."""
    process = gateway('attach', *by)
    said = ''
    while 'portcullis: attached' not in said:
        line = process.stderr.readline()
        if not line:
            sys.exit(f'elsewhere.py: {said}')
        said += line
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return process


def by_process():
    sandbox = Sandbox()
    process = attached('--pid', str(sandbox.pid))
    return sandbox.run(), lambda: end_or_ended(process)


def by_path():
    # A namespace has no files.
    resolv_conf()
    trust = own_trust()
    sandbox = Sandbox(FILES)
    process = attached('--netns', f'/proc/{sandbox.pid}/ns/net', *trust)
    return sandbox.run(), lambda: end_or_ended(process)


def end_or_ended(process):
    """It ends by itself once its sandbox is gone."""
    if process.wait(PATIENCE) != 0:
        sys.exit(f'elsewhere.py: the gateway ended with {process.returncode}')


def policy_text():
    """The policy as one text, as a client of a daemon sends it."""
    text = open(option('--policy')).read() if '--policy' in ARGS else 'version = 1\n'
    allowed = [ARGS[at + 1] for at, word in enumerate(ARGS) if word == '--allow']
    denied = [ARGS[at + 1] for at, word in enumerate(ARGS) if word == '--deny']
    is_address = lambda target: target[0].isdigit() and '/' in target or target[0] == '['
    for kind, of_kind in (('addresses', is_address), ('domains', lambda target: not is_address(target))):
        lines = [f'{json.dumps(target)} = "{verdict}"\n' for verdict, targets in (('allow', allowed), ('deny', denied))
                 for target in targets if of_kind(target)]
        if lines:
            text += f'[network.{kind}]\n' + ''.join(lines)
    return text


def by_daemon():
    folder, log = tempfile.mkdtemp(), option('--log')
    config, control = f'{folder}/daemon.toml', f'{folder}/c.sock'
    with open(config, 'w') as out:
        out.write(f'version = 1\ncontrol = "{control}"\nstate = "{folder}/state"\nlog_dir = "{folder}/log"\n'
                  # They share the descriptors of the process.
                  'max_sandboxes = 8\n')
    os.mkdir(f'{folder}/log')
    os.close(os.open(log, os.O_CREAT | os.O_WRONLY, 0o600))
    os.link(log, f'{folder}/log/attacked.jsonl')
    daemon = subprocess.Popen([PORTCULLIS, 'serve', '--config', config], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until('the daemon answers', lambda: os.path.exists(control) and ask(control, 'GET', '/healthz')[0] == 204)
    sandbox = Sandbox()
    new = {'name': 'attacked', 'attach': {'kind': 'pid', 'pid': sandbox.pid}, 'policy': {'text': policy_text()},
           'audit': '--audit' in ARGS}
    status, said = ask(control, 'POST', '/v1/sandboxes', new)
    if status != 201:
        sys.exit(f'elsewhere.py: the daemon says {status}: {said}')
    return sandbox.run(), lambda: end(daemon)


def ask(control, method, path, body=None):
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(control)
        except OSError:
            return 0, ''
        text = json.dumps(body) if body is not None else ''
        asking.sendall(f'{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n'
                       f'Content-Length: {len(text)}\r\n\r\n{text}'.encode())
        said = b''
        while more := asking.recv(65536):
            said += more
    return int(said.split()[1]), said.decode()


FILES = 'mount --bind "$RESOLV_CONF" /etc/resolv.conf\n'
GUEST = f'''
ip link set lo up; ip tuntap add vm0 mode tap; ip link set vm0 address {MAC} mtu 1500 up
ip address add 10.0.2.15/24 dev vm0; ip route add default via 10.0.2.2
sysctl -qw net.ipv6.conf.vm0.accept_dad=0 net.ipv6.conf.vm0.accept_ra=0 2>/dev/null
ip address add fd50:6f72:7463::15/64 dev vm0 nodad; ip route add default via fe80::2 dev vm0
{FILES}'''


def resolv_conf():
    """What the sandbox's own is to say, where the gateway does not show it."""
    file = tempfile.NamedTemporaryFile('w', delete=False)
    file.write('nameserver 10.0.2.3\noptions timeout:5 attempts:2\n')
    file.close()
    os.chmod(file.name, 0o644)
    os.environ['RESOLV_CONF'] = file.name


class Bridge(threading.Thread):
    """Moves frames between a device, which is in another namespace, and the socket of a gateway."""

    def __init__(self, device, path):
        super().__init__(daemon=True)
        self.device, self.socket = device, socket.socket(socket.AF_UNIX)
        self.socket.connect(path)

    def run(self):
        held = b''
        while True:
            ready = select.select([self.device, self.socket], [], [])[0]
            if self.device in ready:
                frame = os.read(self.device, 65536)
                self.socket.sendall(struct.pack('!I', len(frame)) + frame)
            if self.socket in ready:
                try:
                    more = self.socket.recv(1 << 18)
                except OSError:
                    more = b''
                if not more:
                    return
                held += more
                while len(held) >= 4 and len(held) >= 4 + struct.unpack('!I', held[:4])[0]:
                    length = 4 + struct.unpack('!I', held[:4])[0]
                    frame, held = held[4:length], held[length:]
                    try:
                        os.write(self.device, frame)
                    except OSError:
                        pass


def device_of(pid):
    """The device in a process's namespace, opened there by a process of its own."""
    ours, theirs = socket.socketpair()
    program = f'''
import fcntl, os, socket, struct
fd = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', b'vm0', 0x1002))
socket.send_fds(socket.socket(fileno={theirs.fileno()}), [b'x'], [fd])
'''
    subprocess.run(['nsenter', '-U', '-n', '--preserve-credentials', '-t', str(pid), 'python3', '-c', program],
                   pass_fds=[theirs.fileno()], check=True)
    return socket.recv_fds(ours, 1, 1)[1][0]


def as_guest():
    folder = tempfile.mkdtemp()
    path = f'{folder}/vm.sock'
    resolv_conf()
    process = gateway('vm-socket', path, *own_trust())
    threading.Thread(target=process.stderr.read, daemon=True).start()
    written = [path] + ([os.environ['CA']] if INSPECTS else [])
    until('the socket is there', lambda: all(map(os.path.exists, written)) or process.poll() is not None)
    sandbox = Sandbox(GUEST)
    Bridge(device_of(sandbox.pid), path).start()
    return sandbox.run(), lambda: end(process)


code, finish = {'process': by_process, 'namespace': by_path, 'daemon': by_daemon, 'guest': as_guest}[KIND]()
finish()
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
