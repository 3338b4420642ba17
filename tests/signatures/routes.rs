//! The host's own routes that say no: each kind of `ip route` is an error of connect(2) of its own, and
//! the program is told that the destination cannot be reached, never that the gateway failed.

use crate::shared::GATE;
use crate::support::{finish, sandbox, world};
use std::time::Duration;

/// The kinds, and an address of each without any server.
const KINDS: [(&str, &str); 4] = [
    ("blackhole", "203.0.113.231"),
    ("prohibit", "203.0.113.232"),
    ("throw", "203.0.113.233"),
    ("unreachable", "203.0.113.234"),
];

#[test]
fn every_kind_of_route_that_says_no_is_unreachable_and_no_fault_of_the_gateway() {
    let world = world();
    world.file("gate.py", GATE);
    for (kind, address) in KINDS {
        let mut ip = world.command_as_root("ip");
        ip.args(["route", "add", kind, address]);
        let added = finish(&mut ip, Duration::from_secs(30));
        assert!(added.ok(), "{added}");
    }
    let mut dns = world.spec().dns.clone();
    for (kind, address) in KINDS {
        dns.zone.push(format!("by-{kind}.example.com A {address}"));
    }
    world.set_dns(&dns);
    for (kind, address) in KINDS {
        let name = format!("by-{kind}.example.com");
        let ran = sandbox(&world).allow(&name).python(&format!(
            "import gate\n\
             print(gate.connect('{name}:443')[1].split('\\r\\n')[0], \
             gate.get('http://{name}/').split('\\r\\n')[0], gate.socks(b'{name}', 443)[1])\n\
             try:\n\
             \x20s = gate.tcp('{name}', 443)\n\
             \x20s.sendall(b'hello')\n\
             \x20print(gate.read_all(s))\n\
             except ConnectionResetError: print((b'', 'ECONNRESET'))"
        ));
        ran.assert_ok().assert_no_denial();
        assert_eq!(
            ran.out(),
            "HTTP/1.1 502 Bad Gateway HTTP/1.1 502 Bad Gateway 4\n(b'', 'ECONNRESET')\n",
            "{kind}: {ran}"
        );
        for protocol in ["connect", "http", "socks5", "transparent"] {
            let record = ran.records.one(protocol, &name);
            assert_eq!(
                (&record["verdict"], &record["reason"]),
                (&"error".into(), &"unreachable".into()),
                "{kind} over {protocol}: {ran}"
            );
        }
        world.assert_never_reached(address);
    }
}
