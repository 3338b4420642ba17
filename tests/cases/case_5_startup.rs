//! Case 5: an allowlist that is resolved when the sandbox is created. Three faults made allowed hosts
//! answer 0.0.0.0, silently, for the sandbox's whole life; none may be possible here.

use crate::processes::{Background, kill, until};
use crate::support::{Ran, portcullis, sandbox, world, world_from};
use portcullis_testkit::{Fault, World, WorldSpec};
use serde_json::{Value, json};
use std::time::Duration;

/// The list of the case, as it stands.
const ALLOW_NET: &str =
    "allow_net = [\"github.com\", \"api.github.com\", \"*.anthropic.com\", \"iapi.example.com\"]\n";

/// What one dead name takes: 4 attempts of 2 s, pauses of 100, 300 and 900 ms.
const SCHEDULE: Duration = Duration::from_millis(9_300);

/// The records of names that were resolved at start-up.
fn resolved(ran: &Ran) -> Vec<&Value> {
    let of = |record: &&Value| record["layer"] == "dns" && record["protocol"] == "startup";
    ran.records.0.iter().filter(of).collect()
}

fn of<'r>(ran: &'r Ran, name: &str) -> &'r Value {
    let all = resolved(ran);
    let mut found = all.iter().filter(|record| record["name"] == name);
    match (found.next(), found.next()) {
        (Some(record), None) => record,
        _ => panic!("not one record of {name}: {ran}"),
    }
}

#[test]
fn the_list_as_it_stands_is_resolved_before_the_command_starts() {
    let world = world();
    let ran = sandbox(&world)
        .policy("toml", ALLOW_NET)
        .args(&["--resolve", "startup"])
        .sh(
            "for name in github.com api.github.com iapi.example.com www.anthropic.com; do \
             getent ahostsv4 $name | head -1 | cut -d' ' -f1; \
             curl -sS -m 25 -o /dev/null -w '%{http_code}\\n' https://$name/; done; \
             getent hosts evil.example.net || echo none",
        );
    ran.assert_ok();
    assert_eq!(
        ran.out().replace(' ', ""),
        "203.0.113.120\n200\n203.0.113.121\n200\n203.0.113.122\n200\n203.0.113.123\n200\nnone\n",
        "{ran}"
    );
    // One record for each exact name; the wildcard's names are resolved when they are asked for.
    let names: Vec<&Value> = resolved(&ran)
        .iter()
        .map(|record| &record["name"])
        .collect();
    assert_eq!(names.len(), 3, "{ran}");
    for (name, address) in [
        ("github.com", "203.0.113.120"),
        ("api.github.com", "203.0.113.121"),
        ("iapi.example.com", "203.0.113.122"),
    ] {
        let record = of(&ran, name);
        assert_eq!(record["verdict"], "allow", "{record}");
        assert_eq!(record["addresses"], json!([address]), "{record}");
        assert_eq!(record["families"], json!(["ipv4"]), "{record}");
        // What was resolved then is answered from the cache: A and AAAA were asked for once in each
        // attempt, of which a machine that stands still for 2 s needs another.
        let attempts = record["attempts"].as_u64().unwrap_or_default() as usize;
        let asked = world.times_asked(name);
        assert!(
            (2..=2 * attempts).contains(&asked),
            "{name}: {:?}",
            world.dns_log()
        );
    }
    world.assert_never_asked("evil");
}

#[test]
fn a_lost_datagram_does_not_lose_the_name() {
    // The first attempt's A and AAAA, the first server's SERVFAIL, and an answer that takes 1.5 s.
    let spec = WorldSpec::standard()
        .fault("github.com", Fault::DropFirst(2))
        .fault("iapi.example.com", Fault::ServFailFirst(1));
    let world = world_from(spec);
    let ran = sandbox(&world)
        .policy("toml", ALLOW_NET)
        .allow("slow.example.com")
        .args(&["--resolve", "startup"])
        .sh("getent ahostsv4 github.com | head -1 | cut -d' ' -f1");
    ran.assert_ok();
    assert_eq!(ran.out(), "203.0.113.120\n", "{ran}");
    let lost = of(&ran, "github.com");
    assert_eq!(lost["verdict"], "allow", "{ran}");
    assert!(lost["attempts"].as_u64() >= Some(2), "{ran}");
    for name in ["iapi.example.com", "slow.example.com"] {
        assert_eq!(of(&ran, name)["verdict"], "allow", "{ran}");
    }
}

#[test]
fn creation_fails_and_names_each_host_with_its_reason() {
    let world = world();
    let failing = [
        ("dead.example.com", "dns-timeout after 4 attempts"),
        ("servfail.example.com", "dns-failed after 4 attempts"),
        ("nxdomain.example.com", "name-not-found after "),
        ("empty.example.com", "no-address after "),
        ("private.example.com", "private-address after "),
        ("zero.example.com", "private-address after "),
    ];
    let mut run = sandbox(&world).policy("toml", ALLOW_NET);
    for (name, _) in failing {
        run = run.allow(name);
    }
    let mark = world.home().join("it-ran");
    let ran = run
        .args(&["--resolve", "startup"])
        .run(&["touch", &mark.display().to_string()]);
    ran.assert_code(125);
    assert!(!mark.exists() && ran.out().is_empty(), "{ran}");
    let said = ran.err();
    assert!(said.contains("6 of 9 names did not resolve"), "{ran}");
    for (name, why) in failing {
        assert!(said.contains(&format!("  {name}: {why}")), "{name}: {ran}");
        assert_ne!(of(&ran, name)["verdict"], "allow", "{ran}");
    }
    assert_eq!(said.matches("hint:").count(), 1, "{ran}");
    assert!(
        !said.contains("github.com"),
        "what resolved is no news: {ran}"
    );
    assert_eq!(resolved(&ran).len(), 9, "{ran}");
    assert!(ran.finished.elapsed >= SCHEDULE, "{ran}");
}

#[test]
fn dead_names_do_not_add_up() {
    let mut world = WorldSpec::standard();
    let names: Vec<String> = (0..300).map(|n| format!("dead{n}.example.com")).collect();
    for name in &names {
        world = world.fault(name, Fault::Drop);
    }
    let world = world_from(world);
    let policy: String = names
        .iter()
        .map(|name| format!("\"{name}\" = \"allow\"\n"))
        .collect();
    let policy =
        format!("version = 1\n[network.dns]\nresolve = \"startup\"\n[network.domains]\n{policy}");
    let run = sandbox(&world).policy("toml", &policy);
    let ran = run.limit(Duration::from_secs(60)).sh("echo ran");
    ran.assert_code(125);
    for name in &names {
        assert!(
            ran.err()
                .contains(&format!("  {name}: dns-timeout after 4")),
            "{name}: {ran}"
        );
    }
    // Twice as long is still far from 300 times; the machine may be busy.
    assert!(ran.finished.elapsed < SCHEDULE * 3, "{ran}");
}

#[test]
fn a_name_with_ipv6_only_is_a_success_that_answers_aaaa() {
    let world = world();
    let ran = sandbox(&world)
        .allow("v6only.example.com")
        .args(&["--resolve", "startup"])
        .sh("getent ahostsv6 v6only.example.com | head -1 | cut -d' ' -f1; \
             getent ahostsv4 v6only.example.com || echo no IPv4; \
             curl -sS -m 25 -o /dev/null -w '%{http_code}\\n' --noproxy '*' https://v6only.example.com/");
    ran.assert_ok();
    assert_eq!(ran.out(), "2001:db8:10::61\nno IPv4\n200\n", "{ran}");
    let record = of(&ran, "v6only.example.com");
    assert_eq!(record["families"], json!(["ipv6"]), "{ran}");
    // Where the host has no way to it, the name has no usable address.
    let world = world_from(WorldSpec::standard().without_ipv6());
    let ran = sandbox(&world)
        .allow("v6only.example.com")
        .args(&["--resolve", "startup"])
        .sh("echo ran");
    ran.assert_code(125);
    assert!(ran.err().contains("this host has no IPv6 route"), "{ran}");
}

#[test]
fn the_order_of_the_list_changes_nothing() {
    let world = world();
    let script = "for name in github.com api.github.com x.example.com private.example.com; do \
                  getent ahostsv4 $name | head -1 | cut -d' ' -f1; done; \
                  nc -z -w 5 github.com 22 && echo open || echo closed";
    let rules = [
        "\"github.com:443\" = \"allow\"",
        "\"*.github.com:22\" = \"allow\"",
        "\"api.github.com\" = \"allow\"",
        "\"*.example.com\" = \"allow\"",
        "\"**.com.example.com\" = \"allow\"",
    ];
    let mut seen = None;
    for turn in 0..rules.len() {
        let mut rules = rules.to_vec();
        rules.rotate_left(turn);
        if turn % 2 == 1 {
            rules.reverse();
        }
        let policy = format!(
            "version = 1\n[network.dns]\nresolve = \"startup\"\n[network.domains]\n{}\n",
            rules.join("\n")
        );
        let ran = sandbox(&world).policy("toml", &policy).sh(script);
        let told = (ran.out(), ran.code());
        assert_eq!(resolved(&ran).len(), 2, "{ran}");
        match &seen {
            None => seen = Some(told),
            Some(first) => assert_eq!(&told, first, "{policy}\n{ran}"),
        }
    }
    let (out, _) = seen.expect("it ran");
    assert_eq!(out, "203.0.113.120\n203.0.113.121\nclosed\n");
}

/// Starts a run that resolves a dead name, and gives it once the name has been asked for.
fn resolving(world: &World) -> (Background, std::path::PathBuf, std::path::PathBuf) {
    let (mark, log) = (
        world.home().join("it-ran"),
        world.home().join("resolving.jsonl"),
    );
    // Whoever runs the tests may ignore signals (a background job does); this run must not.
    let mut run = world.command("env");
    run.arg("--default-signal=INT,TERM").arg(portcullis());
    run.args([
        "run",
        "--allow",
        "dead.example.com",
        "--resolve",
        "startup",
        "--log",
    ]);
    run.arg(&log).args(["--", "touch"]).arg(&mark);
    let process = Background::start(&mut run);
    until("the name is asked for", || {
        world.times_asked("dead.example.com") > 0
    });
    (process, mark, log)
}

#[test]
fn a_signal_while_names_are_resolved_starts_nothing() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let world = world();
        let (run, mark, log) = resolving(&world);
        kill(signal, run.pid());
        let (status, said) = run.end();
        assert_eq!(status.code(), Some(code), "{signal}: {said}");
        assert!(!mark.exists(), "{signal}");
        // It has not waited for the name: of a lookup that ran its course there is a record.
        let records = crate::support::read_records(&log);
        let of = |record: &Value| record["name"] == "dead.example.com";
        assert!(!records.0.iter().any(of), "{signal}: {records}");
    }
}

#[test]
fn the_time_limit_counts_while_names_are_resolved() {
    let world = world();
    let ran = sandbox(&world)
        .allow("dead.example.com")
        .args(&["--resolve", "startup", "--timeout", "500ms"])
        .sh("echo ran");
    ran.assert_code(124);
    assert!(ran.out().is_empty(), "{ran}");
    assert!(
        resolved(&ran).is_empty(),
        "it did not wait for the name: {ran}"
    );
}

#[test]
fn a_log_begins_with_the_build_that_version_control_names() {
    let world = world();
    let version = world.run(
        &portcullis().display().to_string(),
        &["--version"],
        Duration::from_secs(20),
    );
    let version = version.out().trim().to_owned();
    let (_, build) = version
        .split_once(" (")
        .unwrap_or_else(|| panic!("no build: {version}"));
    let build = build.trim_end_matches(')');
    assert!(!build.is_empty() && build != "unknown", "{version}");
    let ran = sandbox(&world).sh("true");
    let first = ran
        .records
        .0
        .first()
        .unwrap_or_else(|| panic!("no record: {ran}"));
    assert_eq!(
        (&first["layer"], &first["protocol"], &first["reason"]),
        (&json!("gateway"), &json!("startup"), &json!("started")),
        "{ran}"
    );
    assert_eq!(first["detail"], version, "{ran}");
    let doctor = crate::support::command(&world, &["doctor"]);
    assert!(doctor.out().contains(&version), "{doctor}");
}
