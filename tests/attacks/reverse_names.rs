//! Reverse lookups, and types that nobody serves, as a way out: the owner name of a question carries the
//! data, whatever type it is asked for.

use crate::support::{sandbox, world};

/// Asks each name for PTR and for types of names that carry data, over UDP, over TCP and at another
/// resolver's address, and prints each code with how many records came.
const ASKS: &str = "
import socket, struct
def question(name, qtype):
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
    return struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + labels + b'\\0' + struct.pack('>2H', qtype, 1)
def udp(name, qtype, server='10.0.2.3'):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.settimeout(30)
        stream.sendto(question(name, qtype), (server, 53))
        return stream.recv(4096)
def tcp(name, qtype):
    query = question(name, qtype)
    with socket.create_connection(('10.0.2.3', 53), 30) as stream:
        stream.sendall(struct.pack('>H', len(query)) + query)
        with stream.makefile('rb') as answer:
            return answer.read(struct.unpack('>H', answer.read(2))[0])
def elsewhere(name, qtype):
    return udp(name, qtype, '8.8.8.8')
def told(answer):
    return f'{answer[3] & 15}/{answer[7]}'
PTR, DS, TLSA, SSHFP, NAPTR, NULL, NSEC, PRIVATE = 12, 43, 52, 44, 35, 10, 47, 65280
for ask in udp, tcp, elsewhere:
    n = ask.__name__
    codes = set()
    for name in ('api.example.com', f'ptr-{n}.wild.example.com', f'_dns-sd._udp.ptr2-{n}.wild.example.com'):
        codes.add(told(ask(name, PTR)))
    for qtype in (DS, TLSA, SSHFP, NAPTR, NULL, NSEC, PRIVATE):
        codes.add(told(ask(f'_443._tcp.type{qtype}-{n}.wild.example.com', qtype)))
    print(n, sorted(codes), told(ask('10.113.0.203.in-addr.arpa', PTR)), told(ask('api.example.com', 1)),
          told(ask('10.113.0.203.in-addr.arpa', PTR)), told(ask('9.9.9.9.in-addr.arpa', PTR)))
";

#[test]
fn names_asked_for_by_ptr_or_by_types_that_nobody_serves_stay_inside() {
    for root in [false, true] {
        let world = world();
        let mut sandbox = sandbox(&world)
            .allow("api.example.com")
            .allow("*.wild.example.com");
        if root {
            sandbox = sandbox.as_root();
        }
        let ran = sandbox.python(ASKS);
        ran.assert_ok();
        // The address is asked for by its name only once it was given out.
        assert_eq!(
            ran.out(),
            "udp ['0/0'] 3/0 0/1 0/1 3/0\ntcp ['0/0'] 0/1 0/1 0/1 3/0\nelsewhere ['0/0'] 0/1 0/1 0/1 3/0\n",
            "{ran}"
        );
        let asked: Vec<String> = world
            .dns_log()
            .into_iter()
            .map(|query| query.name.to_ascii_lowercase())
            .filter(|name| name.contains("wild") || name.contains("9.9.9.9"))
            .collect();
        assert!(asked.is_empty(), "{asked:?}");
        for protocol in ["dns-udp", "dns-tcp"] {
            let refused = ran
                .records
                .denials("dns", "type-not-served", "api.example.com");
            assert!(
                refused.iter().any(|record| record["protocol"] == protocol),
                "{protocol}: {ran}"
            );
        }
        let hidden = ran
            .records
            .denials("dns", "type-not-served", "ptr-udp.wild.example.com");
        assert_eq!(hidden.len(), 1, "{ran}");
    }
}
