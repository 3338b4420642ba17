# Plays a guest: speaks Ethernet on a TAP device or on a Unix socket, as a virtual machine's monitor does.
import fcntl, os, select, socket, struct, time

MAC, OTHER_MAC = b'\x52\x54\0\x12\x34\x56', b'\x52\x54\0\xaa\xbb\xcc'
ALL = b'\xff' * 6
IP4, IP6, ARP = 0x800, 0x86dd, 0x806
v4, v6 = (lambda text: socket.inet_aton(text)), (lambda text: socket.inet_pton(socket.AF_INET6, text))
OWN4, GATEWAY4 = v4('10.0.2.15'), v4('10.0.2.2')
LINK6, OWN6 = v6('fe80::5054:ff:fe12:3456'), v6('fd50:6f72:7463::15')
GATEWAY6, GATEWAY_LINK6 = v6('fd50:6f72:7463::2'), v6('fe80::2')

class Tap:
    def __init__(self, name):
        self.fd = os.open('/dev/net/tun', os.O_RDWR)
        fcntl.ioctl(self.fd, 0x400454ca, struct.pack('16sH22x', name.encode(), 0x1002))  # IFF_TAP | IFF_NO_PI
    def send(self, frame): os.write(self.fd, frame)
    def receive(self, seconds):
        if select.select([self.fd], [], [], max(seconds, 0))[0]: return os.read(self.fd, 65536)

class Stream:
    """Frames on a stream, each behind its length."""
    def __init__(self, path):
        self.socket, self.held = socket.socket(socket.AF_UNIX), b''
        self.socket.connect(path)
    def send(self, frame): self.socket.sendall(struct.pack('!I', len(frame)) + frame)
    def receive(self, seconds):
        end = time.time() + max(seconds, 0)
        while True:
            if len(self.held) >= 4:
                length = 4 + struct.unpack('!I', self.held[:4])[0]
                if len(self.held) >= length:
                    frame, self.held = self.held[4:length], self.held[length:]
                    return frame
            if not select.select([self.socket], [], [], max(end - time.time(), 0))[0]: return None
            more = self.socket.recv(65536)
            if not more: raise EOFError
            self.held += more

class Packets:
    """A message for each frame, on a connection or as datagrams from a path of the guest's own."""
    def __init__(self, path, kind, own=None):
        self.socket = socket.socket(socket.AF_UNIX, kind)
        if own: self.socket.bind(own)
        self.socket.connect(path)
    def send(self, frame): self.socket.send(frame)
    def receive(self, seconds):
        if select.select([self.socket], [], [], max(seconds, 0))[0]: return self.socket.recv(70000)

def checksum(data):
    if len(data) % 2: data += b'\0'
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def ip4(to, protocol, body, source=OWN4):
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0, source, to)
    return head[:10] + struct.pack('!H', checksum(head)) + head[12:] + body
def ip6(to, protocol, body, source=OWN6, hops=255):
    return struct.pack('!IHBB16s16s', 6 << 28, len(body), protocol, hops, source, to) + body
def pseudo(source, to, protocol, body):
    if len(to) == 4: return source + to + struct.pack('!BBH', 0, protocol, len(body))
    return source + to + struct.pack('!IHBB', len(body), 0, 0, protocol)
def summed(body, at, source, to, protocol):
    sum_ = checksum(pseudo(source, to, protocol, body) + body)
    return body[:at] + struct.pack('!H', sum_) + body[at + 2:]
def tcp(source, to, port, own_port, flags=2):
    head = struct.pack('!HHIIBBHHH', own_port, port, 7, 0, 0x50, flags, 64240, 0, 0)
    return summed(head, 16, source, to, 6)
def udp(source, to, port, body, own_port=40001):
    return summed(struct.pack('!HHHH', own_port, port, 8 + len(body), 0) + body, 6, source, to, 17)
def icmp6(source, to, kind, body): return summed(struct.pack('!BBH', kind, 0, 0) + body, 2, source, to, 58)
def arp_frame(operation, sender, sender4, wanted4, to=ALL, mac=None):
    body = struct.pack('!HHBBH', 1, IP4, 6, 4, operation) + sender + sender4 + b'\0' * 6 + wanted4
    return to + (mac or sender) + struct.pack('!H', ARP) + body
def group_mac(address): return b'\x33\x33' + address[-4:]
def solicited(address): return v6('ff02::1:ff00:0')[:13] + address[-3:]

class Guest:
    def __init__(self, link, mac=MAC):
        self.link, self.mac, self.port = link, mac, 40000
        self.addresses = [OWN4, LINK6, OWN6]
    def ether(self, to, kind, body, mac=None): self.link.send(to + (mac or self.mac) + struct.pack('!H', kind) + body)
    def wait(self, test, seconds=15.0):
        end = time.time() + seconds
        while time.time() < end:
            frame = self.link.receive(end - time.time())
            if frame is None: break
            if self.answer(frame): continue
            found = test(frame)
            if found is not None: return found
    def answer(self, frame):
        """Says where this guest is, as its kernel would."""
        kind = struct.unpack('!H', frame[12:14])[0]
        if kind == ARP and frame[20:22] == b'\0\1' and frame[38:42] == OWN4:
            self.ether(frame[6:12], ARP, struct.pack('!HHBBH', 1, IP4, 6, 4, 2) + self.mac + OWN4 + frame[22:32])
            return True
        if kind == IP6 and frame[20] == 58 and frame[54] == 135 and frame[62:78] in self.addresses:
            target, asker = frame[62:78], frame[22:38]
            body = b'\x60\0\0\0' + target + b'\2\1' + self.mac
            self.ether(frame[6:12], IP6, ip6(asker, 58, icmp6(target, asker, 136, body), target))
            return True
        return False
    def who_has(self, host, tries=40, sender4=OWN4, mac=None):
        """The hardware address that ARP gives for a host."""
        want = v4(host)
        found = lambda f: f[22:28] if f[12:14] == b'\x08\x06' and f[20:22] == b'\0\2' and f[28:32] == want else None
        for _ in range(tries):
            self.link.send(arp_frame(1, mac or self.mac, sender4, want))
            answer = self.wait(found, 0.2)
            if answer: return answer
    def neighbour(self, host, tries=40, source=LINK6, mac=None):
        """The hardware address that neighbour discovery gives for a host."""
        want = v6(host)
        found = lambda f: f[80:86] if f[12:14] == b'\x86\xdd' and f[20] == 58 and f[54] == 136 and f[62:78] == want else None
        for _ in range(tries):
            body = b'\0\0\0\0' + want + (b'' if source == bytes(16) else b'\1\1' + (mac or self.mac))
            to = solicited(want)
            self.ether(group_mac(to), IP6, ip6(to, 58, icmp6(source, to, 135, body), source), mac)
            answer = self.wait(found, 0.2)
            if answer: return answer
    def send(self, source, to, protocol, body, mac=None):
        if len(to) == 4: self.ether(self.gateway, IP4, ip4(to, protocol, body, source), mac)
        else: self.ether(self.gateway, IP6, ip6(to, protocol, body, source), mac)
    def packet(self, frame, protocol, sender):
        """What a sender's packet of this protocol carries."""
        if frame[12:14] == b'\x08\0' and frame[23] == protocol and frame[26:30] == sender: return frame[34:]
        if frame[12:14] == b'\x86\xdd' and frame[20] == protocol and frame[22:38] == sender: return frame[54:]
    def syn(self, host, port, source=None, seconds=15.0, mac=None):
        to = v4(host) if '.' in host else v6(host)
        source = source or (OWN4 if len(to) == 4 else OWN6)
        self.port += 1
        own = self.port
        self.send(source, to, 6, tcp(source, to, port, own), mac)
        def reply(frame):
            body = self.packet(frame, 6, to)
            if body and body[2:4] == struct.pack('!H', own):
                return {0x12: 'open', 0x14: 'refused', 4: 'refused'}.get(body[13], hex(body[13]))
        return self.wait(reply, seconds)
    def lookup(self, host, name, source=None, seconds=15.0, mac=None, kind=1):
        """The code of an answer to a lookup at a host, by default for A records."""
        to = v4(host) if '.' in host else v6(host)
        source = source or (OWN4 if len(to) == 4 else OWN6)
        question = b''.join(bytes([len(label)]) + label.encode() for label in name.split('.')) + struct.pack('!BHH', 0, kind, 1)
        self.send(source, to, 17, udp(source, to, 53, b'\x12\x34\1\0\0\1\0\0\0\0\0\0' + question), mac)
        def reply(frame):
            body = self.packet(frame, 17, to)
            if body and body[8:10] == b'\x12\x34': return body[11] & 15
        return self.wait(reply, seconds)
    def dhcp(self, kind, options=b'', current=bytes(4), source=bytes(4), to=b'\xff' * 4, seconds=15.0, mac=None):
        """The kind of an answer to a DHCP message, the address in it, and its options."""
        head = struct.pack('!BBBBIHH4s4s4s4s', 1, 1, 6, 0, 77, 0, 0x8000, current, bytes(4), bytes(4), bytes(4))
        body = head + (mac or self.mac) + bytes(10 + 64 + 128) + b'\x63\x82\x53\x63\x35\1' + bytes([kind]) + options + b'\xff'
        self.ether(ALL, IP4, ip4(to, 17, udp(source, to, 67, body, 68), source), mac)
        def reply(frame):
            body = self.packet(frame, 17, GATEWAY4)
            if not body or body[:4] != b'\0\x43\0\x44' or body[12:16] != struct.pack('!I', 77): return None
            found, rest = {}, body[8 + 240:]
            while rest and rest[0] != 255:
                found[rest[0]], rest = rest[2:2 + rest[1]], rest[2 + rest[1]:]
            return found[53][0], socket.inet_ntoa(body[24:28]), found
        return self.wait(reply, seconds)
    def solicit_router(self, source=LINK6, seconds=15.0, hops=255):
        """The router that answers a solicitation, and its advertisement."""
        to = v6('ff02::2')
        self.ether(group_mac(to), IP6, ip6(to, 58, icmp6(source, to, 133, bytes(4)), source, hops))
        def reply(frame):
            if frame[12:14] == b'\x86\xdd' and frame[20] == 58 and frame[54] == 134:
                return socket.inet_ntop(socket.AF_INET6, frame[22:38]), frame[54:]
        return self.wait(reply, seconds)
    def settle(self):
        """Waits for the device, and for the gateway's hardware address."""
        self.gateway = self.who_has('10.0.2.2')
        return self.gateway
