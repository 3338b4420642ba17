//! Every way in, through squid: CONNECT, SOCKS5, absolute form and direct connections of programs
//! that know no proxy.

use crate::processes::{Background, kill, until};
use crate::squid::{ADDRESS, BASIC, FORBIDDEN, NAME, ONLY_SQUID, OPEN, SECURE, Squid, USER};
use crate::support::{Ran, finish, portcullis, require, sandbox};
use portcullis_testkit::WorldSpec;
use std::time::Duration;

/// Six ways: by the proxy variables, directly, and over SOCKS5; each for http and https.
const SIX_WAYS: &str = "set -f; for way in '' '--noproxy *' '--socks5-hostname 10.0.2.2:1080'; do \
    for scheme in http https; do curl -sS -m 60 -o /dev/null -w '%{http_code}\\n' $way \
    $scheme://api.example.com/; done; done";

/// A server that speaks first and one that echoes, by plain sockets of a program without any proxy.
const RAW: &str = r#"
import socket
def connected(name, port):
    return socket.create_connection((name, port), timeout=60)
with connected("ssh.example.com", 22) as ssh:
    data = b""
    while b"\n" not in data:
        part = ssh.recv(100)
        if not part:
            break
        data += part
    print(data[:8].decode())
with connected("raw.example.com", 9000) as raw:
    # Without a half-close: squid ends a tunnel with it.
    raw.sendall(b"ping")
    data = b""
    while len(data) < 4:
        part = raw.recv(100)
        if not part:
            break
        data += part
    print(data.decode())
"#;

fn both(url: &str) -> String {
    format!("http = \"{url}\"\nhttps = \"{url}\"")
}

#[track_caller]
fn assert_six(ran: &Ran) {
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "200\n".repeat(6), "{ran}");
}

#[test]
fn every_way_in_goes_through_squid() {
    let squid = Squid::start();
    let policy = squid.policy(&both(&squid.url("http", OPEN)));
    let run = || sandbox(&squid.world).policy("toml", &policy);
    assert_six(&run().sh(SIX_WAYS));
    let raw = run().python(RAW);
    raw.assert_ok().assert_no_denial();
    assert_eq!(raw.out(), "SSH-2.0-\nping\n", "{raw}");
    let node = run().node(
        "fetch('https://api.example.com/').then(answer => console.log(answer.status), \
         error => console.log(error))",
    );
    assert_eq!(node.out(), "200\n", "{node}");
    squid.until_logged("CONNECT api.example.com:443");
    squid.until_logged("GET http://api.example.com/");
    squid.until_logged("CONNECT ssh.example.com:22");
    squid.until_logged("CONNECT raw.example.com:9000");
    squid.assert_never_direct();
    let upstream = format!("http://{NAME}:{OPEN}");
    let opened = run().sh("curl -sS -m 60 -o /dev/null https://api.example.com/");
    assert_eq!(
        opened.records.one("connect", "api.example.com")["upstream"],
        upstream
    );
    // What no rule lists, squid never hears of.
    let denied =
        run().sh("curl -s -m 60 -o /dev/null -w '%{http_connect}\\n' https://evil.example.net/");
    assert_eq!(denied.out(), "403\n", "{denied}");
    assert!(squid.logged("evil").is_empty());
}

#[test]
fn credentials_from_a_url_a_file_and_a_variable_over_tls_and_without() {
    let squid = Squid::start();
    squid
        .world
        .file("proxy.secret", "alice:wonder:land s3cret\n");
    let secret = "alice:wonder:land s3cret";
    for (scheme, port) in [("http", BASIC), ("https", SECURE)] {
        let url = squid.url(scheme, port);
        let in_url = url.replacen("://", "://alice:wonder%3Aland%20s3cret@", 1);
        for proxy in [
            both(&in_url),
            format!("{}\ncredentials_file = \"proxy.secret\"", both(&url)),
            format!("{}\ncredentials_env = \"COMPANY_SECRET\"", both(&url)),
        ] {
            let ran = sandbox(&squid.world)
                .policy("toml", &squid.policy(&proxy))
                .env("COMPANY_SECRET", secret)
                .sh(SIX_WAYS);
            assert_six(&ran);
            let records = ran.records.to_string();
            assert!(
                !records.contains("s3cret") && !records.contains("YWxpY2"),
                "{records}"
            );
        }
    }
    // On the command line it goes for everything, too.
    let url = format!("http://alice:wonder%3Aland%20s3cret@{NAME}:{BASIC}");
    let flag = sandbox(&squid.world)
        .allow("api.example.com")
        .args(&["--upstream-proxy", &url])
        .sh(SIX_WAYS);
    assert_six(&flag);
    squid.until_logged(" alice ");
    squid.assert_never_direct();
}

#[test]
fn a_tls_proxy_is_believed_by_the_host_s_store_or_its_own_ca_file() {
    require("openssl");
    let squid = Squid::start();
    let mut other = squid.world.command("openssl");
    other.args("req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -subj /CN=other -days 2".split(' '));
    let made = finish(&mut other, Duration::from_secs(60));
    assert!(made.ok(), "{made}");
    let other = squid.world.home().join("other.pem");
    let ca = std::fs::read_to_string(squid.world.ca_pem()).expect("the world's authority");
    squid.world.file("company-ca.pem", ca);
    squid
        .world
        .file("proxy.secret", "alice:wonder:land s3cret\n");
    let proxy = format!(
        "{}\ncredentials_file = \"proxy.secret\"",
        both(&squid.url("https", SECURE))
    );
    let curl =
        "curl -s -m 60 -o /dev/null -D - -w '%{http_code}\\n' https://api.example.com/; true";
    let run = |proxy: &str| {
        sandbox(&squid.world)
            .policy("toml", &squid.policy(proxy))
            .env("SSL_CERT_FILE", &other.display().to_string())
            .sh(curl)
    };
    let refused = run(&proxy);
    refused
        .assert_out("502")
        .assert_out("error=tls_certificate_error");
    let record = refused.records.one("connect", "api.example.com");
    assert_eq!(record["reason"], "upstream-proxy-certificate", "{refused}");
    run(&format!("{proxy}\nca_file = \"company-ca.pem\"")).assert_out("\n200\n");
    assert!(
        squid.logged("TCP_DENIED").is_empty(),
        "nothing was said to it before"
    );
}

#[test]
fn what_squid_refuses_is_a_502_with_its_status() {
    let squid = Squid::start();
    let curl = |url: &str| format!("curl -s -m 60 -D - -o /dev/null {url}; ");
    for (port, host, status) in [(BASIC, "api.example.com", 407), (OPEN, FORBIDDEN, 403)] {
        let script = curl(&format!("http://{host}/")) + &curl(&format!("https://{host}/")) + "true";
        let ran = sandbox(&squid.world)
            .policy("toml", &squid.policy(&both(&squid.url("http", port))))
            .sh(&script);
        let words = format!(
            "proxy-status: portcullis; error=http_request_denied; received-status={status}; details="
        );
        let out = ran.out();
        assert_eq!(out.matches("HTTP/1.1 502 Bad Gateway").count(), 2, "{ran}");
        assert_eq!(out.matches(&words).count(), 2, "{ran}");
        assert!(
            !out.contains("HTTP/1.1 200") && !out.contains("HTTP/1.1 403"),
            "{ran}"
        );
        let record = ran.records.one("connect", host);
        assert_eq!(record["verdict"], "error", "{ran}");
        assert_eq!(record["reason"], "upstream-proxy-refused", "{ran}");
    }
}

#[test]
fn what_only_the_proxy_can_resolve_is_reached_by_programs_that_resolve_first() {
    let squid = Squid::start();
    let dead = format!("http://{ADDRESS}:9");
    let live = squid.url("http", OPEN);
    let list = format!("http = [\"{dead}\", \"{live}\"]\nhttps = [\"{dead}\", \"{live}\"]");
    for proxy in [both(&live), list] {
        let ran = sandbox(&squid.world)
            .policy("toml", &squid.policy(&proxy))
            .args(&["--answers", "synthetic"])
            .sh(&format!(
                "for scheme in http https; do curl -sSk -m 60 --noproxy '*' -o /dev/null \
                 -w '%{{http_code}}\\n' $scheme://{ONLY_SQUID}/; done"
            ));
        ran.assert_ok().assert_no_denial();
        assert_eq!(ran.out(), "200\n".repeat(2), "{ran}");
    }
    squid.world.assert_never_asked("only-squid");
}

#[test]
fn by_address_squid_is_asked_for_what_the_guard_passed_and_host_stays() {
    let squid = Squid::start();
    let proxy = format!("{}\nconnect = \"address\"", both(&squid.url("http", OPEN)));
    let policy = squid.policy(&proxy).replace(
        "[network.proxy]",
        "\"private.example.com\" = \"allow\"\n[network.proxy]",
    );
    let run = || sandbox(&squid.world).policy("toml", &policy);
    let ran = run().sh("curl -sS -m 60 -o /dev/null -w '%{http_code}\\n' https://api.example.com/");
    assert_eq!(ran.out(), "200\n", "{ran}");
    squid.until_logged("CONNECT ");
    for line in squid.logged("CONNECT ") {
        let addresses = [
            "CONNECT 203.0.113.10:443 ",
            "CONNECT [2001:db8:10::10]:443 ",
        ];
        assert!(addresses.iter().any(|asked| line.contains(asked)), "{line}");
    }
    let ran =
        run().sh("curl -s -m 60 -o /dev/null -w '%{http_connect}\\n' https://private.example.com/");
    assert_eq!(ran.out(), "403\n", "{ran}");
    assert!(squid.logged("10.20.0.5").is_empty() && squid.logged("private").is_empty());
}

#[test]
fn serve_chains_and_some_destinations_go_another_way() {
    require("curl");
    let squid = Squid::start();
    let world = &squid.world;
    // A SOCKS5 proxy of the company: a gateway of its own in the internet.
    let lifted = "version = 1\n[network.domains]\n\"github.com\" = \"allow\"\n\
                  [network.addresses]\n\"203.0.113.0/24\" = \"allow\"\n";
    let company = world.file("company.toml", lifted);
    let mut socks = world.internet_command(portcullis());
    socks.arg("serve").arg("--policy").arg(company);
    socks.args([
        "--resolver",
        &world.spec().dns.servers[0].address.to_string(),
    ]);
    socks.args(["--socks5", &format!("{ADDRESS}:1080")]);
    let socks = Background::start(&mut socks);
    let proxy = format!(
        "{}\nno_proxy = \"raw.example.com\"\n[network.proxy.for]\n\"{FORBIDDEN}\" = \"socks5://{ADDRESS}:1080\"",
        both(&squid.url("http", OPEN))
    );
    let policy = world.file("served.toml", squid.policy(&proxy));
    let log = world.home().join("served.jsonl");
    let mut serve = world.command(portcullis());
    serve
        .arg("serve")
        .arg("--policy")
        .arg(policy)
        .arg("--log")
        .arg(&log);
    serve.args(["--http", "127.0.0.1:3128"]);
    let serve = Background::start(&mut serve);
    let code = |url: &str| {
        let mut curl = world.command("curl");
        curl.args([
            "-s",
            "-m",
            "60",
            "-x",
            "http://127.0.0.1:3128",
            "-o",
            "/dev/null",
        ]);
        curl.args(["-w", "%{http_code}", url]);
        finish(&mut curl, Duration::from_secs(90)).out()
    };
    until("serve answers", || code("http://api.example.com/") == "200");
    assert_eq!(code("https://api.example.com/"), "200");
    squid.until_logged("CONNECT api.example.com:443");
    // squid would refuse this one.
    until("the SOCKS proxy answers", || {
        code("https://github.com/") == "200"
    });
    assert_eq!(code("http://github.com/"), "200");
    assert!(squid.logged(FORBIDDEN).is_empty());
    kill("TERM", serve.pid());
    let (status, said) = serve.end();
    assert_eq!(status.code(), Some(0), "{said}");
    let records = crate::support::read_records(&log).to_string();
    assert!(
        records.contains(&format!("socks5://{ADDRESS}:1080")),
        "{records}"
    );
    drop(socks);
}

#[test]
fn the_caller_s_own_proxy_is_used_on_request_and_its_password_stays_outside() {
    let squid = Squid::start();
    let password = "wonder%3Aland%20s3cret";
    let url = format!("http://{USER}:{password}@{NAME}:{BASIC}");
    let run = |script: &str| {
        sandbox(&squid.world)
            .allow("api.example.com")
            .args(&["--upstream-proxy", "env"])
            .env("https_proxy", &url)
            .env("ALL_PROXY", &url)
            .env("no_proxy", "localhost,[::1],%what,.local")
            .sh(script)
    };
    assert_six(&run(SIX_WAYS));
    assert!(squid.logged(USER).len() >= 6);
    squid.assert_never_direct();
    let ran =
        run("env; for file in cmdline environ; do cat /proc/[0-9]*/$file 2>/dev/null; done; true");
    ran.assert_ok();
    assert!(!ran.out().contains("s3cret"), "{ran}");
}

#[test]
fn a_proxy_of_the_caller_s_that_is_not_used_is_told_of() {
    let squid = Squid::start();
    let url = format!("http://{USER}:s3cret@{NAME}:{BASIC}");
    for arguments in [
        &["doctor"][..],
        &[
            "diagnose",
            "--allow",
            "refused.example.com",
            "refused.example.com",
        ],
    ] {
        let mut program = squid.world.command(portcullis());
        program.args(arguments).env("HTTPS_PROXY", &url);
        let told = finish(&mut program, Duration::from_secs(60));
        let shown = format!("HTTPS_PROXY (http://{NAME}:{BASIC})");
        assert!(told.out().contains(&shown), "{told}");
        assert!(told.out().contains("--upstream-proxy env"), "{told}");
        assert!(!told.out().contains("s3cret"), "{told}");
    }
    let mut program = squid.world.command(portcullis());
    program
        .args([
            "diagnose",
            "--allow",
            ONLY_SQUID,
            "--upstream-proxy",
            "env",
            ONLY_SQUID,
        ])
        .env("HTTPS_PROXY", squid.url("http", OPEN));
    let told = finish(&mut program, Duration::from_secs(60));
    assert!(told.out().contains("--answers synthetic"), "{told}");
}

#[test]
fn a_wrong_password_is_told_of_on_every_way_in() {
    let squid = Squid::start();
    let proxy = format!("http://{USER}:wrong@{NAME}:{BASIC}");
    let via = "--noproxy '' -x http://10.0.2.2:3128";
    let script = format!(
        "curl -s -m 60 -D - {via} http://api.example.com/; \
         curl -s -m 60 -D - -o /dev/null {via} https://api.example.com/; \
         curl -s -m 60 -o /dev/null --noproxy '' -x socks5h://10.0.2.2:1080 https://api.example.com/; echo $?; \
         curl -s -m 60 -o /dev/null --noproxy '*' https://api.example.com/; echo $?; \
         curl -s -m 60 -D - --noproxy '*' http://api.example.com/"
    );
    let ran = sandbox(&squid.world)
        .policy("toml", &squid.policy(&both(&proxy)))
        .sh(&script);
    let out = ran.out();
    assert_eq!(out.matches("HTTP/1.1 502 Bad Gateway").count(), 3, "{ran}");
    assert_eq!(out.matches("; received-status=407; ").count(), 3, "{ran}");
    let cause = "cause: the upstream proxy answered 407";
    assert_eq!(out.matches(cause).count(), 2, "{ran}");
    assert!(out.contains("\n97\n35\n"), "{ran}");
    assert!(!out.contains("wrong@"), "{ran}");
    let told = |record: &&serde_json::Value| {
        let detail = record["detail"].as_str().unwrap_or_default();
        detail.contains("answered 407")
    };
    let refused = ran.records.verdict("error");
    let mut protocols: Vec<_> = (refused.iter())
        .map(|record| record["protocol"].as_str().unwrap_or_default())
        .collect();
    protocols.sort_unstable(); // a failure's record may wait for its program
    assert_eq!(protocols, ["connect", "socks5", "transparent"], "{ran}");
    for record in refused {
        assert_eq!(record["reason"], "upstream-proxy-refused", "{ran}");
        assert!(told(&record), "{ran}");
    }
    let closes = ran.records.closes();
    assert_eq!(closes.into_iter().filter(told).count(), 2, "{ran}");
    squid.assert_never_direct();
}

#[test]
fn what_cannot_be_reached_names_the_caller_s_proxy_that_is_not_used() {
    let squid = Squid::start();
    let url = format!("http://{USER}:s3cret@{NAME}:{BASIC}");
    let via = "curl -s -m 60 --noproxy '' -x http://10.0.2.2:3128";
    let run = |arguments: &[&str]| {
        sandbox(&squid.world)
            .allow("refused.example.com")
            .allow(ONLY_SQUID)
            .args(arguments)
            .env("HTTPS_PROXY", &url)
            .sh(&format!(
                "{via} http://refused.example.com/; {via} http://{ONLY_SQUID}/; \
                 {via} -H 'Accept: application/json' http://refused.example.com/"
            ))
    };
    let ran = run(&[]);
    let hint = "HTTPS_PROXY is set where the gateway was started, but not used; `--upstream-proxy env` takes it";
    assert_eq!(
        ran.out().matches(&format!("\nhint: {hint}\n")).count(),
        2,
        "{ran}"
    );
    assert!(ran.out().contains(&format!("\"hint\":\"{hint}\"")), "{ran}");
    assert!(
        !ran.out().contains("s3cret") && !ran.out().contains(NAME),
        "{ran}"
    );
    let told = |record: &&&serde_json::Value| {
        let detail = record["detail"].as_str().unwrap_or_default();
        detail.ends_with(hint)
    };
    let failed = ran.records.verdict("error");
    assert!(failed.iter().filter(told).count() >= 2, "{ran}");
    // Where it is used, or another one, nobody is told of it.
    let ran = run(&["--upstream-proxy", &squid.url("http", OPEN)]);
    assert!(!ran.out().contains("hint:"), "{ran}");
}

#[test]
fn a_host_without_dns_is_told_of_synthetic_answers_and_lives_by_them() {
    let mut spec = WorldSpec::standard();
    spec.resolv_conf = Some("# no resolver\n".to_owned());
    let squid = Squid::start_in(spec);
    let policy = squid.policy(&both(&format!("http://{ADDRESS}:{OPEN}")));
    let run = |answers: &[&str]| {
        sandbox(&squid.world)
            .policy("toml", &policy)
            .args(answers)
            .sh(SIX_WAYS)
    };
    let ran = run(&[]);
    ran.assert_code(125)
        .assert_said("the host's resolv.conf lists no resolver")
        .assert_said("if the upstream proxy resolves all names, use `--answers synthetic`");
    assert_six(&run(&["--answers", "synthetic"]));
    squid.assert_never_direct();
    // Squid asks by itself; the gateway's host asks nobody.
    let asked = squid.world.dns_log().into_iter();
    let by_us = asked.filter(|query| query.peer.ip().to_string() == "192.0.2.2");
    assert_eq!(by_us.count(), 0);
}
