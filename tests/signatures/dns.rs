//! What DNS says, with its extended errors (RFC 8914), over UDP and TCP.

use crate::support::{Ran, require, sandbox};
use crate::{after, assert_denials, shared};

fn dig(allow: &[&str], args: &str) -> Ran {
    require("dig");
    let world = shared::world();
    let sandbox = allow
        .iter()
        .fold(sandbox(&world), |sandbox, target| sandbox.allow(target));
    sandbox.sh(&format!("dig +tries=1 +time=10 {args}"))
}

/// Fails the test unless the answer says NXDOMAIN with an SOA and this extended error, and its one
/// record carries the same id.
#[track_caller]
fn assert_blocked(ran: &Ran, name: &str, reason: &str) {
    let out = ran.out();
    assert!(out.contains("status: NXDOMAIN"), "{ran}");
    assert!(
        out.contains("AUTHORITY: 1,") && out.contains("\tSOA\t"),
        "{ran}"
    );
    let extra = after(&out, "EDE: 15 (Blocked): ");
    let id = extra
        .strip_prefix(&format!("({reason}; id="))
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or_else(|| panic!("extra text {extra:?}: {ran}"));
    ran.assert_one_denial("dns", reason, name);
    assert_eq!(
        ran.records.denials("dns", reason, name)[0]["id"],
        id,
        "{ran}"
    );
    assert_denials(ran, 1);
}

#[test]
fn a_name_that_is_not_listed_does_not_exist() {
    for transport in ["+notcp", "+tcp"] {
        for qtype in ["A", "AAAA", "TXT", "HTTPS", "SRV"] {
            let name = "x.dns.tunnel.evil.example.net";
            let ran = dig(&["api.example.com"], &format!("{transport} {name} {qtype}"));
            assert_blocked(&ran, name, "not-in-allowlist");
            let denial = ran.records.denials("dns", "not-in-allowlist", name)[0].clone();
            assert_eq!(denial["qtype"], qtype, "{ran}");
            let protocol = if transport == "+tcp" {
                "dns-tcp"
            } else {
                "dns-udp"
            };
            assert_eq!(denial["protocol"], protocol, "{ran}");
        }
    }
    shared::world().assert_never_asked("evil");
}

#[test]
fn a_denied_name_does_not_exist_and_the_record_names_the_rule() {
    let world = shared::world();
    let ran = sandbox(&world)
        .policy(
            "toml",
            "version = 1\n[network.domains]\n\"**.example.com\" = \"allow\"\n\"denied-dns.example.com\" = \"deny\"\n",
        )
        .sh("dig denied-dns.example.com");
    assert_blocked(&ran, "denied-dns.example.com", "denied-by-rule");
    let denial = ran
        .records
        .denials("dns", "denied-by-rule", "denied-dns.example.com")[0];
    assert!(
        denial["rule"]
            .as_str()
            .is_some_and(|rule| rule.contains("denied-dns")),
        "{ran}"
    );
    assert!(
        denial["source"]
            .as_str()
            .is_some_and(|s| s.ends_with(".toml:4")),
        "{ran}"
    );
    assert!(
        !ran.out().contains(".toml"),
        "files stay in the operator's record: {ran}"
    );
    assert_eq!(world.times_asked("denied-dns.example.com"), 0);
}

#[test]
fn without_edns_there_is_no_extended_error() {
    let name = "x.plain.tunnel.evil.example.net";
    let ran = dig(&[], &format!("+noedns {name}"));
    let out = ran.out();
    assert!(
        out.contains("status: NXDOMAIN") && out.contains("\tSOA\t"),
        "{ran}"
    );
    assert!(
        !out.contains("OPT PSEUDOSECTION") && !out.contains("EDE"),
        "{ran}"
    );
    ran.assert_one_denial("dns", "not-in-allowlist", name);
}

#[test]
fn a_type_that_is_not_served_is_nodata() {
    for qtype in ["NAPTR", "SSHFP", "DNSKEY", "TYPE65280"] {
        let ran = dig(
            &["types.example.com"],
            &format!("types.example.com {qtype}"),
        );
        let out = ran.out();
        assert!(
            out.contains("status: NOERROR") && out.contains("ANSWER: 0"),
            "{qtype}: {ran}"
        );
        assert!(out.contains("\tSOA\t"), "{qtype}: {ran}");
        assert!(
            out.contains("EDE: 21 (Not Supported)") || out.contains("EDE: 15 (Blocked)"),
            "{ran}"
        );
        ran.assert_one_denial("dns", "type-not-served", "types.example.com");
        assert_denials(&ran, 1);
    }
    assert_eq!(shared::world().times_asked("types.example.com"), 0);
}

/// `types` of the policy, and of one rule, instead of those of a plain allow.
#[test]
fn the_types_that_a_policy_leaves_out_are_nodata_and_never_asked_for() {
    require("dig");
    let world = shared::world();
    let policy = "version = 1\n[network.dns]\ntypes = [\"A\", \"SRV\"]\n[network.domains]\n\
                  \"_sip._tcp.example.com\" = \"allow\"\n\"narrow.example.com\" = \"allow\"\n\
                  \"empty.example.com\" = { verdict = \"allow\", types = [\"TXT\"] }\n";
    let ran = sandbox(&world).policy("toml", policy).sh(
        "dig +short _sip._tcp.example.com SRV; dig +short empty.example.com TXT; \
         for type in MX TXT NS CAA AAAA HTTPS CNAME; do dig narrow.example.com $type; done; \
         dig empty.example.com A",
    );
    let out = ran.out();
    let served = "10 20 5060 api.example.com.\n\"no-address-here\"\n";
    let rest = out.strip_prefix(served);
    let rest = rest.unwrap_or_else(|| panic!("not served: {ran}"));
    for sign in [
        "status: NOERROR",
        "ANSWER: 0",
        "\tSOA\t",
        "EDE: 21 (Not Supported): (type-not-served",
    ] {
        assert_eq!(rest.matches(sign).count(), 8, "{sign}: {ran}");
    }
    let denied = ran
        .records
        .denials("dns", "type-not-served", "narrow.example.com");
    assert_eq!(denied.len(), 7, "{ran}");
    ran.assert_one_denial("dns", "type-not-served", "empty.example.com");
    assert_denials(&ran, 8);
    assert_eq!(world.times_asked("narrow.example.com"), 0);
}

#[test]
fn any_is_answered_by_rfc_8482_and_transfers_are_refused() {
    let ran = dig(&["example.com"], "+notcp example.com ANY");
    ran.assert_ok()
        .assert_out("status: NOERROR")
        .assert_out("RFC8482");
    for transfer in ["AXFR", "IXFR=1"] {
        let ran = dig(&["example.com"], &format!("+tcp example.com {transfer}"));
        ran.assert_said("Transfer failed");
        assert_denials(&ran, 1);
        ran.assert_one_denial("dns", "transfer-refused", "example.com");
    }
    assert_eq!(shared::world().times_asked("example.com"), 0);
}

#[test]
fn no_address_of_a_family_is_nodata_never_refused() {
    let ran = dig(&["v4only.example.com"], "v4only.example.com AAAA");
    let out = ran.out();
    assert!(
        out.contains("status: NOERROR") && out.contains("ANSWER: 0"),
        "{ran}"
    );
    assert!(out.contains("\tSOA\t") && !out.contains("EDE"), "{ran}");
    ran.assert_no_denial();
    let ran = dig(&["v6only.example.com"], "v6only.example.com A");
    assert!(
        ran.out().contains("status: NOERROR") && ran.out().contains("ANSWER: 0"),
        "{ran}"
    );
    let ran = dig(&["empty.example.com"], "empty.example.com A");
    assert!(
        ran.out().contains("status: NOERROR") && ran.out().contains("ANSWER: 0"),
        "{ran}"
    );
}

#[test]
fn private_addresses_only_do_not_exist_unless_a_rule_lifts_them() {
    for name in [
        "private",
        "metadata",
        "loopback",
        "zero",
        "hostself",
        "to-private",
    ] {
        let name = format!("{name}.example.com");
        let ran = dig(&[&name], &name);
        assert_blocked(&ran, &name, "private-address");
        assert!(
            !ran.out().contains("10.20.0.5"),
            "addresses inside stay inside: {ran}"
        );
    }
    for name in ["loopback6", "mapped", "nat64", "ula"] {
        let name = format!("{name}.example.com");
        let ran = dig(&[&name], &format!("{name} AAAA"));
        assert_blocked(&ran, &name, "private-address");
    }
    let ran = dig(
        &["private.example.com", "10.20.0.0/16:443"],
        "+short private.example.com",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "10.20.0.5\n", "{ran}");
}

#[test]
fn of_mixed_addresses_only_the_public_ones_are_given_out() {
    let ran = dig(&["mixed.example.com"], "+short mixed.example.com");
    ran.assert_ok();
    assert_eq!(ran.out(), "203.0.113.70\n", "{ran}");
}

#[test]
fn the_upstream_s_nxdomain_carries_the_upstream_s_soa() {
    let ran = dig(&["missing.example.com"], "missing.example.com");
    let out = ran.out();
    assert!(
        out.contains("status: NXDOMAIN") && !out.contains("EDE"),
        "{ran}"
    );
    assert!(
        out.contains("ns1.example.com. hostmaster.example.com."),
        "{ran}"
    );
    ran.assert_no_denial();
    let record = ran.records.one("dns-udp", "missing.example.com");
    assert_eq!(
        (&record["verdict"], &record["reason"]),
        (&"error".into(), &"name-not-found".into())
    );
}

#[test]
fn an_upstream_that_is_silent_is_servfail_within_four_seconds() {
    let ran = dig(&["dead.example.com"], "dead.example.com");
    let out = ran.out();
    assert!(out.contains("status: SERVFAIL"), "{ran}");
    let code = after(&out, "EDE: ");
    assert!(code.starts_with("22 ") || code.starts_with("23 "), "{ran}");
    // As dig measured it: stub resolvers give up at 5 s.
    let took: Option<u64> = after(&out, "Query time: ")
        .split(' ')
        .next()
        .and_then(|milliseconds| milliseconds.parse().ok());
    assert!(took.is_some_and(|took| took < 5_000), "{ran}");
    let record = ran.records.one("dns-udp", "dead.example.com");
    assert_eq!(
        (&record["verdict"], &record["reason"]),
        (&"error".into(), &"dns-timeout".into())
    );
    assert!(record["attempts"].as_u64() >= Some(4), "{ran}");
    assert!(shared::world().times_asked("dead.example.com") >= 4);
}

#[test]
fn an_upstream_that_fails_is_servfail() {
    let ran = dig(&["servfail.example.com"], "servfail.example.com");
    let out = ran.out();
    assert!(out.contains("status: SERVFAIL"), "{ran}");
    let code = after(&out, "EDE: ");
    assert!(code.starts_with("22 ") || code.starts_with("23 "), "{ran}");
    assert_eq!(
        ran.records.one("dns-udp", "servfail.example.com")["reason"],
        "dns-failed",
        "{ran}"
    );
}

#[test]
fn faults_of_the_upstream_that_retries_mend_do_not_show() {
    for name in ["flaky", "forged", "slow", "big"] {
        let name = format!("{name}.example.com");
        let ran = dig(&[&name], &format!("+short {name}"));
        ran.assert_ok().assert_no_denial();
        assert!(ran.out().starts_with("203.0.113.8"), "{name}: {ran}");
    }
}

#[test]
fn answers_under_a_wrong_id_are_not_believed() {
    let ran = dig(&["wrongid.example.com"], "wrongid.example.com");
    ran.assert_out("status: SERVFAIL");
    assert!(!ran.out().contains("203.0.113.84"), "{ran}");
}

#[test]
fn malformed_queries_are_answered_as_such_and_recorded() {
    let world = shared::world();
    let ran = sandbox(&world).allow("api.example.com").python(
        "import gate, struct\n\
         say = lambda message, limit=gate.LIMIT: print(gate.rcode(gate.ask(message, limit=limit)))\n\
         q = gate.query\n\
         say(q('api.example.com', flags=0x2800))\n\
         say(q('api.example.com', more=gate.question('b.evil.example.net') + b'\\0\\1\\0\\1', count=2))\n\
         say(q([b'api', b'exa mple', b'com']))\n\
         say(q([b'api\\0', b'example', b'com']))\n\
         say(q('api.example.com')[:20])\n\
         say(q('api.example.com', flags=0x8100), 1)\n\
         say(b'short', 1)",
    );
    ran.assert_ok();
    let out = ran.out();
    let codes: Vec<&str> = out.lines().collect();
    assert_eq!(codes[0], "4", "an opcode nobody serves is NOTIMP: {ran}");
    assert_eq!(codes[1], "1", "two questions are FORMERR: {ran}");
    assert!(
        ["1", "3", "5"].contains(&codes[2]) && ["1", "3", "5"].contains(&codes[3]),
        "{ran}"
    );
    assert_eq!(codes[4], "1", "a cut question is FORMERR: {ran}");
    assert_eq!(
        codes[5..],
        ["None", "None"],
        "what is no query gets no answer: {ran}"
    );
    assert!(!ran.records.all_denials().is_empty(), "{ran}");
    for denial in ran.records.all_denials() {
        assert_eq!(
            (&denial["layer"], &denial["reason"]),
            (&"dns".into(), &"malformed".into()),
            "{ran}"
        );
    }
    world.assert_never_asked("evil");
}
