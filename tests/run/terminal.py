"""Plays a person at a terminal: an interactive bash, lines typed when something shows.

Steps are read from the file named first: a JSON list of [pattern to wait for, text to type].
The pattern "a job has the terminal" waits until the shell is not the foreground process group.
Prints all that the terminal showed; exits 1 when a pattern does not show within the limit.
"""

import json, os, pty, re, select, signal, subprocess, sys, time

LIMIT = 40.0  # seconds a step may take

steps = json.load(open(sys.argv[1]))
pid, terminal = pty.fork()
if pid == 0:
    os.environ['PS1'] = 'your turn> '
    os.environ['TERM'] = 'dumb'
    os.execvp('bash', ['bash', '--norc', '--noprofile', '--noediting', '-i'])

shown = ''
begin = 0
for pattern, typed in steps:
    deadline = time.monotonic() + LIMIT
    if pattern == 'a job has the terminal':
        while os.tcgetpgrp(terminal) == pid:
            if time.monotonic() > deadline:
                sys.exit(f'{shown}\n--- {pattern!r} did not become true')
            time.sleep(0.01)
        os.write(terminal, typed.encode())
        continue
    while not (found := re.compile(pattern, re.M).search(shown, begin)):
        left = deadline - time.monotonic()
        ready, _, _ = select.select([terminal], [], [], max(left, 0))
        if not ready:
            print(shown)
            print(f'--- {pattern!r} did not show', flush=True)
            fields = 'pid,ppid,pgid,tpgid,stat,wchan:20,args'
            subprocess.run(['ps', '-o', fields, '--forest', '-g', str(pid)])
            os.kill(pid, signal.SIGKILL)
            sys.exit(1)
        try:
            shown += os.read(terminal, 65536).decode(errors='replace')
        except OSError:
            print(shown)
            print(f'--- the terminal closed before {pattern!r} showed')
            sys.exit(1)
    begin = found.end()
    os.write(terminal, typed.encode())
print(shown)
os.close(terminal)
os.kill(pid, signal.SIGKILL)
