"""Drives benches/connections.sh: starts the proxies, loads them in turn, prints medians and ratios.

CPU is what the kernel booked on the proxy's process (user and system), whole, threads included; the
proxies stand on one core and the load on another, so that neither takes the other's time. Of CPU and
time the best of many short rounds counts: what others do on the machine only ever adds to them.
"""

import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time

ROUNDS = int(os.environ.get('ROUNDS', '9'))
SECONDS = int(os.environ.get('SECONDS_EACH', '1'))
PIN = os.environ.get('PIN', '1') != '0'
PARTS = os.environ.get('ONLY', 'connections,bulk,idle,inside').split(',')
# Connections under way at once while they are counted.
CLIENTS = int(os.environ.get('CLIENTS', '16'))
FLOWS = 4
FLOW_BYTES = 100_000_000
# From inside a sandbox: long enough that the start of a flow does not count.
INSIDE_BYTES = 500_000_000
IDLE = 2000
# Connections before memory is measured for the first time, and for a p99.
WARM, LATENCIES = 500, 2000
TICKS = os.sysconf('SC_CLK_TCK')
START_SECONDS = 20
PATIENCE = 120
HOST = 'host.portcullis.internal'

cores = sorted(os.sched_getaffinity(0))
proxy_core, load_core = cores[0], cores[-1]
processes = []


def on(core):
    """With PIN=0 everybody goes where the kernel puts him."""
    return ['taskset', '-c', str(core)] if PIN else []


def write(file, text):
    with open(file, 'w') as out:
        out.write(text)
    return file


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def start(what, command, **more):
    log = open(f'{what}.out', 'w')
    process = subprocess.Popen(command, stdout=more.pop('stdout', log), stderr=log, **more)
    processes.append(process)
    return process


def load(*arguments, prefix=None):
    """Runs one of the load generator's tasks; the numbers that it tells."""
    prefix = on(load_core) if prefix is None else prefix
    command = [*prefix, './load', *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        sys.exit(f'{" ".join(command)}:\n{done.stdout}{done.stderr}')
    return [float(word) for word in done.stdout.split()]


class Proxy:
    """A proxy, and the way through it to each of the servers."""

    def __init__(self, what, command, ways):
        self.what, self.command, self.ways = what, command, ways
        self.process = None

    def start(self):
        self.process = start(self.what, [*on(proxy_core), *self.command])
        until = time.monotonic() + START_SECONDS
        address, _, port = self.ways['one'].partition('=')[0].partition(':')
        while True:
            try:
                socket.create_connection((address, int(port)), 1).close()
                return self
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    sys.exit(f'{self.what} does not answer:\n' + open(f'{self.what}.out').read())
                time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_seconds(self):
        with open(f'/proc/{self.process.pid}/stat') as stat:
            fields = stat.read().rpartition(') ')[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_kb(self):
        with open(f'/proc/{self.process.pid}/smaps_rollup') as rollup:
            return next(int(line.split()[1]) for line in rollup if line.startswith('Pss:'))

    def settled_cpu(self):
        """CPU so far, once what the last load left behind is done."""
        before = self.cpu_seconds()
        while True:
            time.sleep(0.3)
            now = self.cpu_seconds()
            if now == before:
                return now
            before = now


def proxies(servers):
    """All of them, with a port for each."""
    made = []
    through = lambda address, host: {what: f'{address}={host}:{port}'
                                     for what, port in servers.items()}
    ports = {what: free_port() for what in servers}
    listens = ''.join(f'listen {what}\n    bind 127.0.0.1:{ports[what]}\n'
                      f'    server only 127.0.0.1:{servers[what]}\n' for what in servers)
    write('haproxy.cfg', f'''global
    maxconn 5000
defaults
    mode tcp
    option splice-request
    option splice-response
    timeout connect 5s
    timeout client 10m
    timeout server 10m
    maxconn 5000
{listens}''')
    made.append(Proxy('haproxy', ['haproxy', '-db', '-f', 'haproxy.cfg'],
                      {what: f'127.0.0.1:{port}' for what, port in ports.items()}))

    address = f'127.0.0.1:{free_port()}'
    write('squid.conf', f'''http_port {address}
http_access allow all
cache deny all
access_log none
cache_log {os.getcwd()}/squid.log
pid_filename none
coredump_dir {os.getcwd()}
shutdown_lifetime 1 seconds
pinger_enable off
max_filedescriptors 8192
''')
    made.append(Proxy('squid', ['squid', '-N', '-f', 'squid.conf'], through(address, '127.0.0.1')))

    address = f'127.0.0.1:{free_port()}'
    write('tinyproxy.conf', f'''Port {address.partition(':')[2]}
Listen 127.0.0.1
MaxClients 4000
Timeout 600
LogLevel Critical
''')
    made.append(Proxy('tinyproxy', ['tinyproxy', '-d', '-c', 'tinyproxy.conf'],
                      through(address, '127.0.0.1')))

    address = f'127.0.0.1:{free_port()}'
    rules = ''.join(f'"{HOST}:{port}" = "allow"\n' for port in servers.values())
    write('policy.toml', f'version = 1\n[network.domains]\n{rules}')
    made.append(Proxy('portcullis', ['./portcullis', 'serve', '--policy', 'policy.toml', '--http',
                                     address, '--log', 'records.jsonl'], through(address, HOST)))
    return made


class Figures:
    def __init__(self):
        self.cpu, self.rate, self.gb, self.gbit, self.kb, self.p99 = [], [], [], [], [], []


def connections(proxy, figures):
    before = proxy.settled_cpu()
    done, took = load('connections', proxy.ways['one'], CLIENTS, SECONDS)
    figures.cpu.append(1e6 * (proxy.settled_cpu() - before) / done)
    figures.rate.append(done / took)


def bulk(proxy, figures):
    before = proxy.settled_cpu()
    took, = load('bulk', proxy.ways['bulk'], FLOWS, FLOW_BYTES)
    whole = FLOWS * FLOW_BYTES / 1e9
    figures.gb.append((proxy.settled_cpu() - before) / whole)
    figures.gbit.append(8 * whole / took)


def idle(proxy, figures):
    """Memory and p99 with a crowd of idle tunnels, of a process that has had no other work."""
    proxy.start()
    load('latency', proxy.ways['one'], WARM)
    _, without = load('latency', proxy.ways['one'], LATENCIES)
    before = proxy.memory_kb()
    command = [*on(load_core), './load', 'hold', proxy.ways['hold'], str(IDLE)]
    holder = start('hold', command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if holder.stdout.readline() != 'held\n':
        sys.exit(f'{proxy.what}: {IDLE} tunnels: ' + open('hold.out').read())
    time.sleep(1)
    figures.kb.append((proxy.memory_kb() - before) / IDLE)
    _, below = load('latency', proxy.ways['one'], LATENCIES)
    figures.p99.append(below / without)
    holder.stdin.close()
    holder.wait(timeout=PATIENCE)
    proxy.stop()


def pasta(port):
    # The gateway's address means the host's loopback there.
    return load('bulk', f'10.0.3.1:{port}', FLOWS, INSIDE_BYTES,
                prefix=['pasta', '--quiet', '--config-net', '-a', '10.0.3.2', '-n', '24', '-g',
                        '10.0.3.1', '-T', 'none', '-U', 'none', '--'])


def slirp(port):
    inside = start('slirp-inside', ['unshare', '--user', '--map-root-user', '--net', 'sh', '-c',
                                    'echo; exec sleep 600'], stdout=subprocess.PIPE)
    inside.stdout.readline()
    ready, told = os.pipe()
    outside = start('slirp4netns', ['slirp4netns', '--configure', '--mtu=65520', '--ready-fd',
                                    str(told), str(inside.pid), 'tap0'], pass_fds=[told])
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    try:
        return load('bulk', f'10.0.2.2:{port}', FLOWS, INSIDE_BYTES,
                    prefix=['nsenter', '--preserve-credentials', '--user', '--net', '--target',
                            str(inside.pid)])
    finally:
        for process in (outside, inside):
            process.kill()
            process.wait()


def portcullis(port):
    return load('bulk', f'{HOST}:{port}', FLOWS, INSIDE_BYTES,
                prefix=['./portcullis', 'run', '--policy', 'policy.toml', '--log', 'inside.jsonl',
                        '--'])


def direct(port):
    return load('bulk', f'127.0.0.1:{port}', FLOWS, INSIDE_BYTES, prefix=[])


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 3 * IDLE:
        sys.exit(f'{IDLE} tunnels need {3 * IDLE} descriptors, {hard} may be had')
    serve = start('serve', [*on(load_core), './load', 'serve'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                  text=True)
    servers = dict(zip(['one', 'bulk', 'hold'], map(int, serve.stdout.readline().split())))
    all_proxies = proxies(servers)
    results = {proxy.what: Figures() for proxy in all_proxies}
    if 'connections' in PARTS or 'bulk' in PARTS:
        for proxy in all_proxies:
            proxy.start()
            load('connections', proxy.ways['one'], 1, 1)
        for _ in range(ROUNDS):
            for proxy in all_proxies:
                if 'connections' in PARTS:
                    connections(proxy, results[proxy.what])
                if 'bulk' in PARTS:
                    bulk(proxy, results[proxy.what])
        for proxy in all_proxies:
            proxy.stop()
    if 'idle' in PARTS:
        for _ in range(max(1, ROUNDS // 3)):
            for proxy in all_proxies:
                idle(proxy, results[proxy.what])
    ways = {'direct': direct, 'pasta': pasta, 'slirp4netns': slirp, 'portcullis': portcullis}
    inside = {what: [] for what in ways}
    if 'inside' in PARTS:
        for _ in range(ROUNDS):
            for what, way in ways.items():
                took, = way(servers['bulk'])
                inside[what].append(8e-9 * FLOWS * INSIDE_BYTES / took)
    return tell(results, inside)


def middle(values):
    return statistics.median(values) if values else None


def best(kind, values):
    """The figure of a kind: of costs the least, of rates the most, of all else the middle."""
    choose = {'cpu': min, 'gb': min, 'rate': max, 'gbit': max}.get(kind, middle)
    return choose(values) if values else None


def ratio(kind, ours, theirs):
    return best(kind, ours) / best(kind, theirs) if ours and theirs else None


def tell(results, inside):
    print(f'the best of {ROUNDS} rounds; ratios to haproxy; load of the machine '
          + ' '.join(f'{load:.1f}' for load in os.getloadavg()))
    columns = [('cpu', 'CPU µs/conn.', 1), ('rate', 'conn./s', 0), ('gb', 'CPU s/GB', 2),
               ('gbit', 'Gbit/s', 1), ('kb', 'KB/idle', 1), ('p99', 'p99 ratio', 2)]
    print(f'{"":12}' + ''.join(f'{head:>13}{"":7}' for _, head, _ in columns))
    base = vars(results['haproxy'])
    for what, of in results.items():
        line = f'{what:12}'
        for kind, _, digits in columns:
            values = vars(of)[kind]
            told = f'{best(kind, values):13.{digits}f}' if values else f'{"":13}'
            compared = ratio(kind, values, base[kind]) if kind != 'p99' else None
            compared = f'{"":7}' if compared is None else f'{compared:7.2f}'
            line += told + compared
        print(line.rstrip())
    if inside['direct']:
        print('from inside, Gbit/s: '
              + ', '.join(f'{what} {best("gbit", values):.1f}' for what, values in inside.items()))
    ours, haproxy, tinyproxy = (results[what] for what in ('portcullis', 'haproxy', 'tinyproxy'))
    bars = [
        ('CPU a connection, of tinyproxy\'s', ratio('cpu', ours.cpu, tinyproxy.cpu), 1, None),
        ('CPU a connection, of haproxy\'s', ratio('cpu', ours.cpu, haproxy.cpu), None, 1.2),
        ('CPU a GB, of haproxy\'s', ratio('gb', ours.gb, haproxy.gb), 1, 0.8),
        ('KB an idle tunnel', middle(ours.kb), 16, 8),
        (f'p99 below {IDLE} idle tunnels, of that without', middle(ours.p99), 1.5, None),
        ('time a GB from inside, of pasta\'s', ratio('gbit', inside['pasta'], inside['portcullis']), 1, 1 / 1.3),
        ('time a GB from inside, of slirp4netns\'s',
         ratio('gbit', inside['slirp4netns'], inside['portcullis']), 1 / 1.3, None),
    ]
    missed = False
    for what, measured, bar, goal in bars:
        if measured is None:
            continue
        words = []
        for limit, name in ((bar, 'bar'), (goal, 'goal')):
            if limit is not None:
                met = measured <= limit
                words.append(f'{name} {limit:.2f} {"met" if met else "MISSED"}')
                missed |= name == 'bar' and not met
        print(f'{what}: {measured:.2f} ({", ".join(words)})')
    return 1 if missed else 0


try:
    code = main()
finally:
    for process in reversed(processes):
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
sys.exit(code)
