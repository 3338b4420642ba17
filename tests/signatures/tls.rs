//! What a TLS client is told: a fatal alert, then the end.

use crate::assert_denials;
use crate::shared;
use crate::support::{Ran, sandbox};

/// A ClientHello with this name (Python's `None` for none) to a name's first address.
fn hello(allow: &[&str], to: &str, name: &str) -> Ran {
    let world = shared::world();
    let sandbox = allow
        .iter()
        .fold(sandbox(&world), |sandbox, target| sandbox.allow(target));
    sandbox.python(&format!(
        "import gate; print(gate.alert(gate.tcp('{to}', 443), gate.client_hello({name})))"
    ))
}

#[test]
fn a_listed_name_at_its_own_address_gets_its_handshake() {
    let ran = hello(
        &["dual.example.com"],
        "dual.example.com",
        "'dual.example.com'",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "handshake\n", "{ran}");
    let ran = hello(
        &["dual.example.com"],
        "dual.example.com",
        "'DUAL.Example.COM'",
    );
    assert_eq!(ran.out(), "handshake\n", "one canonical form: {ran}");
}

#[test]
fn sni_that_is_not_listed_is_unrecognized_name() {
    let ran = hello(
        &["dual.example.com"],
        "dual.example.com",
        "'sni.evil.example.net'",
    );
    assert_eq!(ran.out(), "alert 2 112 end\n", "{ran}");
    ran.assert_one_denial("tls", "sni-not-listed", "sni.evil.example.net");
    assert_denials(&ran, 1);
    shared::world().assert_never_asked("evil");
}

#[test]
fn sni_that_is_denied_is_unrecognized_name() {
    let world = shared::world();
    let ran = sandbox(&world).allow("dual.example.com").deny("github.com").python(
        "import gate; print(gate.alert(gate.tcp('dual.example.com', 443), gate.client_hello('github.com')))",
    );
    assert_eq!(ran.out(), "alert 2 112 end\n", "{ran}");
    ran.assert_one_denial("tls", "denied-by-rule", "github.com");
    assert_denials(&ran, 1);
}

#[test]
fn sni_missing_is_access_denied() {
    let ran = hello(&["dual.example.com"], "dual.example.com", "None");
    assert_eq!(ran.out(), "alert 2 49 end\n", "{ran}");
    ran.assert_one_denial("tls", "sni-missing", "dual.example.com");
    assert_denials(&ran, 1);
}

#[test]
fn sni_that_is_listed_but_does_not_own_the_address_is_unrecognized_name() {
    let ran = hello(
        &["dual.example.com", "api.example.com"],
        "dual.example.com",
        "'api.example.com'",
    );
    assert_eq!(ran.out(), "alert 2 112 end\n", "{ran}");
    ran.assert_one_denial("tls", "sni-mismatch", "api.example.com");
    assert_denials(&ran, 1);
}

#[test]
fn allow_no_sni_lets_tls_without_a_name_pass() {
    let world = shared::world();
    let ran = sandbox(&world)
        .policy(
            "toml",
            "version = 1\n[network.domains]\n\"dual.example.com\" = { verdict = \"allow\", allow_no_sni = true }\n",
        )
        .python("import gate; print(gate.alert(gate.tcp('dual.example.com', 443), gate.client_hello(None)))");
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "handshake\n", "{ran}");
}

#[test]
fn tls_without_a_name_passes_where_plain_tcp_does_by_every_way_in() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("api.example.com:443")
        .allow("api.example.com:8443")
        .python(
            "import gate\n\
         for port in 8443, 443:\n\
         \x20for name in None, 'api.example.com', 'evil.example.net':\n\
         \x20\x20hello = gate.client_hello(name)\n\
         \x20\x20print(port, name, gate.alert(gate.tcp('api.example.com', port), hello))\n\
         \x20\x20s, answer = gate.connect(f'203.0.113.10:{port}')\n\
         \x20\x20print(port, name, gate.alert(s, hello))\n\
         \x20\x20s, code = gate.socks('203.0.113.10', port)\n\
         \x20\x20print(port, name, gate.alert(s, hello))",
        );
    ran.assert_ok();
    let lines = |port: u16, name: &str, end: &str| format!("{port} {name} {end}\n").repeat(3);
    assert_eq!(
        ran.out(),
        [
            lines(8443, "None", "handshake"),
            lines(8443, "api.example.com", "handshake"),
            lines(8443, "evil.example.net", "alert 2 112 end"),
            lines(443, "None", "alert 2 49 end"),
            lines(443, "api.example.com", "handshake"),
            lines(443, "evil.example.net", "alert 2 112 end"),
        ]
        .concat(),
        "{ran}"
    );
    assert_denials(&ran, 9);
}

#[test]
fn tls_is_tls_on_any_port() {
    let world = shared::world();
    let ran = sandbox(&world).allow("api.example.com:8443").allow("api.example.com:9000").python(
        "import gate\n\
         for port in 8443, 9000:\n\
         \x20print(gate.alert(gate.tcp('api.example.com', port), gate.client_hello('evil.example.net')))\n\
         print(gate.alert(gate.tcp('api.example.com', 8443), gate.client_hello('api.example.com')))",
    );
    ran.assert_ok();
    assert!(ran.out().ends_with("handshake\n"), "{ran}");
    assert_eq!(ran.out().matches("alert 2 112 end\n").count(), 2, "{ran}");
}

#[test]
fn sni_inside_a_tunnel_must_be_the_name_asked_for_or_none() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("dual.example.com")
        .allow("api.example.com")
        .python(
            "import gate\n\
         for name in 'dual.example.com', None, 'api.example.com', 'evil.example.net':\n\
         \x20s, answer = gate.connect('dual.example.com:443')\n\
         \x20print(gate.status(answer), gate.alert(s, gate.client_hello(name)))\n\
         \x20s, code = gate.socks(b'dual.example.com', 443)\n\
         \x20print(code, gate.alert(s, gate.client_hello(name)))",
        );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "200 handshake\n0 handshake\n200 handshake\n0 handshake\n\
         200 alert 2 112 end\n0 alert 2 112 end\n200 alert 2 112 end\n0 alert 2 112 end\n",
        "{ran}"
    );
    for name in ["api.example.com", "evil.example.net"] {
        for protocol in ["connect", "socks5"] {
            let found: Vec<_> = ran
                .records
                .denials("tls", "sni-mismatch", name)
                .into_iter()
                .filter(|record| record["protocol"] == protocol)
                .collect();
            assert_eq!(found.len(), 1, "{name} over {protocol}: {ran}");
        }
    }
    assert_denials(&ran, 4);
}
