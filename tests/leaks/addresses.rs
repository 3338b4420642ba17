//! The address guard, end to end: private and local addresses, rebinding, the many ways to write an
//! address, the host's own services.

use crate::support::{Ran, sandbox};
use crate::{assert_nothing_leaked, shared};
use portcullis_testkit::{Fault, WorldSpec};

crate::attacks! {
    rebinding_between_check_and_dial,
    mixed_public_and_private_answers,
    every_way_to_write_a_guarded_address_is_refused,
    every_guarded_address_is_refused_on_every_path,
    connecting_back_to_the_gateway_s_own_listeners,
}

fn rebinding_between_check_and_dial() {
    // A public and a private address in turn, TTL 0; twice each, since A and AAAA are asked together.
    let turns =
        ["203.0.113.85", "203.0.113.85", "10.20.0.5", "10.20.0.5"].map(portcullis_testkit::ip);
    let world = crate::support::world_from(
        WorldSpec::standard().fault("rebind.example.com", Fault::Rebind(turns.to_vec())),
    );
    world.file("gate.py", shared::GATE);
    let ran = sandbox(&world).allow("rebind.example.com").sh(
        "served=0; refused=0; rounds=0; \
         while [ $rounds -lt 200 ] && { [ $served -lt 5 ] || [ $refused -lt 5 ]; }; do rounds=$((rounds + 1)); \
         for way in '' '--noproxy *' '--socks5-hostname 10.0.2.2:1080'; do set -f; \
         case $(curl -s -m 25 -o /dev/null -w '%{http_code}' $way http://rebind.example.com/) in \
         200) served=$((served + 1));; *) refused=$((refused + 1));; esac; done; \
         python3 -c 'import gate; print(gate.attempt(\"10.20.0.5\", 443), gate.attempt(\"10.20.0.5\", 80))'; done; \
         [ $served -ge 5 ] && [ $refused -ge 5 ]",
    );
    ran.assert_ok();
    assert!(
        ran.out()
            .lines()
            .all(|line| line == "ECONNREFUSED ECONNREFUSED"),
        "{ran}"
    );
    assert_nothing_leaked(&world);
}

fn mixed_public_and_private_answers() {
    let world = shared::world();
    let ran = sandbox(&world).allow("mixed.example.com").sh(
        "for i in 1 2 3 4 5 6; do curl -sS -o /dev/null -w '%{http_code}\\n' http://mixed.example.com/; \
         curl -sS --noproxy '*' -o /dev/null -w '%{http_code}\\n' http://mixed.example.com/; done",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "200\n".repeat(12), "{ran}");
    assert_nothing_leaked(&world);
}

/// Ways to write the host's loopback and other guarded addresses.
const WRITTEN: [&str; 26] = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "127.000.000.001",
    "0",
    "0.0.0.0",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "a.localhost",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[::1%25lo]",
    "[::1%lo]",
    "192.0.2.2",
    "[2001:db8:2::2]",
];

/// Those that mean the sandbox itself, where nobody listens in this test.
const OWN: [&str; 11] = [
    "127.0.0.1",
    "127.0.0.1.",
    "0.0.0.0",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "a.localhost",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
];

fn every_way_to_write_a_guarded_address_is_refused() {
    let world = shared::world();
    let list = WRITTEN.map(|text| format!("'{text}'")).join(", ");
    let ran = sandbox(&world).allow("api.example.com").python(&format!(
        "import gate\n\
         for host in [{list}]:\n\
         \x20print('connect', gate.status(gate.connect(host + ':8080')[1]), host)\n\
         \x20print('absolute', gate.status(gate.get('http://' + host + ':8080/')), host)\n\
         \x20print('socks', gate.socks(host.strip('[]').encode(), 8080)[1], host)\n"
    ));
    ran.assert_ok();
    let out = ran.out();
    assert_eq!(out.lines().count(), 3 * WRITTEN.len(), "{ran}");
    for line in out.lines() {
        let refused = [
            "connect 403 ",
            "connect 400 ",
            "absolute 403 ",
            "absolute 400 ",
            "socks 2 ",
            "socks 1 ",
        ];
        let found_nobody = ["connect 502 ", "absolute 502 ", "socks 5 "];
        let of_own = |start: &&str| {
            line.strip_prefix(*start)
                .is_some_and(|host| OWN.contains(&host))
        };
        assert!(
            refused.iter().any(|start| line.starts_with(start)) || found_nobody.iter().any(of_own),
            "{line}: {ran}"
        );
    }
    assert_nothing_leaked(&world);
    world.assert_never_reached("127.0.0.1");
    world.assert_never_reached("::1");
}

fn every_guarded_address_is_refused_on_every_path() {
    let world = shared::world();
    let list = portcullis_testkit::GUARDED
        .map(|text| format!("'{text}'"))
        .join(", ");
    let ran = sandbox(&world).allow("api.example.com").python(&format!(
        "import gate\n\
         for address in [{list}]:\n\
         \x20host = '[%s]' % address if ':' in address else address\n\
         \x20print(gate.attempt(address, 80), gate.status(gate.connect(host + ':443')[1]),\n\
         \x20      gate.status(gate.get('http://' + host + '/')), gate.socks(address, 80)[1])\n"
    ));
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "ECONNREFUSED 403 403 2\n".repeat(portcullis_testkit::GUARDED.len()),
        "{ran}"
    );
    assert_nothing_leaked(&world);
}

#[test]
fn audit_lets_names_pass_but_no_private_address() {
    let world = crate::support::world();
    world.file("gate.py", shared::GATE);
    let ran = sandbox(&world).args(&["--audit"]).python(
        "import gate, socket\n\
         print(gate.attempt('www.anthropic.com', 443), gate.status(gate.connect('api.github.com:443')[1]))\n\
         print(gate.attempt('10.20.0.5', 80), gate.status(gate.connect('10.20.0.5:80')[1]), gate.socks('10.20.0.5', 80)[1])\n\
         print(gate.status(gate.connect('private.example.com:443')[1]), gate.attempt('169.254.169.254', 80))\n\
         print(gate.status(gate.connect('127.0.0.1:8080')[1]), gate.status(gate.connect('host.portcullis.internal:8080')[1]))",
    );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "open 200\nECONNREFUSED 403 2\n403 ECONNREFUSED\n502 403\n",
        "{ran}"
    );
    assert!(!ran.records.verdict("audit").is_empty(), "{ran}");
    for address in portcullis_testkit::GUARDED {
        world.assert_never_reached(address);
    }
    world.assert_never_reached("127.0.0.1");
}

#[test]
fn an_address_rule_lifts_the_guard_for_its_range_and_port_alone() {
    let world = shared::world();
    let ran = sandbox(&world).allow("10.20.0.6/32:5432").allow("db.example.corp:5432").python(
        "import gate\n\
         print(gate.attempt('10.20.0.6', 5432), gate.attempt('db.example.corp', 5432), gate.attempt('10.20.0.6', 80),\n\
         \x20     gate.attempt('10.20.0.5', 5432), gate.socks(b'db.example.corp', 5432)[1], gate.socks('10.20.0.5', 5432)[1])\n\
         s = gate.tcp('db.example.corp', 5432); s.sendall(b'query\\n'); print(gate.exactly(s, 6))",
    );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "open open ECONNREFUSED ECONNREFUSED 0 2\nb'query\\n'\n",
        "{ran}"
    );
    assert_nothing_leaked(&world);
}

/// Whether the host's own HTTP server answers, on each path.
fn host_service(args: &[&str]) -> Ran {
    // A world of its own: the host's loopback may be reached in one of them.
    let world = crate::support::world();
    world.file("gate.py", shared::GATE);
    sandbox(&world).args(args).sh(
        "url=http://host.portcullis.internal:8080/; \
         for way in '' '--noproxy *' '--socks5-hostname 10.0.2.2:1080'; do set -f; \
         curl -s -m 25 -o /dev/null -w '%{http_code}\\n' $way $url; done; \
         python3 -c 'import gate; print(gate.attempt(\"10.0.2.2\", 8080), gate.attempt(\"10.0.2.2\", 7777))'",
    )
}

#[test]
fn the_host_s_services_are_reached_by_their_name_only_when_it_is_listed() {
    let ran = host_service(&["--allow", "host.portcullis.internal:8080"]);
    ran.assert_ok();
    assert_eq!(ran.out(), "200\n200\n200\nopen ECONNREFUSED\n", "{ran}");
    let ran = host_service(&["--allow", "api.example.com"]);
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "403\n000\n000\nECONNREFUSED ECONNREFUSED\n",
        "{ran}"
    );
    let ran = host_service(&["--allow", "host.portcullis.internal:9999"]);
    assert_eq!(
        ran.out(),
        "403\n000\n000\nECONNREFUSED ECONNREFUSED\n",
        "{ran}"
    );
}

fn connecting_back_to_the_gateway_s_own_listeners() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("10.0.0.0/8")
        .allow("api.example.com")
        .python(
            "import gate\n\
         for to in '10.0.2.2:3128', '10.0.2.2:1080', '10.0.2.2:53', '10.0.2.3:53':\n\
         \x20host, port = to.split(':')\n\
         \x20print(gate.status(gate.connect(to)[1]), gate.socks(host, int(port))[1])",
        );
    ran.assert_ok();
    assert_eq!(ran.out(), "403 2\n".repeat(4), "{ran}");
    for denial in ran.records.all_denials() {
        assert_eq!(denial["reason"], "gateway-loop", "{ran}");
    }
}
