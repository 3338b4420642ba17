//! Each kind of sandbox meets the same answers on each layer, and leaves the same records.

use crate::inside::Inside;
use crate::places::{Attached, Who, started, state};
use crate::support::world;
use portcullis_testkit::World;

const ALLOW: [&str; 2] = ["--allow", "api.example.com"];

/// The four layers: NXDOMAIN, refused, alert, 403, 200; and what is on record of them.
#[track_caller]
fn four_layers(world: &World, inside: &mut Inside, attached: &Attached) {
    inside.expect("name evil.example.net", "none");
    attached.until_denied("dns", "not-in-allowlist", "evil.example.net");
    inside.expect("connect 203.0.113.90 22", "ECONNREFUSED");
    inside.expect("connect 2001:db8:10::90 22", "ECONNREFUSED");
    attached.until_denied("tcp", "address-not-leased", "203.0.113.90");
    inside.expect("name api.example.com", "203.0.113.10");
    let curl = |rest: &str| format!("sh curl -sS -m 60 -o /dev/null -w %{{http_code}} {rest}");
    inside.expect(&curl("https://api.example.com/"), "200");
    inside.expect(&curl("-4 https://api.example.com/"), "200");
    let alert = inside.ask(&curl(
        "--resolve evil.example.net:443:203.0.113.10 https://evil.example.net/",
    ));
    assert!(alert.contains("unrecognized name"), "{alert}");
    attached.until_denied("tls", "sni-not-listed", "evil.example.net");
    let refused = inside.ask(&curl("-x http://10.0.2.2:3128 http://evil.example.net/"));
    assert_eq!(refused, "403");
    attached.until_denied("http", "not-in-allowlist", "evil.example.net");
    inside.expect(
        &curl("-x http://10.0.2.2:3128 https://api.example.com/"),
        "200",
    );
    inside.expect(
        &curl("-x socks5h://10.0.2.2:1080 https://api.example.com/"),
        "200",
    );
    // A datagram to anywhere else has nowhere to go.
    let datagram = inside.python(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.connect(('203.0.113.90', 443))\ns.send(b'x')\nsaid = 'sent'\n",
    );
    assert_ne!(datagram, "sent");
    // Any resolver is the gateway's.
    inside.expect(
        "sh nslookup evil.example.net 8.8.8.8 | grep -c NXDOMAIN",
        "1|",
    );
    world.assert_never_asked("evil");
    world.assert_never_reached("203.0.113.90");
    world.assert_never_reached("8.8.8.8");
}

#[track_caller]
fn is_served(who: Who, by: &[&str], options: &[&str]) {
    let world = world();
    let mut inside = started(&world, who, by);
    let args: Vec<&str> = ALLOW.iter().chain(options).copied().collect();
    let attached = Attached::to(&world, who, &inside, &args);
    four_layers(&world, &mut inside, &attached);
    let records = attached.records();
    let denials = records.denials("dns", "not-in-allowlist", "evil.example.net");
    assert!(
        denials
            .iter()
            .any(|record| !record["process"]["pid"].is_null()),
        "{records}"
    );
    drop(inside);
    assert_eq!(attached.end(), Some(0), "it ends with the sandbox");
}

#[test]
fn unshare_of_an_ordinary_user() {
    is_served(Who::User, &["unshare", "-rn"], &[]);
}

#[test]
fn unshare_with_mounts_of_its_own() {
    is_served(Who::User, &["unshare", "-rnm"], &[]);
}

/// As docker makes it with `--network none`.
#[test]
fn a_sandbox_whose_loopback_has_no_ipv6() {
    let world = world();
    let off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; exec \"$@\"";
    let by = ["unshare", "-rn", "sh", "-c", off, "sh"];
    let mut inside = started(&world, Who::User, &by);
    let setting = "sh cat /proc/sys/net/ipv6/conf/lo/disable_ipv6";
    inside.expect(setting, "1|");
    let attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    four_layers(&world, &mut inside, &attached);
    assert_eq!(attached.stop("TERM"), Some(0));
    inside.expect(setting, "1|");
}

#[test]
fn unshare_of_root() {
    is_served(Who::Root, &["unshare", "-n"], &[]);
}

const BWRAP: [&str; 8] = [
    "bwrap",
    "--unshare-net",
    "--bind",
    "/",
    "/",
    "--dev-bind",
    "/dev",
    "/dev",
];

#[test]
fn bubblewrap_of_an_ordinary_user() {
    is_served(Who::User, &BWRAP, &[]);
}

#[test]
fn bubblewrap_of_root() {
    is_served(Who::Root, &BWRAP, &[]);
}

#[test]
fn a_sandbox_of_a_user_that_root_attaches() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rnm"]);
    let attached = Attached::to(&world, Who::Root, &inside, &ALLOW);
    four_layers(&world, &mut inside, &attached);
}

/// A namespace by its path, as `ip netns` makes it.
fn named(world: &World, name: &str) -> (String, Inside) {
    let mut ip = Who::Root.command(world, "ip");
    let done = ip.args(["netns", "add", name]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let inside = started(world, Who::Root, &["ip", "netns", "exec", name]);
    (format!("/run/netns/{name}"), inside)
}

#[test]
fn a_named_namespace() {
    let world = world();
    let (path, mut inside) = named(&world, "lab");
    let before = state(&mut inside);
    let mut args = vec!["--netns", &path];
    args.extend(ALLOW);
    let attached = Attached::start(&world, Who::Root, &args);
    four_layers(&world, &mut inside, &attached);
    assert_eq!(attached.stop("TERM"), Some(0));
    assert_eq!(state(&mut inside), before);

    let attached = Attached::start(&world, Who::Root, &args);
    let mut ip = Who::Root.command(&world, "ip");
    assert!(ip.args(["netns", "del", "lab"]).status().unwrap().success());
    assert_eq!(attached.end(), Some(0), "it ends when the path is removed");
}

#[test]
fn a_namespace_that_hangs_on_a_veth() {
    let world = world();
    let (path, mut inside) = named(&world, "hung");
    let script = "set -e; ip link add outside type veth peer name inside; ip link set inside netns hung; \
                  ip addr add 10.200.0.1/24 dev outside; ip link set outside up; \
                  ip netns exec hung ip link set lo up; \
                  ip netns exec hung ip addr add 10.200.0.2/24 dev inside; \
                  ip netns exec hung ip link set inside up; \
                  ip netns exec hung ip route add default via 10.200.0.1";
    let mut sh = Who::Root.command(&world, "sh");
    let done = sh.args(["-c", script]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let mut args = vec!["--netns", &path];
    args.extend(ALLOW);
    let attached = Attached::start(&world, Who::Root, &args);
    four_layers(&world, &mut inside, &attached);
    // The other end is the host's.
    inside.expect("connect 10.200.0.1 22", "ECONNREFUSED");
    attached.until_denied("tcp", "private-address", "10.200.0.1");
    assert_eq!(attached.stop("TERM"), Some(0));
    // Without a gateway it is cut off, whatever it was before.
    inside.expect("connect 10.200.0.1 22", "ENETUNREACH");
}
