//! Two live guests at once, each in a sandbox of its own, that try to reach each other, the host and what
//! controls them.

use crate::GUEST_TIMEOUT;
use crate::guest::{Addresses, Device, Guest, checks};
use crate::processes::{Background, kill, until};
use crate::support::{self, portcullis, read_records, require_kernel, sandbox, world};

const FIRST_MAC: &str = "52:54:00:00:00:0a";
const SECOND_MAC: &str = "52:54:00:00:00:0b";
/// What the first guest makes of its hardware address (RFC 4291, appendix A).
const FIRST_HOST6: &str = "5054:ff:fe00:a";

/// Waits to be reached, until its policy allows what the test adds to it.
const FIRST: &str = r#"
ip -6 addr add fd50:6f72:7463::a0/64 dev eth0
for port in 7777 8888; do while true; do nc -l -p $port >> /tmp/got 2>/dev/null; done & done
echo first is up
until nslookup -type=a www.example.com > /dev/null 2>&1; do sleep 1; done
check got "cat /tmp/got"
check neighbours "ip neigh show dev eth0; cat /proc/net/arp"
"#;

/// Tries everything. The world's host has servers at ports 7777 and 8080 of its loopback.
const SECOND: &str = r#"
check own-address "echo hi | nc -w 3 10.0.2.15 7777"
for at in 10.0.2.14 10.0.2.16 10.0.2.2 10.0.2.3 192.0.2.2 127.0.0.1; do for port in 7777 8080; do
check tcp-$at-$port "echo hi | timeout 8 nc -w 5 $at $port"; done; done
for at in fd50:6f72:7463:0:5054:ff:fe00:a fd50:6f72:7463::a0 fd50:6f72:7463::14 fd50:6f72:7463::2 2001:db8:ffff::2; do
check tcp6-$at "echo hi | timeout 8 nc -w 5 $at 7777"; done
check link "echo hi | timeout 8 nc -w 5 fe80::5054:ff:fe00:a%eth0 7777"
check ping-all "ping -c 1 -W 1 10.0.2.255; ping -c 2 -W 1 ff02::1%eth0"
check ping-first "ping -c 1 -W 1 fe80::5054:ff:fe00:a%eth0"
check arp "arping -c 2 -w 3 -I eth0 10.0.2.16"
check served nslookup -type=a api.example.com
check neighbours ip neigh show dev eth0
"#;

/// On which device the second of them is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Socket,
    Tap,
}

fn meet(on: On) {
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let world = world();
    let policy = |www: &str| {
        format!("version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n{www}")
    };
    let file = world.file("first.toml", policy(""));
    let (log, socket) = (
        world.home().join("first.jsonl"),
        world.home().join("first.sock"),
    );
    let mut command = world.command(portcullis());
    command
        .arg("vm-socket")
        .arg(&socket)
        .arg("--log")
        .arg(&log)
        .arg("--policy")
        .arg(&file);
    let served = Background::start(&mut command);
    until("the first socket is there", || socket.exists());
    let path = socket.display().to_string();
    let guest = Guest::build(&world, Addresses::Automatic, FIRST);
    let words = guest.command_as(Device::Stream(&path), FIRST_MAC);
    let first = Background::start(world.command(&words[0]).args(&words[1..]));
    let mut console = Vec::new();
    while console
        .last()
        .is_none_or(|line: &String| !line.starts_with("first is up"))
    {
        console.push(first.next_line());
    }
    let guest = Guest::build(&world, Addresses::Automatic, SECOND);
    let (said, records) = match on {
        On::Tap => {
            let ran = sandbox(&world)
                .allow("api.example.com")
                .args(&["--tap", "tap0"])
                .limit(GUEST_TIMEOUT)
                .run(&guest.command_as(Device::Tap("tap0"), SECOND_MAC));
            ran.assert_ok();
            (ran.out(), ran.records)
        }
        On::Socket => {
            let (log, socket) = (
                world.home().join("second.jsonl"),
                world.home().join("second.sock"),
            );
            let mut command = world.command(portcullis());
            command
                .arg("vm-socket")
                .arg(&socket)
                .args(["--allow", "api.example.com", "--log"])
                .arg(&log);
            let served = Background::start(&mut command);
            until("the second socket is there", || socket.exists());
            let path = socket.display().to_string();
            let words = guest.command_as(Device::Stream(&path), SECOND_MAC);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let ran = world.run(words[0], &words[1..], GUEST_TIMEOUT);
            assert!(ran.status.success(), "{ran}");
            kill("TERM", served.pid());
            let (status, text) = served.end();
            assert!(status.success(), "{status}: {text}");
            (ran.out(), read_records(&log))
        }
    };
    // The first one may go.
    std::fs::write(&file, policy("\"www.example.com\" = \"allow\"\n")).expect("the policy");
    while console
        .last()
        .is_none_or(|line| !line.starts_with(">>>neighbours"))
    {
        console.push(first.next_line());
    }
    let first_checks = checks(&console.join("\n"));
    let first_said = |name: &str| {
        first_checks
            .get(name)
            .map_or("", |check| &*check.said)
            .to_owned()
    };
    assert_eq!(
        first_said("got"),
        "",
        "the first guest was reached: {console:?}"
    );
    let seen = first_said("neighbours");
    assert!(!seen.contains(SECOND_MAC), "{seen}");

    let all = checks(&said);
    let said_by = |name: &str| {
        &*all
            .get(name)
            .unwrap_or_else(|| panic!("no {name}: {said}"))
            .said
    };
    let outside: Vec<_> = all
        .iter()
        .filter(|(name, _)| name.starts_with("tcp") || *name == "link")
        .collect();
    assert_eq!(outside.len(), 6 * 2 + 5 + 1, "{said}");
    for (name, check) in outside {
        // 127.0.0.1 is the guest itself.
        assert_ne!(check.code, 0, "{name} was reached: {said}");
    }
    assert!(!said_by("ping-all").contains(FIRST_HOST6), "{said}");
    assert!(said_by("ping-first").contains("100% packet loss"), "{said}");
    assert!(!said_by("arp").contains("reply from"), "{said}");
    assert!(said_by("served").contains("203.0.113.10"), "{said}");
    assert!(!said_by("neighbours").contains(FIRST_MAC), "{said}");
    for (layer, reason, whom) in [
        ("tcp", "private-address", "10.0.2.2"),
        ("tcp", "address-not-leased", "192.0.2.2"),
    ] {
        let found = records.denials(layer, reason, whom);
        assert!(
            !found.is_empty(),
            "{reason} {whom}: {said}\n{:?}",
            records.all_denials()
        );
    }
    for event in world.server_log() {
        assert!(
            !event.local.starts_with("127.0.0.1:"),
            "the host was reached: {event:?}"
        );
    }
    drop(first);
    kill("TERM", served.pid());
    let (status, text) = served.end();
    assert!(status.success(), "{status}: {text}");
    let reached = support::read_records(&log);
    let reached = reached.all_denials();
    assert!(
        reached.iter().all(|record| record["layer"] != "tcp"),
        "what the second did is on the first one's record: {reached:?}"
    );
}

#[test]
fn qemu_guests_on_sockets_reach_neither_each_other_nor_the_host() {
    meet(On::Socket);
}

#[test]
fn qemu_guests_on_a_socket_and_a_tap_reach_neither_each_other_nor_the_host() {
    meet(On::Tap);
}
