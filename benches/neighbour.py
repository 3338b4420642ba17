"""Drives benches/neighbour.sh: floods by one client, times lookups of another, for Portcullis and for unbound."""

import os
import socket
import statistics
import subprocess
import sys
import threading
import time

from daemon import NAME, Client, Daemon, Namespace, attach, children, code, end, folder, inside, start_upstream, write

ROUNDS = int(os.environ.get('ROUNDS', '7'))
SECONDS = float(os.environ.get('SECONDS_EACH', '2'))
# Lookups of the client that is timed, a second.
CALM_RATE = 500
OUTSTANDING = 100
CONNECTING = 8
PORT = 5353
BAR = 1.5
# Connects and closes, as fast as it goes, from one thread each.
FLOOD = '''
import socket, sys, threading
host, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def flood():
    while True:
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            pass
for _ in range(threads): threading.Thread(target=flood).start()
'''


def p99_us(prefix, at):
    """Of cached lookups, a few hundred in a second."""
    command = [*prefix, 'dnsperf', '-s', at[0], '-p', str(at[1]), '-d', 'names.txt', '-l', str(SECONDS), '-Q',
               str(CALM_RATE), '-v']
    done = subprocess.run(command, capture_output=True, text=True)
    times = sorted(float(line.rsplit(None, 1)[1]) for line in done.stdout.splitlines()
                   if line.startswith('> ') and not line.startswith('> T '))
    if len(times) < CALM_RATE * SECONDS / 4:
        sys.exit(f'too few answers:\n{done.stdout[-2000:]}{done.stderr}')
    return 1e6 * times[int(len(times) * 0.99)]


def below(flood, prefix, at):
    """The same while this command runs."""
    process = subprocess.Popen(flood, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    try:
        return p99_us(prefix, at)
    finally:
        process.kill()
        process.wait()


def lookups(at):
    return ['dnsperf', '-s', at[0], '-p', str(at[1]), '-d', 'names.txt', '-l', '600', '-q', str(OUTSTANDING)]


def connections(at):
    return ['python3', '-c', FLOOD, at[0], str(at[1]), str(CONNECTING)]


def main():
    start_upstream()
    write('names.txt', f'{NAME} A\n')
    write('resolver.conf', f'''
server:
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: ""
    use-syslog: no
    interface: 127.0.0.1@{PORT}
    num-threads: 1
    local-zone: "example.com." static
    local-data: "{NAME}. 86400 A 198.51.100.1"
''')
    process = subprocess.Popen(['unbound', '-d', '-p', '-c', 'resolver.conf'], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    children.append(process.pid)
    daemon = Daemon('daemon', 10)
    noisy, quiet = Namespace(), Namespace()
    client = Client(daemon.socket)
    for name, namespace in (('noisy', noisy), ('quiet', quiet)):
        attach(client, name, namespace)
        assert code(inside(namespace), NAME) == 0
    unbound, ours, proxy = ('127.0.0.1', PORT), ('10.0.2.3', 53), ('10.0.2.2', 3128)
    kinds = {
        'a flood of lookups': (lookups(unbound), noisy.command(*lookups(ours))),
        'a flood of connections': (connections(unbound), noisy.command(*connections(proxy))),
    }
    raised = {kind: [] for kind in kinds}
    calm = []
    for _ in range(ROUNDS):
        theirs_calm, ours_calm = p99_us([], unbound), p99_us(quiet.command(), ours)
        calm.append((theirs_calm, ours_calm))
        for kind, (theirs, own) in kinds.items():
            raised[kind].append((below(theirs, [], unbound), below(own, quiet.command(), ours)))
    middle = lambda pairs: [statistics.median(values) for values in zip(*pairs)]
    print(f'p99 of a cached lookup, medians of {ROUNDS} rounds; load of the machine '
          + ' '.join(f'{load:.1f}' for load in os.getloadavg()))
    print('alone: unbound {:.0f} µs, in a sandbox {:.0f} µs'.format(*middle(calm)))
    missed = False
    for kind, pairs in raised.items():
        print('below {}: unbound {:.0f} µs, in a sandbox {:.0f} µs'.format(kind, *middle(pairs)))
        ratio = statistics.median((ours / ours_calm) / (theirs / theirs_calm)
                                  for (theirs, ours), (theirs_calm, ours_calm) in zip(pairs, calm))
        missed |= ratio > BAR
        print(f'{kind}: raised by {ratio:.2f} times what it is at unbound (bar {BAR} '
              f'{"MISSED" if ratio > BAR else "met"})')
    return 1 if missed else 0


try:
    exit_code = main()
finally:
    end()
sys.exit(exit_code)
