//! Guests of one daemon: two hundred on its sockets, each with a policy of its own, and one on a TAP that it
//! makes. Frames as a virtual machine's monitor sends them.

use crate::processes::until;
use crate::support::{finish, read_records, require, require_kernel, world};
use crate::{API, Daemon, LIMIT};
use portcullis_testkit::World;
use serde_json::Value;
use std::time::{Duration, Instant};

const FRAMES: &str = include_str!("../support/frames.py");

const GUESTS: usize = 200;
/// How long all of them may take together to be made, served and removed.
const MOST_TIME: Duration = Duration::from_secs(60);
/// What the daemon may take more of for each guest, kilobytes: buffers for frames included.
const MOST_KB_EACH: u64 = 600;

/// A thread for each guest: address, neighbour, a name of its own and a name of the next one's, a
/// connection that is allowed and one that is not.
const SCRIPT: &str = "
import sys, threading
def guest(number, path, said):
    try:
        guest = Guest(Stream(path), b'\\x52\\x54\\0\\0' + struct.pack('!H', number))
        guest.settle()
        own, other = ('api.example.com', 'www.example.com')[:: 1 if number % 2 == 0 else -1]
        at = {'api.example.com': '203.0.113.10', 'www.example.com': '203.0.113.20'}
        said[number] = (guest.dhcp(1)[1], guest.lookup('10.0.2.3', own), guest.lookup('10.0.2.3', other),
                        guest.syn(at[own], 443), guest.syn(at[other], 443))
    except Exception as error: said[number] = repr(error)
paths = sys.stdin.read().split()
said = [None] * len(paths)
threads = [threading.Thread(target=guest, args=(number, path, said)) for number, path in enumerate(paths)]
for thread in threads: thread.start()
for thread in threads: thread.join()
for line in said: print(line)
";

/// The resident memory of a process, in kilobytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kilobytes.unwrap_or_else(|| panic!("no memory of {pid}"))
}

#[test]
fn two_hundred_guests_are_served_at_once_each_by_its_own_policy() {
    require("python3");
    require("curl");
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let world = world();
    let mut daemon = Daemon::of_root(&world);
    let before = resident(daemon.real_pid());
    let begun = Instant::now();
    // One client that makes them all, so that starting it is not what is measured.
    let requests: String = (0..GUESTS)
        .map(|number| {
            let name = if number % 2 == 0 { "api" } else { "www" };
            let new = serde_json::json!({
                "name": format!("vm{number}"),
                "attach": {"kind": "vm-socket"},
                "policy": {"text": format!(
                    "version = 1\n[network.domains]\n\"{name}.example.com\" = \"allow\"\n"
                )},
            });
            new.to_string() + "\n"
        })
        .collect();
    world.file("requests", requests);
    let make = format!(
        "import http.client, json, socket\n\
         class Control(http.client.HTTPConnection):\n\
         \x20   def connect(self):\n\
         \x20       self.sock = socket.socket(socket.AF_UNIX)\n\
         \x20       self.sock.connect({:?})\n\
         control = Control('localhost')\n\
         for line in open('requests'):\n\
         \x20   control.request('POST', '/v1/sandboxes', line, {{'content-type': 'application/json'}})\n\
         \x20   made = json.load(control.getresponse())\n\
         \x20   print(made['listening']['guest'])\n",
        daemon.socket.display().to_string()
    );
    let made = world.run("python3", &["-c", &make], MOST_TIME);
    assert!(made.ok(), "{made}");
    let paths = made.out();
    assert_eq!(paths.lines().count(), GUESTS, "{made}");
    let made_in = begun.elapsed();
    world.file("paths", &paths);
    let program = world.file("guests.py", format!("{FRAMES}{SCRIPT}"));
    let play = format!("python3 {} < paths", program.display());
    let ran = world.run("sh", &["-c", &play], MOST_TIME);
    assert!(ran.ok(), "{ran}");
    let served_in = begun.elapsed() - made_in;
    for line in ran.out().lines() {
        assert_eq!(line, "('10.0.2.15', 0, 3, 'open', 'refused')", "{ran}");
    }
    assert_eq!(ran.out().lines().count(), GUESTS, "{ran}");
    let each = resident(daemon.real_pid()).saturating_sub(before) / GUESTS as u64;
    eprintln!("{GUESTS} guests: made in {made_in:?}, served in {served_in:?}, {each} kB each");
    assert!(each < MOST_KB_EACH, "{each} kB for each guest");
    assert!(begun.elapsed() < MOST_TIME, "{:?}", begun.elapsed());
    // Each one's refusals are on its own record and on nobody else's.
    for number in [0, 1, GUESTS - 2, GUESTS - 1] {
        let log = world.home().join(format!("log/vm{number}.jsonl"));
        let (own, other) = match number % 2 {
            0 => ("api.example.com", "www.example.com"),
            _ => ("www.example.com", "api.example.com"),
        };
        until("its refusals are on record", || {
            read_records(&log)
                .denials("dns", "not-in-allowlist", other)
                .len()
                == 1
        });
        assert!(
            read_records(&log)
                .denials("dns", "not-in-allowlist", own)
                .is_empty()
        );
    }
    let (status, _) = daemon.ask("DELETE", "/v1/sandboxes/vm7", None);
    assert_eq!(status, 204);
    assert!(begun.elapsed() < MOST_TIME + LIMIT);
    daemon.end();
}

/// What a guest on a TAP gets that is in this namespace: its address and largest packet, an answer, a refusal.
fn on_tap(world: &World, sandbox: &Value) -> String {
    let tap = &sandbox["listening"]["tap"];
    let (Some(name), Some(netns)) = (tap["name"].as_str(), tap["netns"].as_str()) else {
        panic!("no device: {sandbox}");
    };
    let program = format!(
        "{FRAMES}
guest = Guest(Tap({name:?}))
guest.settle()
_, address, told = guest.dhcp(1)
print(address, int.from_bytes(told.get(26, b''), 'big'), guest.lookup('10.0.2.3', 'api.example.com'),
      guest.syn('203.0.113.10', 443), guest.syn('203.0.113.10', 22))
"
    );
    let mut nsenter = world.command_as_root("nsenter");
    nsenter.args([&format!("--net={netns}"), "python3", "-c", &program]);
    let ran = finish(&mut nsenter, LIMIT);
    assert!(ran.ok(), "{ran}");
    ran.out().trim().to_owned()
}

/// As Firecracker's jailer and others take it: a namespace by its path, and a device in it by its name.
#[test]
fn a_device_of_the_daemons_own_is_found_in_its_namespace_and_outlives_the_daemon() {
    require("python3");
    require("nsenter");
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let world = world();
    let mut daemon = Daemon::of_root(&world);
    let new = |mtu: u16| {
        serde_json::json!({
            "name": "vm",
            "attach": {"kind": "tap", "mtu": mtu},
            "policy": {"text": API},
        })
    };
    assert_eq!(daemon.ask("POST", "/v1/sandboxes", Some(&new(100))).0, 400);
    let (status, made) = daemon.ask("POST", "/v1/sandboxes", Some(&new(9000)));
    assert_eq!(status, 201, "{made}");
    let served = "10.0.2.15 9000 0 open refused";
    assert_eq!(on_tap(&world, &made), served);
    daemon.crash();
    daemon.begin();
    until("it is served again", || daemon.get("/readyz").0 == 204);
    let (_, again) = daemon.get("/v1/sandboxes/vm");
    assert_eq!(again["listening"], made["listening"]);
    assert_eq!(on_tap(&world, &again), served);
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/vm", None).0, 204);
    let netns = made["listening"]["tap"]["netns"].as_str().expect("a path");
    let mut nsenter = world.command_as_root("nsenter");
    nsenter.args([&format!("--net={netns}"), "true"]);
    assert!(!finish(&mut nsenter, LIMIT).ok(), "the namespace is left");
    daemon.end();
}
