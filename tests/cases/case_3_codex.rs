//! Case 3: programs that resolve names themselves, under an HTTP and SOCKS proxy. The Codex profile
//! loads as it stands.

use crate::shared;
use crate::support::{Ran, TIMEOUT, command, finish, require, sandbox};

/// The file of the case, as it stands.
const PROFILE: &str = r#"default_permissions = "workspace"

[permissions.workspace.filesystem]
":root" = "read"
":tmpdir" = "write"

[permissions.workspace.filesystem.":project_roots"]
"." = "write"

[permissions.workspace.network]
enabled = true
mode = "full"
allow_local_binding = true
allow_upstream_proxy = true

[permissions.workspace.network.domains]
"internal-symbols.example.corp" = "allow"
"internal-data.example.corp" = "allow"
"#;

fn profile(script: &str) -> Ran {
    sandbox(&shared::world()).policy("toml", PROFILE).sh(script)
}

#[test]
fn the_child_knows_that_the_proxy_is_there() {
    let ran = profile("env");
    ran.assert_ok();
    for line in [
        "CODEX_NETWORK_PROXY_ACTIVE=1",
        "PORTCULLIS=1",
        "HTTP_PROXY=http://10.0.2.2:3128",
        "https_proxy=http://10.0.2.2:3128",
    ] {
        assert!(ran.out().lines().any(|l| l == line), "{line}: {ran}");
    }
}

#[test]
fn curl_to_a_name_that_is_not_allowed_gets_403_on_its_connect() {
    let ran = profile("curl -sv https://codex.evil.example.net/");
    ran.assert_code(56)
        .assert_said("< HTTP/1.1 403 Forbidden")
        .assert_said("< x-proxy-error: blocked-by-allowlist");
    ran.assert_one_denial("http", "not-in-allowlist", "codex.evil.example.net");
    shared::world().assert_never_asked("evil");
}

#[test]
fn allowed_names_pass_on_every_path_and_port() {
    let ran = profile(
        "curl -sS https://internal-data.example.corp/; curl -sS --noproxy '*' https://internal-symbols.example.corp/; \
         curl -sS --socks5-hostname 10.0.2.2:1080 http://internal-data.example.corp/; \
         nc -zv -w 25 internal-data.example.corp 8081",
    );
    // Their names carry no ports: any is allowed, and the upstream's refusal is the upstream's.
    ran.assert_no_denial();
    assert_eq!(ran.out().matches("GET / HTTP/1.1").count(), 3, "{ran}");
}

#[test]
fn getaddrinfo_and_getfqdn_as_outside_the_sandbox() {
    require("python3");
    let ran = profile(
        "python3 -c 'import socket\n\
         print(socket.getaddrinfo(\"internal-data.example.corp\", 443)[0][4][0])\n\
         print(socket.getfqdn(\"internal-data.example.corp\"))\n\
         print(socket.getfqdn(\"internal-symbols.example.corp\"))\n\
         print(socket.getaddrinfo(socket.getfqdn(\"internal-data.example.corp\"), 443)[0][4][0])'",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(
        ran.out(),
        "203.0.113.30\nbackend-canonical-host.example.corp\ninternal-symbols.example.corp\n203.0.113.30\n",
        "{ran}"
    );
}

#[test]
fn node_git_and_curl_do_as_outside_the_sandbox() {
    for program in ["node", "git", "curl"] {
        require(program);
    }
    let world = shared::world();
    world.file("canonical.js", NODE);
    let script = "node canonical.js; git ls-remote https://internal-data.example.corp/repo.git; \
                  curl -sS -o /dev/null -w '%{http_code}\\n' https://internal-data.example.corp/";
    let ran = profile(script);
    ran.assert_ok().assert_no_denial();
    let outside = finish(world.command("sh").args(["-c", script]), TIMEOUT);
    assert_eq!(ran.out(), outside.out(), "{ran}\n{outside}");
    let canonical = "backend-canonical-host.example.corp\n";
    assert!(
        ran.out()
            .starts_with(&format!("203.0.113.30\n{}", canonical.repeat(3))),
        "{ran}"
    );
    assert!(
        ran.out().contains("\tHEAD\n") && ran.out().ends_with("\n200\n"),
        "{ran}"
    );
}

/// The canonical name by every way that Node has: libc's and c-ares'.
const NODE: &str = "const dns = require('dns'), name = 'internal-data.example.corp';
dns.lookup(name, (error, address) => { console.log(error || address);
  dns.lookupService(address, 443, (error, host) => { console.log(error || host);
    dns.resolveCname(name, (error, names) => { console.log(error || names[0]);
      dns.reverse(address, (error, names) => console.log(error || names[0])); }); }); });
";

#[test]
fn slow_java_sees_the_canonical_name() {
    require("java");
    shared::world().file(
        "Canonical.java",
        "import java.net.InetAddress;\n\
         class Canonical { public static void main(String[] args) throws Exception {\n\
         InetAddress address = InetAddress.getByName(\"internal-data.example.corp\");\n\
         System.out.println(address.getHostAddress() + \" \" + address.getCanonicalHostName()); } }\n",
    );
    let ran = sandbox(&shared::world())
        .policy("toml", PROFILE)
        .limit(TIMEOUT * 4)
        .sh("java -XX:TieredStopAtLevel=1 -XX:-UsePerfData Canonical.java");
    ran.assert_ok().assert_no_denial();
    assert_eq!(
        ran.out(),
        "203.0.113.30 backend-canonical-host.example.corp\n",
        "{ran}"
    );
}

/// Whichever way a program asks, the operator finds the same record.
#[test]
fn a_lookup_that_is_denied_or_unsupported_is_recorded_like_a_denied_request() {
    require("dig");
    let name = "same.evil.example.net";
    let ran = profile(&format!(
        "dig +tries=1 {name}; dig +tries=1 internal-data.example.corp NAPTR; \
         curl -sS https://{name}/; curl -sS --socks5-hostname 10.0.2.2:1080 https://{name}/"
    ));
    ran.assert_said("status: NXDOMAIN")
        .assert_said("status: NOERROR");
    let denials = ran.records.all_denials();
    let protocols = ["dns-udp", "dns-udp", "connect", "socks5"];
    let reasons = ["not-in-allowlist", "type-not-served"];
    assert_eq!(denials.len(), protocols.len(), "{ran}");
    for protocol in protocols {
        let found = denials.iter().filter(|r| r["protocol"] == protocol);
        for record in found {
            for key in [
                "time", "id", "sandbox", "layer", "verdict", "reason", "name", "count", "process",
            ] {
                assert!(!record[key].is_null(), "no {key} in {record}");
            }
            assert!(reasons.iter().any(|r| record["reason"] == *r), "{record}");
            let unsupported = record["reason"] == "type-not-served";
            let whom = if unsupported {
                "internal-data.example.corp"
            } else {
                name
            };
            assert_eq!(record["name"], whom, "{record}");
        }
        assert!(
            denials.iter().any(|r| r["protocol"] == protocol),
            "{protocol}: {ran}"
        );
    }
    shared::world().assert_never_asked("evil");
}

#[test]
fn a_negotiate_header_made_from_the_canonical_name_arrives() {
    // What a SPNEGO client does with getfqdn, without a Kerberos realm: 401, then the header whose
    // principal names the canonical host, then 200.
    let ran = profile(
        "python3 -c 'import base64, socket, urllib.request, urllib.error\n\
         url = \"https://internal-data.example.corp/negotiate\"\n\
         try: urllib.request.urlopen(url)\n\
         except urllib.error.HTTPError as e: print(e.code, e.headers[\"WWW-Authenticate\"])\n\
         principal = \"HTTP/\" + socket.getfqdn(\"internal-data.example.corp\")\n\
         token = base64.b64encode(principal.encode()).decode()\n\
         print(urllib.request.urlopen(urllib.request.Request(url, headers={\"Authorization\": \"Negotiate \" + token})).status)\n\
         print(token)'",
    );
    ran.assert_ok().assert_no_denial();
    let out = ran.out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["401 Negotiate", "200"], "{ran}");
    let arrived = shared::world().server_log().into_iter().any(|event| {
        event
            .head_text()
            .contains(&format!("Authorization: Negotiate {}", lines[2]))
    });
    assert!(
        arrived && !ran.records.to_string().contains(lines[2]),
        "{ran}"
    );
}

#[test]
fn the_resolver_is_in_the_sandbox_s_own_namespace() {
    let ran = profile(
        "cat /etc/resolv.conf; grep ^hosts /etc/nsswitch.conf; ip -brief address; ip route; ss -Hlnut",
    );
    ran.assert_ok().assert_out("nameserver 10.0.2.3");
    let out = ran.out();
    assert!(
        out.lines()
            .any(|line| line.split_whitespace().eq(["hosts:", "files", "dns"])),
        "{ran}"
    );
    for kind in ["udp", "tcp"] {
        let listens = |line: &str| line.starts_with(kind) && line.contains(" 0.0.0.0:53 ");
        assert!(out.lines().any(listens), "{kind} port 53: {ran}");
    }
    assert!(!out.contains("default via"), "no route out: {ran}");
    assert!(!out.contains("uplink"), "no device but its own: {ran}");
}

#[test]
fn policy_check_warns_of_the_sections_that_are_not_enforced() {
    let world = shared::world();
    let path = world.file("codex.toml", PROFILE);
    let done = command(&world, &["policy", "check", &path.display().to_string()]);
    assert!(done.ok(), "{done}");
    assert!((done.out() + &done.err()).contains("filesystem"), "{done}");
}
