//! SOCKS5 reply codes (RFC 1928 section 6), read as bytes.

use crate::support::{Ran, sandbox};
use crate::{assert_denials, shared};

fn socks(allow: &[&str], expressions: &str) -> Ran {
    let world = shared::world();
    let sandbox = allow
        .iter()
        .fold(sandbox(&world), |sandbox, target| sandbox.allow(target));
    let ran = sandbox.python(&format!(
        "import gate\nfor code in ({expressions},): print(code[1])"
    ));
    ran.assert_ok();
    ran
}

#[test]
fn denied_is_2() {
    let ran = socks(
        &["api.example.com"],
        "gate.socks(b'evil.example.net', 443), gate.socks(b'api.example.com', 22), \
         gate.socks('203.0.113.90', 443), gate.socks('2001:db8:10::20', 443), gate.socks('10.20.0.5', 80), \
         gate.socks(b'127.0.0.1', 8080), gate.socks('::1', 8080)",
    );
    // The last two are the sandbox's own, where nobody listens.
    assert_eq!(ran.out(), "2\n".repeat(5) + &"5\n".repeat(2), "{ran}");
    ran.assert_one_denial("tcp", "not-in-allowlist", "evil.example.net");
    ran.assert_one_denial("tcp", "port-not-allowed", "api.example.com");
    ran.assert_one_denial("tcp", "address-not-leased", "203.0.113.90");
    ran.assert_one_denial("tcp", "address-not-leased", "2001:db8:10::20");
    ran.assert_one_denial("tcp", "private-address", "10.20.0.5");
    assert_denials(&ran, 5);
    let world = shared::world();
    world.assert_never_asked("evil");
    world.assert_never_reached("10.20.0.5");
    world.assert_never_reached("127.0.0.1");
}

#[test]
fn a_listed_name_with_private_addresses_is_2() {
    let ran = socks(
        &["private.example.com"],
        "gate.socks(b'private.example.com', 443)",
    );
    assert_eq!(ran.out(), "2\n", "{ran}");
    ran.assert_one_denial("tcp", "private-address", "private.example.com");
    shared::world().assert_never_reached("10.20.0.5");
}

#[test]
fn allowed_is_0_only_once_the_upstream_stands() {
    let ran = socks(
        &["api.example.com"],
        "gate.socks(b'api.example.com', 443), gate.socks(b'API.Example.com.', 80)",
    );
    ran.assert_no_denial();
    assert_eq!(ran.out(), "0\n0\n", "{ran}");
}

#[test]
fn upstream_refused_is_5_and_unreachable_is_4() {
    let ran = socks(
        &[
            "refused.example.com",
            "unreachable.example.com",
            "missing.example.com",
            "servfail.example.com",
        ],
        "gate.socks(b'refused.example.com', 443), gate.socks(b'unreachable.example.com', 443), \
         gate.socks(b'missing.example.com', 443), gate.socks(b'servfail.example.com', 443)",
    );
    ran.assert_no_denial();
    assert_eq!(ran.out(), "5\n4\n4\n1\n", "{ran}");
    for (name, reason) in [
        ("refused.example.com", "connection-refused"),
        ("unreachable.example.com", "unreachable"),
        ("missing.example.com", "name-not-found"),
        ("servfail.example.com", "dns-failed"),
    ] {
        let record = ran.records.one("socks5", name);
        assert_eq!(
            (&record["verdict"], &record["reason"]),
            (&"error".into(), &reason.into()),
            "{ran}"
        );
    }
}

#[test]
fn bind_and_udp_associate_are_7() {
    let ran = socks(
        &["api.example.com"],
        "gate.socks(b'api.example.com', 443, 2), gate.socks(b'api.example.com', 80, 3), gate.socks('0.0.0.0', 0, 3)",
    );
    assert_eq!(ran.out(), "7\n".repeat(3), "{ran}");
    assert_denials(&ran, 3);
    for denial in ran.records.all_denials() {
        assert_eq!(
            (&denial["layer"], &denial["reason"]),
            (&"tcp".into(), &"protocol-not-allowed".into()),
            "{ran}"
        );
    }
}

#[test]
fn control_bytes_in_a_socks_name_are_malformed_and_denied() {
    let ran = socks(
        &["api.example.com"],
        r"gate.socks(b'api.example.com\0.evil.example.net', 443), gate.socks(b'api.example.com\r\n', 443), \
         gate.socks(b'api .example.com', 443), gate.socks(b'', 443), gate.socks(b'api@example.com', 443), \
         gate.socks(b'a' * 64 + b'.example.com', 443), gate.socks(b'xn--\xff.example.com', 443)",
    );
    assert_eq!(ran.out(), "2\n".repeat(7), "{ran}");
    assert_denials(&ran, 7);
    for denial in ran.records.all_denials() {
        assert_eq!(denial["reason"], "malformed", "{ran}");
    }
    shared::world().assert_never_asked("evil");
}

#[test]
fn what_is_not_socks_5_gets_no_connection() {
    let world = shared::world();
    let ran = sandbox(&world).allow("api.example.com").python(
        "import gate\n\
         for hello in (b'\\x04\\x01\\x01\\xbb\\xcb\\0\\x71\\x0a\\0', b'\\x05\\x01\\x02', b'\\x05\\x00',\n\
         \x20             b'GET / HTTP/1.1\\r\\n\\r\\n'):\n\
         \x20s = gate.tcp(*gate.SOCKS); s.sendall(hello)\n\
         \x20print(gate.read_all(s)[0])",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "b''\nb'\\x05\\xff'\nb''\nb''\n", "{ran}");
    assert_denials(&ran, 4);
}
