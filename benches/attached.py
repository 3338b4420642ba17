"""Drives benches/attached.sh: makes namespaces, has daemons serve them, and measures what each costs."""

import os
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

from daemon import (CLONE_NEWNET, DEVICE, NAME, OTHER, UPSTREAM, Client, Daemon, Namespace, attach, code, cpu_ms, end,
                    inside, libc, policy, query, start_upstream, write)

COUNT = int(os.environ.get('COUNT', '1000'))
RESTARTED = min(COUNT, int(os.environ.get('RESTARTED', '100')))
ROUNDS = int(os.environ.get('ROUNDS', '9'))
LOOKUP_SECONDS = '1'
# The window in which equal records are one is over, and what a start needs is given back.
SETTLE_SECONDS = 3
CLIENTS = 8
ETH_P_ALL = 3


def pss_kb(pid):
    with open(f'/proc/{pid}/smaps_rollup') as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith('Pss:'))


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
                print(f'a policy is not taken: {said.decode()}', file=sys.stderr)
                os._exit(1)

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
    daemon = Daemon('restarted', RESTARTED + 10)
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

    lone, many = Daemon('lone', 10), Daemon('many', COUNT + 10)
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
    end()
sys.exit(code_of_all)
