//! The TAP as Firecracker, Cloud Hypervisor and crosvm open it: with the header of virtio-net, whose length
//! and offloads they set themselves; and without it. Frames stand in for the machine.

use crate::support::{require, require_kernel, sandbox, world};

const FRAMES: &str = include_str!("../support/frames.py");

/// A device opened so, a connection on which the kernel is left checksums and segments, and one that takes
/// large segments itself.
const SCRIPT: &str = r#"
class Virtio:
    def __init__(self, name, header=12):
        self.fd, self.header, self.partial, self.largest = os.open('/dev/net/tun', os.O_RDWR), header, None, 0
        fcntl.ioctl(self.fd, 0x400454ca, struct.pack('16sH22x', name.encode(), 0x5002))  # with IFF_VNET_HDR
        fcntl.ioctl(self.fd, 0x400454d8, struct.pack('i', header))                       # TUNSETVNETHDRSZ
        fcntl.ioctl(self.fd, 0x400454d0, 7)                                              # CSUM, TSO4, TSO6
    def send(self, frame):
        head = self.partial or bytes(10)
        os.write(self.fd, head + bytes(self.header - 10) + frame)
    def receive(self, seconds):
        if not select.select([self.fd], [], [], max(seconds, 0))[0]: return None
        frame = os.read(self.fd, 70000)
        self.largest = max(self.largest, len(frame) - self.header)
        return frame[self.header:]

def fetch(guest, path, fill):
    """A request in one large segment; how the answer begins."""
    to, own, at = v4('203.0.113.10'), 50000, 14 + 20
    def segment(seq, ack, flags, data=b'', options=b'', gso=1400):
        length = 20 + len(options)
        head = struct.pack('!HHIIBBHHH', own, 80, seq, ack, length << 2, flags, 65000, 0, 0) + options
        # The kernel is left the rest of the checksum: what stands there is that of the pseudo header.
        half = ~checksum(struct.pack('!4s4sBBH', OWN4, to, 0, 6, length + len(data))) & 0xffff
        head = head[:16] + struct.pack('!H', half) + head[18:]
        kind, size, headers = (1, gso, at + length) if len(data) > gso else (0, 0, 0)
        guest.link.partial = struct.pack('<BBHHHH', 1, kind, headers, size, at, 16)
        guest.send(OWN4, to, 6, head + data)
        guest.link.partial = None
    def reply(frame):
        body = guest.packet(frame, 6, to)
        if body and body[2:4] == struct.pack('!H', own): return body
    segment(7, 0, 2, options=b'\2\4' + struct.pack('!H', 1460))
    seq = struct.unpack('!I', guest.wait(reply)[4:8])[0] + 1
    request = f'GET {path} HTTP/1.1\r\nHost: api.example.com\r\nX-Fill: {"x" * fill}\r\n\r\n'.encode()
    segment(8, seq, 0x18, request)
    data = lambda f: (lambda body: body[20:] if body and len(body) > 20 else None)(reply(f))
    first = guest.wait(data)
    while guest.wait(data, 0.5): pass
    return first[:15], len(request)

guest = Guest(Virtio('vm0'))
guest.settle()
_, address, told = guest.dhcp(1)
_, advertisement = guest.solicit_router()
# Option 5 of an advertisement, and DHCP's option 26.
print(told[26].hex(), b'\5\1\0\0' + struct.pack('!I', 9000) in advertisement)
print(address, guest.lookup('10.0.2.3', 'api.example.com'))
print(fetch(guest, '/bytes/300000', 4000))
print(guest.link.largest > 4000)
# The device is a bounded queue: one that opens it again, otherwise, is served as well.
os.close(guest.link.fd)
for begin in (lambda: Virtio('vm0', 10), lambda: Tap('vm0')):
    again = begin()
    guest = Guest(again)
    guest.settle()
    print(guest.lookup('10.0.2.3', 'api.example.com'), guest.syn('203.0.113.10', 22))
    os.close(again.fd)
"#;

#[test]
fn a_tap_is_opened_with_the_header_of_virtio_net_and_leaves_checksums_and_segments_to_it() {
    require("python3");
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let world = world();
    let ran = sandbox(&world)
        .allow("api.example.com")
        .args(&["--tap", "vm0", "--tap-mtu", "9000"])
        .python(&format!("{FRAMES}{SCRIPT}"));
    ran.assert_ok();
    let seen: Vec<String> = ran.out().lines().map(str::to_owned).collect();
    assert_eq!(
        seen,
        [
            "2328 True",
            "10.0.2.15 0",
            "(b'HTTP/1.1 200 Wo', 4063)",
            "True",
            "0 refused",
            "0 refused",
        ],
        "{ran}"
    );
}
