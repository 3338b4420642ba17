//! `learn`: what a command used becomes the policy under which it works, and nothing more does.

use crate::support::{TIMEOUT, command, finish, portcullis, sandbox, world};
use portcullis_testkit::World;
use portcullis_testkit::exec::Finished;

/// Contacts three names over four ports, directly, by proxy and by raw TCP.
const WORK: &str = "set -e; \
    curl -sSf -o /dev/null https://api.example.com/by-proxy; \
    curl -sSf -o /dev/null --noproxy '*' http://www.example.com/; \
    echo bytes | nc -N -w 25 raw.example.com 9000; \
    curl -sSf -o /dev/null --noproxy '*' https://git.example.com:443/repo.git/HEAD; echo done";

fn learn(world: &World, output: &str, script: &str) -> Finished {
    command(world, &["learn", "-o", output, "--", "sh", "-c", script])
}

#[test]
fn the_written_policy_is_what_the_command_needs_and_no_more() {
    let world = world();
    let output = world.home().join("learned.toml").display().to_string();
    let done = learn(&world, &output, WORK);
    assert!(done.ok() && done.out().ends_with("done\n"), "{done}");
    assert_eq!(done.err(), "", "{done}");
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(
        command(&world, &["policy", "check", &output]).ok(),
        "{text}"
    );

    let run = sandbox(&world).args(&["--policy", &output]);
    let ran = run.sh(WORK);
    ran.assert_ok().assert_no_denial();

    // Only that: other names, and other ports of the same names.
    for (target, code) in [
        ("api.example.com:443", 0),
        ("www.example.com:80", 0),
        ("raw.example.com:9000", 0),
        ("git.example.com:443", 0),
        ("api.example.com:80", 1),
        ("www.example.com:443", 1),
        ("raw.example.com:443", 1),
        ("cdn.example.net:80", 1),
        ("github.com", 1),
    ] {
        let done = command(&world, &["explain", "--policy", &output, target]);
        assert_eq!(done.code(), Some(code), "{target}: {done}\n{text}");
    }
    let ran = sandbox(&world)
        .args(&["--policy", &output])
        .sh("curl -sS https://github.com/");
    assert!(!ran.finished.ok(), "{ran}");
    ran.assert_one_denial("http", "not-in-allowlist", "github.com");
}

/// Learning is no hole: the guard stays, and says what it refused.
#[test]
fn private_addresses_are_refused_while_learning() {
    let world = world();
    let output = world.home().join("learned.toml").display().to_string();
    let script = "nc -zw 25 169.254.169.254 80; echo metadata $?; \
                  curl -sS --noproxy '*' http://private.example.com/ >/dev/null 2>&1; echo private $?; \
                  curl -sS http://metadata.example.com/ -o /dev/null -w '%{http_code}\n'";
    let done = learn(&world, &output, script);
    assert!(done.out().contains("metadata 1"), "{done}");
    assert!(
        done.out().contains("private ") && !done.out().contains("private 0"),
        "{done}"
    );
    assert!(done.out().contains("403"), "{done}");
    for address in ["169.254.169.254", "10.20.0.5"] {
        world.assert_never_reached(address);
    }
    let text = std::fs::read_to_string(&output).unwrap();
    let rules = text
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains("allow"));
    assert_eq!(rules.count(), 0, "{text}");
    assert!(text.contains("private-address"), "{text}");
}

#[test]
fn the_commands_exit_code_and_streams_are_kept() {
    let world = world();
    let output = world.home().join("learned.toml").display().to_string();
    let done = learn(&world, &output, "cat; echo aside >&2; exit 6");
    assert_eq!(done.code(), Some(6), "{done}");
    assert_eq!(done.err(), "aside\n", "{done}");
    assert!(command(&world, &["policy", "check", &output]).ok());
}

#[test]
fn a_policy_that_cannot_be_written_costs_no_run() {
    let world = world();
    let trace = world.home().join("it-ran");
    let script = format!(": > {}", trace.display());
    let done = learn(&world, "/no/such/folder/learned.toml", &script);
    assert!(
        !done.ok() && done.err().contains("/no/such/folder"),
        "{done}"
    );
    assert!(!trace.exists());
    for args in [
        ["learn", "--", "true"].as_slice(),
        &["learn", "-o", "x.toml"],
        &["learn", "--bad"],
    ] {
        assert_eq!(command(&world, args).code(), Some(2), "{args:?}");
    }
}

/// The command cannot write its own policy.
#[test]
fn the_command_cannot_write_the_policy_itself() {
    let world = world();
    let output = world.home().join("learned.toml").display().to_string();
    let script = format!(
        "echo '\"evil.example.net\" = \"allow\"' >> {output}; rm -f {output}; mv {output} {output}.old; true"
    );
    let done = finish(
        world
            .command(portcullis())
            .args(["learn", "-o", &output, "--", "sh", "-c", &script]),
        TIMEOUT,
    );
    assert!(done.ok(), "{done}");
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(
        text.contains("version = 1") && !text.contains("evil"),
        "{text}"
    );
}

/// Only `run` answers 125 for its own flags.
#[test]
fn bad_flags_of_learn_are_told_apart_from_a_failed_start() {
    let world = world();
    let output = world.home().join("learned.toml").display().to_string();
    let learn = [
        "learn",
        "-o",
        &output,
        "--upstream-proxy",
        "ftp://a.example",
        "--",
        "true",
    ];
    let done = command(&world, &learn);
    assert_eq!(done.code(), Some(2), "{done}");
    assert!(done.err().contains("http://"), "{done}");
    assert!(
        !world.home().join("learned.toml").exists(),
        "a policy of nothing"
    );
}
