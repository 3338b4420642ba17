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
fn thousands_of_clients_in_a_row_find_room_and_a_flow_that_stands_survives_them() {
    let world = shared::world();
    // Four times as many as there may be flows at once, each with a socket of its own as for a lookup.
    // One of the sockets that stay is bound to a device, one goes back and forth between two servers.
    let ran = sandbox(&world)
        .allow("dual.example.com:123/udp")
        .allow("198.51.100.0/24:123/udp")
        .python(&format!(
            "{ASK}\
             ends = {{at[0].value: at[4] for at in socket.getaddrinfo('dual.example.com', 123, type=socket.SOCK_DGRAM)}}\n\
             v4, v6 = ends[socket.AF_INET], ends[socket.AF_INET6]\n\
             def stays(family, *to):\n\
             \x20s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(gate.LIMIT)\n\
             \x20if len(to) == 1: s.connect(to[0])\n\
             \x20return s, to\n\
             still = [stays(socket.AF_INET, v4), stays(socket.AF_INET6, v6), stays(socket.AF_INET, v4)]\n\
             still[2][0].setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')\n\
             still.append(stays(socket.AF_INET, v4, ('198.51.100.123', 123)))\n\
             def heard():\n\
             \x20for s, ends in still:\n\
             \x20\x20for to in ends:\n\
             \x20\x20\x20s.connect(to); s.send(b'still there'); assert s.recv(99) == b'still there', to\n\
             heard()\n\
             for n in range(2000):\n\
             \x20assert ask(*(v4 if n % 3 else v6)[:2], b'what time is it') == (True, True), n\n\
             \x20if n % 50 == 0: heard()\n\
             print('all')"
        ));
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "all\n", "{ran}");
    let closes = ran.records.closes();
    let ended = |close: &&serde_json::Value| close["close_reason"] == "client-closed";
    let ended = closes.iter().filter(|close| ended(close)).count();
    assert!(ended >= 1488, "{ended} of {}: {ran}", closes.len());
    // One flow for each of the three that never connect anywhere else.
    let of_close = |close: &&serde_json::Value| close["bytes_up"] == 41 * 11;
    let whole = closes.iter().filter(|close| of_close(close)).count();
    assert!(whole >= 3, "{whole}: {ran}");
}

#[test]
fn what_a_program_sent_before_it_closed_its_socket_arrives() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com:123/udp").python(
        "import socket, time\n\
         address = socket.getaddrinfo('dual.example.com', 123, socket.AF_INET)[0][4]\n\
         for n in range(300):\n\
         \x20with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(bytes(10), address)\n\
         time.sleep(3)",
    );
    ran.assert_ok().assert_no_denial();
    let sent = |close: &serde_json::Value| close["bytes_up"].as_u64();
    let sent: u64 = ran.records.closes().into_iter().filter_map(sent).sum();
    assert_eq!(sent, 3000, "{ran}");
}

#[test]
fn one_flow_too_many_is_refused_with_an_error_and_the_rest_goes_on() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("dual.example.com:123/udp")
        .python(
            "import gate, errno, resource, socket\n\
             resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n\
             ends = {at[0]: at[4] for at in socket.getaddrinfo('dual.example.com', 123, type=socket.SOCK_DGRAM)}\n\
             def open(family):\n\
             \x20s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(gate.LIMIT); s.connect(ends[family])\n\
             \x20s.send(b'x')\n\
             \x20return s\n\
             families = [socket.AF_INET, socket.AF_INET6]\n\
             first = [open(families[n % 2]) for n in range(512)]\n\
             for s in first: assert s.recv(9) == b'x'\n\
             for family in families * 50:\n\
             \x20with open(family) as s:\n\
             \x20\x20try: print('heard', s.recv(9))\n\
             \x20\x20except ConnectionRefusedError: pass\n\
             # one that asks for errors needs no connection to see them\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(gate.LIMIT)\n\
             s.setsockopt(socket.IPPROTO_IP, socket.IP_RECVERR if hasattr(socket, 'IP_RECVERR') else 11, 1)\n\
             s.sendto(b'x', ends[socket.AF_INET])\n\
             try: print('heard', s.recv(9))\n\
             except ConnectionRefusedError: pass\n\
             for s in first: s.send(b'y'); assert s.recv(9) == b'y'\n\
             first.pop().close()\n\
             s = open(socket.AF_INET6)\n\
             print(s.recv(9))",
        );
    ran.assert_ok();
    assert_eq!(ran.out(), "b'x'\n", "{ran}");
    let denied = ran.records.all_denials();
    assert!(
        denied
            .iter()
            .all(|record| record["reason"] == "too-many-connections"),
        "{ran}"
    );
    let count = |record: &serde_json::Value| record["count"].as_u64().unwrap_or(1);
    let (v4, v6): (Vec<_>, Vec<_>) =
        (denied.into_iter()).partition(|record| record["addresses"][0] == "203.0.113.62");
    for (of, times) in [(v4, 51), (v6, 50)] {
        let counted: u64 = of.iter().map(|record| count(record)).sum();
        assert_eq!(counted, times, "{ran}");
    }
}

#[test]
fn what_the_network_says_of_a_datagram_reaches_the_program() {
    let world = shared::world();
    // Nobody listens on the port of the first, and the second is opened in the kernel and denied by a
    // narrower rule.
    let ran = sandbox(&world)
        .allow("dual.example.com:124/udp")
        .allow("198.51.100.0/24:123/udp")
        .deny("198.51.100.123/32")
        .python(
            "import gate, errno, socket\n\
             def fails(address, port):\n\
             \x20family = socket.AF_INET6 if ':' in address else socket.AF_INET\n\
             \x20with socket.socket(family, socket.SOCK_DGRAM) as s:\n\
             \x20\x20s.settimeout(gate.LIMIT); s.connect((address, port))\n\
             \x20\x20try:\n\
             \x20\x20\x20s.send(b'x'); return s.recv(9)\n\
             \x20\x20except OSError as error: return errno.errorcode.get(error.errno, error)\n\
             for at in socket.getaddrinfo('dual.example.com', 124, type=socket.SOCK_DGRAM): print(fails(*at[4][:2]))\n\
             print(fails('198.51.100.123', 123))",
        );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "ECONNREFUSED\nECONNREFUSED\nEHOSTUNREACH\n",
        "{ran}"
    );
}
