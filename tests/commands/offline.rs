//! `explain` and `policy check`: the policy's verdict and what is wrong with it, without a network.

use crate::lines_below;
use crate::support::{command, sandbox, world};
use portcullis_testkit::World;
use portcullis_testkit::exec::Finished;

const POLICY: &str = "\
version = 1

[network.domains]
\"api.example.com\" = \"allow\"
\"raw.example.com:9000\" = \"allow\"
\"*.example.org\" = \"allow\"
\"gist.example.org\" = \"deny\"

[network.addresses]
\"10.20.0.0/16:5432\" = \"allow\"
";

fn policy(world: &World) -> String {
    world.file("policy.toml", POLICY).display().to_string()
}

#[track_caller]
fn explain(world: &World, args: &[&str]) -> Finished {
    let done = command(world, &[&["explain"], args].concat());
    let word = done
        .out()
        .split_whitespace()
        .next()
        .unwrap_or("")
        .to_owned();
    match done.code() {
        Some(0) => assert_eq!(word, "allow", "{args:?}: {done}"),
        Some(1) => assert_eq!(word, "deny", "{args:?}: {done}"),
        _ => assert!(
            done.stdout.is_empty() && !done.stderr.is_empty(),
            "{args:?}: {done}"
        ),
    }
    done
}

#[test]
fn explain_says_the_verdict_the_rule_and_its_place() {
    let world = world();
    let file = policy(&world);
    for (target, code, place) in [
        ("api.example.com", 0, "policy.toml:4"),
        ("API.Example.COM.", 0, "policy.toml:4"),
        ("api.example.com:443", 0, "policy.toml:4"),
        ("api.example.com:22", 1, "policy.toml:4"),
        ("raw.example.com:9000", 0, "policy.toml:5"),
        ("raw.example.com", 1, "policy.toml:5"),
        ("deep.below.example.org", 0, "policy.toml:6"),
        ("example.org", 1, ""),
        ("gist.example.org", 1, "policy.toml:7"),
        ("10.20.3.4:5432", 0, "policy.toml:10"),
        ("10.20.3.4:80", 1, ""),
        ("169.254.169.254:80", 1, ""),
        ("evil.example.net", 1, ""),
        ("notapi.example.com", 1, ""),
        ("api.example.com.evil.example.net", 1, ""),
    ] {
        let done = explain(&world, &["--policy", &file, target]);
        assert_eq!(done.code(), Some(code), "{target}: {done}");
        assert!(done.out().contains(place), "{target}: no {place}: {done}");
    }
    // Nothing was asked of anybody.
    assert!(world.dns_log().is_empty());
}

#[test]
fn explain_takes_the_options_of_run() {
    let world = world();
    let file = policy(&world);
    let allow = explain(&world, &["--allow", "api.example.com", "api.example.com"]);
    assert!(allow.out().contains("--allow api.example.com"), "{allow}");
    let deny = [
        "--policy",
        &*file,
        "--deny",
        "api.example.com",
        "api.example.com",
    ];
    let deny = explain(&world, &deny);
    assert_eq!(deny.code(), Some(1));
    assert!(deny.out().contains("--deny api.example.com"), "{deny}");
    // No policy at all denies.
    assert_eq!(explain(&world, &["api.example.com"]).code(), Some(1));
    // The operator's list counts, on port 443 alone.
    let direct = |target: &str| {
        let mut explain = world.command(crate::support::portcullis());
        explain.args(["explain", target]);
        explain.env(
            "OPENSHELL_DIRECT_TCP_HOSTS",
            "wss-primary.slack.com,api.slack.com",
        );
        crate::support::finish(&mut explain, crate::support::TIMEOUT)
    };
    assert!(
        direct("api.slack.com:443")
            .out()
            .contains("OPENSHELL_DIRECT_TCP_HOSTS")
    );
    assert_eq!(direct("api.slack.com:80").code(), Some(1));
}

#[test]
fn explain_exits_2_for_what_is_no_target_and_no_policy() {
    let world = world();
    let bad = world
        .file("bad.toml", "version = 1\nnetwork = 7\n")
        .display()
        .to_string();
    for args in [
        ["not a name"].as_slice(),
        &["api.example.com:99999"],
        &["*.com"],
        &["127.1"],
        &["http://allowed.com@evil.com/"],
        &[],
        &["--no-such-flag", "api.example.com"],
        &["--policy", &bad, "api.example.com"],
        &["--policy", "/no/such/policy.toml", "api.example.com"],
        &["--allow", "*", "api.example.com"],
    ] {
        assert_eq!(explain(&world, args).code(), Some(2), "{args:?}");
    }
}

/// The proposed lines, added to the policy, allow just what was asked for.
#[test]
fn what_explain_proposes_is_what_allows_it() {
    let world = world();
    let file = policy(&world);
    for target in [
        "evil.example.net",
        "api.example.com:22",
        "10.9.8.7:80",
        "evil.example.net:8443",
    ] {
        let done = explain(&world, &["--policy", &file, target]);
        let lines = lines_below(&done.out(), "add to the policy:");
        assert!(!lines.is_empty(), "{target}: no proposal: {done}");
        let text = format!("version = 1\n{lines}");
        let added = world.file("added.toml", text).display().to_string();
        let now = explain(&world, &["--policy", &file, "--policy", &added, target]);
        assert_eq!(
            now.code(),
            Some(0),
            "{target} is still denied after {lines}: {now}"
        );
        let other = ["--policy", &*file, "--policy", &*added, "other.example.net"];
        assert_eq!(explain(&world, &other).code(), Some(1));
    }
}

/// Explained and enforced is one decision.
#[test]
fn explain_agrees_with_run() {
    let world = world();
    let file = policy(&world);
    for (name, port) in [
        ("api.example.com", "80"),
        ("api.example.com", "8443"),
        ("raw.example.com", "9000"),
        ("raw.example.com", "443"),
        ("github.com", "443"),
        ("evil.example.net", "443"),
    ] {
        let explained = explain(&world, &["--policy", &file, &format!("{name}:{port}")]);
        let run = sandbox(&world).args(&["--policy", &file]);
        let run = run.run(&["nc", "-4", "-zw", "5", name, port]);
        assert_eq!(
            explained.code(),
            run.code(),
            "{name}:{port}: {explained}\n{run}"
        );
    }
}

#[test]
fn policy_check_accepts_what_is_valid_and_warns() {
    let world = world();
    let file = policy(&world);
    let done = command(&world, &["policy", "check", &file]);
    assert!(done.ok() && done.err().is_empty(), "{done}");
    assert!(done.out().starts_with("ok"), "{done}");

    let other = world.file(
        "other.toml",
        "version = 1\n[network.domains]\n\"api.example.com\" = \"deny\"\n",
    );
    let done = command(
        &world,
        &["policy", "check", &file, &other.display().to_string()],
    );
    assert!(done.ok(), "{done}");
    assert!(
        done.err().contains("policy.toml:4") || done.err().contains("other.toml:3"),
        "{done}"
    );

    // A Codex profile and a host gateway's file, as they stand.
    let profile = "default_permissions = \"workspace\"\n\n\
        [permissions.workspace.filesystem]\n\":root\" = \"read\"\n\":tmpdir\" = \"write\"\n\n\
        [permissions.workspace.filesystem.\":project_roots\"]\n\".\" = \"write\"\n\n\
        [permissions.workspace.network]\nenabled = true\nmode = \"full\"\n\
        allow_local_binding = true\nallow_upstream_proxy = true\n\n\
        [permissions.workspace.network.domains]\n\
        \"internal-symbols.example.corp\" = \"allow\"\n\"internal-data.example.corp\" = \"allow\"\n";
    let profile = world.file("profile.toml", profile).display().to_string();
    let done = command(&world, &["policy", "check", &profile]);
    assert!(done.ok(), "{done}");
    assert!(
        done.err().contains("filesystem"),
        "no warning of what is not enforced: {done}"
    );
    let microvm = "network:\n  proxy:\n    http: \"http://proxy.internal:3128\"\n    \
        https: \"http://proxy.internal:3128\"\n    no_proxy: \"localhost,127.0.0.1\"\n  dns:\n    \
        custom_resolvers:\n      - \"10.0.0.53\"\n  allowlist_additions:\n    \
        - \"api.internal.company.com\"\n    - \"registry.internal.company.com\"\n";
    let microvm = world.file("microvm.yaml", microvm).display().to_string();
    let done = command(&world, &["policy", "check", &microvm]);
    assert!(done.ok(), "{done}");
    let target = "registry.internal.company.com:443";
    assert_eq!(
        explain(&world, &["--policy", &microvm, target]).code(),
        Some(0)
    );
}

#[test]
fn policy_check_shows_every_error_with_its_place() {
    let world = world();
    let text = "version = 1\n[network]\nmoed = \"full\"\n[network.domains]\n\
                \"*.com\" = \"allow\"\n\"exa mple.com\" = \"allow\"\n\"a.example.com\" = \"maybe\"\n";
    let bad = world.file("bad.toml", text).display().to_string();
    let done = command(&world, &["policy", "check", &bad]);
    assert_eq!(done.code(), Some(2), "{done}");
    assert!(done.stdout.is_empty(), "{done}");
    for place in [
        "bad.toml:3:1",
        "bad.toml:5:1",
        "bad.toml:6:1",
        "bad.toml:7:",
    ] {
        assert!(done.err().contains(place), "no {place}: {done}");
    }
    // The suggestion for a key with a typing error.
    assert!(done.err().contains("mode"), "{done}");
    for args in [
        ["policy", "check"].as_slice(),
        &["policy", "check", "/no/such/file.toml"],
        &["policy"],
    ] {
        assert_eq!(command(&world, args).code(), Some(2), "{args:?}");
    }
}
