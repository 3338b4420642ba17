//! Programs that only look names up: getent, dig, nslookup.

use crate::shared;
use crate::support::{Ran, require, sandbox};
use crate::usual;

fn sh(script: &str) -> Ran {
    usual(&shared::world()).sh(script)
}

#[test]
fn getent_finds_listed_names_and_no_others() {
    require("getent");
    let ran = sh(
        "getent ahosts api.example.com; getent ahostsv4 www.example.com; getent hosts api.example.com",
    );
    ran.assert_ok().assert_no_denial();
    for part in [
        "203.0.113.10",
        "2001:db8:10::10",
        "203.0.113.20",
        "cdn.example.net",
    ] {
        ran.assert_out(part);
    }
    let ran = sh("getent hosts x.getent.tunnel.evil.example.net");
    ran.assert_code(2);
    assert!(!ran.records.all_denials().is_empty(), "{ran}");
    shared::world().assert_never_asked("evil");
}

#[test]
fn getent_finds_the_sandbox_s_own_loopback() {
    require("getent");
    let ran = sh("getent ahostsv4 localhost; dig +short localhost AAAA");
    ran.assert_ok()
        .assert_no_denial()
        .assert_out("127.0.0.1")
        .assert_out("::1");
}

#[test]
fn the_own_host_name_leaves_no_denial() {
    require("getent");
    let ran = sh("getent ahosts $(uname -n); dig +noall +comments $(uname -n) AAAA");
    ran.assert_no_denial();
    ran.assert_out("status: NOERROR");
}

#[test]
fn dig_answers_for_listed_names() {
    require("dig");
    let ran = sh(
        "dig +short api.example.com A; dig +short api.example.com AAAA; dig +short www.example.com; \
         dig +tcp +short api.example.com; dig +short aPi.ExAmPlE.cOm.; dig +short api.example.com HTTPS",
    );
    ran.assert_ok().assert_no_denial();
    let out = ran.out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[..6],
        [
            "203.0.113.10",
            "2001:db8:10::10",
            "cdn.example.net.",
            "203.0.113.20",
            "203.0.113.10",
            "203.0.113.10"
        ],
        "{ran}"
    );
    assert!(lines[6].contains("h3"), "{ran}");
}

#[test]
fn dig_reads_every_type_that_a_plain_allow_serves() {
    require("dig");
    let world = shared::world();
    let ran = sandbox(&world).allow("**.example.com").sh(
        "dig +short example.com MX; dig +short example.com TXT; dig +short example.com NS; \
         dig +short example.com CAA; dig +short _sip._tcp.example.com SRV; dig example.com SOA",
    );
    ran.assert_ok().assert_no_denial();
    for part in [
        "10 smtp.example.com.",
        "v=spf1,-all",
        "ns1.example.com.",
        "0 issue \"ca.example.net\"",
        "10 20 5060 api.example.com.",
        "hostmaster.example.com.",
    ] {
        ran.assert_out(part);
    }
}

#[test]
fn dig_reverse_finds_what_was_given_out_and_nothing_else() {
    require("dig");
    let world = shared::world();
    let ran = sandbox(&world).allow("internal-data.example.corp").sh(
        "dig +short -x 203.0.113.30; echo --; dig +short internal-data.example.corp; dig +short -x 203.0.113.30; \
         dig +short backend-canonical-host.example.corp; echo --; dig -x 203.0.113.31",
    );
    ran.assert_ok();
    let out = ran.out();
    let parts: Vec<&str> = out.split("--\n").collect();
    assert_eq!(parts[0], "", "nothing was given out yet: {ran}");
    assert_eq!(
        parts[1],
        "backend-canonical-host.example.corp.\n203.0.113.30\nbackend-canonical-host.example.corp.\n203.0.113.30\n",
        "{ran}"
    );
    assert!(parts[2].contains("status: NXDOMAIN"), "{ran}");
    world.assert_never_asked("31.113.0.203.in-addr.arpa");
}

#[test]
fn a_large_answer_comes_whole() {
    require("dig");
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("big.example.com")
        .allow("many.example.com")
        .sh("dig +short big.example.com; dig +short many.example.com | sort");
    ran.assert_ok().assert_no_denial();
    assert_eq!(
        ran.out(),
        "203.0.113.81\n203.0.113.100\n203.0.113.101\n203.0.113.102\n203.0.113.103\n203.0.113.104\n203.0.113.105\n",
        "{ran}"
    );
}

#[test]
fn nslookup_says_which_names_exist() {
    require("nslookup");
    let ran = sh("nslookup api.example.com; nslookup x.nslookup.tunnel.evil.example.net");
    ran.assert_code(1).assert_out("Address: 203.0.113.10");
    ran.assert_out("server can't find x.nslookup.tunnel.evil.example.net: NXDOMAIN");
    shared::world().assert_never_asked("evil");
}

#[test]
fn a_cname_chain_resolves_and_its_canonical_name_with_it() {
    require("dig");
    let world = shared::world();
    let ran = sandbox(&world).allow("chain1.example.com").sh(
        "dig +short chain4.example.net; echo --; dig +short chain1.example.com; dig +short chain4.example.net; \
         curl -sS --noproxy '*' -o /dev/null -w '%{http_code}\\n' https://chain1.example.com/; \
         curl -sS --noproxy '*' https://chain4.example.net/",
    );
    let out = ran.out();
    let (before, after) = out.split_once("--\n").unwrap_or_default();
    assert_eq!(before, "", "not before the chain is known: {ran}");
    assert!(
        after.starts_with(
            "chain2.example.com.\nchain3.example.com.\nchain4.example.net.\n203.0.113.98\n"
        ),
        "{ran}"
    );
    assert!(
        after.contains("\n203.0.113.98\n203.0.113.98\n200\n"),
        "{ran}"
    );
    // It resolves, but as the name in a handshake it counts only if it is listed itself.
    ran.assert_one_denial("tls", "sni-not-listed", "chain4.example.net");
}
