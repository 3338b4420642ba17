"""Drives benches/attached.sh: makes namespaces, has daemons serve them, and measures what each costs."""

import ctypes
import http.client
import json
import os
import resource
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time

COUNT = int(os.environ.get('COUNT', '1000'))
RESTARTED = min(COUNT, int(os.environ.get('RESTARTED', '100')))
ROUNDS = int(os.environ.get('ROUNDS', '9'))
LOOKUP_SECONDS = '1'
# The window in which equal records are one is over, and what a start needs is given back.
SETTLE_SECONDS = 3
START_SECONDS = 60
CLIENTS = 8
NAME = 'api.example.com'
OTHER = 'other.example.com'
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
DEVICE = 'world0'
DAEMONS_ADDRESS, UPSTREAM = '198.51.100.254', '198.51.100.1'

libc = ctypes.CDLL(None, use_errno=True)
children = []
folder = os.getcwd()


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
    def __init__(self, what):
        self.what = what
        self.socket = f'{folder}/{what}/c.sock'
        os.mkdir(what)
        write(f'{what}.toml', f'version = 1\ncontrol = "{self.socket}"\nstate = "{folder}/{what}/state"\n'
              f'log_dir = "{folder}/{what}/log"\nmax_sandboxes = {COUNT + 10}\n')
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


all_daemons = []


def daemons():
    return {daemon.process.pid for daemon in all_daemons}


def cpu_ms(pid):
    """What a process has run on a core, all its threads together."""
    return sum(int(open(f'/proc/{pid}/task/{task}/schedstat').read().split()[0])
               for task in os.listdir(f'/proc/{pid}/task')) / 1e6


def pss_kb(pid):
    with open(f'/proc/{pid}/smaps_rollup') as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith('Pss:'))


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


def lookup_us(namespace):
    """The mean time of a cached lookup, one at a time for a second."""
    done = subprocess.run(namespace.command('dnsperf', '-s', '10.0.2.3', '-d', 'names.txt', '-q', '1', '-l',
                                            LOOKUP_SECONDS), capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if 'Average Latency' in line:
            return 1e6 * float(line.split()[3])
    sys.exit(f'dnsperf failed:\n{done.stdout}{done.stderr}')


def push(daemon, name):
    """Puts a policy that lists this name into every sandbox, some at once; until the last is in force."""
    body = {'text': policy(name)}
    left = iter(range(COUNT))
    lock = threading.Lock()

    def work():
        client = Client(daemon.socket)
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            status, said = client.ask('PUT', f'/v1/sandboxes/s{number}/policy', body)
            if status != 200:
                os._exit(f'a policy is not taken: {said.decode()}')

    start = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


class Observer:
    """Counts the packets that pass the only device by which a daemon reaches anything."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind((DEVICE, ETH_P_ALL))

    def packets(self):
        """How many IP packets passed since it was asked last."""
        count = 0
        while select.select([self.socket], [], [], 0)[0]:
            frame = self.socket.recv(2048)
            count += frame[12:14] in (b'\x08\x00', b'\x86\xdd')
        return count


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


def knock(namespace):
    """What a program does that wants out: whether anything answers."""
    home = os.open('/proc/self/ns/net', os.O_RDONLY)
    theirs = os.open(f'/proc/{namespace.pid}/ns/net', os.O_RDONLY)
    libc.setns(theirs, CLONE_NEWNET)
    answers = 0
    for at in ((UPSTREAM, 80), ('10.0.2.2', 3128)):
        with socket.socket() as trying:
            trying.setblocking(False)
            trying.connect_ex(at)
            writable = select.select([], [trying], [], 0.01)[1]
            answers += bool(writable) and trying.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.sendto(query(NAME), (UPSTREAM, 53))
        except OSError:
            pass
    libc.setns(home, CLONE_NEWNET)
    os.close(home)
    os.close(theirs)
    return answers


def restart(observer):
    """Kills a daemon of some sandboxes and starts it again; seconds, and what passed in the meantime."""
    daemon = Daemon('restarted')
    all_daemons.append(daemon)
    client = Client(daemon.socket)
    namespaces = [Namespace() for _ in range(RESTARTED)]
    for number, namespace in enumerate(namespaces):
        attach(client, f'r{number}', namespace)
    sockets = [inside(namespace) for namespace in namespaces]
    assert all(code(asking, NAME) == 0 for asking in sockets)
    daemon.kill()
    time.sleep(0.2)
    observer.packets()
    opened = sum(knock(namespace) for namespace in namespaces)
    passed = observer.packets()
    start = time.perf_counter()
    daemon.start()
    daemon.until_it_answers('/readyz')
    ready = time.perf_counter() - start
    asking = [inside(namespace) for namespace in namespaces]
    answers = [code(one, NAME) for one in asking]
    served = time.perf_counter() - start
    if any(answers):
        sys.exit(f'after the restart the resolvers say {answers}')
    daemon.process.terminate()
    daemon.process.wait()
    for namespace in namespaces:
        os.kill(namespace.pid, signal.SIGKILL)
    return ready, served, passed, opened


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    start_upstream()
    write('names.txt', f'{NAME} A\n')
    observer = Observer()
    ready, served, passed, opened = restart(observer)

    lone, many = Daemon('lone'), Daemon('many')
    all_daemons.extend([lone, many])
    namespaces = [Namespace() for _ in range(COUNT)]
    only, first = Namespace(), Namespace()
    attach(Client(lone.socket), 'only', only)
    client = Client(many.socket)
    # What is made once for the process does not count.
    attach(client, 'first', first)
    assert code(inside(first), NAME) == 0
    time.sleep(SETTLE_SECONDS)
    before_helpers = set(many.helpers())
    before = pss_kb(many.process.pid)
    before_cpu, before_fds = many.cpu_ms(), many.descriptors()
    took, cpu = [], []
    for number, namespace in enumerate(namespaces):
        took.append(attach(client, f's{number}', namespace))
        now = many.cpu_ms()
        cpu.append(now - before_cpu)
        before_cpu = now
    time.sleep(SETTLE_SECONDS)
    helpers = set(many.helpers()) - before_helpers
    daemon_kb = (pss_kb(many.process.pid) - before) / COUNT
    helpers_kb = sum(map(pss_kb, helpers)) / COUNT
    helpers_ms = statistics.median(cpu_ms(pid) for pid in helpers)
    idle_before = many.cpu_ms()
    time.sleep(SETTLE_SECONDS)
    idle = (many.cpu_ms() - idle_before) / SETTLE_SECONDS / 10
    descriptors = (many.descriptors() - before_fds) / COUNT
    threads = len(os.listdir(f'/proc/{many.process.pid}/task'))

    middle = namespaces[COUNT // 2]
    ratios, times = [], []
    for asked in (only, middle):
        assert code(inside(asked), NAME) == 0
    for _ in range(ROUNDS):
        alone, among = lookup_us(only), lookup_us(middle)
        times.append((alone, among))
        ratios.append(among / alone)
    pushed = push(many, OTHER)
    if code(inside(middle), NAME) != 3 or code(inside(middle), OTHER) != 0:
        sys.exit('the other policy is not in force')

    print(f'{COUNT} sandboxes, {len(helpers)} helpers, {threads} threads, {descriptors:.0f} descriptors each, '
          f'{idle:.1f} % of a core when idle; load of the machine '
          + ' '.join(f'{load:.1f}' for load in os.getloadavg()))
    print(f'attach: CPU of the daemon {statistics.median(cpu):.2f} ms, of the holder {helpers_ms:.2f} ms; from request '
          f'to answer median {statistics.median(took):.1f} ms, p99 {sorted(took)[COUNT * 99 // 100]:.1f} ms')
    print(f'memory: daemon {daemon_kb:.0f} KB, helpers {helpers_kb:.0f} KB each')
    print('cached lookup: alone {:.1f} µs, among others {:.1f} µs'.format(*map(statistics.median, zip(*times))))
    print(f'restart of {RESTARTED}: ready after {1e3 * ready:.0f} ms, all answered after {1e3 * served:.0f} ms; '
          f'in the meantime {passed} packets, {opened} connections')
    bars = [('median attach, ms of the gateway\'s time', statistics.median(cpu) + helpers_ms, 5),
            ('memory of an idle one, KB', daemon_kb + helpers_kb, 100),
            ('cached lookup, of a lone one\'s', statistics.median(ratios), 1.2),
            ('policy in force in all, s', pushed, 1),
            ('restart, s', served, 1),
            ('packets and connections meanwhile', passed + opened, 0)]
    for what, measured, bar in bars:
        print(f'{what}: {measured:.2f} (bar {bar} {"met" if measured <= bar else "MISSED"})')
    return 0 if all(measured <= bar for _, measured, bar in bars) else 1


try:
    code_of_all = main()
finally:
    for daemon in all_daemons:
        daemon.process.poll() is None and daemon.process.terminate()
    for daemon in all_daemons:
        daemon.process.wait()
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
sys.exit(code_of_all)
