//! Methods and paths on HTTPS, by curl, over every way in.

use crate::support::require;
use crate::{narrow, requests, rules, world};

/// The three ways in: directly, through the HTTP proxy, through SOCKS5.
const WAYS: [(&str, &str); 3] = [
    ("transparent", "--noproxy '*'"),
    ("connect", "-x http://10.0.2.2:3128"),
    ("socks5", "-x socks5h://10.0.2.2:1080"),
];

#[test]
fn a_request_that_the_rule_allows_passes_by_every_way_in() {
    require("curl");
    let world = world();
    for (protocol, way) in WAYS {
        let ran = narrow(&world).sh(&format!(
            "curl -sS --http1.1 {way} 'https://api.example.com/public/a?token=secret' \
             -H 'X-Forwarded-For: 1.2.3.4' -H 'Proxy-Foo: x' -H 'Via: 1.1 evil'"
        ));
        ran.assert_ok().assert_no_denial();
        // The server shows the head as it came.
        ran.assert_out("GET /public/a?token=secret HTTP/1.1\r\n");
        ran.assert_out("\r\nHost: api.example.com\r\n");
        for gone in ["forwarded", "proxy-", "via"] {
            assert!(
                !ran.out().to_ascii_lowercase().contains(gone),
                "{gone}: {ran}"
            );
        }
        let expected = (
            "GET".to_owned(),
            "/public/a".to_owned(),
            "allowed".to_owned(),
        );
        assert_eq!(requests(&ran), [expected], "{ran}");
        assert!(!ran.records.to_string().contains("secret"), "{ran}");
        let flow =
            ran.records.decisions().into_iter().find(|r| {
                r["protocol"] == protocol && r["verdict"] == "allow" && r["path"].is_null()
            });
        let flow = flow.unwrap_or_else(|| panic!("no record of the flow: {ran}"));
        let close = ran
            .records
            .close_of(flow)
            .unwrap_or_else(|| panic!("no close: {ran}"));
        assert!(close["bytes_up"].as_u64() > Some(100), "{close}");
        assert!(close["bytes_down"].as_u64() > Some(500), "{close}");
        // The sandbox may be gone before its last connection's end was seen.
        let ends = ["finished", "shutdown"].map(serde_json::Value::from);
        assert!(ends.contains(&close["close_reason"]), "{ran}");
    }
}

#[test]
fn what_the_rule_does_not_allow_is_a_403_with_the_code_of_its_kind() {
    require("curl");
    let world = world();
    for (_, way) in WAYS {
        let ran = narrow(&world).sh(&format!(
            "curl -sS -i --http1.1 {way} -X POST -d body https://api.example.com/public/a; \
             curl -sS -i --http1.1 {way} 'https://api.example.com/private/b?token=secret'"
        ));
        ran.assert_ok();
        let out = ran.out();
        assert_eq!(out.matches("HTTP/1.1 403 Forbidden").count(), 2, "{ran}");
        ran.assert_out("x-proxy-error: blocked-by-method-policy");
        ran.assert_out("x-proxy-error: blocked-by-path-policy");
        ran.assert_out("proxy-status: portcullis; error=http_request_denied");
        ran.assert_one_denial("http", "method-not-allowed", "api.example.com");
        ran.assert_one_denial("http", "path-not-allowed", "api.example.com");
        assert!(!ran.records.to_string().contains("secret"), "{ran}");
    }
    let reached = world
        .server_log()
        .into_iter()
        .filter(|event| event.event == "request");
    assert_eq!(reached.count(), 0, "a refused request went upstream");
}

#[test]
fn the_second_request_of_a_connection_is_decided_on_too() {
    require("curl");
    let world = world();
    let ran = narrow(&world).sh(
        "curl -sS --http1.1 --noproxy '*' -o /dev/null -o /dev/null -o /dev/null \
         -w '%{http_code} %{num_connects}\\n' https://api.example.com/public/a \
         https://api.example.com/public/../private https://api.example.com/public/b --path-as-is",
    );
    ran.assert_ok();
    // On one connection, until a refusal ends it.
    assert_eq!(ran.out(), "200 1\n403 0\n200 1\n", "{ran}");
}

#[test]
fn a_host_other_than_the_connection_s_is_refused() {
    require("curl");
    let world = world();
    let ran = rules(
        &world,
        r#""api.example.com" = { verdict = "allow", inspect = true }
           "www.example.com" = { verdict = "allow", inspect = true }"#,
    )
    .sh("for host in evil.example.net www.example.com api.example.com:8443 ''; do \
           curl -sS -o /dev/null -w '%{http_code} ' --http1.1 --noproxy '*' -H \"Host: $host\" https://api.example.com/; \
         done; \
         curl -sS -o /dev/null -w '%{http_code} ' --http1.1 --noproxy '*' -H 'Host: API.example.com.:443' https://api.example.com/");
    ran.assert_ok();
    // An empty -H takes the field away: no Host at all is malformed.
    assert_eq!(ran.out(), "403 403 403 400 200 ", "{ran}");
    let mismatches = ran
        .records
        .denials("http", "host-mismatch", "api.example.com");
    // Equal ones within a second share a record.
    let count: u64 = mismatches
        .iter()
        .filter_map(|record| record["count"].as_u64())
        .sum();
    assert_eq!(count, 3, "{ran}");
    world.assert_never_asked("evil");
}

#[test]
fn bodies_of_every_kind_pass_both_ways() {
    require("curl");
    let world = world();
    let ran = rules(
        &world,
        r#""api.example.com" = { verdict = "allow", inspect = true }"#,
    )
    .sh(
        "c() { curl -sS --fail --http1.1 --noproxy '*' \"$@\"; }; u=https://api.example.com; \
         c $u/bytes/20000000 | wc -c; \
         head -c 3000000 /dev/zero > big; \
         c -T big -H 'Expect: 100-continue' $u/upload; \
         c -X POST -H 'Transfer-Encoding: chunked' --data-binary @big $u/upload; \
         c $u/chunked/3/10; \
         c -I $u/bytes/77 | grep -i '^content-length'; \
         c -o /dev/null -w '%{http_code}\\n' $u/status/204; \
         curl -sS --http1.1 --noproxy '*' -o /dev/null $u/cut/1000 || echo broken off",
    );
    assert_eq!(
        ran.out(),
        "20000000\nreceived 3000000\nreceived 3000000\npiece 0\npiece 1\npiece 2\n\
         content-length: 77\r\n204\nbroken off\n",
        "{ran}"
    );
    ran.assert_no_denial();
    // What upstream cut off was cut off for the program too.
    let broken = ran.records.closes();
    let broken = broken
        .iter()
        .filter(|close| close["close_reason"] == "upstream-reset");
    assert!(broken.count() >= 1, "{ran}");
}

#[test]
fn nothing_but_http_passes_on_an_inspected_name() {
    require("openssl");
    let world = world();
    let ran = rules(&world, r#""api.example.com" = { verdict = "allow", inspect = true }"#).sh(
        "s() { openssl s_client -connect api.example.com:443 -servername api.example.com -quiet \"$@\" 2>&1; }; \
         (printf 'SSH-2.0-evil\\r\\n\\r\\n'; sleep 2) | s | tail -c 300; \
         echo | s -alpn dot | grep -o 'no application protocol'",
    );
    ran.assert_out("no application protocol");
    assert!(!ran.out().contains("SSH-2.0"), "{ran}");
    let denials = ran.records.all_denials();
    let of = |layer: &str, reason: &str| {
        denials
            .iter()
            .filter(|r| r["layer"] == layer && r["reason"] == reason)
            .count()
    };
    assert_eq!(of("http", "malformed"), 1, "{ran}");
    assert_eq!(of("tls", "protocol-not-allowed"), 1, "{ran}");
    let reached = world
        .server_log()
        .into_iter()
        .filter(|event| event.event == "request");
    assert_eq!(reached.count(), 0);
}

#[test]
fn audit_lets_pass_and_records_what_would_be_refused() {
    require("curl");
    let world = world();
    let ran = narrow(&world).args(&["--audit"]).sh(
        "curl -sS -o /dev/null -w '%{http_code}' --http1.1 --noproxy '*' -X DELETE https://api.example.com/public/a",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "200", "{ran}");
    let watched = ran.records.verdict("audit");
    assert!(
        watched.iter().any(|r| r["reason"] == "method-not-allowed"),
        "{ran}"
    );
}
