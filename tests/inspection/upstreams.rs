//! The other side: certificates that do not hold, connections that do not come about, a company's
//! proxy in between, and authorities of a rule's own.

use crate::support::require;
use crate::{requests, rules, world};

#[test]
fn a_certificate_that_does_not_hold_is_a_502_that_says_so() {
    require("curl");
    let world = world();
    for name in ["expired", "wrongname", "untrusted"] {
        let host = format!("{name}.example.com");
        let rule = format!(r#""{host}" = {{ verdict = "allow", inspect = true }}"#);
        for way in ["--noproxy '*'", "-x http://10.0.2.2:3128"] {
            let ran = rules(&world, &rule).sh(&format!("curl -sS -i {way} https://{host}/private"));
            ran.assert_ok().assert_no_denial();
            ran.assert_out(" 502")
                .assert_out("error=tls_certificate_error");
            assert!(!ran.out().contains("x-proxy-error"), "{ran}");
            let errors = ran.records.verdict("error");
            assert_eq!(errors.len(), 1, "{ran}");
            assert_eq!(errors[0]["reason"], "certificate-invalid", "{ran}");
            assert!(
                errors[0]["detail"]
                    .as_str()
                    .is_some_and(|d| d.contains("certificate")),
                "{ran}"
            );
        }
    }
    // Nothing of the requests went there.
    let reached = world
        .server_log()
        .into_iter()
        .filter(|event| event.event == "request");
    assert_eq!(reached.count(), 0);
}

#[test]
fn an_authority_of_the_rule_s_own_is_added_to_the_host_s() {
    require("curl");
    let world = world();
    let ca = world.ca_pem().display().to_string();
    let nothing = world.file("nothing.pem", "").display().to_string();
    let get = "curl -sS -o /dev/null -w '%{http_code}' --noproxy '*' https://api.example.com/";
    for (key, expected) in [
        (String::new(), "502"),
        (format!(", ca_file = \"{ca}\""), "200"),
    ] {
        let rule = format!(r#""api.example.com" = {{ verdict = "allow", inspect = true{key} }}"#);
        // As seen by the host: its own list, in which the world's authority is not.
        let ran = rules(&world, &rule)
            .env("SSL_CERT_FILE", &nothing)
            .env("SSL_CERT_DIR", "/nonexistent")
            .sh(get);
        ran.assert_ok();
        assert_eq!(ran.out(), expected, "{ran}");
    }
}

#[test]
fn slow_a_connection_that_does_not_come_about_is_an_answer_too() {
    require("curl");
    let world = world();
    let ran = rules(
        &world,
        r#""refused.example.com" = { verdict = "allow", inspect = true }
           "mute.example.com" = { verdict = "allow", inspect = true }"#,
    )
    .sh("curl -sS -o /dev/null -w '%{http_connect} %{http_code}\\n' -x http://10.0.2.2:3128 https://refused.example.com/ 2>/dev/null; \
         curl -sS -i -x http://10.0.2.2:3128 https://mute.example.com/ | grep -iE '^HTTP/|proxy-status'");
    let out = ran.out();
    // Refused before the tunnel stood, and silent in it.
    assert!(out.starts_with("502 000\n"), "{ran}");
    assert!(
        out.contains("504") && out.contains("error=connection_timeout"),
        "{ran}"
    );
    ran.assert_no_denial();
}

#[test]
fn through_an_upstream_proxy() {
    require("curl");
    let world = world();
    let policy = "version = 1\n[network.proxy]\nhttps = \"http://198.51.100.80:3128\"\n\
                  http = \"http://198.51.100.80:3128\"\n[network.domains]\n\
                  \"api.example.com\" = { verdict = \"allow\", inspect = true, paths = [\"/public/**\"] }\n";
    for way in [
        "--noproxy '*'",
        "-x http://10.0.2.2:3128",
        "-x socks5h://10.0.2.2:1080",
    ] {
        let ran = crate::support::sandbox(&world).policy("toml", policy).sh(&format!(
            "curl -sS -o /dev/null -o /dev/null -w '%{{http_code}} ' {way} https://api.example.com/public/x https://api.example.com/x"
        ));
        ran.assert_ok();
        assert_eq!(ran.out(), "200 403 ", "{way}: {ran}");
        assert_eq!(requests(&ran).len(), 2, "{ran}");
    }
    let connects = world.server_log();
    let connects = connects.iter().filter(|event| {
        event.service == "upstream-proxy"
            && event
                .line
                .as_deref()
                .is_some_and(|l| l.starts_with("CONNECT api.example.com:443"))
    });
    assert!(connects.count() >= 3, "{:?}", world.server_log());
}
