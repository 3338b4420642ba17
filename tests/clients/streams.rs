//! Programs that open raw connections: nc, openssl s_client, git, ssh.

use crate::shared;
use crate::support::{require, sandbox};
use crate::usual;

#[test]
fn nc_connects_where_a_rule_lists_the_port_and_nowhere_else() {
    require("nc");
    let world = shared::world();
    let ran = sandbox(&world).allow("raw.example.com:9000").sh(
        "nc -zv -w 25 raw.example.com 9000; printf 'there and back' | nc -N -w 25 raw.example.com 9000",
    );
    ran.assert_ok()
        .assert_no_denial()
        .assert_said("succeeded")
        .assert_out("there and back");
    let ran = sandbox(&world)
        .allow("raw.example.com:9000")
        .sh("nc -zv -4 -w 25 raw.example.com 9001");
    ran.assert_code(1).assert_said("refused");
    ran.assert_one_denial("tcp", "port-not-allowed", "203.0.113.96");
    let ran = sandbox(&world)
        .allow("raw.example.com:9000")
        .sh("nc -zv -w 25 203.0.113.90 443");
    ran.assert_code(1).assert_said("refused");
    ran.assert_one_denial("tcp", "address-not-leased", "203.0.113.90");
    let ran = sandbox(&world).sh("nc -zv -w 25 evil.example.net 443");
    assert!(!ran.finished.ok(), "{ran}");
    world.assert_never_asked("evil");
    world.assert_never_reached("203.0.113.90");
}

#[test]
fn half_close_is_kept_in_both_directions() {
    require("nc");
    let world = shared::world();
    let ran = sandbox(&world).allow("raw.example.com:*").sh(
        "printf 12345 | nc -N -w 25 raw.example.com 9001; nc -d -w 25 raw.example.com 9002 | wc -c",
    );
    // The sink answers only after it saw the end of what was sent; the source ends first.
    ran.assert_ok();
    assert_eq!(ran.out(), "received 5\n1048576\n", "{ran}");
}

#[test]
fn nc_over_udp_gets_nothing_through() {
    require("nc");
    let world = shared::world();
    usual(&world).sh("dig +short api.example.com; printf hidden | nc -u -w 1 203.0.113.10 443");
    let got = world
        .server_log()
        .into_iter()
        .find(|event| event.event == "datagram");
    assert!(got.is_none(), "{got:?}");
}

#[test]
fn openssl_verifies_a_listed_name() {
    require("openssl");
    let ran = usual(&shared::world()).sh(
        "openssl s_client -connect api.example.com:443 -servername api.example.com -verify_return_error \
         -CAfile $SSL_CERT_FILE </dev/null",
    );
    ran.assert_ok()
        .assert_no_denial()
        .assert_out("Verify return code: 0 (ok)");
    let ran = usual(&shared::world()).sh(
        "openssl s_client -proxy 10.0.2.2:3128 -connect api.example.com:443 -servername api.example.com \
         -verify_return_error -CAfile $SSL_CERT_FILE </dev/null",
    );
    ran.assert_ok()
        .assert_no_denial()
        .assert_out("Verify return code: 0 (ok)");
}

#[test]
fn openssl_is_told_by_an_alert() {
    require("openssl");
    let world = shared::world();
    let ran = usual(&world).sh(
        "openssl s_client -connect api.example.com:443 -servername evil.example.net </dev/null",
    );
    assert!(!ran.finished.ok(), "{ran}");
    ran.assert_said("unrecognized name")
        .assert_said("SSL alert number 112");
    ran.assert_one_denial("tls", "sni-not-listed", "evil.example.net");
    let ran =
        usual(&world).sh("openssl s_client -connect api.example.com:443 -noservername </dev/null");
    assert!(!ran.finished.ok(), "{ran}");
    ran.assert_said("access denied")
        .assert_said("SSL alert number 49");
    world.assert_never_asked("evil");
}

#[test]
fn bad_certificates_are_the_client_s_to_judge() {
    require("openssl");
    let world = shared::world();
    let ran = sandbox(&world).allow("expired.example.com").sh(
        "openssl s_client -connect expired.example.com:443 -servername expired.example.com \
         -CAfile $SSL_CERT_FILE </dev/null",
    );
    ran.assert_no_denial()
        .assert_said("certificate has expired");
}

#[test]
fn git_clones_over_https() {
    require("git");
    let world = shared::world();
    let ran = sandbox(&world).allow("git.example.com").sh(
        "git clone -q https://git.example.com/repo.git by-proxy.$$ && cat by-proxy.$$/README && \
         for v in $(env | grep -i _proxy= | cut -d= -f1); do unset $v; done && \
         git clone -q https://git.example.com/repo.git direct.$$ && cat direct.$$/README",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "Hello, clone\nHello, clone\n", "{ran}");
    assert!(!ran.records.about("git.example.com").is_empty(), "{ran}");
}

#[test]
fn git_says_why_it_cannot_clone() {
    require("git");
    let world = shared::world();
    let ran = usual(&world).sh("git clone https://git.evil.example.net/repo.git never.$$");
    ran.assert_code(128).assert_said("403");
    ran.assert_one_denial("http", "not-in-allowlist", "git.evil.example.net");
    let ran = usual(&world).sh(
        "for v in $(env | grep -i _proxy= | cut -d= -f1); do unset $v; done; \
         git clone https://git.evil.example.net/repo.git never.$$",
    );
    ran.assert_code(128).assert_said("Could not resolve host");
    world.assert_never_asked("evil");
}

#[test]
fn ssh_hears_the_server_s_greeting() {
    require("ssh");
    let world = shared::world();
    let ssh = "ssh -v -F none -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=no \
               -o UserKnownHostsFile=/dev/null";
    let ran = sandbox(&world)
        .allow("ssh.example.com:22")
        .sh(&format!("{ssh} ssh.example.com"));
    ran.assert_said("remote software version portcullis_testkit")
        .assert_no_denial();
    let ran = sandbox(&world)
        .allow("ssh.example.com")
        .sh(&format!("{ssh} ssh.example.com"));
    ran.assert_code(255).assert_said("Connection refused");
    ran.assert_one_denial("tcp", "port-not-allowed", "203.0.113.22");
}
