"""Drives benches/dns.sh: starts the servers, asks them in turn, prints medians and ratios.

Each server stands on one core and dnsperf on the other, so that neither takes the other's time. CPU
is what the kernel booked on the server's process (user and system), whole, threads included; what it
costs the kernel to take a query in is booked on dnsperf, for all of them alike.
"""

import os
import re
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

NAMES = 1000
ROUNDS = int(os.environ.get('ROUNDS', '7'))
SECONDS = float(os.environ.get('SECONDS_EACH', '4'))
# Queries under way at once: enough that a server never waits for dnsperf's next one.
OUTSTANDING = int(os.environ.get('OUTSTANDING', '100'))
CALM_RATE = 1000
TICKS = os.sysconf('SC_CLK_TCK')
START_SECONDS = 20

cores = sorted(os.sched_getaffinity(0))
server_core, client_core = cores[0], cores[-1]
processes = []


def free_port():
    """A port that is free for UDP and TCP now."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(('127.0.0.1', 0))
            try:
                tcp.bind(udp.getsockname())
            except OSError:
                continue
            return udp.getsockname()[1]


def names(kind):
    return [f'{kind}{n}.service{n % 37}.example' for n in range(NAMES)]


def write(file, text):
    with open(file, 'w') as out:
        out.write(text)
    return file


def start(what, *command):
    log = open(f'{what}.out', 'w')
    command = ['taskset', '-c', str(server_core), *command]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    processes.append(process)
    return process


def ask_one(port, name):
    """One query; whether an answer came within a fifth of a second."""
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
    query = struct.pack('>6H', 1, 0x0100, 1, 0, 0, 0) + labels + b'\0\0\x01\0\x01'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.connect(('127.0.0.1', port))
        try:
            client.send(query)
            return len(client.recv(512)) >= 12
        except OSError:
            return False


class Server:
    def __init__(self, what, port, *command):
        self.what, self.port = what, port
        self.process = start(what, *command)
        until = time.monotonic() + START_SECONDS
        while not ask_one(port, names('listed')[0]):
            if time.monotonic() > until or self.process.poll() is not None:
                sys.exit(f'{what} does not answer:\n' + open(f'{what}.out').read())

    def cpu_seconds(self):
        with open(f'/proc/{self.process.pid}/stat') as stat:
            fields = stat.read().rpartition(') ')[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def dnsperf(port, file, *more):
    command = ['taskset', '-c', str(client_core), 'dnsperf', '-s', '127.0.0.1', '-p', str(port),
               '-d', file, *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f'dnsperf failed:\n{done.stdout}{done.stderr}')
    return done.stdout


def number(said, what):
    return float(re.search(rf'{what}:\s+([0-9.]+)', said).group(1))


def codes(said):
    return re.search(r'Response codes:\s+(.*)', said).group(1)


class Figures:
    def __init__(self):
        self.cpu, self.rate, self.p99 = [], [], []


def flood(server, file, figures, expected):
    before = server.cpu_seconds()
    said = dnsperf(server.port, file, '-l', str(SECONDS), '-q', str(OUTSTANDING))
    spent = server.cpu_seconds() - before
    completed = number(said, 'Queries completed')
    lost = number(said, 'Queries lost')
    if expected not in codes(said) or ',' in codes(said) or lost > completed / 1000:
        sys.exit(f'{server.what}: not what was expected ({expected}):\n{said}')
    figures.cpu.append(1e6 * spent / completed)
    figures.rate.append(number(said, 'Queries per second'))


def calm(server, file, figures):
    said = dnsperf(server.port, file, '-l', str(SECONDS), '-Q', str(CALM_RATE), '-v')
    times = sorted(float(line.rsplit(None, 1)[1]) for line in said.splitlines()
                   if line.startswith('> ') and not line.startswith('> T '))
    figures.p99.append(1e6 * times[int(len(times) * 0.99)])


def main():
    listed, denied = names('listed'), names('denied')
    address = lambda n: f'198.51.{100 + n // 250}.{1 + n % 250}'
    write('listed.txt', ''.join(f'{name} A\n' for name in listed))
    write('denied.txt', ''.join(f'{name} A\n' for name in denied))

    # The upstream of all three, which nothing is asked of once the names are cached.
    upstream = free_port()
    common = f'''
server:
    username: ""
    chroot: ""
    directory: "{os.getcwd()}"
    pidfile: ""
    use-syslog: no
    verbosity: 0
    interface: 127.0.0.1
    do-not-query-localhost: no
    module-config: "iterator"
'''
    data = ''.join(f'    local-data: "{name}. 86400 A {address(n)}"\n'
                   for n, name in enumerate(listed))
    write('upstream.conf', f'{common}    port: {upstream}\n'
          f'    local-zone: "example." static\n{data}')
    Server('upstream', upstream, 'unbound', '-d', '-p', '-c', 'upstream.conf')

    servers = []
    port = free_port()
    servers.append(Server('echo', port, './echo', f'127.0.0.1:{port}'))
    port = free_port()
    write('unbound.conf', f'{common}    port: {port}\n    num-threads: 1\n'
          '    local-zone: "example." transparent\n'
          f'forward-zone:\n    name: "."\n    forward-addr: 127.0.0.1@{upstream}\n')
    servers.append(Server('unbound', port, 'unbound', '-d', '-p', '-c', 'unbound.conf'))
    port = free_port()
    servers.append(Server('dnsmasq', port, 'dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null',
                          f'--port={port}', '--listen-address=127.0.0.1', '--bind-interfaces',
                          '--no-resolv', '--no-hosts', '--cache-size=10000', '--user=',
                          '--pid-file=', f'--server=127.0.0.1#{upstream}'))
    port = free_port()
    rules = ''.join(f'"{name}" = "allow"\n' for name in listed)
    write('policy.toml', f'version = 1\n[network.dns]\nresolvers = ["127.0.0.1:{upstream}"]\n'
          f'[network.domains]\n{rules}')
    portcullis = Server('portcullis', port, './portcullis', 'serve', '--policy', 'policy.toml',
                        '--dns', f'127.0.0.1:{port}', '--log', 'records.jsonl')
    servers.append(portcullis)

    results = {server.what: Figures() for server in servers}
    results['denied'] = Figures()
    for server in servers:
        dnsperf(server.port, 'listed.txt', '-n', '3')
    for _ in range(ROUNDS):
        for server in servers:
            flood(server, 'listed.txt', results[server.what], 'NOERROR')
        flood(portcullis, 'denied.txt', results['denied'], 'NXDOMAIN')
        for server in servers:
            calm(server, 'listed.txt', results[server.what])
    return tell(results)


def tell(results):
    base = vars(results['unbound'])

    def ratio(ours, theirs):
        """The median of the rounds' ratios: what a round's noise does, it does to both."""
        return statistics.median(a / b for a, b in zip(ours, theirs))

    print(f'{NAMES} cached names, medians of {ROUNDS} rounds of {SECONDS:g} s; ratios to unbound')
    print(f'{"":12}{"CPU µs/query":>14}{"ratio":>7}{"queries/s":>12}{"ratio":>7}'
          f'{f"p99 µs at {CALM_RATE}/s":>20}{"ratio":>7}')
    for what, of in results.items():
        line = f'{what:12}'
        for kind, width, digits in [('cpu', 14, 2), ('rate', 12, 0), ('p99', 20, 0)]:
            values = vars(of)[kind]
            if values:
                line += f'{statistics.median(values):{width}.{digits}f}{ratio(values, base[kind]):7.2f}'
        print(line)
    ours, denied = results['portcullis'], results['denied']
    bars = [
        ('CPU a query at most unbound\'s', ratio(ours.cpu, base['cpu']), '(goal 0.85)'),
        ('time a query at most unbound\'s', ratio(base['rate'], ours.rate), ''),
        ('p99 at most unbound\'s', ratio(ours.p99, base['p99']), ''),
        ('CPU of a denial at most an answer\'s', ratio(denied.cpu, ours.cpu), ''),
    ]
    for what, measured, goal in bars:
        met = 'met ' if measured <= 1 else 'MISS'
        print(f'{met} {what}: {measured:.2f} of 1.00 {goal}'.rstrip())
    return 0 if all(measured <= 1 for _, measured, _ in bars) else 1


try:
    code = main()
finally:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(timeout=20)
sys.exit(code)
