//! `answers = "synthetic"`: every listed name has an address of its own.

use crate::support::{Ran, require, sandbox, world};
use portcullis_testkit::World;

fn synthetic(world: &World, allow: &[&str], program: &str) -> Ran {
    let run = sandbox(world).args(&["--answers", "synthetic"]);
    allow
        .iter()
        .fold(run, |run, target| run.allow(target))
        .python(program)
}

/// Functions that the programs share.
const PRELUDE: &str = r#"
import os, socket, ssl
def fetch(host):
    trust = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    raw = socket.create_connection((host, 443), 25)
    with trust.wrap_socket(raw, server_hostname=host) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n")
        return tls.makefile("rb").readline().split()[1].decode()
def lookup(host):
    try:
        return sorted({a[4][0] for a in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        return error.errno == socket.EAI_NONAME and "not found" or str(error)
"#;

#[test]
fn raw_tcp_keeps_its_name() {
    require("python3");
    let world = world();
    let names = [
        "api.example.com",
        "v6only.example.com",
        "raw.example.com:9000",
        "missing.example.com",
    ];
    let program = format!(
        "{PRELUDE}{}",
        r#"
from ipaddress import ip_address, ip_network
a, six = lookup("api.example.com"), lookup("v6only.example.com")
assert len(a) == 1 and len(six) == 1 and a != six, (a, six)
for address in a + six:
    assert ip_address(address) in ip_network("198.18.0.0/15"), address
print(socket.gethostbyaddr(a[0])[0])
print(fetch("api.example.com"), fetch("v6only.example.com"))
talk = socket.create_connection(("raw.example.com", 9000), 25)
talk.sendall(b"ping\n")
heard = b""
while not heard.endswith(b"\n"):
    heard += talk.recv(16)
print(heard.decode().strip())
print(lookup("missing.example.com"), lookup("evil.example.net"))
for to in [("198.18.99.99", 443), (a[0], 22)]:
    try:
        socket.create_connection(to, 25)
        print("connected", to)
    except ConnectionRefusedError:
        print("refused")
"#
    );
    let ran = synthetic(&world, &names, &program);
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "api.example.com\n200 200\nping\nnot found not found\nrefused\nrefused\n",
        "{ran}"
    );
    // The name is judged, its own address dialled.
    let open = ran.records.one("transparent", "raw.example.com");
    let upstream = open["upstream"].as_str().unwrap_or_default();
    assert!(
        ["203.0.113.96:9000", "[2001:db8:10::96]:9000"].contains(&upstream),
        "{ran}"
    );
    ran.assert_one_denial("tcp", "address-not-leased", "198.18.99.99");
    ran.assert_one_denial("tcp", "port-not-allowed", "api.example.com");
    world.assert_never_asked("evil");
    world.assert_never_reached("198.18.0.5");
}

#[test]
fn a_name_that_only_the_upstream_proxy_can_resolve_is_reached_without_proxy_variables() {
    require("python3");
    let world = world();
    // The resolvers say NXDOMAIN; the upstream proxy knows it.
    let program = format!(
        "{PRELUDE}{}",
        r#"
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]
print(lookup("nxdomain.example.com")[0].startswith("198.1"), fetch("nxdomain.example.com"))
"#
    );
    let ran = sandbox(&world)
        .allow("nxdomain.example.com")
        .args(&["--answers", "synthetic"])
        .args(&["--upstream-proxy", "http://proxy.example.corp:3128"])
        .python(&program);
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "True 200\n", "{ran}");
    world.assert_never_asked("nxdomain.example");
    let open = ran.records.one("transparent", "nxdomain.example.com");
    assert_eq!(open["upstream"], "http://proxy.example.corp:3128", "{ran}");
}

#[test]
fn a_range_that_the_host_routes_is_refused_at_start_up() {
    let world = world();
    let mut route = world.command_as_root("ip");
    route.args(["route", "add", "198.18.4.0/22", "via", "192.0.2.1"]);
    let made = crate::support::finish(&mut route, crate::support::TIMEOUT);
    assert!(made.ok(), "{made}");
    let ran = sandbox(&world)
        .allow("api.example.com")
        .args(&["--answers", "synthetic"])
        .run(&["true"]);
    ran.assert_code(125);
    for part in ["198.18.0.0/15", "198.18.4.0/22", "synthetic_range"] {
        assert!(ran.err().contains(part), "{part}: {ran}");
    }
    // Real answers need no range.
    let ran = sandbox(&world).allow("api.example.com").run(&["true"]);
    ran.assert_ok();
    // Neither does another one mind the route.
    let policy = "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n\
                  [network.dns]\nanswers = \"synthetic\"\nsynthetic_range = \"100.127.0.0/16\"\n";
    let ran = sandbox(&world)
        .policy("toml", policy)
        .sh("curl -sS -m 25 -o /dev/null -w '%{http_code} %{remote_ip}\\n' --noproxy '*' https://api.example.com/");
    ran.assert_ok().assert_no_denial();
    assert!(ran.out().starts_with("200 100.127."), "{ran}");
}
