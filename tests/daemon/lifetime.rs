//! Sandboxes outlive their daemon, and leave nothing behind when they are removed.

use crate::processes::until;
use crate::support::world;
use crate::{API, BIG, Client, Daemon, at};
use portcullis_testkit::World;
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn a_daemon_that_is_killed_comes_back_with_its_sandboxes_and_their_policies() {
    let world = world();
    let mut daemon = Daemon::start(&world, "");
    daemon.make("one", API);
    let new = serde_json::json!({
        "name": "fixed",
        "attach": {"kind": "listeners", "dns": "127.0.0.1:5301", "http": "127.0.0.1:3131"},
        "policy": {"text": API},
        "labels": {"job": "7"},
    });
    assert_eq!(daemon.ask("POST", "/v1/sandboxes", Some(&new)).0, 201);
    let policy = serde_json::json!({ "text": BIG });
    assert_eq!(
        daemon
            .ask("PUT", "/v1/sandboxes/fixed/policy", Some(&policy))
            .0,
        200
    );
    daemon.make("removed", API);
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/removed", None).0, 204);
    daemon.crash();
    assert_eq!(
        daemon.status("127.0.0.1:3131", "big.example.com"),
        0,
        "cut off"
    );
    daemon.begin();
    until("all are served", || daemon.get("/readyz").0 == 204);
    assert_eq!(daemon.status("127.0.0.1:3131", "big.example.com"), 200);
    assert_eq!(daemon.status("127.0.0.1:3131", "api.example.com"), 403);
    let (proxy, _) = at(&daemon.get("/v1/sandboxes/one").1);
    assert_eq!(daemon.status(&proxy, "api.example.com"), 200);
    let all = daemon.get("/v1/sandboxes").1;
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    assert_eq!(all[0]["labels"]["job"], "7");
    daemon.end();
    assert!(!daemon.socket.exists());
}

#[test]
fn a_sandbox_that_cannot_be_served_is_cut_off_and_says_why() {
    let world = world();
    let mut daemon = Daemon::start(&world, "");
    let new = serde_json::json!({
        "name": "taken",
        "attach": {"kind": "listeners", "http": "127.0.0.1:3132"},
        "policy": {"text": API},
    });
    assert_eq!(daemon.ask("POST", "/v1/sandboxes", Some(&new)).0, 201);
    daemon.end();
    // Somebody else has its port meanwhile.
    let mut python = world.command("python3");
    python.args(["-m", "http.server", "--bind", "127.0.0.1", "3132"]);
    let other = crate::Background::start(&mut python);
    until("the other listens", || {
        daemon.status("127.0.0.1:3132", "127.0.0.1") != 0
    });
    daemon.begin();
    assert_eq!(daemon.get("/readyz").0, 503);
    let shown = daemon.get("/v1/sandboxes/taken").1;
    assert_eq!(shown["state"], "cut-off");
    let why = shown["error"].as_str().unwrap_or_default();
    assert!(why.contains("cannot listen on 127.0.0.1:3132"), "{shown}");
    let listed = daemon.cli(&["ps"]).out();
    assert!(listed.contains("cut off"), "{listed}");
    drop(other);
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/taken", None).0, 204);
    assert_eq!(daemon.get("/readyz").0, 204);
}

#[test]
fn a_broken_file_among_what_is_kept_stops_the_start() {
    let world = world();
    let mut daemon = Daemon::start(&world, "");
    daemon.make("one", API);
    daemon.end();
    world.file("state/one.json", "{ half");
    let mut serve = daemon.command();
    serve.args(["serve", "--config", &daemon.config]);
    let ended = crate::finish(&mut serve, crate::LIMIT);
    assert_eq!(ended.code(), Some(1), "{}", ended.err());
    assert!(ended.err().contains("one.json"), "{}", ended.err());
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// Processes below it: the holders of namespaces.
    processes: usize,
    kilobytes: u64,
}

fn held(pid: u32) -> Held {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().strip_suffix(" kB"));
    Held {
        descriptors: count("fd"),
        threads: count("task"),
        processes: below(pid),
        kilobytes: resident.and_then(|text| text.parse().ok()).unwrap_or(0),
    }
}

fn below(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    let children: String = children.flatten().collect();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    children.map(|pid| 1 + below(pid)).sum()
}

/// Clients that are at it at once, and for how long.
const CLIENTS: usize = 32;
const CLIENTS_FOR: Duration = Duration::from_secs(60);
/// What the daemon's memory may have grown by afterwards, in kB: an allocator gives back what it likes.
const GROWN_KILOBYTES: u64 = 32 * 1024;

#[test]
fn clients_that_make_and_remove_at_random_leave_nothing_behind() {
    let world = world();
    let daemon = Daemon::start(&world, "");
    // Whatever a daemon makes once is made.
    daemon.make("first", API);
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/first", None).0, 204);
    daemon.guest("first");
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/first", None).0, 204);
    let pid = daemon.real_pid();
    let before = held(pid);
    let until = Instant::now() + CLIENTS_FOR;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let daemon = &daemon.client;
            scope.spawn(move || {
                let mut made = Vec::new();
                let mut number = client;
                while Instant::now() < until {
                    // A fixed sequence that looks like chance.
                    number = number
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    if made.len() < 3 && number % 5 < 3 {
                        let name = format!("c{client}-{}", number % 1_000_003);
                        match number % 2 {
                            0 => drop(daemon.make(&name, API)),
                            _ => daemon.guest(&name),
                        }
                        made.push(name);
                    } else if let Some(name) = made.pop() {
                        let path = format!("/v1/sandboxes/{name}");
                        assert_eq!(daemon.ask("DELETE", &path, None).0, 204);
                    }
                }
                for name in made {
                    let path = format!("/v1/sandboxes/{name}");
                    assert_eq!(daemon.ask("DELETE", &path, None).0, 204);
                }
            });
        }
    });
    assert_eq!(daemon.get("/v1/sandboxes").1, serde_json::json!([]));
    let mut after = held(pid);
    crate::processes::until("descriptors and threads are given back", || {
        after = held(pid);
        let given_back = after.descriptors <= before.descriptors;
        given_back && after.threads <= before.threads + 1 && after.processes <= before.processes
    });
    let grown = after.kilobytes.saturating_sub(before.kilobytes);
    assert!(grown < GROWN_KILOBYTES, "{before:?} {after:?}");
    let guests = fs::read_dir(world.home().join("run/c.sock.guests")).map_or(0, Iterator::count);
    assert_eq!(guests, 0, "sockets of guests");
    let kept = fs::read_dir(world.home().join("state")).map_or(99, Iterator::count);
    assert_eq!(kept, 1, "the lock alone");
}

/// A sandbox that somebody else has made, and a daemon that is killed under it.
#[test]
fn a_namespace_of_others_is_cut_off_while_no_daemon_serves_it_and_served_again_after() {
    let world = world();
    let mut daemon = Daemon::of_root(&world);
    let inside = Inside::start(&world);
    let (status, made) = daemon.attach("foreign", &inside);
    assert_eq!(status, 201, "{made}");
    assert_eq!(inside.curl("api.example.com"), "200");
    assert_eq!(inside.curl("big.example.com"), "000");
    daemon.crash();
    assert_eq!(inside.curl("api.example.com"), "000");
    daemon.begin();
    until("it is served again", || daemon.get("/readyz").0 == 204);
    assert_eq!(inside.curl("api.example.com"), "200");
    assert_eq!(inside.curl("big.example.com"), "000");
    let log = world.home().join("log/foreign.jsonl");
    until("the denial is on record", || {
        let records = crate::support::read_records(&log).0;
        let denied = |record: &serde_json::Value| record["name"] == "big.example.com";
        records.iter().any(denied)
    });
    // With the sandbox its entry is gone.
    drop(inside);
    until("it is forgotten", || {
        daemon.get("/v1/sandboxes/foreign").0 == 404
    });
    assert_eq!(daemon.get("/readyz").0, 204);
}

#[test]
fn a_sandbox_that_ends_while_no_daemon_serves_it_is_forgotten() {
    let world = world();
    let mut daemon = Daemon::of_root(&world);
    let inside = Inside::start(&world);
    assert_eq!(daemon.attach("foreign", &inside).0, 201);
    daemon.end();
    drop(inside);
    daemon.begin();
    assert_eq!(daemon.get("/v1/sandboxes").1, serde_json::json!([]));
}

#[test]
fn a_sandbox_that_is_removed_lives_on_without_network() {
    let world = world();
    let daemon = Daemon::of_root(&world);
    let inside = Inside::start(&world);
    assert_eq!(daemon.attach("foreign", &inside).0, 201);
    assert_eq!(inside.curl("api.example.com"), "200");
    // A sandbox has one gateway.
    let (status, problem) = daemon.attach("second", &inside);
    assert_eq!(status, 409, "{problem}");
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/foreign", None).0, 204);
    assert_eq!(inside.curl("api.example.com"), "000");
    // And may be had again, under another name.
    assert_eq!(daemon.attach("again", &inside).0, 201);
    assert_eq!(inside.curl("api.example.com"), "200");
}

/// `portcullis attach --daemon` and `detach`.
#[test]
fn a_sandbox_that_the_command_line_has_attached_and_takes_away_again() {
    let world = world();
    world.file("api.toml", API);
    world.file(
        "bad.toml",
        "version = 1\n[network.domains]\n\"*.com\" = \"allow\"\n",
    );
    let daemon = Daemon::of_root(&world);
    let inside = Inside::start(&world);
    let pid = inside.pid.to_string();
    let run = |args: &[&str]| {
        let mut command = world.command_as_root(crate::portcullis());
        command.args(args).env("PORTCULLIS_CONTROL", &daemon.socket);
        crate::finish(&mut command, crate::LIMIT)
    };
    let attach =
        |args: &[&str]| run(&[&["attach", "--daemon", "cli", "--pid", &pid], args].concat());
    let bad = attach(&["--policy", "bad.toml"]);
    assert_eq!(bad.code(), Some(2), "{}", bad.err());
    assert!(bad.err().contains("line 3"), "{}", bad.err());
    let foreground = attach(&["--log", "x"]);
    assert_eq!(foreground.code(), Some(2), "{}", foreground.err());
    let done = attach(&["--policy", "api.toml", "--label", "job=7"]);
    assert!(done.ok(), "{}", done.err());
    assert_eq!(done.err(), "");
    assert_eq!(inside.curl("api.example.com"), "200");
    assert_eq!(inside.curl("big.example.com"), "000");
    let second = attach(&[]);
    assert_eq!(second.code(), Some(1));
    assert!(
        second.err().contains("the name `cli` is taken"),
        "{}",
        second.err()
    );
    let diagnose = |target: &str| run(&["diagnose", "--sandbox", "cli", target]);
    let reached = diagnose("api.example.com:80");
    assert!(reached.ok(), "{}{}", reached.out(), reached.err());
    assert!(
        reached.out().contains("reachable: api.example.com:80"),
        "{}",
        reached.out()
    );
    let refused = diagnose("big.example.com");
    assert_eq!(
        refused.code(),
        Some(11),
        "{}{}",
        refused.out(),
        refused.err()
    );
    for words in [
        "1 DNS  FAIL NXDOMAIN",
        "refused at DNS",
        "\"big.example.com\" = \"allow\"",
    ] {
        assert!(refused.out().contains(words), "{words}: {}", refused.out());
    }
    let port = diagnose("api.example.com:22");
    assert_eq!(port.code(), Some(12), "{}{}", port.out(), port.err());
    assert_eq!(
        run(&["diagnose", "--sandbox", "none", "a.example"]).code(),
        Some(2)
    );
    let guest = serde_json::json!({"name": "vm", "attach": {"kind": "vm-socket"}});
    assert_eq!(daemon.ask("POST", "/v1/sandboxes", Some(&guest)).0, 201);
    let guest = run(&["diagnose", "--sandbox", "vm", "a.example"]);
    assert_eq!(guest.code(), Some(2), "{}", guest.err());
    assert!(guest.err().contains("in the guest"), "{}", guest.err());
    assert!(run(&["detach", "vm"]).ok());
    let shown: serde_json::Value = serde_json::from_str(&run(&["ps", "--json"]).out()).unwrap();
    assert_eq!(shown[0]["labels"]["job"], "7", "{shown}");
    assert!(run(&["detach", "cli"]).ok());
    assert_eq!(inside.curl("api.example.com"), "000");
    let gone = run(&["detach", "cli"]);
    assert_eq!(gone.code(), Some(2));
    assert!(gone.err().contains("no sandbox `cli`"), "{}", gone.err());
}

#[test]
fn what_is_no_sandbox_is_not_attached() {
    let world = world();
    let daemon = Daemon::of_root(&world);
    let mut sleep = world.command_as_root("sleep");
    let of_host = crate::Background::start(sleep.arg("600"));
    for (attach, status, says) in [
        (
            serde_json::json!({"kind": "pid", "pid": of_host.pid()}),
            409,
            "of the host",
        ),
        (
            serde_json::json!({"kind": "pid", "pid": 4_000_000}),
            403,
            "no process 4000000",
        ),
        (
            serde_json::json!({"kind": "netns", "path": "/dev/null"}),
            409,
            "no network namespace",
        ),
        (
            serde_json::json!({"kind": "netns", "path": "/nowhere"}),
            409,
            "nothing is at",
        ),
    ] {
        let new = serde_json::json!({ "name": "x", "attach": attach });
        let (found, problem) = daemon.ask("POST", "/v1/sandboxes", Some(&new));
        assert_eq!(found, status, "{attach}: {problem}");
        assert!(problem.to_string().contains(says), "{attach}: {problem}");
        assert_eq!(daemon.get("/v1/sandboxes").1, serde_json::json!([]));
    }
}

/// A network-less sandbox that somebody else has made: `unshare -rn`.
pub(crate) struct Inside<'w> {
    world: &'w World,
    process: crate::Background,
    pid: u32,
}

impl Inside<'_> {
    pub(crate) fn start(world: &World) -> Inside<'_> {
        let mut unshare = world.command_as_root("unshare");
        unshare.args(["-rnm", "sh", "-c", "echo $$; exec sleep 600"]);
        let process = crate::Background::start(&mut unshare);
        let pid = process.next_line().parse().expect("a number");
        Inside {
            world,
            process,
            pid,
        }
    }

    /// The status of a request that goes direct; 000 for none.
    pub(crate) fn curl(&self, name: &str) -> String {
        let url = format!("http://{name}/");
        let curl = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-m",
            "5",
            "-w",
            "%{http_code}",
            &url,
        ];
        self.run(&curl)
    }

    /// What a program inside says.
    pub(crate) fn run(&self, program: &[&str]) -> String {
        let pid = self.pid.to_string();
        let mut nsenter = self.world.command_as_root("nsenter");
        nsenter.args(["-U", "-n", "-m", "--preserve-credentials", "-t", &pid]);
        crate::finish(nsenter.args(program), crate::LIMIT).out()
    }
}

impl Client<'_> {
    /// Makes a sandbox for a virtual machine: a namespace and a process of its own.
    #[track_caller]
    fn guest(&self, name: &str) {
        let new = serde_json::json!({"name": name, "attach": {"kind": "vm-socket"}});
        let (status, made) = self.ask("POST", "/v1/sandboxes", Some(&new));
        assert_eq!(status, 201, "{made}");
    }
}

impl Daemon<'_> {
    /// Has the daemon take a sandbox's traffic.
    pub(crate) fn attach(&self, name: &str, inside: &Inside<'_>) -> (u16, serde_json::Value) {
        let new = serde_json::json!({
            "name": name,
            "attach": {"kind": "pid", "pid": inside.pid},
            "policy": {"text": API},
        });
        self.ask("POST", "/v1/sandboxes", Some(&new))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        crate::kill("KILL", self.pid);
        crate::kill("KILL", self.process.pid());
    }
}

/// The doors go with the process that names the sandbox, also where others live on in it.
#[test]
fn what_lives_on_in_a_sandbox_that_has_ended() {
    let world = world();
    let daemon = Daemon::of_root(&world);
    let mut first = Inside::start(&world);
    let mut nsenter = world.command_as_root("nsenter");
    let pid = first.pid.to_string();
    nsenter.args(["-U", "-n", "-m", "--preserve-credentials", "-t", &pid]);
    nsenter.args(["sh", "-c", "echo $$; exec sleep 600"]);
    let process = crate::Background::start(&mut nsenter);
    let pid = process.next_line().parse().expect("a number");
    let second = Inside {
        world: &world,
        process,
        pid,
    };
    let before = held(daemon.real_pid());
    for _ in 0..3 {
        assert_eq!(daemon.attach("foreign", &first).0, 201);
        assert_eq!(second.curl("api.example.com"), "200");
        drop(first);
        until("it is forgotten", || {
            daemon.get("/v1/sandboxes/foreign").0 == 404
        });
        // Neither directly nor by the proxy, whose address may be had again.
        assert_eq!(second.curl("api.example.com"), "000");
        second.run(&["ip", "address", "add", "10.0.2.2/24", "dev", "lo"]);
        let proxy = ["-x", "http://10.0.2.2:3128", "http://api.example.com/"];
        let by_proxy = [&["curl", "-s", "-m", "5", "-w", "%{http_code}"][..], &proxy].concat();
        assert_eq!(second.run(&by_proxy), "000");
        second.run(&["ip", "address", "del", "10.0.2.2/24", "dev", "lo"]);
        first = Inside {
            world: &world,
            process: {
                let mut nsenter = world.command_as_root("nsenter");
                let pid = second.pid.to_string();
                nsenter.args(["-U", "-n", "-m", "--preserve-credentials", "-t", &pid]);
                crate::Background::start(nsenter.args(["sh", "-c", "echo $$; exec sleep 600"]))
            },
            pid: 0,
        };
        first.pid = first.process.next_line().parse().expect("a number");
    }
    until("descriptors are given back", || {
        held(daemon.real_pid()).descriptors <= before.descriptors + 1
    });
}

/// What a request has begun is done whole, or not at all; what it leaves is nobody else's.
#[test]
fn clients_that_hang_up_leave_no_doors_to_others() {
    let world = world();
    let daemon = Daemon::of_root(&world);
    let (theirs, mine) = (Inside::start(&world), Inside::start(&world));
    let new = serde_json::json!({
        "name": "web",
        "attach": {"kind": "pid", "pid": theirs.pid},
        "policy": {"text": API},
    })
    .to_string();
    for number in 1..=12 {
        let mut curl = world.command("curl");
        let limit = format!("0.{:03}", 2 * number);
        curl.args(["-s", "-m", &limit, "--unix-socket"])
            .arg(&daemon.socket)
            .args(["-H", "content-type: application/json", "-d", &new])
            .arg("http://localhost/v1/sandboxes");
        crate::finish(&mut curl, crate::LIMIT);
        let path = "/v1/sandboxes/web";
        until("it is made whole, or not at all", || {
            let (status, shown) = daemon.get(path);
            status == 404 || shown["state"] == "serving"
        });
        until("it is removed", || {
            matches!(daemon.ask("DELETE", path, None).0, 204 | 404) && daemon.get(path).0 == 404
        });
    }
    until("nothing is left", || {
        let (status, made) = daemon.attach("web", &mine);
        if status == 201 {
            assert_eq!(mine.curl("api.example.com"), "200");
            assert_eq!(theirs.curl("api.example.com"), "000");
        }
        assert!(status == 201 || status == 409, "{made}");
        status == 201
    });
}

const FRAMES: &str = include_str!("../support/frames.py");

/// What a guest on a socket gets: its address, an answer, a refusal.
fn guest(world: &World, socket: &str) -> String {
    let program = format!(
        "{FRAMES}
guest = Guest(Stream({socket:?}), MAC)
guest.settle()
print(guest.dhcp(1)[1], guest.lookup('10.0.2.3', 'api.example.com'), guest.syn('203.0.113.10', 22))
"
    );
    let ran = world.run("python3", &["-c", &program], crate::LIMIT);
    assert!(ran.ok(), "{}", ran.err());
    ran.out().trim().to_owned()
}

#[test]
fn a_virtual_machine_finds_its_network_again_after_the_daemon_was_killed() {
    crate::support::require("python3");
    crate::support::require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let world = world();
    let mut daemon = Daemon::of_root(&world);
    let new = serde_json::json!({
        "name": "vm",
        "attach": {"kind": "vm-socket"},
        "policy": {"text": API},
    });
    let (status, made) = daemon.ask("POST", "/v1/sandboxes", Some(&new));
    assert_eq!(status, 201, "{made}");
    let socket = made["listening"]["guest"]
        .as_str()
        .expect("a socket")
        .to_owned();
    assert_eq!(guest(&world, &socket), "10.0.2.15 0 refused");
    daemon.crash();
    daemon.begin();
    until("it is served again", || daemon.get("/readyz").0 == 204);
    assert_eq!(guest(&world, &socket), "10.0.2.15 0 refused");
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/vm", None).0, 204);
    assert!(!std::path::Path::new(&socket).exists());
    // The holder has taken the doors away before that was answered.
    let kept = fs::read_dir(world.home().join("state")).map_or(99, Iterator::count);
    assert_eq!(kept, 1, "the lock alone");
}
