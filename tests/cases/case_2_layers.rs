//! Case 2: which layer said no. The ordinary tools show each layer's signature, and `diagnose` names
//! the layer by itself.

use crate::shared;
use crate::support::{command, require, sandbox};

#[test]
fn the_ordinary_tools_show_the_four_layers() {
    for program in ["nslookup", "nc", "openssl", "curl"] {
        require(program);
    }
    let world = shared::world();
    let run = |script: &str| {
        sandbox(&world)
            .allow("api.example.com")
            .allow("refused.example.com")
            .allow("expired.example.com")
            .sh(script)
    };
    // 1, DNS.
    run("nslookup evil.example.net").assert_said("NXDOMAIN");
    run("nslookup api.example.com")
        .assert_ok()
        .assert_said("Address: 203.0.113.10");
    // 2, TCP: refused by the gateway; opened, then reset, by a broken upstream.
    run("nc -zv -w 25 203.0.113.90 443")
        .assert_code(1)
        .assert_said("refused");
    run("nc -zv -4 -w 25 api.example.com 444")
        .assert_code(1)
        .assert_said("refused");
    run("nc -v -w 25 refused.example.com 443 </dev/null").assert_said("203.0.113.86");
    // 3, TLS.
    let tls = |servername: &str, host: &str| {
        run(&format!(
            "openssl s_client -connect {host}:443 -servername {servername} -CAfile $SSL_CERT_FILE </dev/null"
        ))
    };
    tls("api.example.com", "api.example.com")
        .assert_ok()
        .assert_said("Verify return code: 0 (ok)");
    tls("evil.example.net", "api.example.com")
        .assert_code(1)
        .assert_said("alert");
    tls("expired.example.com", "expired.example.com").assert_said("certificate has expired");
    // 4, HTTP: the name is refused by the proxy.
    run("curl -v https://evil.example.net/")
        .assert_code(56)
        .assert_said("403");
    world.assert_never_asked("evil");
}

#[test]
fn a_limit_cuts_a_flow_in_mid_stream() {
    require("curl");
    let policy = "version = 1\n[network.domains]\n\
                  \"api.example.com\" = { verdict = \"allow\", total_bytes = \"100kB\" }\n";
    let ran = sandbox(&shared::world())
        .policy("toml", policy)
        .sh("curl -v -m 60 -o /dev/null https://api.example.com/bytes/500000");
    // What curl calls a reset, and which limit it was.
    ran.assert_code(56).assert_said("200").assert_said("reset");
    ran.assert_no_denial();
    let [close] = ran.records.closes()[..] else {
        panic!("not one flow: {ran}")
    };
    assert_eq!(close["close_reason"], "limit", "{ran}");
    assert_eq!(close["detail"], "total_bytes of the rule", "{ran}");
}

#[test]
fn diagnose_names_the_layer_by_itself() {
    let world = shared::world();
    for (target, allow, code, words) in [
        ("api.example.com", "api.example.com", 0, ""),
        (
            "diagnose.evil.example.net",
            "api.example.com",
            11,
            "diagnose.evil.example.net",
        ),
        ("private.example.com", "private.example.com", 11, "private"),
        ("missing.example.com", "missing.example.com", 11, "nxdomain"),
        ("api.example.com:444", "api.example.com", 12, "444"),
        ("refused.example.com", "refused.example.com", 12, "refused"),
        ("expired.example.com", "expired.example.com", 13, "expired"),
        (
            "untrusted.example.com",
            "untrusted.example.com",
            13,
            "certificate",
        ),
    ] {
        let done = command(&world, &["diagnose", "--allow", allow, target]);
        assert_eq!(done.code(), Some(code), "{target}: {done}");
        assert!(
            (done.out() + &done.err())
                .to_ascii_lowercase()
                .contains(words),
            "{target}: {done}"
        );
    }
    world.assert_never_asked("evil");
}

#[test]
fn explain_says_the_verdict_offline_first() {
    let world = crate::support::world();
    for (target, code, word) in [
        ("api.example.com", 0, "allow"),
        ("evil.example.net", 1, "deny"),
        ("api.example.com:22", 1, "deny"),
        ("10.20.0.5:80", 1, "deny"),
    ] {
        let done = command(&world, &["explain", "--allow", "api.example.com", target]);
        assert_eq!(done.code(), Some(code), "{target}: {done}");
        assert_eq!(
            done.out()
                .split_whitespace()
                .next()
                .map(|w| w.trim_end_matches([':', ','])),
            Some(word),
            "{done}"
        );
    }
    assert_eq!(world.dns_log().len(), 0, "offline");
}
