"""HTTP that only the server takes for HTTP, said on every way, for a name that shares its address.

Arguments: the listed name, the unlisted one, and the ways. Prints a JSON object: what was served for
whom, how many refusals came, and which lines made a server answer for the unlisted name.
"""

import concurrent.futures, json, socket, struct, sys, time

LISTED, HIDDEN, ADDRESS, WAYS = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4].split(',')
# Longest that a server or the gateway may take to say something, in seconds.
ANSWER, END = 2, 30
WEB, H2C, BALANCED = 80, 8080, 8081
# On the first of them, and the stream ends with the last byte.
CUT = -WEB

GET = b'GET / HTTP/1.1'
LINES = {
    'plain': GET,
    'method of 33': b'M' * 33 + b' / HTTP/1.1',
    'method of 100': b'PROPFIND' * 12 + b' / HTTP/1.1',
    'method of 9000': b'M' * 9000 + b' / HTTP/1.1',
    'method with -_': b'M-_SEARCH / HTTP/1.1',
    'lower-case method': b'get / HTTP/1.0',
    'separator in the method': b'G(T / HTTP/1.1',
    'lower-case protocol': b'GET / http/1.1',
    'mixed protocol': b'GET / HtTp/1.1',
    'old': b'GET / HTTP/1.0',
    'odd version': b'GET / HTTP/1.10',
    'long version': b'GET / HTTP/0001.0001',
    'next version': b'GET / HTTP/2.0',
    'no version': b'GET /',
    'no version, no path': b'GET x',
    'absolute': b'GET http://HIDDEN/ HTTP/1.1',
    'absolute, no version': b'GET http://HIDDEN/',
    'absolute in capitals': b'GET HTTP://HIDDEN/ HTTP/1.1',
    'absolute with userinfo': b'GET http://LISTED@HIDDEN/ HTTP/1.1',
    'double white space': b'GET  /  HTTP/1.1',
    'trailing white space': GET + b' \t ',
    'two words before': b'X GET / HTTP/1.1',
    'CR for LF': b'GET / HTTP/1.1\rHost: HIDDEN\r\r',
    'empty method': b' / HTTP/1.1',
    'NUL before': b'\0' + GET,
    'NUL in the path': b'GET /\0 HTTP/1.1',
    'BOM before': b'\xef\xbb\xbf' + GET,
    'balancer before': b'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n' + GET,
    'preface of HTTP/2': b'PRI * HTTP/2.0',
    'RTSP': b'OPTIONS / RTSP/1.0',
}
for byte in b'\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0':
    odd = bytes([byte])
    LINES[f'{byte:02x} before'] = odd + GET
    LINES[f'{byte:02x} thrice before'] = odd * 3 + GET
    LINES[f'{byte:02x} after the method'] = b'GET' + odd + b'/ HTTP/1.1'
    LINES[f'{byte:02x} after the path'] = b'GET /' + odd + b'HTTP/1.1'
    LINES[f'{byte:02x} behind'] = GET + odd
for many in 1, 2, 50, 3000, 5000:
    LINES[f'{many} blank lines before'] = b'\r\n' * many + GET
LINES['blank line before another method'] = b'\r\nXXX / HTTP/1.1'
LINES['blank line before another scheme'] = b'\nXXX ftp://HIDDEN/ HTTP/1.1'
LINES['lone LFs before'] = b'\n\n\n' + GET


def frame(kind, flags, stream, payload):
    return struct.pack('!I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('!I', stream) + payload


def http2(name):
    """Prior knowledge: GET / for that authority."""
    head = b'\x82\x86\x84\x01' + bytes([len(name)]) + name.encode()
    return b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, b'') + frame(1, 5, 1, head)


def requests():
    """Description, port, bytes."""
    fields = f'Host: {HIDDEN}\r\nConnection: close\r\n'.encode()
    for what, line in LINES.items():
        line = line.replace(b'HIDDEN', HIDDEN.encode()).replace(b'LISTED', LISTED.encode())
        yield what, WEB, line + b'\r\n' + fields + b'\r\n'
    # Without a version fields count as well, also one that the end of the stream cuts off.
    for line in (b'GET x', b'GET /', GET):
        for before in (b'', b' \r', b'From \r', b'\t\n', b' \v', b'A\r', b'A: \r', b'\r'):
            yield f'{line}, {before} before Host', WEB, line + b'\r\n' + before + fields + b'\r\n'
            yield f'{line}, {before} before Host, cut off', CUT, line + b'\r\n' + before + f'Host: {HIDDEN}'.encode()
    lf = GET + b'\n' + fields.replace(b'\r', b'') + b'\n'
    yield 'lone LF', WEB, lf
    yield 'lone LF, long method', WEB, b'M' * 40 + lf[3:]
    yield 'white space before the colon', WEB, GET + b'\r\n' + fields.replace(b':', b' :', 1) + b'\r\n'
    yield 'folded Host', WEB, GET + b'\r\n' + fields.replace(b': ', b':\r\n ', 1) + b'\r\n'
    yield 'two Hosts', WEB, GET + f'\r\nHost: {LISTED}\r\n'.encode() + fields + b'\r\n'
    yield 'two Hosts, the other first', WEB, GET + f'\r\nHost: {HIDDEN}\r\nHost: {LISTED}\r\n\r\n'.encode()
    yield 'second request', WEB, GET + f'\r\nHost: {LISTED}\r\n\r\n'.encode() + GET + b'\r\n' + fields + b'\r\n'
    yield 'second request in a body', WEB, (
        f'POST / HTTP/1.1\r\nHost: {LISTED}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'.encode()
        + GET + b'\r\n' + fields + b'\r\n')
    yield 'balancer of version 2 before', WEB, b'\r\n\r\n\0\r\nQUIT\n\x20\0\0\0' + GET + b'\r\n' + fields + b'\r\n'
    yield 'HTTP/2', H2C, http2(HIDDEN)
    yield 'HTTP/2 behind a blank line', H2C, b'\r\n' + http2(HIDDEN)
    yield 'upgrade to HTTP/2', H2C, (
        GET + f'\r\nHost: {HIDDEN}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n'.encode())
    yield 'balanced', BALANCED, b'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n' + GET + b'\r\n' + fields + b'\r\n'
    yield 'balanced, version 2', BALANCED, (
        b'\r\n\r\n\0\r\nQUIT\n\x20\0\0\0' + GET + b'\r\n' + fields + b'\r\n')
    yield 'balanced, HTTP/2', BALANCED, b'PROXY UNKNOWN\r\n' + http2(HIDDEN)


def exactly(stream, count):
    data = b''
    while len(data) < count and (piece := stream.recv(count - len(data))):
        data += piece
    return data


def way(kind, port):
    if kind == 'outside':
        return socket.create_connection((ADDRESS, port), END)
    if kind == 'direct':
        return socket.create_connection((LISTED, port), END)
    if kind == 'proxy':
        return socket.create_connection(('10.0.2.2', 3128), END)
    if kind.startswith('connect'):
        stream = socket.create_connection(('10.0.2.2', 3128), END)
        stream.sendall(f'CONNECT {LISTED}:{port} HTTP/1.1\r\nHost: {LISTED}:{port}\r\n\r\n'.encode())
        head = b''
        while not head.endswith(b'\r\n\r\n') and (piece := stream.recv(1)):
            head += piece
        assert head.startswith(b'HTTP/1.1 200 '), head
        return stream
    stream = socket.create_connection(('10.0.2.2', 1080), END)
    where = b'\3' + bytes([len(LISTED)]) + LISTED.encode()
    if kind == 'socks-address':
        where = b'\1' + socket.inet_aton(ADDRESS)
    stream.sendall(b'\5\1\0')
    exactly(stream, 2)
    stream.sendall(b'\5\1\0' + where + struct.pack('!H', port))
    assert exactly(stream, 10)[1] == 0
    return stream


def say(stream, request, pieces, cut=False):
    """Sends it at once, in three pieces, or with a stop in the line that is longer than the gateway
    holds what it cannot tell; then waits for an answer, ends its own side, and reads to the end."""
    heard = b''
    try:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = len(request) - len(request.lstrip())
        cuts = {'whole': (), 'pieces': (2, 9), 'stops': (3, 11), 'early': (begin + 2,)}[pieces]
        for begin, end in zip((0, *cuts), (*cuts, len(request))):
            if begin:
                time.sleep(2.5 if pieces == 'stops' else 0.05)
            stream.sendall(request[begin:end])
        stream.settimeout(0.01 if cut else ANSWER)
        try:
            heard += stream.recv(65536)
        except socket.timeout:
            pass
        stream.shutdown(socket.SHUT_WR)
        stream.settimeout(END)
        while piece := stream.recv(65536):
            heard += piece
    except OSError:
        pass
    stream.close()
    return heard


def attack(task):
    kind, pieces, (what, port, request) = task
    if kind == 'proxy':
        request = request.replace(b' / ', f' http://{LISTED}:{abs(port)}/ '.encode(), 1)
    try:
        return task, say(way(kind, abs(port)), request, pieces, port == CUT)
    except OSError as error:
        return task, repr(error).encode()


# How the bytes come matters to what tells HTTP from other things, which is the same on every way.
HOW = {'direct': ('whole', 'pieces', 'stops', 'early'), 'connect': ('whole', 'early')}
tasks = [(kind, pieces, request) for kind in WAYS for pieces in HOW.get(kind, ('whole',)) for request in requests()]
good = f'GET / HTTP/1.1\r\nHost: {LISTED}\r\nConnection: close\r\n\r\n'.encode()
told = {'reached': [], 'through': [], 'refused': 0, 'tried': len(tasks)}
for kind in WAYS:
    heard = attack((kind, 'whole', ('listed', WEB, good)))[1]
    if f'served {LISTED}'.encode() in heard:
        told['reached'].append(kind)
with concurrent.futures.ThreadPoolExecutor(160) as pool:
    for (kind, pieces, (what, _, _)), heard in pool.map(attack, tasks):
        if b'served ' + HIDDEN.encode() in heard:
            told['through'].append(f'{kind}, {pieces}: {what}')
        told['refused'] += heard.lower().count(b'\r\nproxy-status: portcullis')
print(json.dumps(told))
