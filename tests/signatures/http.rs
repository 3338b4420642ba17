//! What an HTTP client is told, on CONNECT and in absolute form.

use crate::support::{Ran, sandbox};
use crate::{after, assert_denials, shared};

/// Runs Python with `names` allowed; it prints one answer of the proxy.
fn answer(targets: &[&str], expression: &str) -> Ran {
    let world = shared::world();
    let sandbox = targets
        .iter()
        .fold(sandbox(&world), |sandbox, target| sandbox.allow(target));
    let ran = sandbox.python(&format!("import gate; print({expression})"));
    ran.assert_ok();
    ran
}

/// Fails the test unless the answer is a 403 with these words, and its one record has its id.
#[track_caller]
fn assert_forbidden(ran: &Ran, [reason, x_proxy_error, rfc_9209]: [&str; 3], whom: &str) {
    let out = ran.out();
    assert!(out.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{ran}");
    assert_eq!(after(&out, "x-proxy-error: "), x_proxy_error, "{ran}");
    let status = after(&out, "proxy-status: ");
    let details = status
        .strip_prefix(&format!(
            "portcullis; error={rfc_9209}; details=\"{reason}; id="
        ))
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or_else(|| panic!("Proxy-Status {status:?}: {ran}"));
    assert_eq!(after(&out, "reason: "), reason, "{ran}");
    assert_eq!(after(&out, "decision: "), details, "{ran}");
    ran.assert_one_denial("http", reason, whom);
    assert_eq!(
        ran.records.denials("http", reason, whom)[0]["id"],
        details,
        "{ran}"
    );
    assert_denials(ran, 1);
}

const ALLOWLIST: [&str; 3] = [
    "not-in-allowlist",
    "blocked-by-allowlist",
    "http_request_denied",
];
const DENYLIST: [&str; 3] = [
    "denied-by-rule",
    "blocked-by-denylist",
    "http_request_denied",
];
const PORT: [&str; 3] = [
    "port-not-allowed",
    "blocked-by-port-policy",
    "http_request_denied",
];
const PRIVATE: [&str; 3] = [
    "private-address",
    "blocked-by-private-address",
    "destination_ip_prohibited",
];
const NOT_LEASED: [&str; 3] = [
    "address-not-leased",
    "blocked-by-allowlist",
    "http_request_denied",
];

#[test]
fn a_name_that_is_not_listed() {
    for ask in [
        "gate.connect('http.evil.example.net:443')[1]",
        "gate.get('http://http.evil.example.net/p?q=secret')",
    ] {
        let ran = answer(&["api.example.com"], ask);
        assert_forbidden(&ran, ALLOWLIST, "http.evil.example.net");
        ran.assert_out("to allow it: ")
            .assert_out("\"http.evil.example.net\" = \"allow\"");
        assert!(!ran.records.to_string().contains("secret"), "{ran}");
    }
    shared::world().assert_never_asked("evil");
}

#[test]
fn a_name_that_a_rule_denies() {
    let world = shared::world();
    for ask in [
        "gate.connect('denied-http.example.com:443')[1]",
        "gate.get('http://denied-http.example.com/')",
    ] {
        let ran = sandbox(&world)
            .allow("**.example.com")
            .deny("denied-http.example.com")
            .python(&format!("import gate; print({ask})"));
        assert_forbidden(&ran, DENYLIST, "denied-http.example.com");
        assert_eq!(
            ran.records.all_denials()[0]["rule"],
            "denied-http.example.com",
            "{ran}"
        );
    }
    assert_eq!(world.times_asked("denied-http.example.com"), 0);
}

#[test]
fn a_port_that_no_rule_has() {
    for ask in [
        "gate.connect('port-http.example.com:22')[1]",
        "gate.get('http://port-http.example.com:8080/')",
    ] {
        let ran = answer(&["port-http.example.com"], ask);
        assert_forbidden(&ran, PORT, "port-http.example.com");
    }
    assert_eq!(shared::world().times_asked("port-http.example.com"), 0);
}

#[test]
fn a_private_address_by_name_and_by_number() {
    for name in [
        "private",
        "metadata",
        "loopback",
        "zero",
        "hostself",
        "to-private",
        "mapped",
        "nat64",
        "ula",
    ] {
        let name = format!("{name}.example.com");
        for ask in [
            format!("gate.connect('{name}:443')[1]"),
            format!("gate.get('http://{name}/')"),
        ] {
            let ran = answer(&[&name], &ask);
            assert_forbidden(&ran, PRIVATE, &name);
            assert!(
                !ran.out().contains("10.20.0.5"),
                "addresses inside stay inside: {ran}"
            );
        }
    }
    for (address, port) in [("10.20.0.5", 443), ("169.254.169.254", 80)] {
        for ask in [
            format!("gate.connect('{address}:{port}')[1]"),
            format!("gate.get('http://{address}:{port}/')"),
        ] {
            assert_forbidden(&answer(&["api.example.com"], &ask), PRIVATE, address);
        }
    }
    for address in ["fd00::5", "::ffff:10.20.0.5", "64:ff9b::a14:5"] {
        let ran = answer(
            &["api.example.com"],
            &format!("gate.connect('[{address}]:443')[1]"),
        );
        assert!(
            ran.out()
                .contains("x-proxy-error: blocked-by-private-address"),
            "{ran}"
        );
        assert_denials(&ran, 1);
    }
    let world = shared::world();
    for address in portcullis_testkit::GUARDED {
        world.assert_never_reached(address);
    }
    world.assert_never_reached("127.0.0.1");
}

#[test]
fn a_public_address_that_nobody_was_given() {
    for ask in [
        "gate.connect('203.0.113.90:443')[1]",
        "gate.get('http://203.0.113.90/')",
    ] {
        assert_forbidden(
            &answer(&["api.example.com"], ask),
            NOT_LEASED,
            "203.0.113.90",
        );
    }
    shared::world().assert_never_reached("203.0.113.90");
}

#[test]
fn the_body_is_json_for_those_who_ask_for_it() {
    let ran = answer(
        &[],
        "gate.get('http://json.evil.example.net/', 'Accept: application/json\\r\\n')",
    );
    let out = ran.out();
    assert_eq!(after(&out, "content-type: "), "application/json", "{ran}");
    let body = out.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body: serde_json::Value =
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {ran}"));
    assert_eq!(body["reason"], "not-in-allowlist", "{ran}");
    assert_eq!(
        body["decision"],
        ran.records.all_denials()[0]["id"],
        "{ran}"
    );
    assert!(
        body["suggestion"]
            .as_str()
            .is_some_and(|line| line.contains("json.evil.example.net")),
        "{ran}"
    );
}

#[test]
fn a_failing_upstream_is_502_or_504_never_403_and_never_200() {
    for (name, status, rfc_9209, reason) in [
        (
            "refused.example.com",
            "502",
            "connection_refused",
            "connection-refused",
        ),
        (
            "unreachable.example.com",
            "502",
            "destination_ip_unroutable",
            "unreachable",
        ),
        ("missing.example.com", "502", "dns_error", "name-not-found"),
        ("servfail.example.com", "502", "dns_error", "dns-failed"),
        ("empty.example.com", "502", "dns_error", "no-address"),
        ("dead.example.com", "504", "dns_timeout", "dns-timeout"),
    ] {
        let ran = answer(
            &[name],
            &format!("gate.connect('{name}:443')[1], gate.get('http://{name}/')"),
        );
        ran.assert_no_denial();
        let out = ran.out();
        assert_eq!(
            out.matches(&format!("HTTP/1.1 {status} ")).count(),
            2,
            "{name}: {ran}"
        );
        assert_eq!(
            out.matches(&format!("portcullis; error={rfc_9209}; "))
                .count(),
            2,
            "{name}: {ran}"
        );
        assert!(
            !out.contains("x-proxy-error") && !out.contains("HTTP/1.1 200"),
            "{name}: {ran}"
        );
        for protocol in ["connect", "http"] {
            let record = ran.records.one(protocol, name);
            assert_eq!(
                (&record["verdict"], &record["reason"]),
                (&"error".into(), &reason.into()),
                "{ran}"
            );
        }
    }
}

#[test]
fn an_upstream_that_ends_without_an_answer_is_502() {
    for url in [
        "http://api.example.com/close",
        "http://reset.example.com/",
        "http://api.example.com:9000/",
    ] {
        let ran = answer(
            &["api.example.com:*", "reset.example.com"],
            &format!("gate.get('{url}')"),
        );
        ran.assert_no_denial();
        assert!(ran.out().starts_with("HTTP/1.1 502 "), "{url}: {ran}");
        assert!(
            ran.out().contains("proxy-status: portcullis; error="),
            "{url}: {ran}"
        );
    }
}

#[test]
fn malformed_requests_are_400_and_recorded_once() {
    for request in [
        r"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.example.net\r\n\r\n",
        r"GET http://api.example.com/ HTTP/1.1\nHost: api.example.com\n\n",
        r"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nX: a\r\n b\r\n\r\n",
        r"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        r"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        r"GET http://user@api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        r"GET http://evil.example.net\\@api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        r"GET http://%61pi.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        r"CONNECT api.example.com HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        r"CONNECT [evil.com]:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        r"CONNECT [::1%25eth0]:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        r"CONNECT api.example.com:443\x00 HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
    ] {
        let ran = answer(&["api.example.com"], &format!("gate.http('{request}')"));
        assert!(ran.out().starts_with("HTTP/1.1 400 "), "{request}: {ran}");
        assert_denials(&ran, 1);
        assert_eq!(
            ran.records.all_denials()[0]["reason"],
            "malformed",
            "{request}: {ran}"
        );
    }
    shared::world().assert_never_asked("evil");
}

#[test]
fn host_unlike_the_target_does_not_steer() {
    let world = shared::world();
    let ran = answer(
        &["dual.example.com"],
        "gate.http('GET http://dual.example.com/host HTTP/1.1\\r\\nHost: evil.example.net\\r\\nConnection: close\\r\\n\\r\\n')",
    );
    // RFC 9112 section 3.2.2: the absolute form wins over Host; refusing is as good.
    let out = ran.out();
    assert!(
        out.starts_with("HTTP/1.1 200") || out.starts_with("HTTP/1.1 4"),
        "{ran}"
    );
    assert!(!out.contains("Host: evil"), "{ran}");
    let seen = world
        .server_log()
        .into_iter()
        .filter(|event| event.head_text().contains("evil.example.net"));
    assert_eq!(seen.count(), 0);
    world.assert_never_asked("evil");
}

#[test]
fn a_second_request_on_a_kept_connection_is_decided_by_itself() {
    let ran = answer(
        &["dual.example.com"],
        "gate.http('GET http://dual.example.com/one HTTP/1.1\\r\\nHost: dual.example.com\\r\\n\\r\\n'\n\
         'GET http://evil.example.net/two HTTP/1.1\\r\\nHost: evil.example.net\\r\\n\\r\\n'\n\
         'GET http://dual.example.com/three HTTP/1.1\\r\\nHost: dual.example.com\\r\\n\\r\\n')",
    );
    let out = ran.out();
    assert!(
        out.contains("GET /one HTTP/1.1") && out.contains("HTTP/1.1 403 Forbidden"),
        "{ran}"
    );
    assert!(
        !out.contains("/three"),
        "nothing is read past a denial: {ran}"
    );
    ran.assert_one_denial("http", "not-in-allowlist", "evil.example.net");
    shared::world().assert_never_asked("evil");
}

#[test]
fn plain_http_directly_is_decided_by_its_host() {
    let ran = answer(
        &["dual.example.com"],
        "[(lambda s: (s.sendall(('GET /direct HTTP/1.1\\r\\nHost: ' + host + '\\r\\nConnection: close\\r\\n\\r\\n').encode()), \
         gate.read_all(s))[1])(gate.tcp('dual.example.com', 80)) for host in ('dual.example.com', 'host.evil.example.net')]",
    );
    let out = ran.out();
    assert!(
        out.contains("GET /direct HTTP/1.1") && out.contains("403 Forbidden"),
        "{ran}"
    );
    assert!(out.contains("x-proxy-error: blocked-by-allowlist"), "{ran}");
    ran.assert_one_denial("http", "not-in-allowlist", "host.evil.example.net");
    assert_denials(&ran, 1);
    let world = shared::world();
    world.assert_never_asked("evil");
    assert!(
        world
            .server_log()
            .iter()
            .all(|event| !event.head_text().contains("host.evil"))
    );
}

const METHOD: [&str; 3] = [
    "method-not-allowed",
    "blocked-by-method-policy",
    "http_request_denied",
];
const PATH: [&str; 3] = [
    "path-not-allowed",
    "blocked-by-path-policy",
    "http_request_denied",
];

/// A rule that lets some requests through.
const NARROW: &str = r#"version = 1
[network.domains]
"api.example.com:80" = { verdict = "allow", methods = ["GET"], paths = ["/public/**"] }
"#;

#[test]
fn a_method_or_a_path_that_the_rule_has_not() {
    let world = shared::world();
    for (ask, words, line) in [
        (
            "gate.get('http://api.example.com/private?q=secret')",
            PATH,
            "paths = [\"/private\", \"/public/**\"]",
        ),
        (
            "gate.get('http://api.example.com/public/../private')",
            PATH,
            "the path has a dot segment",
        ),
        (
            r"gate.http('DELETE http://api.example.com/public/x HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n')",
            METHOD,
            "methods = [\"DELETE\", \"GET\", \"HEAD\"]",
        ),
    ] {
        let ran = sandbox(&world)
            .policy("toml", NARROW)
            .python(&format!("import gate; print({ask})"));
        ran.assert_ok();
        assert_forbidden(&ran, words, "api.example.com");
        ran.assert_out(line);
        assert!(!ran.records.to_string().contains("secret"), "{ran}");
    }
    // curl on a direct connection, twice on one connection
    let ran = sandbox(&world).policy("toml", NARROW).sh(
        "curl -sS --noproxy '*' -o /dev/null -w '%{http_code} ' http://api.example.com/public/x \
         --next -sS --noproxy '*' -o /dev/null -w '%{http_code}\\n' -X POST http://api.example.com/public/x",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "200 403\n", "{ran}");
    ran.assert_one_denial("http", "method-not-allowed", "api.example.com");
}

#[test]
fn limited_mode_refuses_a_tunnel_for_https() {
    let world = shared::world();
    let policy = "version = 1\n[network]\nmode = \"limited\"\n[network.domains]\n\"api.example.com\" = \"allow\"\n";
    let ran = sandbox(&world)
        .policy("toml", policy)
        .python("import gate; print(gate.connect('api.example.com:443')[1])");
    ran.assert_ok();
    assert_forbidden(&ran, METHOD, "api.example.com");
}
