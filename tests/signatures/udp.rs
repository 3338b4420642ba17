//! Datagrams: they pass by a rule for their port, and meet an error at once without one.

use crate::support::sandbox;
use crate::{assert_denials, shared};

/// Sends from a socket that is not connected, and says what comes back and from where.
const ASK: &str = "\
import gate, socket
def ask(address, port, words):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(gate.LIMIT)
        s.sendto(words, (address, port))
        said, where = s.recvfrom(65535)
        return said == words, where[:2] == (address, port)
";

#[test]
fn datagrams_pass_by_a_rule_and_are_answered_from_the_address_that_was_asked() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com:123/udp").python(&format!(
        "{ASK}\
         found = socket.getaddrinfo('dual.example.com', 123, type=socket.SOCK_DGRAM)\n\
         for address in sorted({{at[0] for *_, at in found}}):\n\
         \x20print(address, ask(address, 123, b'what time is it'), ask(address, 123, bytes(1400)))\n\
         # a connected socket hears nobody else\n\
         print(gate.datagram('203.0.113.62', 123))",
    ));
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "2001:db8:10::62 (True, True) (True, True)\n203.0.113.62 (True, True) (True, True)\nanswered\n",
        "{ran}"
    );
    assert_denials(&ran, 0);
    let flows: Vec<_> = ran
        .records
        .decisions()
        .into_iter()
        .filter(|record| record["layer"] == "udp")
        .collect();
    // each socket and destination is a flow
    assert_eq!(flows.len(), 5, "{ran}");
    for flow in flows {
        assert_eq!(flow["verdict"], "allow", "{ran}");
        assert_eq!(flow["rule"], "dual.example.com:123/udp", "{ran}");
        assert_eq!(
            (&flow["name"], &flow["port"]),
            (&"dual.example.com".into(), &123.into())
        );
        let close = ran
            .records
            .close_of(flow)
            .unwrap_or_else(|| panic!("{ran}"));
        assert!(close["bytes_up"].as_u64() >= Some(2), "{ran}");
        assert!(close["bytes_down"].as_u64() >= Some(1), "{ran}");
    }
}

#[test]
fn a_rule_for_datagrams_opens_its_port_and_no_other_and_no_connection() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("dual.example.com:123/udp")
        .allow("api.example.com")
        .python(
            "import gate, socket\n\
             for name in 'dual.example.com', 'api.example.com': socket.getaddrinfo(name, 443)\n\
             for address in '203.0.113.62', '2001:db8:10::62':\n\
             \x20print(gate.datagram(address, 124), gate.attempt(address, 443))\n\
             # QUIC to a listed name, and the rule's port of another\n\
             print(gate.datagram('203.0.113.10', 443, bytes(1200)), gate.datagram('203.0.113.10', 123))",
        );
    ran.assert_ok();
    let refused = ["EPERM", "EHOSTUNREACH", "EACCES", "ECONNREFUSED"];
    for word in ran.out().split_whitespace() {
        assert!(refused.contains(&word), "{word}: {ran}");
    }
    for (address, port) in [
        ("203.0.113.62", 124),
        ("2001:db8:10::62", 124),
        ("203.0.113.10", 443),
        ("203.0.113.10", 123),
    ] {
        let denials = ran.records.denials("udp", "protocol-not-allowed", address);
        assert!(
            denials.iter().any(|denial| denial["port"] == port),
            "{address}:{port}: {ran}"
        );
    }
    for address in ["203.0.113.62", "2001:db8:10::62"] {
        ran.assert_one_denial("tcp", "port-not-allowed", address);
    }
}

#[test]
fn an_address_rule_for_datagrams_needs_no_lookup() {
    let world = shared::world();
    let ran = sandbox(&world).allow("198.51.100.0/24:123/udp").python(&format!(
        "{ASK}\
         print(ask('198.51.100.123', 123, b'tick'), gate.datagram('198.51.100.123', 124) != 'answered')",
    ));
    ran.assert_ok();
    assert_eq!(ran.out(), "(True, True) True\n", "{ran}");
    let ran = sandbox(&world)
        .allow("198.51.100.0/24:123/udp")
        .deny("198.51.100.123/32")
        .python("import gate; print(gate.datagram('198.51.100.123', 123, wait=2))");
    ran.assert_ok();
    assert_ne!(ran.out(), "answered\n", "{ran}");
    assert!(
        !ran.records
            .denials("udp", "denied-by-rule", "198.51.100.123")
            .is_empty(),
        "{ran}"
    );
}

#[test]
fn datagrams_are_no_way_around_the_bytes_that_a_sandbox_may_pass() {
    let world = shared::world();
    let policy = "version = 1\n\
                  [network.domains]\n\"dual.example.com:123/udp\" = \"allow\"\n\
                  [network.limits]\ntotal_bytes = \"4kB\"\n";
    // Each question and each answer is 1,000 bytes: two pass both ways.
    let ran = sandbox(&world).policy("toml", policy).python(
        "import gate, socket\n\
         address = socket.getaddrinfo('dual.example.com', 123, socket.AF_INET)[0][4][0]\n\
         print([gate.datagram(address, 123, bytes(1000), wait=2) == 'answered' for _ in range(4)])",
    );
    ran.assert_ok();
    let answered = ran.out().matches("True").count();
    assert!((1..=2).contains(&answered), "{ran}");
    let limited = |close: &serde_json::Value| close["close_reason"] == "limit";
    assert!(
        ran.records.closes().into_iter().any(limited),
        "no flow was ended by the limit: {ran}"
    );
}

#[test]
fn a_first_burst_of_datagrams_arrives_whole_and_what_is_dropped_is_counted() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com:123/udp").python(
        "import gate, socket\n\
         address = socket.getaddrinfo('dual.example.com', 123, socket.AF_INET)[0][4][0]\n\
         def burst(size, count):\n\
         \x20with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n\
         \x20\x20s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)\n\
         \x20\x20s.settimeout(3)\n\
         \x20\x20for n in range(count): s.sendto(n.to_bytes(2, 'big') + bytes(size - 2), (address, 123))\n\
         \x20\x20seen = set()\n\
         \x20\x20try:\n\
         \x20\x20\x20while len(seen) < count: seen.add(s.recv(65535)[:2])\n\
         \x20\x20except TimeoutError: pass\n\
         \x20\x20return len(seen)\n\
         print(burst(1200, 54), burst(100, 100), burst(32000, 2))",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "54 100 2\n", "{ran}");
    for close in ran.records.closes() {
        assert!(close["detail"].is_null(), "nothing was dropped: {ran}");
    }
}

#[test]
fn flows_of_datagrams_end_with_the_program_s_socket() {
    let world = shared::world();
    // More clients one after the other than there may be flows at once, as in a minute of lookups.
    let ran = sandbox(&world)
        .allow("dual.example.com:123/udp")
        .python(&format!(
            "{ASK}\
         address = socket.getaddrinfo('dual.example.com', 123, socket.AF_INET)[0][4][0]\n\
         print(all(ask(address, 123, b'what time is it') == (True, True) for _ in range(700)))"
        ));
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "True\n", "{ran}");
    let ended = |close: &&serde_json::Value| close["close_reason"] == "client-closed";
    let closes = ran.records.closes();
    let ended = closes.iter().filter(|close| ended(close)).count();
    assert!(ended >= 188, "{ended} of {}: {ran}", closes.len());
}
