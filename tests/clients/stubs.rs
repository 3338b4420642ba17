//! Stub resolvers of C programs: glibc with its options, musl in a static program; and programs
//! under a resolv.conf of their own making, with search domains and `ndots`.

use crate::shared;
use crate::support::{self, Ran, TIMEOUT, finish, require, sandbox};
use portcullis_testkit::World;
use std::path::PathBuf;
use std::process::Command;

/// Both families, one family, a canonical name elsewhere, and what is not listed.
const NAMES: &str = "api.example.com v4only.example.com v6only.example.com www.example.com";
const DENIED: &str = "stub.tunnel.evil.example.net";

fn listed(world: &World) -> support::Sandbox<'_> {
    let names = NAMES.split(' ');
    names.fold(sandbox(world), |sandbox, name| sandbox.allow(name))
}

/// A resolv.conf as a cluster writes it, put over the sandbox's own by the program itself, in mounts
/// of its own. The searched names are nobody's.
const SEARCHING: &str = "search one.evil.example.net two.evil.example.net three.evil.example.net\\n\
                         options ndots:5\\nnameserver 10.0.2.3\\n";

/// A script under [`SEARCHING`].
pub fn searching(script: &str) -> String {
    format!(
        "printf '{SEARCHING}' > searching.$$ && export CONF=searching.$$ && \
         unshare -Urm sh -c 'mount --bind $CONF /etc/resolv.conf && grep -q ndots /etc/resolv.conf && exec {script}'"
    )
}

/// Fails the test unless the searched names were asked for, refused, and not asked for without end.
#[track_caller]
pub fn assert_searched(ran: &Ran, name: &str) {
    let denied = ran.records.all_denials();
    let count: u64 = denied
        .iter()
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum();
    for suffix in ["one", "two", "three"] {
        let searched = format!("{name}.{suffix}.evil.example.net");
        assert!(
            denied.iter().any(|record| record["name"] == searched),
            "{searched}: {ran}"
        );
    }
    // Three names of two types, and each a second time where the machine was slow to answer.
    assert!(count <= 12, "{count} lookups: {ran}");
    shared::world().assert_never_asked("evil");
}

#[test]
fn glibc_with_each_of_its_options_finds_both_families() {
    require("getent");
    let world = shared::world();
    for (options, protocol) in [
        ("", "dns-udp"),
        ("single-request", "dns-udp"),
        ("single-request-reopen", "dns-udp"),
        ("use-vc", "dns-tcp"),
        ("edns0", "dns-udp"),
        ("edns0 trust-ad", "dns-udp"),
        ("rotate", "dns-udp"),
        ("no-tld-query", "dns-udp"),
        ("ndots:5", "dns-udp"),
    ] {
        let ran = listed(&world).sh(&format!(
            "export RES_OPTIONS='{options}'; \
             for name in {NAMES}; do getent ahosts $name | awk '/STREAM/ {{ print $1 }}' | sort | tr '\\n' ' '; echo; done; \
             getent ahosts {DENIED} || echo code $?"
        ));
        ran.assert_ok();
        assert_eq!(
            ran.out(),
            "2001:db8:10::10 203.0.113.10 \n203.0.113.60 \n2001:db8:10::61 \n2001:db8:10::20 203.0.113.20 \ncode 2\n",
            "{options}: {ran}"
        );
        ran.assert_one_denial("dns", "not-in-allowlist", DENIED);
        for record in ran.records.decisions() {
            assert_eq!(record["protocol"], protocol, "{options}: {ran}");
        }
    }
    world.assert_never_asked("evil");
}

#[test]
fn a_and_aaaa_at_once_on_one_socket_are_both_answered() {
    let world = shared::world();
    let ran = listed(&world).python(
        "import gate, socket, struct\n\
         def both(name):\n\
         \x20with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n\
         \x20 s.settimeout(gate.LIMIT); s.connect((gate.resolver(), 53))\n\
         \x20 s.send(gate.query(name, 1, id=1)); s.send(gate.query(name, 28, id=2))\n\
         \x20 found = {reply[1]: (gate.rcode(reply), reply[7]) for reply in (s.recv(4096), s.recv(4096))}\n\
         \x20with gate.tcp(gate.resolver(), 53) as s:\n\
         \x20 pair = [gate.query(name, 1, id=1), gate.query(name, 28, id=2)]\n\
         \x20 s.sendall(b''.join(struct.pack('!H', len(one)) + one for one in pair))\n\
         \x20 replies = [gate.exactly(s, struct.unpack('!H', gate.exactly(s, 2))[0]) for _ in pair]\n\
         \x20again = {reply[1]: (gate.rcode(reply), reply[7]) for reply in replies}\n\
         \x20assert again == found, (found, again)\n\
         \x20print(found[1], found[2])\n\
         for name in 'api.example.com', 'v4only.example.com', 'v6only.example.com', 'both.evil.example.net': both(name)",
    );
    ran.assert_ok();
    // Response code and answers, of A and of AAAA: what is missing is NODATA, never REFUSED.
    assert_eq!(
        ran.out(),
        "(0, 1) (0, 1)\n(0, 1) (0, 0)\n(0, 0) (0, 1)\n(3, 0) (3, 0)\n",
        "{ran}"
    );
    world.assert_never_asked("evil");
}

#[test]
fn glibc_that_searches_neither_leaks_nor_stalls() {
    require("unshare");
    let world = shared::world();
    let ran = listed(&world).sh(&searching("getent ahosts api.example.com"));
    ran.assert_ok()
        .assert_out("203.0.113.10")
        .assert_out("2001:db8:10::10");
    assert_searched(&ran, "api.example.com");
}

/// The static program; nothing of glibc is in it.
fn musl(world: &World, name: &str) -> String {
    require("musl-gcc");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/musl.c");
    let program = world.home().join(name);
    let mut compiler = Command::new("musl-gcc");
    compiler
        .args(["-static", "-O1", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg(source);
    let done = finish(&mut compiler, TIMEOUT);
    assert!(done.ok(), "{done}");
    program.display().to_string()
}

#[test]
fn musl_finds_listed_names_and_is_told_what_is_not_there() {
    let world = shared::world();
    let program = musl(&world, "musl-finds");
    let ran = listed(&world).sh(&format!(
        "{program} {NAMES} {DENIED} -x 203.0.113.10 -x 203.0.113.31"
    ));
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        format!(
            "api.example.com api.example.com 203.0.113.10 2001:db8:10::10\n\
             v4only.example.com v4only.example.com 203.0.113.60\n\
             v6only.example.com v6only.example.com 2001:db8:10::61\n\
             www.example.com cdn.example.net 203.0.113.20 2001:db8:10::20\n\
             {DENIED} NONAME\n203.0.113.10 api.example.com\n203.0.113.31 NONAME\n"
        ),
        "{ran}"
    );
    ran.assert_one_denial("dns", "not-in-allowlist", DENIED);
    world.assert_never_asked("evil");
    world.assert_never_asked("31.113.0.203");
}

#[test]
fn musl_that_searches_neither_leaks_nor_stalls() {
    require("unshare");
    let world = shared::world();
    let program = musl(&world, "musl-searches");
    let ran = listed(&world).sh(&searching(&format!("{program} api.example.com")));
    ran.assert_ok()
        .assert_out(" 203.0.113.10 2001:db8:10::10\n");
    assert_searched(&ran, "api.example.com");
}
