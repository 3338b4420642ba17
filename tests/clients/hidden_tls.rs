//! Programs whose TLS shows no server name: a real `redis-server` and `redis-cli --tls`, and a mail
//! server's port as `openssl s_client` asks it.

use crate::processes::{Background, until};
use crate::support::{finish, require, sandbox, world_from};
use portcullis_testkit::WorldSpec;
use std::time::Duration;

const ADDRESS: &str = "198.51.100.63";
const NAME: &str = "redis.example.com";

#[test]
fn redis_cli_over_tls_works_as_outside() {
    require("redis-server");
    require("redis-cli");
    let spec = WorldSpec::standard()
        .closed(ADDRESS)
        .record(&format!("{NAME} A {ADDRESS}"));
    let world = world_from(spec);
    let (certificate, key) = world.certificate(&[NAME]);
    let mut server = world.internet_command("redis-server");
    server
        .args(["--bind", ADDRESS, "--port", "0", "--tls-port", "6379"])
        .arg("--tls-cert-file")
        .arg(certificate)
        .arg("--tls-key-file")
        .arg(key)
        .arg("--tls-ca-cert-file")
        .arg(world.ca_pem())
        .args([
            "--tls-auth-clients",
            "no",
            "--save",
            "",
            "--protected-mode",
            "no",
        ]);
    let _server = Background::start(&mut server);
    let ask = format!("redis-cli --tls --cacert $SSL_CERT_FILE -h {NAME} -p 6379 set kept inside");
    until("redis serves", || {
        let mut outside = world.command("sh");
        outside.args(["-c", &ask]);
        finish(&mut outside, Duration::from_secs(30)).ok()
    });
    let ran = sandbox(&world).allow(&format!("{NAME}:6379")).sh(&format!(
        "{ask}; {ask} nx; openssl s_client -noservername -connect {NAME}:6379 \
             -verify_return_error -CAfile $SSL_CERT_FILE </dev/null 2>&1 | grep -m1 Verify"
    ));
    ran.assert_ok().assert_no_denial();
    assert!(
        ran.out().starts_with("OK\n\nVerify return code: 0 (ok)\n"),
        "{ran}"
    );
    // A name that is shown must still be right.
    let ran = sandbox(&world).allow(&format!("{NAME}:6379")).sh(&format!(
        "redis-cli --tls --cacert $SSL_CERT_FILE --sni evil.example.net -h {NAME} -p 6379 ping"
    ));
    assert!(!ran.finished.ok(), "{ran}");
    ran.assert_one_denial("tls", "sni-not-listed", "evil.example.net");
}
