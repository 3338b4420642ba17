//! `serve` with plain listeners: the same policy, for programs of the host that choose to ask it
//! (a restrictive resolver without any VM).

use crate::processes::{Background, kill, until};
use crate::support::{Records, command, read_records, require, world, world_from};
use portcullis_testkit::{DnsServer, World, WorldSpec, exec, ip};
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
        let serve = world.command(crate::support::portcullis());
        Serving::of(world, serve, ("toml", text), doors)
    }

    /// The same of another policy, and of a command that is told where the product is.
    fn of<'w>(
        world: &'w World,
        mut serve: std::process::Command,
        (extension, text): (&str, &str),
        doors: &[&str],
    ) -> Serving<'w> {
        let policy = world.file(&format!("served.{extension}"), text);
        let log = world.home().join("served.jsonl");
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
        asked
            .iter()
            .all(|query| !query.name.to_ascii_lowercase().contains("git")),
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

/// A host gateway's file, as its own tool reads it.
const CASE_1: &str = r#"network:
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

/// The standard world with a company's resolver.
fn company() -> World {
    let mut spec = WorldSpec::standard();
    spec.dns.servers.push(DnsServer {
        address: ip("10.0.0.53"),
        fault: None,
    });
    world_from(spec)
}

#[test]
fn the_yaml_of_case_1_is_a_restrictive_resolver() {
    require("node");
    let world = company();
    let serve = world.command(crate::support::portcullis());
    let mut serving = Serving::of(&world, serve, ("yaml", CASE_1), &["--dns", DNS]);
    for name in ["api.internal.company.com", "registry.internal.company.com"] {
        let answer = serving.dig(&[name, "+notcp"]);
        assert!(
            answer.contains("NOERROR") && answer.contains("203.0.113.11"),
            "{answer}"
        );
        let answer = serving.dig(&[name, "AAAA", "+tcp"]);
        assert!(
            answer.contains("NOERROR") && answer.contains("ANSWER: 0"),
            "{answer}"
        );
    }
    // c-ares, which npm's lookups can be: a clean "not found", at once.
    let script = "const dns = require('dns'); const r = new dns.Resolver({timeout: 10000, tries: 1}); \
         r.setServers(['127.0.0.1:5300']); const at = Date.now(); \
         r.resolve4('packages.example', (e) => { console.log(e.code, Date.now() - at < 5000); \
         r.resolve4('api.internal.company.com', (e, a) => console.log(e || a.join())); });";
    let node = serving.run("node", &["-e", script]);
    assert_eq!(node.out(), "ENOTFOUND true\n203.0.113.111\n", "{node}");
    let records = serving.end();
    assert_eq!(
        records
            .denials("dns", "not-in-allowlist", "packages.example")
            .len(),
        1,
        "{records}"
    );
    // Only the company's resolver was asked, and only for what is listed.
    for query in world.dns_log() {
        assert_eq!(query.server.ip(), ip("10.0.0.53"), "{query:?}");
        let name = query.name.to_ascii_lowercase();
        assert!(name.ends_with(".internal.company.com"), "{query:?}");
    }
}

#[test]
fn the_host_s_own_programs_use_it_by_their_resolv_conf() {
    for program in ["unshare", "getent", "env"] {
        require(program);
    }
    let world = company();
    // Port 53 is for root; the world's own root will do.
    let serve = world.command_as_root(crate::support::portcullis());
    let serving = Serving::of(&world, serve, ("yaml", CASE_1), &["--dns", "127.0.0.1:53"]);
    let resolv = world.file(
        "served-resolv.conf",
        "nameserver 127.0.0.1\noptions timeout:10 attempts:1\n",
    );
    let script = format!(
        "mount --bind {} /etc/resolv.conf && \
         getent ahostsv4 api.internal.company.com | head -1 | cut -d' ' -f1; \
         getent hosts packages.example || echo none",
        resolv.display()
    );
    let done = serving.run("unshare", &["-Urm", "sh", "-c", &script]);
    assert_eq!(done.out(), "203.0.113.111\nnone\n", "{done}");
    world.assert_never_asked("packages");
}

#[test]
fn names_are_resolved_before_it_answers_where_the_policy_says_so() {
    let world = world();
    let text = "version = 1\n[network.dns]\nresolve = \"startup\"\n[network.domains]\n\
                \"api.example.com\" = \"allow\"\n";
    let policy = world.file("early.toml", text).display().to_string();
    let serve = world.command(crate::support::portcullis());
    let mut serving = Serving::of(&world, serve, ("toml", text), &["--dns", DNS]);
    let answer = serving.dig(&["api.example.com"]);
    assert!(answer.contains("203.0.113.10"), "{answer}");
    let records = serving.end();
    let startup =
        |record: &&serde_json::Value| record["protocol"] == "startup" && record["layer"] == "dns";
    assert_eq!(records.0.iter().filter(startup).count(), 1, "{records}");
    // A and AAAA, and again only where an attempt's time was not enough.
    let early = world.times_asked("api.example.com");
    let attempts = records.0.iter().find(startup).map(|r| &r["attempts"]);
    let attempts = attempts.and_then(serde_json::Value::as_u64);
    assert!(
        early >= 2 && attempts.is_some_and(|attempts| early as u64 <= 2 * attempts),
        "{early} queries in {attempts:?} attempts"
    );
    // One dead name, and nothing is served.
    let args = [
        "serve",
        "--policy",
        &policy,
        "--allow",
        "nxdomain.example.com",
        "--dns",
        DNS,
    ];
    let done = command(&world, &args);
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(
        done.err()
            .contains("  nxdomain.example.com: name-not-found after "),
        "{done}"
    );
    assert!(!done.err().contains("serving"), "{done}");
    // The flag's word counts.
    let args = [&args[..], &["--resolve", "on-demand"]].concat();
    let mut on_demand = world.command(crate::support::portcullis());
    let on_demand = Background::start(on_demand.args(args));
    until("it serves", || {
        let open = world.run("ss", &["-Hltn"], Duration::from_secs(60)).out();
        open.contains(":5300 ")
    });
    kill("TERM", on_demand.pid());
    let (status, said) = on_demand.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn a_resolver_on_any_port_says_where_it_listens_and_ctrl_c_ends_it() {
    for (address, shown) in [("127.0.0.1:0", "dns 127.0.0.1:"), ("[::1]:0", "dns [::1]:")] {
        let world = world();
        let log = world.home().join("any.jsonl");
        // Whoever runs the tests may ignore signals; this program must not.
        let mut serve = world.command("env");
        serve
            .arg("--default-signal=INT")
            .arg(crate::support::portcullis());
        serve.args([
            "serve",
            "--allow",
            "api.example.com",
            "--dns",
            address,
            "--log",
        ]);
        let serve = Background::start(serve.arg(&log));
        let mut port = String::new();
        until("it listens on one port for both", || {
            let open = |kind| {
                let all = world
                    .run("ss", &["-Hln", kind], Duration::from_secs(60))
                    .out();
                let lines = all
                    .lines()
                    .filter_map(|line| line.split_whitespace().nth(3));
                lines
                    .filter_map(|at| at.rsplit_once(':'))
                    .map(|(_, port)| port.to_owned())
                    .collect::<Vec<_>>()
            };
            let (udp, tcp) = (open("-u"), open("-t"));
            port = udp
                .into_iter()
                .find(|port| *port != "53" && tcp.contains(port))
                .unwrap_or_default();
            !port.is_empty()
        });
        let server = format!(
            "@{}",
            address.trim_end_matches(":0").trim_matches(['[', ']'])
        );
        for transport in ["+notcp", "+tcp"] {
            let args = [
                &*server,
                "-p",
                &port,
                transport,
                "+tries=1",
                "+time=25",
                "api.example.com",
            ];
            let answer = world.run("dig", &args, Duration::from_secs(60)).out();
            assert!(answer.contains("203.0.113.10"), "{answer}");
        }
        kill("INT", serve.pid());
        let (status, said) = serve.end();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.contains(&format!("{shown}{port}")), "{said}");
        // Its records are on the disk, the open windows' too.
        assert!(!read_records(&log).about("api.example.com").is_empty());
    }
}

#[test]
fn a_port_that_cannot_be_had_comes_with_advice() {
    let world = world();
    let mut taken = world.command("nc");
    let taken = Background::start(taken.args(["-lk", "127.0.0.1", "5301"]));
    until("the port is taken", || {
        let open = world.run("ss", &["-Hltn"], Duration::from_secs(60)).out();
        open.contains(":5301 ")
    });
    for (address, hint) in [
        ("127.0.0.1:53", "ip_unprivileged_port_start=53"),
        ("127.0.0.1:5301", "another program is using it"),
        ("198.51.100.1:5300", "use an address of this host"),
    ] {
        let done = command(
            &world,
            &["serve", "--allow", "api.example.com", "--dns", address],
        );
        assert_eq!(done.code(), Some(1), "{done}");
        assert!(
            done.err().contains(address) && done.err().contains(hint),
            "{done}"
        );
    }
    kill("KILL", taken.pid());
}
