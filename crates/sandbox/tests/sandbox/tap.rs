//! A TAP device inside: what a guest on it sees of the same doors.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{User, folder, is_root, python, run};

/// Plays a guest: attaches to the device as QEMU does and speaks Ethernet.
const GUEST: &str = r#"
import fcntl, os, select, socket, struct, time
tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', b'vmtap', 0x1002))   # IFF_TAP | IFF_NO_PI
MAC, IP = b'\x52\x54\0\x12\x34\x56', socket.inet_aton('10.0.2.15')
def checksum(data):
    if len(data) % 2: data += b'\0'
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def ether(to, kind, body): os.write(tap, to + MAC + struct.pack('!H', kind) + body)
def ip(to, proto, body, source=IP):
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(body), 1, 0, 64, proto, 0, source, to)
    return head[:10] + struct.pack('!H', checksum(head)) + head[12:] + body
def wait(test, seconds=15.0):
    end = time.time() + seconds
    while time.time() < end:
        if select.select([tap], [], [], end - time.time())[0]:
            frame = os.read(tap, 2000)
            if frame[12:14] == b'\x08\x06' and frame[20:22] == b'\0\1' and frame[38:42] == IP:
                ether(frame[6:12], 0x806, struct.pack('!HHBBH', 1, 0x800, 6, 4, 2) + MAC + IP + frame[22:32])
                continue
            found = test(frame)
            if found is not None: return found
def arp(host, tries=40):
    want = socket.inet_aton(host)
    answer = lambda f: f[22:28] if f[12:14] == b'\x08\x06' and f[20:22] == b'\0\2' and f[28:32] == want else None
    # As a guest does, more than once: the device takes a moment until it sends.
    for _ in range(tries):
        ether(b'\xff' * 6, 0x806, struct.pack('!HHBBH', 1, 0x800, 6, 4, 1) + MAC + IP + b'\0' * 6 + want)
        found = wait(answer, 0.2)
        if found: return found
next_port = 40000
def tcp(to, port, flags=2, source=IP):
    global next_port
    next_port += 1
    head = struct.pack('!HHIIBBHHH', next_port, port, 7, 0, 0x50, flags, 64240, 0, 0)
    pseudo = source + to + struct.pack('!BBH', 0, 6, len(head))
    return head[:16] + struct.pack('!H', checksum(pseudo + head)) + head[18:]
def udp(to, port, body):
    return struct.pack('!HHHH', 40001, port, 8 + len(body), 0) + body
"#;

fn prepare() {
    let device = "/dev/net/tun";
    assert!(
        fs::metadata(device).is_ok(),
        "{device} is missing: modprobe tun"
    );
    if is_root() {
        fs::set_permissions(device, fs::Permissions::from_mode(0o666)).unwrap();
    }
    let opened = fs::OpenOptions::new().read(true).write(true).open(device);
    assert!(
        opened.is_ok(),
        "cannot open {device}: sudo chmod 666 {device}"
    );
}

#[test]
fn a_guest_meets_the_same_doors_and_refusals() {
    prepare();
    let folder = folder();
    let log = folder.path().join("refused");
    let script = format!(
        r#"{GUEST}
gateway = arp('10.0.2.2')
print('arp', gateway is not None, arp('10.0.2.3') == gateway, arp('10.0.2.77', 2))
def syn(host, port, source=IP, seconds=15.0):
    to = socket.inet_aton(host)
    ether(gateway, 0x800, ip(to, 6, tcp(to, port, source=source), source))
    def reply(f):
        if f[12:14] == b'\x08\0' and f[23] == 6 and f[26:30] == to and f[36:38] == struct.pack('!H', next_port):
            return {{0x12: 'open', 0x14: 'refused', 4: 'refused'}}.get(f[47], hex(f[47]))
    return wait(reply, seconds)
print('tcp', syn('93.184.216.34', 443), syn('93.184.216.34', 444), syn('10.0.2.2', 3128),
      syn('10.0.2.2', 1080), syn('10.0.2.2', 22), syn('10.0.2.3', 53), syn('8.8.8.8', 53), syn('10.0.2.14', 22))
print('spoofed', syn('93.184.216.34', 443, socket.inet_aton('10.9.9.9'), 0.3))
q = b'\0\1\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1'
for host in ('10.0.2.3', '9.9.9.9'):
    to = socket.inet_aton(host)
    ether(gateway, 0x800, ip(to, 17, udp(to, 53, q)))
    print('dns', host, wait(lambda f: f[42 + 2] & 0x80 != 0 if f[23] == 17 and f[26:30] == to else None))
to = socket.inet_aton('93.184.216.34')
ether(gateway, 0x800, ip(to, 17, udp(to, 443, b'quic')))
print('udp', wait(lambda f: (f[34], f[35]) if f[12:14] == b'\x08\0' and f[23] == 1 else None))
to = socket.inet_aton('10.0.2.2')
ping = b'\x08\0\0\0\0\1\0\1'
ping = ping[:2] + struct.pack('!H', checksum(ping)) + ping[4:]
ether(gateway, 0x800, ip(to, 1, ping))
print('ping', wait(lambda f: f[34] == 0 if f[23] == 1 and f[26:30] == to else None))
time.sleep(1)
"#
    );
    let options = [
        "--tap",
        "vmtap",
        "--open",
        "93.184.216.34:443",
        "--refused",
        log.to_str().unwrap(),
    ];
    let seen = python(User::Nobody, &options, &script);
    assert_eq!(
        seen.lines().collect::<Vec<_>>(),
        [
            "arp True True None",
            "tcp open refused open open refused open open refused",
            "spoofed None",
            "dns 10.0.2.3 True",
            "dns 9.9.9.9 True",
            "udp (3, 13)",
            "ping True",
        ]
    );
    let refused = fs::read_to_string(&log).unwrap();
    assert!(refused.contains("Tcp 93.184.216.34:444"), "{refused}");
    assert!(refused.contains("Udp 93.184.216.34:443"), "{refused}");
    // The guest's own one was let through, the one under a foreign address was not.
    assert_eq!(
        refused.matches("Tcp 93.184.216.34:443 ").count(),
        1,
        "{refused}"
    );
}

#[test]
fn the_device_is_the_users_and_needs_no_capability() {
    prepare();
    for user in crate::support::users() {
        let seen = crate::support::shell(
            user,
            &["--tap", "vmtap"],
            "ip -o link show vmtap; ip -o -4 addr show",
        );
        assert!(seen.contains("vmtap"), "{user:?}: {seen}");
        assert!(
            seen.contains("10.0.2.2/24") && seen.contains("10.0.2.14/32"),
            "{user:?}: {seen}"
        );
    }
}

#[test]
fn a_bad_device_name_is_refused_before_anything_is_made() {
    for name in ["../x", "a b", "0123456789abcdef", "lo"] {
        assert_eq!(
            run(User::Nobody, &["--tap", name], &["true"]).status.code(),
            Some(125),
            "{name}"
        );
    }
}
