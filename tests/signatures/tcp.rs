//! What connect() and send() say: refused at once where policy refuses, opened and reset where the
//! upstream does not play along.

use crate::support::sandbox;
use crate::{assert_denials, shared};
use std::time::Duration;

#[test]
fn an_address_nobody_was_given_is_refused() {
    let world = shared::world();
    for (address, reason) in [
        ("203.0.113.90", "address-not-leased"),
        ("2001:db8:10::61", "address-not-leased"),
        ("1.1.1.1", "address-not-leased"),
        ("10.20.0.5", "private-address"),
        ("169.254.169.254", "private-address"),
        ("fd00::5", "private-address"),
        ("64:ff9b::a14:5", "private-address"),
    ] {
        let ran = sandbox(&world).allow("api.example.com").python(&format!(
            "import gate; print(gate.attempt('{address}', 443))"
        ));
        ran.assert_ok();
        assert_eq!(ran.out(), "ECONNREFUSED\n", "{address}: {ran}");
        ran.assert_one_denial("tcp", reason, address);
        assert_denials(&ran, 1);
        world.assert_never_reached(address);
    }
}

#[test]
fn a_leased_address_is_refused_on_other_ports() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com:443").python(
        "import gate, socket\n\
         socket.getaddrinfo('dual.example.com', 443)\n\
         for address in '203.0.113.62', '2001:db8:10::62':\n\
         \x20print(gate.attempt(address, 443), gate.attempt(address, 80))",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "open ECONNREFUSED\n".repeat(2), "{ran}");
    for address in ["203.0.113.62", "2001:db8:10::62"] {
        ran.assert_one_denial("tcp", "port-not-allowed", address);
        let denial = ran.records.denials("tcp", "port-not-allowed", address)[0];
        assert_eq!(
            (&denial["port"], &denial["name"]),
            (&80.into(), &"dual.example.com".into()),
            "{ran}"
        );
    }
    assert_denials(&ran, 2);
}

#[test]
fn a_denied_network_is_refused_by_its_rule() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("203.0.113.0/24:443")
        .deny("203.0.113.90/32")
        .python("import gate; print(gate.attempt('203.0.113.90', 443), gate.attempt('203.0.113.62', 443))");
    ran.assert_ok();
    assert_eq!(ran.out(), "ECONNREFUSED open\n", "{ran}");
    ran.assert_one_denial("tcp", "denied-by-rule", "203.0.113.90");
    world.assert_never_reached("203.0.113.90");
}

#[test]
fn an_allowed_upstream_that_refuses_shows_as_a_reset_and_is_named_in_the_record() {
    let world = shared::world();
    for (name, address, reason) in [
        ("refused.example.com", "203.0.113.86", "connection-refused"),
        ("unreachable.example.com", "203.0.113.251", "unreachable"),
    ] {
        let ran = sandbox(&world).allow(name).python(&format!(
            "import gate, socket\n\
             try:\n\
             \x20s = gate.tcp('{name}', 443)\n\
             \x20s.sendall(b'hello')\n\
             \x20print(gate.read_all(s))\n\
             except ConnectionResetError: print((b'', 'ECONNRESET'))"
        ));
        // The reset may come before the program has looked at the open connection.
        ran.assert_ok().assert_no_denial();
        assert_eq!(ran.out(), "(b'', 'ECONNRESET')\n", "{ran}");
        let record = ran.records.one("transparent", name);
        assert_eq!(
            (&record["verdict"], &record["reason"]),
            (&"error".into(), &reason.into()),
            "{ran}"
        );
        assert!(
            record["addresses"]
                .as_array()
                .is_some_and(|a| a.contains(&address.into())),
            "{ran}"
        );
    }
}

#[test]
fn an_upstream_that_resets_resets_the_client() {
    let world = shared::world();
    let ran = sandbox(&world).allow("reset.example.com").python(
        "import gate\n\
         s = gate.tcp('reset.example.com', 443)\n\
         try: s.sendall(gate.client_hello('reset.example.com'))\n\
         except OSError: pass\n\
         print(gate.read_all(s)[0])",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "b''\n", "{ran}");
}

#[test]
fn slow_an_allowed_upstream_that_is_silent_is_a_timeout_in_the_record() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("silent.example.com")
        .limit(Duration::from_secs(150))
        .python(
            "import gate\n\
         gate.LIMIT = 50\n\
         s = gate.tcp('silent.example.com', 443, 50)\n\
         print(gate.read_all(s))\n\
         s, answer = gate.connect('silent.example.com:443')\n\
         print(gate.status(answer), 'error=connection_timeout' in answer)\n\
         print(gate.socks(b'silent.example.com', 443)[1])",
        );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "(b'', 'ECONNRESET')\n504 True\n1\n", "{ran}");
    for protocol in ["transparent", "connect", "socks5"] {
        assert_eq!(
            ran.records.one(protocol, "silent.example.com")["reason"],
            "connection-timeout",
            "{ran}"
        );
    }
}

#[test]
fn udp_fails_at_once_to_listed_hosts_too() {
    let world = shared::world();
    let ran = sandbox(&world).allow("api.example.com").python(
        "import gate, socket\n\
         socket.getaddrinfo('api.example.com', 443)\n\
         for address, port in ('203.0.113.10', 443), ('2001:db8:10::10', 443), ('198.51.100.123', 123), ('203.0.113.10', 853):\n\
         \x20print(gate.datagram(address, port))",
    );
    ran.assert_ok();
    let out = ran.out();
    assert_eq!(out.lines().count(), 4, "{ran}");
    // Each met an error; what is lost without one would be "silence". How fast is the bars' to say.
    for line in out.lines() {
        assert!(
            [
                "EPERM",
                "EHOSTUNREACH",
                "ECONNREFUSED",
                "ENETUNREACH",
                "EACCES"
            ]
            .contains(&line),
            "{ran}"
        );
    }
    for address in ["2001:db8:10::10", "198.51.100.123"] {
        ran.assert_one_denial("udp", "protocol-not-allowed", address);
    }
    let ports = ran
        .records
        .denials("udp", "protocol-not-allowed", "203.0.113.10");
    assert_eq!(ports.len(), 2, "one for each port: {ran}");
    assert!(
        world
            .server_log()
            .iter()
            .all(|event| event.event != "datagram")
    );
}

#[test]
fn icmp_fails_at_once() {
    let world = shared::world();
    let ran = sandbox(&world).allow("api.example.com").python(
        "import gate, socket\n\
         socket.getaddrinfo('api.example.com', 443)\n\
         for kind in socket.SOCK_DGRAM, socket.SOCK_RAW:\n\
         \x20try:\n\
         \x20 s = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)\n\
         \x20 s.settimeout(10)\n\
         \x20 s.sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0', ('203.0.113.10', 0))\n\
         \x20 s.sendto(b'\\x08\\0\\xf7\\xff\\0\\0\\0\\0', ('203.0.113.10', 0))\n\
         \x20 print('answered', s.recv(100))\n\
         \x20except socket.timeout: print('silence')\n\
         \x20except OSError as e: print('failed')",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "failed\nfailed\n", "{ran}");
}
