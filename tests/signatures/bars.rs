//! How fast a refusal comes: within 10 ms, measured inside the sandbox, the median of some tries.

use crate::shared;
use crate::support::sandbox;

/// The bar, in milliseconds.
const BAR_MS: f64 = 10.0;

/// Each line: what, milliseconds.
const PROGRAM: &str = r#"
import gate, socket
def nxdomain(n):
    try: socket.getaddrinfo('n%d.bar.evil.example.net' % n, 443)
    except socket.gaierror as e: assert e.errno == socket.EAI_NONAME
    else: assert False
def dns_udp(n): assert gate.rcode(gate.ask(gate.query('u%d.bar.evil.example.net' % n))) == 3
def dns_tcp(n): assert gate.rcode(gate.ask(gate.query('t%d.bar.evil.example.net' % n), over_tcp=True)) == 3
def refused_v4(n): assert gate.attempt('203.0.113.%d' % (130 + n), 443) == 'ECONNREFUSED'
def refused_v6(n): assert gate.attempt('2001:db8:10::%d' % (130 + n), 443) == 'ECONNREFUSED'
def private(n): assert gate.attempt('10.20.0.%d' % (130 + n), 443) == 'ECONNREFUSED'
def udp_v4(n): assert gate.datagram('203.0.113.%d' % (130 + n), 443) not in ('silence', 'answered')
def udp_v6(n): assert gate.datagram('2001:db8:10::%d' % (130 + n), 443) not in ('silence', 'answered')
def connect(n): assert gate.status(gate.connect('c%d.bar.evil.example.net:443' % n)[1]) == 403
def absolute(n): assert gate.status(gate.get('http://a%d.bar.evil.example.net/' % n)) == 403
def socks(n): assert gate.socks(b's%d.bar.evil.example.net' % n, 443)[1] == 2
for what in nxdomain, dns_udp, dns_tcp, refused_v4, refused_v6, private, udp_v4, udp_v6, connect, absolute, socks:
    print(what.__name__, gate.median(what))
"#;

#[test]
fn bar_every_refusal_arrives_within_10_ms() {
    let world = shared::world();
    let ran = sandbox(&world).allow("api.example.com").python(PROGRAM);
    ran.assert_ok();
    let out = ran.out();
    assert_eq!(out.lines().count(), 11, "{ran}");
    for line in out.lines() {
        let (what, time) = line.split_once(' ').unwrap_or_default();
        let time: f64 = time.parse().unwrap_or(f64::INFINITY);
        assert!(time < BAR_MS, "{what} took {time} ms: {out}");
    }
    world.assert_never_asked("evil");
}
