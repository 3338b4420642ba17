//! Resolvers on one link (`fe80::53%eth0`), as routers announce them: in the policy, as a flag, in the host's
//! resolv.conf; and interfaces that are not there, or not yet.

use crate::support::{Ran, finish, portcullis, require, sandbox, world};
use portcullis_testkit::World;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A resolver on a link; it passes every question on to a real one.
const FORWARDER: &str = "import socket, sys\n\
    link = sys.argv[1]\n\
    inside = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n\
    inside.bind(('fe80::53', 53, 0, socket.if_nametoindex(link)))\n\
    outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    outside.connect(('203.0.113.53', 53))\n\
    print('ready', flush=True)\n\
    while True:\n\
    \x20query, client = inside.recvfrom(4096)\n\
    \x20outside.send(query)\n\
    \x20inside.sendto(outside.recv(4096), client)\n";

/// The resolver's process.
struct Forwarder(Child);

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a link of the host's, and starts the resolver on it.
fn forwarder(world: &World, link: &str) -> Forwarder {
    require("python3");
    let script = format!(
        "set -e; ip link add {link} type veth peer name {link}p; ip link set {link}p up; ip link set {link} up; \
         ip addr add fe80::53/64 dev {link} nodad; exec python3 -c \"$FORWARDER\" {link}"
    );
    let mut command = world.command_as_root("sh");
    let mut child = command
        .args(["-c", &script])
        .env("FORWARDER", FORWARDER)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    Forwarder(child)
}

fn resolv_conf(world: &World, text: &str) {
    let file = world.file("replacement", text);
    let script = format!("cat {} > /etc/resolv.conf", file.display());
    let done = finish(world.command_as_root("sh").args(["-c", &script]), LIMIT);
    assert_eq!(done.code(), Some(0), "{done}");
}

#[track_caller]
fn assert_found(ran: &Ran, server: &str) {
    assert_eq!(ran.out(), "203.0.113.60\n", "{ran}");
    let asked = ran.records.about("v4only.example.com");
    assert!(
        asked.iter().any(|record| record["upstream"] == server),
        "{server}: {ran}"
    );
}

const LOOK_UP: &str = "getent ahostsv4 v4only.example.com | awk '/STREAM/ { print $1 }'";

#[test]
fn a_resolver_on_a_link_is_asked_wherever_it_is_named() {
    let world = world();
    let _forwarder = forwarder(&world, "wlan0");
    resolv_conf(&world, "nameserver 203.0.113.250\n");
    let server = "[fe80::53%wlan0]:53";
    for written in ["fe80::53%wlan0", server] {
        let run = sandbox(&world).allow("v4only.example.com");
        assert_found(&run.args(&["--resolver", written]).sh(LOOK_UP), server);
    }
    let zoned = format!(
        "version = 1\n[network.dns]\nresolvers = [\"203.0.113.250\"]\n\
         [network.dns.zones]\n\"example.com\" = [\"{server}\"]\n[network.domains]\n\"v4only.example.com\" = \"allow\"\n"
    );
    let plain = "version = 1\n[network.dns]\nresolvers = [\"fe80::53%wlan0\"]\n\
         [network.domains]\n\"v4only.example.com\" = \"allow\"\n";
    for policy in [&zoned, plain] {
        assert_found(&sandbox(&world).policy("toml", policy).sh(LOOK_UP), server);
        assert_found(
            &sandbox(&world).as_root().policy("toml", policy).sh(LOOK_UP),
            server,
        );
    }
    resolv_conf(&world, "nameserver fe80::53%wlan0\n");
    let ran = sandbox(&world).allow("v4only.example.com").sh(LOOK_UP);
    assert_eq!(ran.out(), "203.0.113.60\n", "{ran}");
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let world = world();
    let run = |resolvers: &[&str]| {
        let mut args = vec!["run", "--allow", "v4only.example.com", "--log", "link.log"];
        resolvers
            .iter()
            .for_each(|resolver| args.extend(["--resolver", resolver]));
        args.extend(["--", "sh", "-c", LOOK_UP]);
        finish(world.command(portcullis()).args(args), LIMIT)
    };
    let none = run(&["fe80::53%nope0"]);
    assert_eq!(none.code(), Some(125), "{none}");
    assert!(
        none.err().contains("there is no network interface `nope0`"),
        "{none}"
    );
    let one = run(&["fe80::53%nope0", "203.0.113.53"]);
    assert_eq!(
        (one.code(), one.out()),
        (Some(0), "203.0.113.60\n".to_owned()),
        "{one}"
    );
    for (bad, why) in [
        ("fe80::53", "needs its interface"),
        ("10.0.0.53%wlan0", "only a link-local address"),
    ] {
        let refused = run(&[bad]);
        assert_eq!(refused.code(), Some(125), "{refused}");
        assert!(refused.err().contains(why), "{refused}");
    }
}

#[test]
fn a_resolver_is_asked_as_soon_as_its_interface_is_there() {
    let world = world();
    resolv_conf(&world, "nameserver fe80::53%late0\n");
    let script = format!(
        "{LOOK_UP}; touch tried; for i in $(seq 100); do found=$({LOOK_UP}); [ \"$found\" ] && break; sleep 0.2; done; \
         echo $found"
    );
    let run = sandbox(&world).allow("v4only.example.com");
    let mut child = run
        .command(&["sh", "-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !world.home().join("tried").exists() {
        assert!(began.elapsed() < LIMIT, "the first look");
        std::thread::sleep(Duration::from_millis(50));
    }
    let _forwarder = forwarder(&world, "late0");
    let mut out = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut out).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(out, "203.0.113.60\n");
}
