"""What a program inside a sandbox can say by hand: raw DNS, HTTP, SOCKS5 and TLS.

Every function has a time limit: a gateway that stalls fails the test, it does not hang it.
"""

import errno, os, socket, ssl, statistics, struct, time
from urllib.parse import urlsplit

LIMIT = 25.0  # seconds: a busy machine is not a stalling gateway


def _proxy(variable):
    parts = urlsplit(os.environ.get(variable, 'http://127.0.0.1:9'))
    return parts.hostname, parts.port


HTTP = _proxy('HTTP_PROXY')
SOCKS = (HTTP[0], 1080)


def resolver():
    for line in open('/etc/resolv.conf'):
        if line.startswith('nameserver'):
            return line.split()[1]


# --- time

def median(action, tries=15):
    """The median time of an action, in milliseconds."""
    times = []
    for number in range(tries):
        begin = time.perf_counter()
        action(number)
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


# --- TCP and UDP

def tcp(address, port, limit=LIMIT):
    return socket.create_connection((address, port), limit)


def attempt(address, port, limit=LIMIT):
    """'open', or the name of the error of connect()."""
    try:
        tcp(address, port, limit).close()
        return 'open'
    except socket.timeout:
        return 'timeout'
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def datagram(address, port, payload=b'x', wait=10):
    """'answered', 'silence', or the name of the error that the datagram met."""
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(wait)
        try:
            s.connect((address, port))
            s.send(payload)
            s.send(payload)  # an error that came back shows on the next call
            s.recv(65535)
            return 'answered'
        except socket.timeout:
            return 'silence'
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))


def exactly(s, count):
    """So many bytes, however many pieces they come in; fewer where the stream ended before."""
    data = b''
    while len(data) < count and (piece := s.recv(count - len(data))):
        data += piece
    return data


def direct(name, port):
    """What one direct connection over IPv4 brings; a reset may be seen as early as in connect()."""
    address = socket.getaddrinfo(name, port, socket.AF_INET)[0][4][0]
    try:
        return read_all(tcp(address, port))
    except OSError as error:
        return b'', errno.errorcode.get(error.errno, str(error))


def read_all(s):
    """Everything up to the end, and how it ended."""
    data = b''
    try:
        while piece := s.recv(65536):
            data += piece
        return data, 'end'
    except socket.timeout:
        return data, 'timeout'
    except OSError as error:
        return data, errno.errorcode.get(error.errno, str(error))


# --- HTTP

def http(text):
    """Sends bytes to the HTTP proxy and returns all it says."""
    with tcp(*HTTP) as s:
        s.sendall(text.encode('latin-1') if isinstance(text, str) else text)
        return read_all(s)[0].decode('latin-1')


def get(url, fields=''):
    """An absolute-form GET through the HTTP proxy."""
    host = urlsplit(url).netloc
    return http(f'GET {url} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n')


def connect(target, fields='', host=None):
    """CONNECT: the socket and the head of the answer (the body too when it is a refusal)."""
    s = tcp(*HTTP)
    s.sendall(f'CONNECT {target} HTTP/1.1\r\nHost: {host or target}\r\n{fields}\r\n'.encode('latin-1'))
    head = b''
    while b'\r\n\r\n' not in head:
        piece = s.recv(1)
        if not piece:
            break
        head += piece
    if not head.startswith(b'HTTP/1.1 200'):
        head += read_all(s)[0]
    return s, head.decode('latin-1')


def status(answer):
    """The status of an answer; None where there is none."""
    words = answer.split(' ', 2)
    return int(words[1]) if len(words) > 1 and words[0].startswith('HTTP/') else None


def field(answer, name):
    """The value of a header field of an answer; None without it."""
    for line in answer.split('\r\n\r\n')[0].split('\r\n')[1:]:
        key, _, value = line.partition(':')
        if key.strip().lower() == name.lower():
            return value.strip()


# --- SOCKS5

def socks_bytes(host, port, command=1):
    """A request; `host` is bytes for a domain, text for an address."""
    if isinstance(host, bytes):
        where = b'\x03' + bytes([len(host)]) + host
    elif ':' in host:
        where = b'\x04' + socket.inet_pton(socket.AF_INET6, host)
    else:
        where = b'\x01' + socket.inet_aton(host)
    return b'\x05' + bytes([command]) + b'\x00' + where + struct.pack('!H', port)


def socks(host, port, command=1):
    """The socket and the reply code; the code is None when the gateway just closed."""
    s = tcp(*SOCKS)
    s.sendall(b'\x05\x01\x00')
    if exactly(s, 2) != b'\x05\x00':
        return s, None
    s.sendall(socks_bytes(host, port, command))
    try:
        reply = exactly(s, 10)
    except OSError:
        reply = b''
    return s, reply[1] if len(reply) > 1 else None


# --- TLS

def client_hello(name, alpn=()):
    """The first flight of a real client."""
    context = ssl._create_unverified_context()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def alert(s, hello):
    """What comes back for a ClientHello: 'alert LEVEL DESCRIPTION END', 'handshake', or 'END'."""
    s.settimeout(LIMIT)
    try:
        s.sendall(hello)
        first = exactly(s, 7)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    if first[:1] == b'\x16':
        return 'handshake'
    if first[:1] == b'\x15' and len(first) == 7:
        return f'alert {first[5]} {first[6]} {read_all(s)[1]}'
    return 'end' if not first else first.hex()


def tls(s, name, verify=True):
    """A TLS connection over a socket; raises what a program would see."""
    context = ssl.create_default_context() if verify else ssl._create_unverified_context()
    return context.wrap_socket(s, server_hostname=name)


# --- DNS

def question(name):
    """A name as DNS labels, its spelling kept; bytes may hold anything."""
    labels = name if isinstance(name, list) else name.encode('latin-1').rstrip(b'.').split(b'.')
    return b''.join(bytes([len(label)]) + label for label in labels if label) + b'\x00'


def query(name, qtype=1, id=None, options=b'', edns=True, more=b'', flags=0x0100, count=1):
    """A query message. `options` go into its OPT record, `more` behind its first question."""
    id = struct.unpack('!H', os.urandom(2))[0] if id is None else id
    message = struct.pack('!6H', id, flags, count, 0, 0, 1 if edns else 0)
    message += question(name) + struct.pack('!2H', qtype, 1) + more
    if edns:
        message += b'\x00' + struct.pack('!2HIH', 41, 1232, 0, len(options)) + options
    return message


def option(code, data):
    return struct.pack('!2H', code, len(data)) + data


def ask(message, server=None, over_tcp=False, limit=LIMIT):
    """The reply to a query; b'' when there is none."""
    server = server or resolver()
    if over_tcp:
        with tcp(server, 53, limit) as s:
            s.sendall(struct.pack('!H', len(message)) + message)
            data = b''
            try:
                while len(data) < 2 or len(data) < 2 + struct.unpack('!H', data[:2])[0]:
                    piece = s.recv(65536)
                    if not piece:
                        break
                    data += piece
            except socket.timeout:
                pass
            return data[2:]
    family = socket.AF_INET6 if ':' in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(limit)
        s.connect((server, 53))
        s.send(message)
        try:
            return s.recv(65535)
        except socket.timeout:
            return b''


def rcode(reply):
    """The response code; None without a reply."""
    return reply[3] & 15 if len(reply) >= 12 else None
