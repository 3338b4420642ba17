//! What is forwarded is a new message made from the canonical name and type: nothing of the client's
//! bytes, spelling, id or options comes along; answers are believed only from where they should be.

use crate::support::sandbox;
use crate::upstream::{assert_all_canonical, assert_case_is_not_the_client_s};
use crate::{assert_nothing_leaked, shared};
use std::collections::BTreeSet;

crate::attacks! {
    case_id_options_and_flags_of_the_client_are_never_forwarded,
    many_equal_lookups_are_one_upstream_query,
    forged_answers_are_not_believed,
    svcb_answers_carry_no_hints_of_unlisted_or_guarded_addresses,
    reverse_lookups_of_what_was_not_given_out_stay_inside,
    a_wildcard_does_not_list_its_apex_nor_a_name_that_ends_alike,
}

fn case_id_options_and_flags_of_the_client_are_never_forwarded() {
    let world = shared::world();
    // Names of this test alone, so that the queries upstream are its own.
    let ran = sandbox(&world).allow("*.forwarded.example.com").python(
        "import gate\n\
         for n in range(20):\n\
         \x20marker = gate.option(65001, b'SMUGGLED') + gate.option(8, b'\\0\\1\\x18\\0\\xc0\\0\\x02') + gate.option(10, b'COOKIE!!')\n\
         \x20reply = gate.ask(gate.query('N%d.FoRwArDeD.eXaMpLe.CoM' % n, id=0x4242, options=marker, flags=0x0130))\n\
         \x20assert reply[:2] == b'BB' and b'FoRwArDeD' in reply, reply\n\
         \x20gate.ask(gate.query('t%d.forwarded.example.com' % n, id=0x4242, options=marker), over_tcp=True)",
    );
    ran.assert_ok().assert_no_denial();
    let mine = assert_all_canonical(&world, "forwarded");
    assert!(mine.len() >= 40, "{} queries", mine.len());
    let (mut ids, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for query in &mine {
        ids.insert(query.id);
        ports.insert(query.peer.port());
    }
    let spelled = |name: &str| {
        let (first, _) = name.split_once('.').unwrap_or_default();
        first.to_uppercase() + ".FoRwArDeD.eXaMpLe.CoM"
    };
    assert_case_is_not_the_client_s(&mine, spelled);
    assert!(
        ids.iter().filter(|id| **id == 0x4242).count() == 0 || ids.len() > 30,
        "{ids:?}"
    );
    assert!(
        ids.len() > 30 && ports.len() > 30,
        "ids {ids:?}, ports {ports:?}"
    );
    assert_nothing_leaked(&world);
}

fn many_equal_lookups_are_one_upstream_query() {
    let world = shared::world();
    let ran = sandbox(&world).allow("slow.example.com").sh(
        "for i in $(seq 20); do dig +short +tries=1 +time=10 slow.example.com & done; wait; dig +short slow.example.com",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "203.0.113.82\n".repeat(21), "{ran}");
    // One, and at most one retry of a resolver that takes 1.5 seconds to answer each.
    assert!(
        world.times_asked("slow.example.com") <= 4,
        "{}",
        world.times_asked("slow.example.com")
    );
    let count: u64 = ran
        .records
        .about("slow.example.com")
        .iter()
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(count, 21, "{ran}");
}

fn forged_answers_are_not_believed() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("forged.example.com")
        .sh("dig +short forged.example.com; curl -sS -o /dev/null -w '%{http_code}' https://forged.example.com/");
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "203.0.113.84\n200", "{ran}");
}

fn svcb_answers_carry_no_hints_of_unlisted_or_guarded_addresses() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("api.example.com")
        .sh("dig +short api.example.com HTTPS; \
         python3 -c 'import gate; print(gate.attempt(\"203.0.113.10\", 443))'");
    ran.assert_ok();
    let out = ran.out();
    // A hint is either left out or leased like any other address.
    assert!(
        !out.contains("ipv4hint=203.0.113.10") || out.ends_with("open\n"),
        "{ran}"
    );
}

fn reverse_lookups_of_what_was_not_given_out_stay_inside() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").sh(
        "dig -x 203.0.113.90; dig -x 10.20.0.5; dig -x 169.254.169.254; dig -x 2001:db8:10::20; \
         dig 4.3.2.1.x.in-addr.arpa PTR; dig secret.in-addr.arpa PTR; dig _dns.resolver.arpa SVCB",
    );
    ran.assert_ok();
    assert_eq!(ran.out().matches("status: NXDOMAIN").count(), 7, "{ran}");
    for query in world.dns_log() {
        let name = query.name.to_ascii_lowercase();
        assert!(!name.ends_with("arpa"), "{query:?}");
    }
}

fn a_wildcard_does_not_list_its_apex_nor_a_name_that_ends_alike() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("*.wild.example.com")
        .allow("allowed.example.com")
        .sh(
            "for n in wild.example.com notwild.example.com wild.example.com.evil.example.net \
         notallowed.example.com allowed.example.com.evil.example.net xallowed.example.com \
         sub.allowed.example.com example.com com; do dig $n | grep -c NXDOMAIN; done",
        );
    ran.assert_ok();
    assert_eq!(ran.out(), "1\n".repeat(9), "{ran}");
    for name in [
        "wild.example.com",
        "notwild.example.com",
        "notallowed.example.com",
        "sub.allowed.example.com",
        "com",
    ] {
        assert_eq!(world.times_asked(name), 0, "{name}");
    }
    assert_nothing_leaked(&world);
}
