//! `diagnose` names the layer that fails, who refused, and the smallest change that would
//! allow it.

use crate::support::{command, sandbox, world, world_from};
use portcullis_testkit::exec::Finished;
use portcullis_testkit::{ServiceKind, World, WorldSpec, hex};

/// Who said no.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Culprit {
    Policy,
    Upstream,
}
use Culprit::{Policy, Upstream};

#[track_caller]
fn diagnose(world: &World, args: &[&str], code: i32) -> Finished {
    let done = command(world, &[&["diagnose"], args].concat());
    assert_eq!(done.code(), Some(code), "{args:?}: {done}");
    done
}

/// The policy speaks as "refused … by the policy"; everything else "failed … beyond the gateway".
#[track_caller]
fn blames(done: &Finished, culprit: Culprit, layer: &str) {
    let out = done.out();
    let word = match culprit {
        Policy => format!("refused at {layer} by the policy"),
        Upstream => format!("failed at {layer} beyond the gateway"),
    };
    assert!(out.contains(&word), "it does not say {word:?}: {done}");
    assert_eq!(out.contains("to allow it"), culprit == Policy, "{done}");
}

#[test]
fn reachable_is_0_with_all_four_layers() {
    let world = world();
    let done = diagnose(
        &world,
        &["--allow", "api.example.com", "api.example.com"],
        0,
    );
    for layer in ["1 DNS", "2 TCP", "3 TLS", "4 HTTP"] {
        assert!(done.out().contains(layer), "{done}");
    }
    assert!(done.out().contains("203.0.113.10"), "{done}");
    diagnose(
        &world,
        &["--allow", "api.example.com", "http://api.example.com/"],
        0,
    );
    diagnose(
        &world,
        &["--allow", "raw.example.com:9000", "raw.example.com:9000"],
        0,
    );
    diagnose(
        &world,
        &["--allow", "ssh.example.com:22", "ssh.example.com:22"],
        0,
    );
}

#[test]
fn dns_is_11() {
    let world = world();
    let done = diagnose(
        &world,
        &["--allow", "api.example.com", "evil.example.net"],
        11,
    );
    blames(&done, Policy, "DNS");
    assert!(done.out().contains("NXDOMAIN"), "{done}");
    assert!(
        done.out().contains("\"evil.example.net"),
        "no line to add: {done}"
    );
    world.assert_never_asked("evil");

    let done = diagnose(
        &world,
        &[
            "--deny",
            "*.example.net",
            "--allow",
            "evil.example.net",
            "evil.example.net",
        ],
        11,
    );
    assert!(
        done.out().contains("refused at DNS by the policy"),
        "{done}"
    );
    assert!(
        done.out().contains("--deny *.example.net"),
        "the rule is not named: {done}"
    );

    let done = diagnose(
        &world,
        &["--allow", "private.example.com", "private.example.com"],
        11,
    );
    assert!(done.out().contains("private-address"), "{done}");
    assert!(
        done.out().contains("refused at DNS by the policy"),
        "{done}"
    );

    for name in [
        "nxdomain.example.com",
        "servfail.example.com",
        "empty.example.com",
    ] {
        blames(
            &diagnose(&world, &["--allow", name, name], 11),
            Upstream,
            "DNS",
        );
    }
}

#[test]
fn tcp_is_12() {
    let world = world();
    let done = diagnose(
        &world,
        &["--allow", "api.example.com", "api.example.com:9000"],
        12,
    );
    blames(&done, Policy, "TCP");
    assert!(
        done.out().contains("\"api.example.com:9000\" = \"allow\""),
        "{done}"
    );

    let done = diagnose(
        &world,
        &["--allow", "api.example.com", "203.0.113.90:443"],
        12,
    );
    blames(&done, Policy, "TCP");

    for name in ["refused.example.com", "unreachable.example.com"] {
        blames(
            &diagnose(&world, &["--allow", name, name], 12),
            Upstream,
            "TCP",
        );
    }
    let done = diagnose(
        &world,
        &[
            "--allow",
            "refused.example.com:25",
            "refused.example.com:25",
        ],
        12,
    );
    blames(&done, Upstream, "TCP");
}

#[test]
fn tls_is_13() {
    let world = world();
    for name in [
        "expired.example.com",
        "wrongname.example.com",
        "untrusted.example.com",
    ] {
        let done = diagnose(&world, &["--allow", name, name], 13);
        blames(&done, Upstream, "TLS");
        assert!(done.out().contains("certificate"), "{done}");
    }
    // What answers on 443 is no TLS server.
    blames(
        &diagnose(
            &world,
            &["--allow", "raw.example.com:443", "raw.example.com"],
            13,
        ),
        Upstream,
        "TLS",
    );
}

#[test]
fn http_is_14() {
    let spec = WorldSpec::standard()
        .record("gibberish.example.com A 203.0.113.200")
        .service(
            "203.0.113.200",
            80,
            ServiceKind::Reply(hex(b"this is no HTTP\n")),
        );
    let world = world_from(spec);
    let done = diagnose(
        &world,
        &[
            "--allow",
            "gibberish.example.com",
            "http://gibberish.example.com",
        ],
        14,
    );
    blames(&done, Upstream, "HTTP");
}

#[test]
fn bad_flags_and_targets_are_2() {
    let world = world();
    for args in [
        [].as_slice(),
        &["--no-such-flag", "api.example.com"],
        &["api.example.com:notaport"],
        &["not a name"],
        &["--policy", "/no/such/policy.toml", "api.example.com"],
        &["--allow", "*", "api.example.com"],
    ] {
        let done = diagnose(&world, args, 2);
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{done}");
    }
}

/// What it proposes, added, makes the same target reachable.
#[test]
fn the_proposed_change_is_enough() {
    let world = world();
    let base = "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n";
    let base = world.file("base.toml", base).display().to_string();
    for target in [
        "github.com",
        "api.example.com:8443",
        "raw.example.com:9000",
        "git.example.com:80",
    ] {
        let args = ["diagnose", "--policy", &*base, target];
        let done = command(&world, &args);
        assert!([Some(11), Some(12)].contains(&done.code()), "{done}");
        let out = done.out();
        let (_, proposal) = out
            .split_once("to allow it")
            .and_then(|(_, rest)| rest.split_once(':'))
            .unwrap_or_else(|| panic!("no proposal: {done}"));
        let lines: String = proposal
            .lines()
            .map(|line| format!("{}\n", line.trim()))
            .collect();
        let added = world
            .file("added.toml", format!("version = 1\n{lines}"))
            .display()
            .to_string();
        let args = ["--policy", &*base, "--policy", &*added, target];
        diagnose(&world, &args, 0);
    }
}

/// Inside a sandbox it walks from where it is, under the policy that is in force there.
#[test]
fn diagnose_works_inside_a_sandbox() {
    let world = world();
    let program = crate::support::portcullis();
    let script = format!(
        "{p} diagnose api.example.com; echo code $?; {p} diagnose evil.example.net; echo code $?; \
         {p} diagnose api.example.com:22; echo code $?; {p} diagnose localhost:9; echo code $?",
        p = program.display()
    );
    let ran = sandbox(&world).allow("api.example.com").sh(&script);
    ran.assert_ok();
    let out = ran.out();
    let codes: Vec<&str> = out
        .lines()
        .filter_map(|line| line.strip_prefix("code "))
        .collect();
    assert_eq!(codes, ["0", "11", "12", "12"], "{ran}");
    assert!(out.contains("localhost:9 is the sandbox itself"), "{ran}");
    assert_eq!(out.matches("by the policy").count(), 2, "{ran}");
    world.assert_never_asked("evil");
}

#[test]
fn the_sandbox_itself_and_datagrams_are_told_from_what_a_policy_refuses() {
    let world = world();
    let at_host = "host.portcullis.internal:8000";
    for target in [
        "localhost:8000",
        "app.localhost:8000",
        "127.0.0.1:8000",
        "[::1]:8000",
    ] {
        let done = diagnose(&world, &["--allow", target, target], 2);
        assert!(
            done.err().contains("is the sandbox itself") && done.err().contains(at_host),
            "{done}"
        );
    }
    let done = diagnose(&world, &["api.example.com:53/udp"], 2);
    assert!(
        done.err()
            .contains("portcullis explain api.example.com:53/udp"),
        "{done}"
    );
}
