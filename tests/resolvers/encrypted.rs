//! `tls://` and `https://` resolvers: what leaves the host is encrypted, all of it but the server's
//! own name.

use crate::processes::{Background, until};
use crate::support::{Ran, require, sandbox, world_from};
use portcullis_testkit::{ServiceKind, World, WorldSpec};
use std::time::Duration;

const SERVER: &str = "203.0.113.53";
const PLAIN: &str = "203.0.113.54";

fn world() -> World {
    world_from(
        WorldSpec::standard()
            .record("dns.resolver.example.net A 203.0.113.53")
            .service(SERVER, 853, ServiceKind::DnsTls)
            .service(SERVER, 443, ServiceKind::DnsHttps),
    )
}

/// Looks one name up in every way that a program might, with this resolver.
fn look_up(world: &World, resolver: &str) -> Ran {
    let policy = format!(
        "version = 1\n[network.dns]\nresolvers = [\"{resolver}\"]\nbootstrap = [\"{PLAIN}\"]\n\
         [network.domains]\n\"api.example.com\" = \"allow\"\n\"www.example.com\" = \"allow\"\n"
    );
    sandbox(world).policy("toml", &policy).sh(
        "getent ahostsv4 api.example.com | head -1; dig +short api.example.com; \
         curl -sS -o /dev/null -w '%{http_code}\\n' https://www.example.com/; \
         dig evil.example.net | grep status",
    )
}

#[track_caller]
fn assert_all_encrypted(world: &World, ran: &Ran, transport: &str, shown: &str, bootstrap: &str) {
    ran.assert_ok().assert_out("203.0.113.10").assert_out("200");
    ran.assert_out("NXDOMAIN");
    let log = world.dns_log();
    let (encrypted, plain): (Vec<_>, Vec<_>) =
        log.iter().partition(|query| query.transport == transport);
    assert!(!encrypted.is_empty(), "{log:?}");
    for query in &encrypted {
        assert_eq!(query.raw.len(), 2 * 128, "padded to one length: {query:?}");
    }
    for query in &plain {
        assert!(query.name.eq_ignore_ascii_case(bootstrap), "{query:?}");
        assert_eq!(query.server.ip().to_string(), PLAIN, "{query:?}");
    }
    assert_eq!(plain.is_empty(), bootstrap.is_empty(), "{plain:?}");
    let asked = ran.records.about("api.example.com");
    let upstreams: Vec<_> = asked
        .iter()
        .filter_map(|r| r["upstream"].as_str())
        .collect();
    assert!(upstreams.contains(&shown), "{asked:?}");
    world.assert_never_asked("evil");
}

#[test]
fn dns_over_tls_by_name() {
    require("dig");
    let world = world();
    let ran = look_up(&world, "tls://dns.resolver.example.net");
    let shown = "tls://dns.resolver.example.net:853";
    assert_all_encrypted(&world, &ran, "tls", shown, "dns.resolver.example.net");
}

#[test]
fn dns_over_https_by_address() {
    require("dig");
    let world = world();
    let ran = look_up(&world, "https://203.0.113.53/dns-query");
    let shown = "https://203.0.113.53:443/dns-query";
    assert_all_encrypted(&world, &ran, "https", shown, "");
}

#[test]
fn a_resolver_with_a_strangers_certificate_is_told_nothing() {
    let world = world_from(WorldSpec::standard().service(SERVER, 853, ServiceKind::HttpsUntrusted));
    let ran = sandbox(&world)
        .allow("api.example.com")
        .args(&["--resolver", "tls://203.0.113.53"])
        .sh("dig api.example.com | grep status");
    ran.assert_out("SERVFAIL");
    assert!(world.dns_log().is_empty(), "{:?}", world.dns_log());
    let record = ran.records.one("dns-udp", "api.example.com");
    assert_eq!(record["reason"], "dns-failed", "{record}");
    let detail = record["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("tls://203.0.113.53:853: TLS:"), "{record}");
}

/// A resolver that many people run, on the host's loopback.
#[test]
fn unbound_over_tls_and_over_https() {
    require("unbound");
    require("openssl");
    let world = world();
    let home = world.home().display().to_string();
    let made = world.run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=unbound",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &format!("{home}/unbound.key"),
            "-out",
            &format!("{home}/unbound.pem"),
        ],
        Duration::from_secs(60),
    );
    assert!(made.ok(), "{made}");
    let configuration = world.file(
        "unbound.conf",
        format!(
            "server:\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n directory: \"{home}\"\n \
             do-daemonize: no\n use-syslog: no\n num-threads: 1\n \
             interface: 127.0.0.1@8853\n interface: 127.0.0.1@8443\n tls-port: 8853\n https-port: 8443\n \
             tls-service-key: \"{home}/unbound.key\"\n tls-service-pem: \"{home}/unbound.pem\"\n \
             access-control: 127.0.0.0/8 allow\n local-zone: \"example.com.\" static\n \
             local-data: \"api.example.com. 300 A 203.0.113.10\"\n\
             remote-control:\n control-enable: no\n"
        ),
    );
    let mut unbound = world.command("unbound");
    unbound.arg("-d").arg("-c").arg(&configuration);
    let _unbound = Background::start(&mut unbound);
    until("unbound listens", || {
        let open = world.run("ss", &["-Hltn"], Duration::from_secs(60)).out();
        open.contains("127.0.0.1:8853 ") && open.contains("127.0.0.1:8443 ")
    });
    for resolver in ["tls://127.0.0.1:8853", "https://127.0.0.1:8443/dns-query"] {
        let ran = sandbox(&world)
            .allow("api.example.com")
            .allow("absent.example.com")
            .args(&["--resolver", resolver])
            .env("SSL_CERT_FILE", &format!("{home}/unbound.pem"))
            .sh("for i in 1 2 3; do dig +short api.example.com; done; \
                 dig absent.example.com | grep -o 'status: [A-Z]*'");
        ran.assert_ok();
        assert_eq!(
            ran.out(),
            "203.0.113.10\n203.0.113.10\n203.0.113.10\nstatus: NXDOMAIN\n",
            "{ran}"
        );
        let asked = ran.records.about("api.example.com");
        assert!(
            asked.iter().any(|record| record["upstream"] == resolver),
            "{asked:?}"
        );
    }
    assert!(world.dns_log().is_empty(), "{:?}", world.dns_log());
}
