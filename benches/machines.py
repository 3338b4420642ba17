"""Drives benches/machines.sh: makes the world and the gateways, loads a guest of each in turn, prints the ratios."""

import os
import signal
import statistics
import subprocess
import sys
import time

ROUNDS = int(os.environ.get('ROUNDS', '7'))
BYTES = int(os.environ.get('BYTES', '300000000'))
FLOWS = int(os.environ.get('FLOWS', '4'))
DEVICE, HERE, WORLD = 'world0', '198.51.100.254', '198.51.100.1'
GATEWAY = '10.0.2.2'
START_SECONDS, PATIENCE = 30, 300
processes = []


def run(*command):
    subprocess.run(command, check=True)


def write(file, text):
    with open(file, 'w') as out:
        out.write(text)
    return file


def start(what, *command, **more):
    log = open(f'{what}.out', 'w')
    process = subprocess.Popen(command, stdout=more.pop('stdout', log), stderr=log, **more)
    processes.append(process)
    return process


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=PATIENCE)
    processes.remove(process)


def until(what, is_so):
    end = time.monotonic() + START_SECONDS
    while not is_so():
        if time.monotonic() > end:
            sys.exit(f'not in time: {what}')
        time.sleep(0.02)


def gbit(prefix, kind, place, to):
    """What a guest behind this device or socket loads from there in a second."""
    command = [*prefix, 'python3', 'machine.py', kind, place, 'python3', 'machine.py', 'load', to, str(FLOWS),
               str(BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        sys.exit(f'{" ".join(command)}:\n{done.stdout}{done.stderr}')
    return 8e-9 * FLOWS * BYTES / float(done.stdout)


def main():
    os.makedirs('/run/netns', exist_ok=True)
    run('mount', '-t', 'tmpfs', 'tmpfs', '/run/netns')
    for name in ('world', 'plain'):
        run('ip', 'netns', 'add', name)
    inside = lambda name, *command: run('ip', 'netns', 'exec', name, *command)
    run('ip', 'link', 'set', 'lo', 'up')
    run('ip', 'link', 'add', DEVICE, 'type', 'veth', 'peer', 'name', 'world1', 'netns', 'world')
    run('ip', 'address', 'add', f'{HERE}/24', 'dev', DEVICE)
    run('ip', 'link', 'set', DEVICE, 'up')
    run('ip', 'route', 'add', 'default', 'via', WORLD)
    inside('world', 'ip', 'address', 'add', f'{WORLD}/24', 'dev', 'world1')
    inside('world', 'ip', 'link', 'set', 'world1', 'up')
    inside('plain', 'ip', 'tuntap', 'add', 'vm0', 'mode', 'tap', 'vnet_hdr')
    inside('plain', 'ip', 'address', 'add', f'{GATEWAY}/24', 'dev', 'vm0')
    inside('plain', 'ip', 'link', 'set', 'vm0', 'up')
    serve = start('serve', 'ip', 'netns', 'exec', 'world', 'python3', 'machine.py', 'serve', WORLD,
                  stdout=subprocess.PIPE, text=True)
    port = int(serve.stdout.readline())
    to = f'{WORLD}:{port}'

    write('haproxy.cfg', f'''global
    maxconn 100
defaults
    mode tcp
    option splice-request
    option splice-response
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen bulk
    bind {GATEWAY}:{port} namespace plain
    server only {to}
''')
    start('haproxy', 'haproxy', '-db', '-f', 'haproxy.cfg')
    time.sleep(0.5)
    allow = ['--allow', f'{WORLD}/32:{port}', '--resolver', WORLD, '--log', 'records.jsonl']

    def haproxy():
        return gbit(['ip', 'netns', 'exec', 'plain'], 'tap', 'vm0', f'{GATEWAY}:{port}')

    def tap():
        return gbit(['./portcullis', 'run', '--tap', 'vm0', *allow, '--'], 'tap', 'vm0', to)

    def passt():
        process = start('passt', 'passt', '--foreground', '--socket', 'passt.sock', '--address', '10.0.2.15',
                        '--netmask', '24', '--gateway', GATEWAY, '--interface', DEVICE, '--runas', '0')
        return socket(process, 'passt.sock')

    def vm_socket():
        process = start('vm-socket', './portcullis', 'vm-socket', 'vm.sock', '--mtu', '65520',
                        *[word for word in allow if word not in ('--resolver', WORLD)])
        return socket(process, 'vm.sock')

    def socket(process, path):
        until(f'{path} is there', lambda: os.path.exists(path) or process.poll() is not None)
        figure = gbit([], 'socket', path, to)
        stop(process)
        if os.path.exists(path):
            os.remove(path)
        return figure

    ways = {'haproxy': haproxy, 'run --tap': tap, 'passt': passt, 'vm-socket': vm_socket}
    results = {what: [] for what in ways}
    for _ in range(ROUNDS):
        for what, way in ways.items():
            results[what].append(way())
    print(f'Gbit/s of a guest, {FLOWS} flows of {BYTES / 1e6:.0f} MB, medians of {ROUNDS} rounds; load of the machine '
          + ' '.join(f'{load:.1f}' for load in os.getloadavg()))
    for what, figures in results.items():
        print(f'{what:12}{statistics.median(figures):6.2f}')
    missed = False
    for ours, theirs, bar in (('run --tap', 'haproxy', 0.77), ('vm-socket', 'passt', 1)):
        ratio = statistics.median(a / b for a, b in zip(results[ours], results[theirs]))
        missed |= ratio < bar
        print(f'{ours}, of {theirs}: {ratio:.2f} (bar {bar} {"MISSED" if ratio < bar else "met"})')
    return 1 if missed else 0


try:
    code = main()
finally:
    for process in processes:
        process.poll() is None and process.terminate()
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
sys.exit(code)
