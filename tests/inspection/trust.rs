//! What programs inside trust, and what stays as it is.

use crate::support::require;
use crate::{narrow, rules, world};

const S_CLIENT: &str = "issuer() { openssl s_client -connect $1:443 -servername $1 </dev/null 2>/dev/null | \
                        openssl x509 -noout -issuer; }; ";

#[test]
fn only_what_is_listed_for_inspection_is_looked_into() {
    require("openssl");
    let world = world();
    let ran = narrow(&world).sh(&format!(
        "{S_CLIENT} issuer api.example.com; issuer www.example.com"
    ));
    ran.assert_ok().assert_no_denial();
    let out = ran.out();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains("Portcullis inspection"), "{ran}");
    assert!(lines[1].contains("Portcullis test world"), "its own: {ran}");
}

#[test]
fn the_authority_is_held_to_the_inspected_names_and_ends_soon() {
    require("openssl");
    let world = world();
    let ran = narrow(&world).sh("openssl x509 -in $PORTCULLIS_CA_FILE -noout -text");
    ran.assert_ok();
    ran.assert_out("X509v3 Name Constraints: critical");
    ran.assert_out("DNS:api.example.com")
        .assert_out("CA:TRUE, pathlen:0");
    assert!(!ran.out().contains("www.example.com"), "{ran}");
    let ran = narrow(&world).sh("openssl x509 -in $PORTCULLIS_CA_FILE -noout -checkend 8640000");
    ran.assert_code(1);
}

#[test]
fn programs_without_any_variable_trust_it_by_the_system_s_list() {
    require("curl");
    require("openssl");
    let world = world();
    let ran = narrow(&world).sh(
        "env -i PATH=$PATH curl -sS -o /dev/null -w '%{http_code}\\n' https://api.example.com/public/a; \
         env -i PATH=$PATH curl -sS -o /dev/null -w '%{http_code}\\n' https://www.example.com/; \
         env -i PATH=$PATH openssl s_client -connect api.example.com:443 -servername api.example.com \
           -verify_return_error -verify_hostname api.example.com </dev/null 2>&1 | grep -o 'Verify return code: 0 (ok)' | head -1; \
         grep -c BEGIN /etc/ssl/certs/ca-certificates.crt",
    );
    ran.assert_ok().assert_no_denial();
    let out = ran.out();
    assert!(
        out.starts_with("200\n200\nVerify return code: 0 (ok)\n"),
        "{ran}"
    );
    let count: usize = out.lines().last().unwrap_or_default().parse().unwrap_or(0);
    assert!(
        count > 50,
        "the host's authorities are still trusted: {ran}"
    );
}

#[test]
fn the_lists_are_read_only_and_the_host_s_stays_as_it_is() {
    require("curl");
    let world = world();
    let before = std::fs::read("/etc/ssl/certs/ca-certificates.crt").expect("the host has a list");
    for as_root in [false, true] {
        let sandbox = narrow(&world);
        let sandbox = if as_root { sandbox.as_root() } else { sandbox };
        let ran = sandbox.sh(
            "for f in /etc/ssl/certs/ca-certificates.crt /run/portcullis/ca-bundle.pem \
               /run/portcullis/ca.pem /run/portcullis/trust.jks; do \
               (: >> $f) 2>/dev/null && echo written $f; done; \
             grep -rl 'PRIVATE KEY' /run/portcullis; \
             curl -sS -o /dev/null -w '%{http_code}\\n' https://api.example.com/public/a",
        );
        ran.assert_ok();
        assert_eq!(ran.out(), "200\n", "{ran}");
    }
    let after = std::fs::read("/etc/ssl/certs/ca-certificates.crt").expect("the host has a list");
    assert_eq!(before, after);
}

#[test]
fn without_inspection_nothing_of_it_is_there() {
    require("openssl");
    let world = world();
    let ran = rules(&world, r#""api.example.com" = "allow""#)
        .sh("env | grep -E 'PORTCULLIS_CA_FILE|trustStore'; ls /run/portcullis; cat $SSL_CERT_FILE | openssl x509 -noout -subject");
    ran.assert_ok();
    ran.assert_out("Portcullis test world");
    for gone in ["PORTCULLIS_CA_FILE", "trustStore", "ca.pem", "trust.jks"] {
        assert!(!ran.out().contains(gone), "{gone}: {ran}");
    }
}

#[test]
fn a_program_that_does_not_trust_it_is_in_the_record() {
    require("curl");
    let world = world();
    let foreign = world.ca_pem().display().to_string();
    let sandbox = narrow(&world);
    // The sandbox stays until the record is there, which it may read.
    let log = sandbox.log().display().to_string();
    let ran = sandbox.sh(&format!(
        "curl -sS --noproxy '*' --cacert {foreign} --capath /proc https://api.example.com/public/a; code=$?; \
         for i in $(seq 600); do grep -q 'does not trust' {log} && break; sleep 0.1; done; exit $code"
    ));
    ran.assert_code(60);
    ran.assert_no_denial();
    let closes = ran.records.closes();
    let said = closes.iter().find(|close| {
        close["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("does not trust"))
    });
    let said = said.unwrap_or_else(|| panic!("nothing says so: {ran}"));
    assert_eq!(said["close_reason"], "client-protocol", "{said}");
}

/// A folder of certificates, as OpenSSL names them, and what browsers are told by an administrator.
#[test]
fn folders_of_certificates_and_policies_of_browsers_have_it_too() {
    require("openssl");
    let world = world();
    let ran = narrow(&world).sh(
        "env -i PATH=$PATH openssl s_client -CApath /etc/ssl/certs -connect api.example.com:443 \
           -servername api.example.com </dev/null 2>&1 | grep -o 'Verify return code: 0 (ok)' | head -1; \
         ls /etc/ssl/certs/*.0 | wc -l; (: > /etc/ssl/certs/mine) 2>/dev/null || echo read-only; \
         der=$(sed 1d\\;\\$d $PORTCULLIS_CA_FILE | tr -d '\\n'); \
         for browser in chrome edge; do \
           grep -cF $der /etc/opt/$browser/policies/managed/portcullis.json; done",
    );
    ran.assert_ok();
    let out = ran.out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "Verify return code: 0 (ok)", "{ran}");
    assert!(
        lines[1].parse::<u32>().unwrap() > 50,
        "the host's stay: {ran}"
    );
    assert_eq!(lines[2..], ["read-only", "1", "1"], "{ran}");
    assert!(!std::path::Path::new("/etc/opt/chrome/policies/managed/portcullis.json").exists());
}
