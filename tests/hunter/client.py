"""A hostile program that tries whatever comes to its mind, for so many seconds.

`python3 client.py SEED SECONDS`: what is tried follows from the seed, apart from the order in which
threads run. It says at the end how often each kind was tried and how often something was served; it
judges nothing, since a program inside cannot know what left.
"""

import collections, ctypes, os, random, resource, signal, socket, ssl, struct, sys, threading, time
import gate

SEED, SECONDS = int(sys.argv[1]), float(sys.argv[2])
THREADS = 6
LIMIT = 2.0  # seconds that one attempt may wait
END = time.monotonic() + SECONDS
gate.LIMIT = LIMIT

LISTED = ['api.example.com', 'dual.example.com', 'raw.example.com', 'www.example.com', 'a.shared.example.com',
          'ssh.example.com', 'v4only.example.com', 'v6only.example.com', 'rebind.example.com', 'private.example.com',
          'mixed.example.com', 'metadata.example.com', 'mapped.example.com', 'nat64.example.com', 'brief.example.com',
          'to-private.example.com', 'loopback.example.com', 'hostself.example.com', 'wild.tunnel.evil.example.net']
UNLISTED = ['evil.example.net', 'evil-shared.example.net', 'b.shared.example.com', 'cdn.example.net', 'github.com',
            'smtp.example.com', 'mysql.example.com', 'internal-data.example.corp', 'host.portcullis.internal',
            'localhost', 'metadata.google.internal', '10.113.0.203.in-addr.arpa', '90.113.0.203.in-addr.arpa',
            'api.example.com.evil.example.net', 'notapi.example.com', '_dmarc.evil.example.net']
ADDRESSES = ['203.0.113.10', '203.0.113.62', '203.0.113.96', '203.0.113.95', '203.0.113.22', '203.0.113.90',
             '203.0.113.25', '203.0.113.26', '203.0.113.53', '8.8.8.8', '198.51.100.8', '198.51.100.80', '10.20.0.5',
             '172.16.9.9', '192.168.7.7', '169.254.169.254', '168.63.129.16', '100.64.0.5', '198.18.0.5', '192.0.2.2',
             '192.0.2.1', '127.0.0.1', '127.0.0.53', '0.0.0.0', '10.0.2.2', '10.0.2.3', '10.0.2.15', '255.255.255.255',
             '224.0.0.251', '::1', '::', '2001:db8:10::10', '2001:db8:10::62', '2001:db8:10::53', '2001:db8:2::2',
             'fd00::5', '64:ff9b::a14:5', '2002:a14:5::1', '::ffff:203.0.113.90', '::ffff:10.20.0.5', 'fe80::1', 'ff02::fb']
PORTS = [22, 25, 53, 80, 123, 443, 853, 1080, 3128, 3129, 3306, 5353, 5432, 7777, 8080, 8443, 9000, 9001, 9002]
FIELDS = ['X-Original-URL: /secret', 'X_Forwarded_Host: evil.example.net', 'X-Forwarded-For: 10.20.0.5',
          'Forwarded: host=evil.example.net', 'Destination: http://evil.example.net/x', 'X-HTTP-Method-Override: PUT',
          'Proxy-Authorization: Basic eDp5', 'Via: 1.1 x', 'Proxy: http://evil.example.net:80', 'Transfer-Encoding: chunked',
          'Content-Length: 3', 'Content-Length: 0', 'Connection: Host, close', 'Upgrade: h2c', 'Expect: 100-continue',
          'Host: evil.example.net', ' folded', 'X: \x0b', 'Host : evil.example.net', 'Te: trailers']
METHODS = ['GET', 'POST', 'HEAD', 'PUT', 'OPTIONS', 'COPY', 'get', 'M' * 40, 'X' * 300, '\x0bGET', '\tGET', ' GET', '\xa0GET',
           '\x1fGET', '\x85GET', '\r\nGET', 'G ET', 'GET\x00', 'PRI', 'CONNECT', 'TRACE']

tried, served = collections.Counter(), collections.Counter()
flooding = threading.Lock()


def name(r):
    kind = r.random()
    if kind < 0.45:
        return r.choice(LISTED)
    if kind < 0.7:
        return r.choice(UNLISTED)
    base = r.choice(LISTED + UNLISTED)
    return r.choice([
        f'{r.randrange(1 << 40):x}.{base}', f'{r.randrange(1 << 40):x}.tunnel.evil.example.net', base + '.', base.upper(),
        base.replace('.', '..', 1), base + '\x00.evil.example.net', base.replace('.', '\u3002'.encode().decode('latin-1'), 1),
        'evil.example.net\\@' + base, base + '%2eevil.example.net', base + ' evil.example.net', 'a' * 64 + '.' + base,
        '.'.join(['a' * 60] * 4), '2130706433', '0x7f.1', '0177.0.0.1', '127.1', '[::1%25eth0]', f'[{base}]',
        r.choice(ADDRESSES), f'{base}:{r.choice(PORTS)}@evil.example.net', base.replace('e', '\xe9')])


def address(r):
    if r.random() < 0.5:
        # What a name gave: only such an address has a lease.
        try:
            family = r.choice([socket.AF_INET, socket.AF_INET6, 0])
            return r.choice(socket.getaddrinfo(r.choice(LISTED), None, family, socket.SOCK_STREAM))[4][0]
        except OSError:
            pass
    if r.random() < 0.15:
        return str(socket.inet_ntoa(struct.pack('!I', r.randrange(1 << 32))))
    return r.choice(ADDRESSES)


def hello(r):
    try:
        data = gate.client_hello(r.choice([name(r), r.choice(LISTED), r.choice(UNLISTED)]), r.choice([(), ('h2',), ('http/1.1', 'h2')]))
    except (TypeError, ValueError, ssl.SSLError):  # no name that the library would write
        data = gate.client_hello('evil.example.net')
    if r.random() < 0.3:
        data = bytearray(data)
        for _ in range(r.randrange(1, 6)):
            data[r.randrange(len(data))] = r.randrange(256)
    return bytes(data)


def request(r, form='origin'):
    host = name(r)
    port = r.choice(['', f':{r.choice(PORTS)}'])
    target = {'origin': f'/{r.randrange(1 << 30):x}', 'absolute': f'http://{host}{port}/{r.randrange(1 << 30):x}',
              'authority': f'{host}:{r.choice(PORTS)}'}[form]
    host = r.choice([host, host, name(r)])
    lines = [f'{r.choice(METHODS)} {target} {r.choice(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.1 x"])}']
    lines += [f'Host: {host}{port}'] * r.choice([1, 1, 1, 0, 2])
    lines += r.sample(FIELDS, r.choice([0, 0, 1, 2, 3]))
    end = r.choice(['\r\n', '\r\n', '\r\n', '\n'])
    text = end.join(lines) + end + end
    if r.random() < 0.3:
        text += f'GET /second HTTP/1.1{end}Host: {name(r)}{end}{end}'
    return text.encode('latin-1', 'replace')


def first_bytes(r):
    kind = r.random()
    if kind < 0.3:
        return hello(r)
    if kind < 0.7:
        return request(r, r.choice(['origin', 'origin', 'absolute', 'authority']))
    return r.choice([b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', b'SSH-2.0-x\r\n', b'EHLO x\r\n', b'*1\r\n$4\r\nPING\r\n', b'\x00\x00\x00\x08\x04\xd2\x16\x2f',
                     gate.socks_bytes(b'evil.example.net', 443), struct.pack('!H', 40) + gate.query(name_for_dns(r)), os.urandom(40), b''])


def name_for_dns(r):
    return name(r).encode('latin-1', 'replace').decode('latin-1')


def speak(r, s, data):
    """Sends in pieces of its own choosing, and waits a moment for what comes."""
    with s:
        s.settimeout(LIMIT)
        if r.random() < 0.3:
            for at in range(0, len(data), step := r.choice([1, 7, 100])):
                s.send(data[at:at + step])
                if at > 20 * step:
                    s.sendall(data[at + step:])
                    break
                time.sleep(r.random() * 0.005)
        else:
            s.sendall(data)
        if r.random() < 0.2:
            s.shutdown(socket.SHUT_WR)
        return bool(s.recv(4096))


def lookup(r):
    message = gate.query(name_for_dns(r), r.choice([1, 1, 28, 28, 65, 64, 33, 15, 16, 12, 2, 6, 5, 255, 252, 43, 48, 10, 257, 65280]),
                         options=r.choice([b'', gate.option(8, b'\0\1\x18\0\x0a\0\0'), gate.option(65001, b'SMUGGLED'), gate.option(3, b'')]),
                         edns=r.random() < 0.7, flags=r.choice([0x0100, 0x0100, 0, 0x8100, 0x2800, 0x0110, 0x1000]),
                         count=r.choice([1, 1, 1, 0, 2]))
    if r.random() < 0.3:
        message = bytearray(message)
        for _ in range(r.randrange(1, 5)):
            message[r.randrange(len(message))] = r.randrange(256)
    server = r.choice([None, None, *ADDRESSES])
    return bool(gate.ask(bytes(message), server, r.random() < 0.3, 0.5))


def honest(r):
    """What a well-behaved program does: it must go on being served."""
    host, port = r.choice([('api.example.com', 9000), ('raw.example.com', 9000), ('dual.example.com', 443), ('api.example.com', 80)])
    with socket.create_connection((host, port), LIMIT) as s:
        if port == 443:
            with gate.tls(s, host) as inner:
                inner.sendall(f'GET /honest HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n'.encode())
                return inner.recv(12).startswith(b'HTTP/1.1 200')
        if port == 80:
            s.sendall(f'GET /honest HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n'.encode())
            return s.recv(12).startswith(b'HTTP/1.1 200')
        s.sendall(b'\1\2\3\4')
        return s.recv(4) == b'\1\2\3\4'


def direct(r):
    return speak(r, gate.tcp(address(r), r.choice(PORTS), LIMIT), first_bytes(r))


def proxied(r):
    kind = r.random()
    if kind < 0.4:
        return speak(r, gate.tcp(*gate.HTTP, LIMIT), request(r, r.choice(['absolute', 'absolute', 'origin', 'authority'])))
    target = f'{r.choice([name(r), address(r)])}:{r.choice(PORTS)}'
    s = gate.tcp(*gate.HTTP, LIMIT)
    s.sendall(f'CONNECT {target} HTTP/1.1\r\nHost: {r.choice([target, name(r)])}\r\n\r\n'.encode('latin-1', 'replace'))
    if r.random() < 0.2:
        return speak(r, s, first_bytes(r))  # before the answer
    if not s.recv(4096).startswith(b'HTTP/1.1 200'):
        s.close()
        return False
    return speak(r, s, first_bytes(r))


def socks(r):
    host = r.choice([name(r).encode('latin-1', 'replace')[:255], address(r)])
    s, reply = gate.socks(host, r.choice(PORTS), r.choice([1, 1, 1, 1, 2, 3, 9]))
    if reply != 0:
        s.close()
        return False
    return speak(r, s, first_bytes(r))


def datagrams(r):
    where = address(r)
    payload = r.choice([b'\x1b' + bytes(47), b'\xc0\0\0\0\1\x08' + os.urandom(40) + bytes(1150), gate.query(name_for_dns(r)), os.urandom(20)])
    return gate.datagram(where, r.choice(PORTS), payload, 0.1) == 'answered'


def odd(r):
    """Sockets and calls that no honest program needs for this."""
    kind = r.randrange(6)
    if kind == 0:
        family, how, protocol = r.choice([socket.AF_INET, socket.AF_INET6, 17, 40, 30, 38, 16]), r.choice([1, 2, 3, 5]), r.choice([0, 1, 58, 132, 136, 255, 262])
        with socket.socket(family, how, protocol) as s:
            s.settimeout(LIMIT)
            s.sendto(b'\x08\0\xf7\xff' + bytes(4), (0, 0) if family == socket.AF_NETLINK else (r.choice(ADDRESSES), 0))
        return False
    if kind == 1:
        with socket.socket() as s:  # fast open, from a chosen address, marked
            s.settimeout(LIMIT)
            for level, option, value in ((6, 23, 5), (1, 36, 1), (0, 15, 1), (0, 19, 1)):
                try:
                    s.setsockopt(level, option, value)
                except OSError:
                    pass
            if r.random() < 0.5:
                s.bind((r.choice(['192.0.2.2', '10.0.2.2', '203.0.113.10', '10.0.2.15']), 0))
            s.sendto(first_bytes(r), 0x20000000, (r.choice([a for a in ADDRESSES if ':' not in a]), r.choice(PORTS)))
        return False
    if kind == 2:
        libc = ctypes.CDLL(None)
        child = os.fork()
        if child == 0:
            libc.unshare(r.choice([0x10000000, 0x50000000, 0x40000000, 0x12020000]))
            os.execvp('sh', ['sh', '-c', '(ip link set lo up; ip route add default dev lo; nft flush ruleset) 2>/dev/null; exit 0'])
        os.waitpid(child, 0)
        return False
    if kind == 3:
        for pid in (1, 2, os.getppid()):
            try:
                os.kill(pid, r.choice([0, signal.SIGCONT, signal.SIGWINCH]))
            except OSError:
                pass
        return False
    if kind == 4:
        with socket.socket(socket.AF_UNIX, r.choice([1, 2, 5])) as s:
            s.settimeout(LIMIT)
            s.connect(r.choice(['/run/nscd/socket', '/run/systemd/resolve/io.systemd.Resolve', '/run/dbus/system_bus_socket', '\0x', '/dev/log']))
        return False
    child = os.fork()
    if child == 0:
        while True:
            time.sleep(0.01)
    for _ in range(200):
        os.kill(child, signal.SIGSTOP)
        os.kill(child, signal.SIGCONT)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def exhaust(r):
    """Holds all that it can get for a moment, through every entrance; one thread at a time."""
    if not flooding.acquire(blocking=False):
        return False
    held = []
    try:
        for _ in range(r.choice([50, 400, 1500])):
            where = r.choice([gate.HTTP, gate.SOCKS, (gate.resolver(), 53), ('203.0.113.96', 9000), ('203.0.113.10', 443)])
            s = socket.socket()
            held.append(s)
            s.setblocking(False)
            s.connect_ex(where)
    finally:
        time.sleep(r.random())
        for s in held:
            s.close()
        flooding.release()
    return False


KINDS = [(honest, 10), (lookup, 25), (direct, 22), (proxied, 20), (socks, 12), (datagrams, 10), (odd, 5), (exhaust, 1)]


def work(number):
    r = random.Random(SEED * 1000 + number)
    actions, weights = zip(*KINDS)
    while time.monotonic() < END:
        action = r.choices(actions, weights)[0]
        tried[action.__name__] += 1
        try:
            served[action.__name__] += action(r)
        except (OSError, ValueError, EOFError, IndexError, OverflowError):
            pass


soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
time.sleep(LIMIT)
# Whatever was tried before: who behaves is served.
for attempt in range(20):
    try:
        if honest(random.Random(SEED)):
            break
    except OSError:
        pass
    time.sleep(0.5)
else:
    print('starved')
for kind, _ in KINDS:
    print(kind.__name__, tried[kind.__name__], served[kind.__name__])
