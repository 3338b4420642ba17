"""What the benchmarks of a daemon share: namespaces, daemons that serve them, and a world that they may reach."""

import ctypes
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

START_SECONDS = 60
NAME = 'api.example.com'
OTHER = 'other.example.com'
DEVICE = 'world0'
DAEMONS_ADDRESS, UPSTREAM = '198.51.100.254', '198.51.100.1'
CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
children = []
folder = os.getcwd()
all_daemons = []


def write(file, text):
    with open(file, 'w') as out:
        out.write(text)
    return file


def policy(name):
    return (f'version = 1\n[network.dns]\nresolvers = ["{UPSTREAM}"]\n[network.domains]\n'
            f'"{name}" = "allow"\n"*.example.org" = "allow"\n')


class Namespace:
    """A process in a network namespace of its own, with only a loopback."""

    def __init__(self):
        ready, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ready)
            if libc.unshare(CLONE_NEWNET) != 0:
                os._exit(1)
            os.write(told, b'x')
            os.close(told)
            signal.pause()
            os._exit(0)
        os.close(told)
        children.append(self.pid)
        if os.read(ready, 1) != b'x':
            sys.exit('a network namespace cannot be made')
        os.close(ready)

    def command(self, *command):
        return ['nsenter', '--net', '--target', str(self.pid), '--', *command]


class Client(http.client.HTTPConnection):
    """One connection to a daemon's control socket."""

    def __init__(self, path):
        super().__init__('localhost', timeout=START_SECONDS)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(START_SECONDS)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None):
        headers = {'Content-Type': 'application/json'} if body is not None else {}
        self.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.getresponse()
        said = answer.read()
        return answer.status, said


class Daemon:
    def __init__(self, what, max_sandboxes):
        self.what = what
        all_daemons.append(self)
        self.socket = f'{folder}/{what}/c.sock'
        os.mkdir(what)
        write(f'{what}.toml', f'version = 1\ncontrol = "{self.socket}"\nstate = "{folder}/{what}/state"\n'
              f'log_dir = "{folder}/{what}/log"\nmax_sandboxes = {max_sandboxes}\n')
        self.start()

    def start(self):
        log = open(f'{self.what}.out', 'a')
        self.process = subprocess.Popen(['./portcullis', 'serve', '--config', f'{self.what}.toml'],
                                        stdout=log, stderr=log)
        children.append(self.process.pid)
        self.until_it_answers('/healthz')

    def until_it_answers(self, path):
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                if Client(self.socket).ask('GET', path)[0] == 204:
                    return
            except OSError:
                pass
            if time.monotonic() > until or self.process.poll() is not None:
                sys.exit(f'{self.what} does not answer:\n' + open(f'{self.what}.out').read())
            time.sleep(0.001)

    def kill(self):
        self.process.kill()
        self.process.wait()
        children.remove(self.process.pid)

    def helpers(self):
        """What runs of this program besides the daemon."""
        own = os.stat('portcullis')
        found = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                exe = os.stat(f'/proc/{pid}/exe')
            except OSError:
                continue
            if (exe.st_dev, exe.st_ino) == (own.st_dev, own.st_ino) and int(pid) not in daemons():
                found.append(int(pid))
        return found

    def cpu_ms(self):
        return cpu_ms(self.process.pid)

    def descriptors(self):
        return len(os.listdir(f'/proc/{self.process.pid}/fd'))


def daemons():
    return {daemon.process.pid for daemon in all_daemons}


def cpu_ms(pid):
    """What a process has run on a core, all its threads together."""
    return sum(int(open(f'/proc/{pid}/task/{task}/schedstat').read().split()[0])
               for task in os.listdir(f'/proc/{pid}/task')) / 1e6


def attach(client, name, namespace):
    new = {'name': name, 'attach': {'kind': 'pid', 'pid': namespace.pid},
           'policy': {'text': policy(NAME)}}
    start = time.perf_counter()
    status, said = client.ask('POST', '/v1/sandboxes', new)
    took = time.perf_counter() - start
    if status != 201:
        sys.exit(f'{name} cannot be attached: {said.decode()}')
    return 1e3 * took


def query(name):
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
    return struct.pack('>6H', 1, 0x0100, 1, 0, 0, 0) + labels + b'\0\0\x01\0\x01'


def inside(namespace):
    """A UDP socket of the namespace, to its resolver."""
    home = os.open('/proc/self/ns/net', os.O_RDONLY)
    theirs = os.open(f'/proc/{namespace.pid}/ns/net', os.O_RDONLY)
    if libc.setns(theirs, CLONE_NEWNET) != 0:
        sys.exit('a namespace cannot be entered')
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    libc.setns(home, CLONE_NEWNET)
    os.close(home)
    os.close(theirs)
    asking.settimeout(5)
    asking.connect(('10.0.2.3', 53))
    return asking


def code(asking, name):
    asking.send(query(name))
    return asking.recv(512)[3] & 15


def start_upstream():
    """A resolver and a server behind a pair of devices: the world that sandboxes may reach."""
    world = Namespace()
    run = lambda *command: subprocess.run(command, check=True)
    run('ip', 'link', 'set', 'lo', 'up')
    run('ip', 'link', 'add', DEVICE, 'type', 'veth', 'peer', 'name', 'world1', 'netns', str(world.pid))
    run('ip', 'address', 'add', f'{DAEMONS_ADDRESS}/24', 'dev', DEVICE)
    run('ip', 'link', 'set', DEVICE, 'up')
    run(*world.command('ip', 'address', 'add', f'{UPSTREAM}/24', 'dev', 'world1'))
    run(*world.command('ip', 'link', 'set', 'world1', 'up'))
    write('unbound.conf', f'''
server:
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: ""
    use-syslog: no
    interface: {UPSTREAM}
    access-control: 0.0.0.0/0 allow
    local-zone: "example.com." static
    local-data: "{NAME}. 86400 A {UPSTREAM}"
    local-data: "{OTHER}. 86400 A {UPSTREAM}"
''')
    for command in (['unbound', '-d', '-p', '-c', 'unbound.conf'],
                    ['python3', '-m', 'http.server', '--bind', UPSTREAM, '80']):
        log = open(f'{command[0]}.out', 'w')
        process = subprocess.Popen(world.command(*command), stdout=log, stderr=log)
        children.append(process.pid)
    until = time.monotonic() + START_SECONDS
    for port in (53, 80):
        while True:
            try:
                socket.create_connection((UPSTREAM, port), 1).close()
                break
            except OSError:
                if time.monotonic() > until:
                    sys.exit(f'nobody answers at port {port}')
                time.sleep(0.05)


def end():
    """Ends what was started."""
    for daemon in all_daemons:
        daemon.process.poll() is None and daemon.process.terminate()
    for daemon in all_daemons:
        daemon.process.wait()
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
