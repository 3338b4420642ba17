//! Case 1: a company's own forward proxy and own resolvers sit behind the gateway.

use crate::support::{require, sandbox, world_from};
use portcullis_testkit::{DnsServer, World, WorldSpec, ip};

/// The file of the case, as it stands.
const YAML: &str = r#"network:
  proxy:
    http: "http://proxy.internal:3128"
    https: "http://proxy.internal:3128"
    no_proxy: "localhost,127.0.0.1"
  dns:
    custom_resolvers:
      - "10.0.0.53"
  allowlist_additions:
    - "api.internal.company.com"
    - "registry.internal.company.com"
"#;

/// The standard world with the resolver of the case.
fn company() -> World {
    let mut spec = WorldSpec::standard();
    spec.dns.servers.push(DnsServer {
        address: ip("10.0.0.53"),
        fault: None,
    });
    world_from(spec)
}

fn by_proxy(world: &World, line: &str) -> usize {
    world
        .server_log()
        .iter()
        .filter(|event| event.service == "upstream-proxy")
        .filter(|event| event.line.as_deref().is_some_and(|l| l.starts_with(line)))
        .count()
}

#[test]
fn the_yaml_loads_as_it_stands_and_allowed_names_go_through_an_upstream_proxy() {
    let world = company();
    let ran = sandbox(&world).policy("yaml", YAML).sh(
        "for way in '' '--noproxy *' '--socks5-hostname 10.0.2.2:1080'; do set -f; for scheme in http https; do \
         curl -sS -m 25 -o /dev/null -w '%{http_code}\\n' $way $scheme://registry.internal.company.com/; done; done; \
         curl -s -m 25 -o /dev/null -w '%{http_connect}\\n' https://evil.example.net/",
    );
    assert_eq!(ran.out(), "200\n".repeat(6) + "403\n", "{ran}");
    assert!(
        by_proxy(&world, "CONNECT registry.internal.company.com:443 ") >= 3,
        "{:?}",
        world.server_log()
    );
    assert!(by_proxy(&world, "") >= 6, "every flow goes through it");
    assert_eq!(by_proxy(&world, "CONNECT evil"), 0);
    let server = ip("203.0.113.110");
    for event in world
        .server_log()
        .iter()
        .filter(|event| event.event == "accept")
    {
        let local: std::net::SocketAddr = event.local.parse().unwrap_or_else(|e| panic!("{e}"));
        let peer: std::net::SocketAddr = event.peer.parse().unwrap_or_else(|e| panic!("{e}"));
        assert!(
            local.ip() != server || peer.ip() != ip("192.0.2.2"),
            "not by the proxy: {event:?}"
        );
    }
    for query in world.dns_log() {
        assert_eq!(
            query.server.to_string(),
            "10.0.0.53:53",
            "another resolver was asked: {query:?}"
        );
    }
    world.assert_never_asked("evil");
}

/// A registry that is not listed does not exist, and npm says so at once, with and without the
/// proxy's variables.
#[test]
fn npm_reports_a_clean_not_found() {
    require("npm");
    let world = company();
    let npm = "npm view left-pad --registry https://npm.evil.example.net --fetch-retries 0";
    let ran = sandbox(&world).policy("yaml", YAML).sh(&format!(
        "env -i PATH=\"$PATH\" HOME=\"$HOME\" {npm}; echo $?; {npm}; echo $?"
    ));
    ran.assert_said("ENOTFOUND").assert_said("403");
    assert_eq!(ran.out(), "1\n1\n", "{ran}");
    let denials = ran.records.all_denials();
    let whom = "npm.evil.example.net";
    assert!(
        !denials.is_empty() && denials.iter().all(|record| record["name"] == whom),
        "{ran}"
    );
    world.assert_never_asked("evil");
}

#[test]
fn names_in_no_proxy_go_direct() {
    let world = company();
    let ran = sandbox(&world)
        .policy(
            "toml",
            "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n\"github.com\" = \"allow\"\n\
             [network.proxy]\nhttp = \"http://proxy.example.corp:3128\"\nhttps = \"http://proxy.example.corp:3128\"\n\
             no_proxy = \"localhost,.example.com\"\n",
        )
        .sh("curl -sS -m 25 -o /dev/null -w '%{http_code}\\n' https://api.example.com/; \
             curl -sS -m 25 -o /dev/null -w '%{http_code}\\n' https://github.com/; \
             curl -sS -m 25 -o /dev/null -w '%{http_code}\\n' http://github.com/");
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "200\n".repeat(3), "{ran}");
    assert_eq!(by_proxy(&world, "CONNECT github.com:443 "), 1);
    assert_eq!(by_proxy(&world, "CONNECT api.example.com"), 0);
}

#[test]
fn an_upstream_proxy_that_refuses_is_502_never_403() {
    // It asks for credentials that it does not get.
    let world = company();
    let ran = sandbox(&world)
        .allow("github.com")
        .args(&["--upstream-proxy", "http://proxy.example.corp:3129"])
        .sh("curl -s -m 25 -o /dev/null -w '%{http_connect}\\n' https://github.com/");
    assert_eq!(ran.out(), "502\n", "{ran}");
    let record = ran.records.one("connect", "github.com");
    assert_eq!(
        (&record["verdict"], &record["reason"]),
        (&"error".into(), &"upstream-proxy-refused".into()),
        "{ran}"
    );
}
