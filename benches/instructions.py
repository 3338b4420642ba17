"""Counts for benches/instructions.sh: runs `portcullis serve` under callgrind, asks it for a few
names over and over, and divides what each step took by its calls, everything it calls included.
"""

import itertools
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

TOLERANCE = 1.05
NAMES = 16
QUERIES = 12_000
# Queries under way at once: fewer than the socket's buffer holds.
WINDOW = 32
START_SECONDS = 60
STEPS = {
    'guard_query': 'portcullis_wire::dns::query::guard_query',
    'decide': 'portcullis_policy::decide::decide',
    'begin': 'portcullis_dns::forwarder::Forwarder::begin',
    'repeat': 'portcullis_dns::response_cache::ResponseCache::answer',
}
# What is counted: the figure, what is asked, and the step. A question that is spelt anew each time
# goes the whole way; one that is spelt as before is answered from what was answered just now.
FIGURES = [
    ('read a query', 'listed', 'guard_query'),
    ('decide, of ten rules', 'listed', 'decide'),
    ('a cached answer, whole', 'listed', 'begin'),
    ('a denial, whole', 'denied', 'begin'),
    ('an answer once more', 'listed again', 'repeat'),
    ('a denial once more', 'denied again', 'repeat'),
]


def question(name, spelling):
    """The name's question; each number below 4096 is another mixture of cases."""
    head = (c.upper() if spelling >> place & 1 else c for place, c in enumerate(name[:12]))
    labels = (''.join(head) + name[12:]).encode().split(b'.')
    return b''.join(bytes([len(label)]) + label for label in labels) + b'\0\0\x01\0\x01'


def upstream(server):
    """Answers every question with one address."""
    while True:
        try:
            query, client = server.recvfrom(4096)
        except OSError:
            return
        end = query.index(b'\0', 12) + 5
        record = b'\xc0\x0c' + struct.pack('>HHIH', 1, 1, 86400, 4) + bytes([198, 51, 100, 7])
        server.sendto(query[:2] + b'\x81\x80\0\1\0\1\0\0\0\0' + query[12:end] + record, client)


def ask(client, name, number, spelling):
    message = struct.pack('>6H', number & 0xFFFF, 0x0100, 1, 0, 0, 0) + question(name, spelling)
    client.send(message)


def serve_and_ask(program, folder, what, port):
    kind, _, again = what.partition(' ')
    names = [f'abcdefghijkl{n}.{kind}.example' for n in range(NAMES)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(('127.0.0.1', 0))
        address = free.getsockname()
    rules = ''.join(f'"*.rule{n}.example" = "allow"\n' for n in range(9))
    policy, out = f'{folder}/policy.toml', f'{folder}/{kind}{again}.callgrind'
    with open(policy, 'w') as file:
        file.write(f'version = 1\n[network.dns]\nresolvers = ["127.0.0.1:{port}"]\n'
                   f'[network.domains]\n"*.listed.example" = "allow"\n{rules}')
    server = subprocess.Popen(
        ['valgrind', '--tool=callgrind', '--quiet', f'--callgrind-out-file={out}', program, 'serve',
         '--policy', policy, '--dns', f'127.0.0.1:{address[1]}', '--log', f'{folder}/records.jsonl'],
        stdout=subprocess.DEVNULL, stderr=open(f'{folder}/said', 'w'))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(address)
            client.settimeout(0.5)
            until = time.monotonic() + START_SECONDS
            for name in names:
                while True:
                    try:
                        ask(client, name, 0, 0)
                        client.recv(512)
                        break
                    except OSError:
                        if time.monotonic() > until or server.poll() is not None:
                            sys.exit('instructions.sh: portcullis does not answer')
            client.settimeout(START_SECONDS)
            spellings = itertools.repeat(0) if again else itertools.cycle(range(1, 4096))
            for first in range(0, QUERIES, WINDOW):
                for number in range(first, first + WINDOW):
                    ask(client, names[number % NAMES], number, next(spellings))
                for _ in range(WINDOW):
                    client.recv(512)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=START_SECONDS)
    return costs(out)


def costs(file):
    """Calls and inclusive instructions of each step, from callgrind's own format."""
    names, totals = {}, {step: [0, 0] for step in STEPS}
    callee, calls = None, None
    for line in open(file):
        if calls is not None:
            for step, function in STEPS.items():
                # A recursive or separate copy of a function is told by a suffix.
                if callee is not None and re.sub(r"'\d+$", '', callee) == function:
                    totals[step][0] += calls
                    totals[step][1] += int(line.split()[1])
            calls = None
        elif found := re.match(r'c?fn=\((\d+)\)(?: (.*))?', line):
            if found[2]:
                names[found[1]] = re.sub(r'::h[0-9a-f]{16}$', '', found[2])
            if line.startswith('cfn'):
                callee = names.get(found[1])
        elif line.startswith('calls='):
            calls = int(line[6:].split()[0])
    return totals


def main(program, folder, noted_in, write):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(('127.0.0.1', 0))
    threading.Thread(target=upstream, args=(server,), daemon=True).start()
    runs = {what: serve_and_ask(program, folder, what, server.getsockname()[1])
            for what in dict.fromkeys(what for _, what, _ in FIGURES)}
    noted, counted, worse = {}, {}, False
    try:
        with open(noted_in) as file:
            noted = {line[:28].strip(): int(line[28:]) for line in file if line[:1] not in '#\n'}
    except FileNotFoundError:
        pass
    for figure, what, step in FIGURES:
        calls, instructions = runs[what][step]
        if calls < QUERIES // 2:
            sys.exit(f'instructions.sh: {STEPS[step]} was called {calls} times: not found, or inlined')
        counted[figure] = round(instructions / calls)
        before = noted.get(figure)
        ratio = f'{counted[figure] / before:6.2f} of the {before} noted' if before else ''
        print(f'{figure:28}{counted[figure]:6}{ratio}')
        worse |= before is not None and counted[figure] > before * TOLERANCE
    if write:
        with open(noted_in, 'w') as file:
            file.write('# Instructions of one call, everything it calls included: instructions.sh.\n')
            file.writelines(f'{figure:28}{count:6}\n' for figure, count in counted.items())
    return 1 if worse and not write else 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:4], '--write' in sys.argv[4:]))
