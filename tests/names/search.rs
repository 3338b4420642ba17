//! The host's search list: short names mean inside what they mean outside, by every way; what no rule lists of
//! the names that it makes stays inside, and buries no denial.

use crate::etc::{own_etc, replace};
use crate::support::{Ran, finish, require, sandbox, world};
use portcullis_testkit::{ServerEvent, World};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// The world's resolver.
const RESOLVER: &str = "nameserver 203.0.113.53\n";
const CLUSTER: &str = "search ns.svc.cluster.test svc.cluster.test cluster.test\noptions ndots:5\n";
/// Every way to a web server: directly, by the proxy, in a tunnel, by SOCKS.
const WAYS: &str =
    "set -f; for way in '--noproxy *' '' '-p' '--socks5-hostname 10.0.2.2:1080'; do ";

/// A world whose host has this search list.
fn searching(lines: &str) -> World {
    let world = world();
    own_etc(&world);
    replace(&world, "resolv.conf", &format!("{lines}{RESOLVER}"));
    world
}

/// The names of all denials.
fn denied(ran: &Ran) -> BTreeSet<String> {
    let denials = ran.records.all_denials();
    let names = denials.iter().map(|record| record["name"].as_str());
    names.map(|name| name.unwrap_or("-").to_owned()).collect()
}

#[test]
fn a_short_name_is_its_full_one_by_every_way() {
    require("curl");
    let world = searching("search internal.test example.com\n");
    let script = format!(
        "{WAYS} curl -sS -m 25 -o /dev/null -w '%{{http_code}} ' $way http://api/; \
         curl -sSk -m 25 -o /dev/null -w '%{{http_code}} ' $way https://api/; done; echo; \
         getent ahostsv4 api | awk '/STREAM/ {{ print $1, $3 }}'; \
         python3 -c 'import socket; print(socket.gethostbyname(\"api\"))'; head -2 /etc/resolv.conf"
    );
    for run in [sandbox(&world), sandbox(&world).as_root()] {
        let ran = run.allow("api.example.com").sh(&script);
        assert_eq!(
            ran.out(),
            format!(
                "{}\n203.0.113.10 api.example.com\n203.0.113.10\n\
                 nameserver 10.0.2.3\nsearch internal.test example.com\n",
                "200 ".repeat(8)
            ),
            "{ran}"
        );
        ran.assert_no_denial();
    }
    world.assert_never_asked("internal.test");
}

#[test]
fn a_server_sees_the_name_as_the_program_wrote_it() {
    require("curl");
    let world = searching("search example.com\n");
    let script = format!(
        "{WAYS} curl -sS -m 25 -o /dev/null -w '%{{http_code}} ' $way http://api/$RANDOM; \
         curl -sSk -m 25 -o /dev/null $way https://api/; done; \
         printf 'GET http://api/ HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n' | \
         curl -s -m 10 telnet://10.0.2.2:3128 | head -n 1 | tr -d \"\\r\"; \
         printf 'GET http://api.example.com/ HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n' | \
         curl -s -m 10 telnet://10.0.2.2:3128 | head -n 1 | tr -d \"\\r\"; \
         printf 'GET http://api/ HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n' | \
         curl -s -m 10 telnet://10.0.2.2:3128 | head -n 1 | tr -d \"\\r\""
    );
    let ran = sandbox(&world).allow("api.example.com").sh(&script);
    assert_eq!(
        ran.out(),
        "200 200 200 200 HTTP/1.1 200 World\nHTTP/1.1 200 World\nHTTP/1.1 400 Bad Request\n",
        "{ran}"
    );
    // "\r\nHost: api\r\n", in hexadecimal.
    let field = "0d0a486f73743a206170690d0a";
    let log = world.server_log();
    let of = |event: &&ServerEvent| event.head.as_ref().is_some_and(|head| head.contains(field));
    let shown = log
        .iter()
        .filter(|event| event.sni.as_deref() == Some("api"));
    assert!(
        shown.count() >= 4 && log.iter().filter(of).count() >= 4,
        "{log:#?}"
    );
}

#[test]
fn a_cluster_s_search_list_buries_no_denial() {
    let world = searching(CLUSTER);
    let ran = sandbox(&world).allow("api.example.com").sh(
        "for i in 1 2 3; do getent ahostsv4 api.example.com | awk '/STREAM/ { print $1 }'; done; \
         getent ahosts db.example.net || echo code $?; getent ahosts redis || echo code $?",
    );
    assert_eq!(
        ran.out(),
        "203.0.113.10\n203.0.113.10\n203.0.113.10\ncode 2\ncode 2\n",
        "{ran}"
    );
    let expected = ["db.example.net".to_owned(), "redis".to_owned()];
    assert_eq!(denied(&ran), BTreeSet::from(expected), "{ran}");
    ran.assert_one_denial("dns", "not-in-allowlist", "db.example.net")
        .assert_one_denial("dns", "not-in-allowlist", "redis");
    // What was made of them is counted, by domain.
    for domain in ["ns.svc.cluster.test", "svc.cluster.test", "cluster.test"] {
        let counted = ran.records.about(domain);
        let sum: u64 = counted
            .iter()
            .map(|record| record["count"].as_u64().unwrap_or(1))
            .sum();
        assert!(
            counted
                .iter()
                .all(|record| record["reason"] == "search-expansion"),
            "{ran}"
        );
        assert!(counted.len() <= 2 && sum >= 5, "{domain}: {ran}");
    }
    world.assert_never_asked("cluster.test");
    world.assert_never_asked("redis");
}

#[test]
fn a_refused_short_name_says_what_to_list() {
    require("curl");
    let world = searching(CLUSTER);
    let run = sandbox(&world).args(&["--summary", "always"]);
    let ran = run.sh(
        "getent hosts redis; curl -s -m 10 -x http://10.0.2.2:3128 http://cache/; \
         curl -s -m 10 -o /dev/null -w '%{http_connect}\n' https://cache/",
    );
    ran.assert_out("cache.ns.svc.cluster.test")
        .assert_out("403");
    ran.assert_said("redis.ns.svc.cluster.test");
    assert!(!ran.out().contains("\"cache\" = "), "{ran}");
}

#[test]
fn a_name_below_a_listed_wildcard_is_the_one_that_exists() {
    require("curl");
    let world = searching("search example.corp example.com\noptions ndots:3\n");
    let ran = sandbox(&world)
        .allow("*.example.corp")
        .allow("*.example.com")
        .sh(&format!(
            "{WAYS} curl -sS -m 25 -o /dev/null -w '%{{http_code}} ' $way http://v4only/; \
             curl -sS -m 25 -o /dev/null -w '%{{http_code}} ' $way http://v4only.example.com/; done"
        ));
    assert_eq!(ran.out(), "200 ".repeat(8), "{ran}");
    ran.assert_no_denial();
}

/// Answers *a short name* (docs/threats.md).
#[test]
fn attack_a_short_name_opens_no_name_that_is_not_listed() {
    require("curl");
    let world = searching("search example.com example.net\n");
    let ran = sandbox(&world).allow("api.example.com").deny("www.example.com").sh(&format!(
        "{WAYS} for name in evil www cdn; do \
         curl -sS -m 10 -o /dev/null -w '%{{http_code}} ' $way http://$name/ 2>/dev/null; done; done; echo; \
         curl -sS -m 10 -o /dev/null -w '%{{http_connect}} ' -p --connect-to api:80:www:80 http://api/ 2>/dev/null; \
         curl -sSk -m 10 -o /dev/null -w '%{{http_code}} ' --noproxy '*' --connect-to evil:443:api.example.com:443 https://evil/ 2>/dev/null; \
         curl -sSk -m 10 -o /dev/null -w '%{{http_code}} ' -p -x http://10.0.2.2:3128 --connect-to www:443:api:443 https://www/ 2>/dev/null; \
         curl -sS -m 10 -o /dev/null -w '%{{http_code}} ' --noproxy '*' --connect-to evil:80:api.example.com:80 http://evil/ 2>/dev/null"
    ));
    let direct = "000 000 000 ";
    let refused = "403 403 403 ";
    assert_eq!(
        ran.out(),
        format!("{direct}{refused}{direct}{direct}\n403 000 000 403 "),
        "{ran}"
    );
    world.assert_never_reached("203.0.113.90");
    world.assert_never_reached("203.0.113.20");
    world.assert_never_asked("evil");
}

/// The static program of the tests of clients; nothing of glibc is in it.
fn musl(world: &World) -> String {
    require("musl-gcc");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/musl.c");
    let program = world.home().join("musl");
    let mut compiler = Command::new("musl-gcc");
    compiler.args(["-static", "-O1", "-Wall", "-Werror", "-o"]);
    let done = finish(compiler.arg(&program).arg(source), LIMIT);
    assert!(done.ok(), "{done}");
    program.display().to_string()
}

#[test]
fn musl_completes_as_outside_and_leaves_one_denial_a_name() {
    let world = searching("search internal.test example.com\n");
    let program = musl(&world);
    // With a dot it completes nothing (ndots:1), and asks for the name alone.
    let ran = sandbox(&world).allow("v4only.example.com").sh(&format!(
        "{program} v4only v4only.example.com redis db.internal.test"
    ));
    assert_eq!(
        ran.out(),
        "v4only v4only.example.com 203.0.113.60\nv4only.example.com v4only.example.com 203.0.113.60\n\
         redis NONAME\ndb.internal.test NONAME\n",
        "{ran}"
    );
    let expected = ["db.internal.test".to_owned(), "redis".to_owned()];
    assert_eq!(denied(&ran), BTreeSet::from(expected), "{ran}");
    world.assert_never_asked("internal.test");
}

#[test]
fn every_way_to_write_a_resolv_conf_works() {
    for (text, short) in [
        (
            "# by hand\n; search no.test\nsearch a.test b.test c.test d.test e.test f.test g.test example.com\n",
            true,
        ),
        (
            "search example.com. # home\noptions timeout:1 attempts:1 rotate edns0 trust-ad single-request\n",
            true,
        ),
        ("domain example.com\n", true),
        ("search no.test\ndomain example.com\n", true),
        ("search example.com\noptions no-tld-query no-reload\n", true),
        ("search example.com\r\nnameserver 203.0.113.53\r\n", true),
        ("search .\n", false),
        ("options ndots:0\n", false),
        ("", false),
    ] {
        let world = searching(text);
        let ran = sandbox(&world).allow("v4only.example.com").sh(
            "getent ahostsv4 v4only.example.com | awk '/STREAM/ { print $1 }'; \
             getent ahostsv4 v4only | awk '/STREAM/ { print $1 }'",
        );
        let found = if short { "203.0.113.60\n" } else { "" };
        assert_eq!(
            ran.out(),
            format!("203.0.113.60\n{found}"),
            "{text:?}: {ran}"
        );
    }
}

#[test]
fn the_caller_s_environment_counts_as_for_its_programs() {
    require("curl");
    let world = searching("search no.test\n");
    let run = sandbox(&world).allow("api.example.com");
    let ran = run
        .env("LOCALDOMAIN", "example.com")
        .sh("getent ahostsv4 api | awk '/STREAM/ { print $1 }'; \
         curl -sS -m 25 -o /dev/null -w '%{http_code}' http://api/");
    assert_eq!(ran.out(), "203.0.113.10\n200", "{ran}");
    ran.assert_no_denial();
}

#[test]
fn a_link_to_the_stub_of_resolved_is_read_and_followed() {
    let world = searching("search no.test\n");
    let run = "/run/systemd/resolve";
    let link = format!(
        "set -e; mkdir -p {run}; printf 'nameserver 203.0.113.53\noptions edns0 trust-ad\nsearch example.com\n' \
         > {run}/stub-resolv.conf; rm etc/resolv.conf; ln -s ..{run}/stub-resolv.conf etc/resolv.conf"
    );
    let done = finish(world.command_as_root("sh").args(["-c", &link]), LIMIT);
    assert_eq!(done.code(), Some(0), "{done}");
    let ran = sandbox(&world)
        .allow("v4only.example.com")
        .sh("getent ahostsv4 v4only | awk '/STREAM/ { print $1 }'; cat /etc/resolv.conf /run/systemd/resolve/*");
    let inside = "nameserver 10.0.2.3\nsearch example.com\noptions edns0\n";
    assert_eq!(
        ran.out(),
        format!("203.0.113.60\n{inside}{inside}"),
        "{ran}"
    );
}

#[test]
fn commands_say_what_a_short_name_means() {
    let world = searching(CLUSTER);
    let look = |args: &[&str]| {
        let mut command = world.command(crate::support::portcullis());
        finish(command.args(args), LIMIT)
    };
    let listed = look(&[
        "explain",
        "--allow",
        "redis.svc.cluster.test:6379",
        "redis:6379",
    ]);
    assert_eq!(listed.code(), Some(0), "{listed}");
    assert!(
        listed.out().contains("redis means redis.svc.cluster.test"),
        "{listed}"
    );
    let absent = look(&["explain", "redis"]);
    assert_eq!(absent.code(), Some(1), "{absent}");
    assert!(
        absent.out().contains("redis.ns.svc.cluster.test"),
        "{absent}"
    );
    let world = searching("search example.com\n");
    let mut command = world.command(crate::support::portcullis());
    let found = finish(
        command.args(["diagnose", "--allow", "api.example.com:80", "api:80"]),
        LIMIT,
    );
    assert_eq!(found.code(), Some(0), "{found}");
    assert!(found.out().contains("api.example.com"), "{found}");
}

#[test]
fn learn_writes_the_full_name() {
    require("curl");
    let world = searching("search internal.test example.com com\n");
    let mut command = world.command(crate::support::portcullis());
    let script =
        "curl -s -o /dev/null http://api/; curl -s -o /dev/null --noproxy '*' http://v4only/";
    let ran = finish(
        command.args(["learn", "-o", "learnt.toml", "--", "sh", "-c", script]),
        LIMIT,
    );
    assert_eq!(ran.code(), Some(0), "{ran}");
    let text = std::fs::read_to_string(world.home().join("learnt.toml")).unwrap();
    for name in ["\"api.example.com", "\"v4only.example.com"] {
        assert!(text.contains(name), "{text}");
    }
    assert!(
        !text.contains("\"api\"") && !text.contains("\"api:"),
        "{text}"
    );
}
