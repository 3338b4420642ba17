//! `serve` with plain listeners: the same policy, for programs of the host that choose to ask it
//! (case 1: a restrictive resolver without any VM).

use crate::processes::{Background, kill, until};
use crate::support::{Records, command, read_records, require, world};
use portcullis_testkit::{World, exec};
use std::path::PathBuf;
use std::time::Duration;

struct Serving<'w> {
    world: &'w World,
    process: Option<Background>,
    log: PathBuf,
}

const DNS: &str = "127.0.0.1:5300";
const HTTP: &str = "127.0.0.1:3128";
const SOCKS: &str = "127.0.0.1:1080";

impl Serving<'_> {
    fn start<'w>(world: &'w World, doors: &[&str]) -> Serving<'w> {
        let text = "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n\"big.example.com\" = \"allow\"\n";
        Serving::policy(world, doors, text)
    }

    fn policy<'w>(world: &'w World, doors: &[&str], text: &str) -> Serving<'w> {
        let policy = world.file("served.toml", text);
        let log = world.home().join("served.jsonl");
        let mut serve = world.command(crate::support::portcullis());
        serve
            .arg("serve")
            .arg("--policy")
            .arg(policy)
            .arg("--log")
            .arg(&log)
            .args(doors);
        let process = Background::start(&mut serve);
        let serving = Serving {
            world,
            process: Some(process),
            log,
        };
        let ports: Vec<String> = doors
            .iter()
            .filter_map(|door| door.rsplit_once(':'))
            .map(|(_, port)| port.to_owned())
            .collect();
        until("it listens", || {
            let open = serving.run("ss", &["-Hltn"]).out();
            ports.iter().all(|port| open.contains(&format!(":{port} ")))
        });
        serving
    }

    fn run(&self, program: &str, args: &[&str]) -> exec::Finished {
        require(program);
        self.world.run(program, args, Duration::from_secs(60))
    }

    fn dig(&self, args: &[&str]) -> String {
        let (address, port) = DNS.split_once(':').expect("a port");
        let server = format!("@{address}");
        self.run(
            "dig",
            &[&[&*server, "-p", port, "+tries=1", "+time=25"], args].concat(),
        )
        .out()
    }

    /// SIGTERM ends it in order; gives its records.
    fn end(&mut self) -> Records {
        let process = self.process.take().expect("it serves");
        kill("TERM", process.pid());
        let (status, said) = process.end();
        assert_eq!(status.code(), Some(0), "{said}");
        read_records(&self.log)
    }
}

#[test]
fn dns_resolves_the_allowlist_alone() {
    let world = world();
    let mut serving = Serving::start(&world, &["--dns", DNS]);
    for transport in ["+notcp", "+tcp"] {
        let answer = serving.dig(&["api.example.com", transport]);
        assert!(
            answer.contains("NOERROR") && answer.contains("203.0.113.10"),
            "{answer}"
        );
        let answer = serving.dig(&["evil.example.net", transport]);
        assert!(
            answer.contains("NXDOMAIN") && answer.contains("EDE: 15"),
            "{answer}"
        );
        assert!(answer.contains("SOA"), "{answer}");
    }
    let answer = serving.dig(&["big.example.com", "TXT", "+notcp"]);
    assert!(answer.contains("NOERROR"), "{answer}");
    let records = serving.end();
    assert!(
        !records
            .denials("dns", "not-in-allowlist", "evil.example.net")
            .is_empty(),
        "{records}"
    );
    world.assert_never_asked("evil");
}

/// Before a task goes to a VM: its build is learned once, then its tests run against a resolver of
/// the names that the build used.
#[test]
fn what_was_learned_is_what_the_restrictive_resolver_resolves() {
    let world = world();
    let output = world.home().join("learned.toml").display().to_string();
    let build = "curl -sSf -o /dev/null https://api.example.com/; \
                 curl -sSf -o /dev/null --noproxy '*' http://www.example.com/; \
                 dig +short _sip._tcp.example.com SRV >&2";
    require("dig");
    let done = command(&world, &["learn", "-o", &output, "--", "sh", "-c", build]);
    assert!(done.ok(), "{done}");
    let learned = std::fs::read_to_string(&output).unwrap_or_else(|error| panic!("{error}"));
    let mut serving = Serving::policy(&world, &["--dns", DNS], &learned);
    let before = world.dns_log().len();
    for (name, kind, wanted) in [
        ("api.example.com", "A", "203.0.113.10"),
        ("www.example.com", "A", "203.0.113.20"),
        ("_sip._tcp.example.com", "SRV", "5060 api.example.com"),
        ("github.com", "A", "status: NXDOMAIN"),
        ("git.example.com", "A", "status: NXDOMAIN"),
    ] {
        let answer = serving.dig(&[name, kind]);
        assert!(answer.contains(wanted), "{name}: {answer}\n{learned}");
    }
    let asked = world.dns_log().split_off(before);
    assert!(
        asked.iter().all(|query| !query.name.contains("git")),
        "{asked:?}"
    );
    serving.end();
}

#[test]
fn http_and_socks_carry_the_allowlist_alone() {
    let world = world();
    let mut serving = Serving::start(&world, &["--http", HTTP, "--socks5", SOCKS]);
    let code = [
        "-sS",
        "-m",
        "25",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{http_connect}",
    ];
    let curl = |serving: &Serving, args: &[&str]| serving.run("curl", &[&code, args].concat());
    for url in ["https://api.example.com/", "http://api.example.com/"] {
        for proxy in [["-x", HTTP], ["--socks5-hostname", SOCKS]] {
            let done = curl(&serving, &[&proxy, &[url][..]].concat());
            assert!(
                done.ok() && done.out().starts_with("200"),
                "{url} {proxy:?}: {done}"
            );
        }
    }
    let done = curl(&serving, &["-x", HTTP, "https://evil-connect.example.net/"]);
    assert!(!done.ok() && done.out().ends_with("403"), "{done}");
    let done = curl(&serving, &["-x", HTTP, "http://evil-plain.example.net/"]);
    assert!(done.out().starts_with("403"), "{done}");
    let done = curl(
        &serving,
        &[
            "--socks5-hostname",
            SOCKS,
            "https://evil-socks.example.net/",
        ],
    );
    assert_eq!(done.code(), Some(97), "{done}");
    // Its own listeners are no destination.
    let done = curl(&serving, &["-x", HTTP, "http://127.0.0.1:8080/"]);
    assert!(done.out().starts_with("403"), "{done}");
    let records = serving.end();
    for (layer, name) in [
        ("http", "evil-connect.example.net"),
        ("http", "evil-plain.example.net"),
        ("tcp", "evil-socks.example.net"),
    ] {
        assert_eq!(
            records.denials(layer, "not-in-allowlist", name).len(),
            1,
            "{name}\n{records}"
        );
    }
    world.assert_never_asked("evil");
}

#[test]
fn serve_ends_at_once_and_closes_its_doors() {
    let world = world();
    let mut serving = Serving::start(&world, &["--dns", DNS, "--http", HTTP, "--socks5", SOCKS]);
    // A client that stays does not keep it.
    let mut idle = world.command("nc");
    let idle = Background::start(idle.args(["127.0.0.1", "3128"]));
    serving.end();
    let open = world.run("ss", &["-Hltn"], Duration::from_secs(60)).out();
    assert!(
        ![":5300", ":3128", ":1080"]
            .iter()
            .any(|port| open.contains(port)),
        "{open}"
    );
    kill("KILL", idle.pid());
}

#[test]
fn what_cannot_be_served_is_said() {
    let world = world();
    let bad = world
        .file("bad.toml", "version = 1\nnonsense = 1\n")
        .display()
        .to_string();
    for (args, code) in [
        (["serve"].as_slice(), 2),
        (&["serve", "--dns", "nowhere"], 2),
        (&["serve", "--http", HTTP, "--policy", &bad], 2),
        (&["serve", "--http", "127.0.0.1:8080"], 1), // the world's own server has it
        (&["serve", "--http", "198.51.100.1:3128"], 1), // not an address of this host
    ] {
        let done = command(&world, args);
        assert_eq!(done.code(), Some(code), "{args:?}: {done}");
        assert!(!done.stderr.is_empty(), "{args:?}: {done}");
    }
}
