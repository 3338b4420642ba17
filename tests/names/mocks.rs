//! `to = …`: a mocked name leads to an address that the operator chose, by every way.

use crate::processes::{Background, until};
use crate::support::{command, portcullis, require, sandbox, world};

/// The web server and the echo on the host's own loopback.
const POLICY: &str = r#"version = 1
[network.domains]
"mock.example.com" = { verdict = "allow", to = "127.0.0.1:8080" }
"echo.example.com:7000" = { verdict = "allow", to = ":7777" }
"#;

#[test]
fn a_mocked_name_leads_to_its_target_by_every_way_and_is_asked_of_nobody() {
    require("curl");
    let world = world();
    let ran = sandbox(&world).policy("toml", POLICY).sh(
        "set -f; for way in '--noproxy *' '' '-p' '--socks5-hostname 10.0.2.2:1080'; do \
         curl -sS -m 25 -o /dev/null -w '%{http_code}\\n' $way http://mock.example.com/; done",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "200\n".repeat(4), "{ran}");
    let flows: Vec<_> = ran
        .records
        .about("mock.example.com")
        .into_iter()
        .filter(|record| record["layer"] != "dns" && record["event"] == "decision")
        .collect();
    assert!(flows.len() >= 4, "{ran}");
    for flow in flows {
        assert_eq!(flow["upstream"], "127.0.0.1:8080", "{ran}");
    }
    world.assert_never_asked("mock.example");
}

#[test]
fn raw_tcp_to_a_mocked_name_reaches_the_hosts_port_and_no_other_one() {
    let world = world();
    let ran = sandbox(&world).policy("toml", POLICY).python(
        r#"
import socket
talk = socket.create_connection(("echo.example.com", 7000), 25)
talk.sendall(b"ping\n")
heard = b""
while not heard.endswith(b"\n"):
    heard += talk.recv(16)
print(heard.decode().strip())
for host, port in [("echo.example.com", 7777), ("echo.example.com", 80), ("127.0.0.1", 7777)]:
    try:
        socket.create_connection((host, port), 25)
        print("connected to", host, port)
    except ConnectionRefusedError:
        print("refused")
"#,
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "ping\nrefused\nrefused\nrefused\n", "{ran}");
    let denied = ran
        .records
        .denials("tcp", "port-not-allowed", "echo.example.com");
    assert_eq!(denied.len(), 2, "one for each port: {ran}");
    world.assert_never_asked("echo.example");
}

#[test]
fn the_guard_is_lifted_for_the_target_alone() {
    require("curl");
    let world = world();
    let ran = sandbox(&world).policy("toml", POLICY).sh(
        "for target in 127.0.0.1:8080 127.0.0.1:7777 host.portcullis.internal:8080; do \
         curl -s -m 25 -o /dev/null -w '%{http_connect}\\n' -p --noproxy '' -x http://10.0.2.2:3128 http://$target/; done",
    );
    // Without the mocked name a loopback address is the sandbox's own, where nobody listens.
    assert_eq!(ran.out(), "502\n502\n403\n", "{ran}");
}

#[test]
fn a_restrictive_resolver_answers_a_mocked_name_with_its_target() {
    require("dig");
    let world = world();
    let policy = world.file("mocks.toml", POLICY);
    let mut serve = world.command(portcullis());
    serve
        .args(["serve", "--dns", "127.0.0.1:5300", "--policy"])
        .arg(policy);
    let _serving = Background::start(&mut serve);
    let dig = |args: &[&str]| {
        let mut all = vec!["+time=20", "+tries=1", "@127.0.0.1", "-p", "5300"];
        all.extend(args);
        world
            .run("dig", &all, std::time::Duration::from_secs(60))
            .out()
    };
    until("it answers", || {
        dig(&["+short", "mock.example.com", "A"]) == "127.0.0.1\n"
    });
    let six = dig(&["mock.example.com", "AAAA"]);
    assert!(
        six.contains("status: NOERROR") && six.contains("ANSWER: 0"),
        "{six}"
    );
    world.assert_never_asked("mock.example");
}

#[test]
fn synthetic_answers_on_a_resolver_alone_are_refused_with_a_hint() {
    let world = world();
    let policy = world.file(
        "synthetic.toml",
        "version = 1\n[network.dns]\nanswers = \"synthetic\"\n",
    );
    let policy = policy.display().to_string();
    let done = command(
        &world,
        &["serve", "--dns", "127.0.0.1:5300", "--policy", &policy],
    );
    assert_eq!(done.code(), Some(2), "{done}");
    assert!(done.err().contains("--http or --socks5"), "{done}");
}
