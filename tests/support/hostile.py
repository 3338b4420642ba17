"""Messages that no honest stub resolver sends, made with dnspython, or by hand where it refuses.

Each is sent over UDP and over TCP and must get the code it deserves; what must get no answer is
followed by an honest query, whose answer shows that nothing came before it. `HOSTILE_SERVER` names
the server (ADDRESS:PORT); without it the one of /etc/resolv.conf is asked.
"""

import os, random, socket, struct, threading
import dns.edns, dns.flags, dns.message, dns.name, dns.opcode, dns.rcode, dns.rdataclass
import dns.rdatatype, dns.rrset, dns.tsigkeyring, dns.update
import gate

ZONE = 'hostile.example.com'  # every name below it is listed and has one address
EVIL = 'hostile.evil.example.net'  # none below it is listed
SECRET = b'SMUGGLED'
LIMIT = 25.0  # seconds that an answer may take


def server():
    host, port = os.environ.get('HOSTILE_SERVER', gate.resolver() + ':53').rsplit(':', 1)
    return host, int(port)


# --- transports

def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(LIMIT)
    s.connect(server())
    return s


def tcp():
    s = socket.create_connection(server(), LIMIT)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def framed(message):
    return struct.pack('!H', len(message)) + message


def read_frame(s):
    """One reply; None at the connection's end."""
    try:
        length = gate.exactly(s, 2)
        if len(length) < 2:
            return None
        reply = gate.exactly(s, struct.unpack('!H', length)[0])
    except ConnectionError:
        return None
    return reply


def exchange(transport, message, probe=False):
    """The reply; None for silence or a closed connection. With `probe` silence is what is expected:
    an honest query follows, and whatever comes before its answer is the reply."""
    follow = gate.query('probe.' + ZONE, id=0xbeef)
    if transport == 'udp':
        with udp() as s:
            s.send(message)
            if probe:
                s.send(follow)
            reply = s.recv(65535)
    else:
        with tcp() as s:
            s.sendall(framed(message))
            try:
                if probe:
                    s.sendall(framed(follow))
            except OSError:
                pass
            reply = read_frame(s)
    if probe and reply is not None and reply[:2] == b'\xbe\xef':
        return None
    return reply


def code(reply):
    """The response code of a reply, with the upper bits that its OPT record has."""
    extended = 0
    if reply[10:12] == b'\0\1' and reply[-11:-8] == b'\0\0\x29':
        extended = reply[-6]
    return dns.rcode.to_text(dns.rcode.Rcode(reply[3] & 15 | extended << 4))


# --- the cases

CASES = []


def case(expected, name=None):
    """`expected`: a response code, or 'silence'."""
    def add(make):
        CASES.append((name or make.__name__, expected, make))
        return make
    return add


def plain(owner, qtype='A', **more):
    more.setdefault('use_edns', False)
    return dns.message.make_query(owner, qtype, **more)


def by_hand(name, counts=(1, 0, 0, 0), flags=0x0100):
    """A message whose question's name is these bytes."""
    return os.urandom(2) + struct.pack('!5H', flags, *counts) + name + b'\0\1\0\1'


def with_flags(flags):
    def make(owner):
        message = plain(owner)
        message.flags |= flags
        return message
    return make


def with_opcode(number):
    def make(owner):
        wire = bytearray(plain(owner, 'SOA').to_wire())
        wire[2] |= number << 3
        return bytes(wire)
    return make


def with_class(rdclass):
    return lambda owner: plain('version.bind' if rdclass == 'CH' else owner, 'TXT', rdclass=rdclass)


def with_option(*options):
    return lambda owner: plain(owner, use_edns=0, payload=4096, options=list(options))


def with_record(section):
    def make(owner):
        message = plain(owner)
        getattr(message, section).append(dns.rrset.from_text(owner + '.', 60, 'IN', 'TXT', SECRET.decode()))
        return message
    return make


def with_label(label):
    return lambda owner: gate.query([label] + [part.encode() for part in owner.split('.')], edns=False)


@case('FORMERR')
def two_questions(owner):
    message = plain(owner)
    message.question += plain('second.' + owner).question
    return message


@case('FORMERR')
def zero_questions(owner):
    message = plain(owner)
    message.question = []
    return message


@case('FORMERR')
def counts_of_65535(owner):
    return os.urandom(2) + struct.pack('!5H', 0x0100, *[0xffff] * 4) + plain(owner).to_wire()[12:]


for what, name in [
    ('itself', b'\xc0\x0c'), ('forward', b'\xc0\x0e\1a\0'), ('the_header', b'\xc0\0'), ('two_of_them', b'\xc0\x0e\xc0\x0c'),
    ('its_label', b'\1a\xc0\x0c'), ('beyond_the_end', b'\xff\xff'),
]:
    case('FORMERR', 'pointer_to_' + what)(lambda owner, name=name: by_hand(name))
for what, name in [('01', b'\x41a\0'), ('10', b'\x81a\0'), ('of_64_bytes', b'\x40' + b'a' * 64 + b'\0')]:
    case('FORMERR', 'label_' + what)(lambda owner, name=name: by_hand(name))
for number in [n for n in range(1, 16) if n not in (4, 5)]:
    case('NOTIMP', 'opcode_%d' % number)(with_opcode(number))


@case('NOTIMP')
def notify(owner):
    message = plain(ZONE, 'SOA')
    message.set_opcode(dns.opcode.NOTIFY)
    message.flags |= dns.flags.AA
    message.answer.append(dns.rrset.from_text(ZONE + '.', 60, 'IN', 'SOA', 'ns.%s. h.%s. 1 2 3 4 5' % (ZONE, ZONE)))
    return message


@case('NOTIMP')
def update(owner):
    message = dns.update.UpdateMessage(ZONE)
    message.add('made', 300, 'TXT', SECRET.decode())
    return message


for rdclass in 'CH', 'HS', 'ANY', 'NONE', 'CLASS0', 'CLASS65535':
    case('REFUSED', 'class_' + rdclass)(with_class(rdclass))
case('silence', 'an_answer')(with_flags(dns.flags.QR))
case('silence', 'an_answer_with_records')(lambda owner: dns.message.make_response(plain(owner)))
case('FORMERR', 'truncated')(with_flags(dns.flags.TC))
case('NOERROR', 'flags_of_answers')(with_flags(dns.flags.AA | dns.flags.RA | dns.flags.AD | dns.flags.CD | 0x40))


@case('NOERROR')
def a_response_code(owner):
    message = plain(owner)
    message.set_rcode(dns.rcode.REFUSED)
    return message


for section in 'answer', 'authority', 'additional':
    case('FORMERR', 'record_in_' + section)(with_record(section))


@case('FORMERR')
def tsig(owner):
    message = plain(owner)
    message.use_tsig(dns.tsigkeyring.from_text({'key.': 'U01VR0dMRUQ='}))
    return message


@case('FORMERR')
def opt_twice(owner):
    wire = bytearray(plain(owner, use_edns=0).to_wire())
    wire[11] = 2
    return bytes(wire) + b'\0\0\x29\x04\xd0' + bytes(6)


@case('FORMERR')
def opt_with_a_name(owner):
    return plain(owner).to_wire()[:11] + b'\1' + plain(owner).to_wire()[12:] + b'\1a\0\0\x29\x04\xd0' + bytes(6)


@case('FORMERR')
def opt_with_a_cut_option(owner):
    return plain(owner).to_wire()[:11] + b'\1' + plain(owner).to_wire()[12:] + b'\0\0\x29\x04\xd0\0\0\0\0\0\x08\0\x0a\0\x09long'


for version in 1, 255:
    case('BADVERS', 'edns_version_%d' % version)(
        lambda owner, version=version: by_hand(gate.question(owner), (1, 0, 0, 1)) + b'\0\0\x29\x04\xd0\0' + bytes([version]) + bytes(4))
case('NOERROR', 'edns_flags')(lambda owner: plain(owner, use_edns=0, ednsflags=0xffff & ~0x4000))
for size in 0, 511, 65535:
    case('NOERROR', 'edns_of_%d_bytes' % size)(lambda owner, size=size: plain(owner, use_edns=0, payload=size))
case('NOERROR', 'option_cookie')(with_option(dns.edns.GenericOption(10, SECRET)))
case('NOERROR', 'option_subnet')(with_option(dns.edns.ECSOption('198.51.100.0', 24)))
case('NOERROR', 'option_padding')(with_option(dns.edns.GenericOption(12, SECRET * 100)))
case('NOERROR', 'option_nsid')(with_option(dns.edns.GenericOption(3, b'')))
case('NOERROR', 'option_unknown')(with_option(dns.edns.GenericOption(65001, SECRET), dns.edns.GenericOption(65001, SECRET)))
case('REFUSED', 'axfr')(lambda owner: plain(owner, 'AXFR'))


@case('REFUSED')
def ixfr(owner):
    message = plain(owner, 'IXFR')
    message.authority.append(dns.rrset.from_text(owner + '.', 0, 'IN', 'SOA', '. . 1 0 0 0 0'))
    return message


@case('NOERROR')
def any_type(owner):
    return plain(owner, 'ANY')


@case('REFUSED')
def the_root(owner):
    return plain('.', 'NS')


def of_length(owner, bytes_on_the_wire):
    """The owner with labels in front of it."""
    labels = [part.encode() for part in owner.split('.')]
    left = bytes_on_the_wire - sum(len(label) + 1 for label in labels) - 1
    while left:
        size = min(left, 64) if left != 65 else 60
        labels.insert(0, b'l' * (size - 1))
        left -= size
    return gate.query(labels, edns=False)


case('NOERROR', 'name_of_255_bytes')(lambda owner: of_length(owner, 255))
case('FORMERR', 'name_of_256_bytes')(lambda owner: of_length(owner, 256))
for what, label in [
    ('nul', b'a\0b'), ('dot', b'a.b'), ('backslash', b'a\\b'), ('backslash_dot', b'a\\046b'), ('escape', b'\x1b[31m'), ('line_break', b'a\r\nb'),
    ('space', b'a b'), ('eight_bits', b'\xff\xfe'), ('utf8', 'bücher'.encode()), ('right_to_left', '\u202e'.encode()), ('at', b'a@b'),
    ('percent', b'a%2eb'), ('slash', b'a/b'), ('quote', b'a"b'),
]:
    case('NXDOMAIN', 'label_with_' + what)(with_label(label))
case('FORMERR', 'bytes_behind_it')(lambda owner: plain(owner).to_wire() + SECRET)
case('FORMERR', 'cut_in_its_type')(lambda owner: plain(owner).to_wire()[:-3])
case('FORMERR', 'a_header_alone')(lambda owner: plain(owner).to_wire()[:12])
case('silence', 'eleven_bytes')(lambda owner: plain(owner).to_wire()[:11])
case('silence', 'one_byte')(lambda owner: b'x')
case('NXDOMAIN', 'not_listed')(lambda owner: plain('%s.%s' % (owner.split('.')[0], EVIL)))


def check(transport, name, expected, make):
    message = make('%s-%s.%s' % (name.replace('_', '-').lower(), transport, ZONE))
    wire = message if isinstance(message, bytes) else message.to_wire()
    reply = exchange(transport, wire, probe=expected == 'silence')
    if reply is None:
        return 'silence'
    assert reply[:2] == wire[:2], 'its id'
    assert reply[2] & 0x80 and (reply[2] & 0x78) == (wire[2] & 0x78), 'its kind'
    assert SECRET not in reply.replace(wire[12:], b''), 'it carries what was smuggled'
    if not reply[2] & 0x78:
        parsed = dns.message.from_wire(reply)
        assert code(reply) != 'NOERROR' or not parsed.options, parsed.options
        assert (parsed.edns >= 0) <= (b'\0\0\x29' in wire), 'EDNS that was not asked for'
    return code(reply)


def all_cases(transport):
    """Prints `TRANSPORT denied N served M`; a wrong answer is an error with the case's name."""
    wrong, denied, served = [], 0, 0
    for name, expected, make in CASES:
        try:
            got = check(transport, name, expected, make)
        except (AssertionError, dns.exception.DNSException, OSError) as error:
            got = '%s: %s' % (type(error).__name__, error)
        if got != expected:
            wrong.append((name, 'expected', expected, 'got', got))
        denied += expected != 'NOERROR'
        served += expected == 'NOERROR'
    print(transport, 'denied', denied, 'served', served, 'wrong', wrong)


# --- streams

def ends_with(sent, finish=False):
    """What a stream of these bytes gets: replies, then the connection's end; `finish` ends its own
    side first."""
    with tcp() as s:
        try:
            s.sendall(sent)
            if finish:
                s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        replies = 0
        while read_frame(s) is not None:
            replies += 1
        return replies


def bad_frames():
    good = framed(gate.query('frames.' + ZONE))
    print('zero', ends_with(b'\0\0' + good), ends_with(good + b'\0\0' + good))
    print('eleven', ends_with(b'\0\x0b' + bytes(11) + good))
    print('64k', ends_with(b'\xff\xff' + gate.query('frames.' + ZONE) + bytes(65000)), ends_with(b'\x10\x01' + bytes(4097)))


def byte_by_byte():
    with tcp() as s:
        for number in range(3):
            for byte in framed(gate.query('bytes%d.%s' % (number, ZONE), id=number)):
                s.sendall(bytes([byte]))
            reply = read_frame(s)
            print(reply[:2] == struct.pack('!H', number), code(reply))


def half_closed():
    with tcp() as s:
        for number in range(3):
            s.sendall(framed(gate.query('half%d.%s' % (number, ZONE), id=number)))
        s.shutdown(socket.SHUT_WR)
        ids = set()
        while (reply := read_frame(s)) is not None:
            ids.add(struct.unpack('!H', reply[:2])[0])
        print(sorted(ids))
    with tcp() as s:
        s.sendall(framed(gate.query('half.' + ZONE))[:9])
        s.shutdown(socket.SHUT_WR)
        print(read_frame(s))


def pipelined(count=1000):
    """A thousand queries at once, every other one for a name that is not listed."""
    names = ['pipelined.' + ZONE, 'p%d.' + EVIL]
    with tcp() as s:
        def send():
            for number in range(count):
                name = names[number % 2]
                s.sendall(framed(gate.query(name % number if '%' in name else name, id=number)))
        sender = threading.Thread(target=send)
        sender.start()
        codes = {}
        for _ in range(count):
            reply = read_frame(s)
            codes.setdefault(struct.unpack('!H', reply[:2])[0], []).append(code(reply))
        sender.join()
    right = sum(codes.get(n) == [['NOERROR', 'NXDOMAIN'][n % 2]] for n in range(count))
    print('answered', len(codes), 'right', right)


# --- noise

def alive():
    """An honest query is answered, over both; datagrams may be lost in the noise before it."""
    for number in range(20):
        with udp() as s:
            s.settimeout(3)
            s.send(gate.query('alive%d.%s' % (number, ZONE)))
            try:
                reply = s.recv(4096)
                break
            except socket.timeout:
                pass
    return code(reply), code(exchange('tcp', gate.query('alive.' + ZONE)))


def noise(count=10000, seed=7):
    chance = random.Random(seed)
    good = plain('noise.' + EVIL, use_edns=0, options=[dns.edns.GenericOption(10, SECRET)]).to_wire()
    with udp() as s:
        for number in range(count):
            if number % 2:
                message = bytearray(good)
                for _ in range(chance.randrange(1, 6)):
                    message[chance.randrange(2, len(message))] = chance.randrange(256)
            else:
                message = chance.randbytes(chance.randrange(600))
            try:
                s.send(bytes(message))
            except OSError:
                pass
    print('after datagrams', *alive())
    for number in range(200):
        garbage = chance.randbytes(chance.randrange(12, 300))
        ends_with(framed(garbage) if number % 2 else garbage, finish=True)
    print('after streams', *alive())
