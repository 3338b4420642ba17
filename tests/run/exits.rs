//! Exit codes of `run`: CMD's own, and those that say that CMD did not run or was ended.
//! Failing open: a policy that cannot be read runs nothing.

use crate::processes::{marker, until, with_argument};
use crate::support::{Ran, TIMEOUT, command, finish, portcullis, require, sandbox, world};
use portcullis_testkit::World;
use portcullis_testkit::exec::Finished;
use std::time::Duration;

#[test]
fn exit_codes_are_the_programs_own() {
    let world = world();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -SEGV $$", 139),
    ] {
        let ran = sandbox(&world).sh(script);
        ran.assert_code(code);
        assert!(
            ran.out().is_empty() && ran.err().is_empty(),
            "{script}: {ran}"
        );
    }
}

#[test]
fn a_program_that_cannot_run_gives_126_and_one_that_is_not_there_127() {
    let world = world();
    let plain = world.file("plain", "no program").display().to_string();
    let folder = world.home().display().to_string();
    for (program, code) in [
        ("no-such-program-anywhere", 127),
        ("/no/such/folder/program", 127),
        (&*plain, 126),
        (&*folder, 126),
    ] {
        let ran = sandbox(&world).run(&[program]);
        ran.assert_code(code);
        assert!(ran.err().contains(program), "{ran}");
        assert!(ran.out().is_empty(), "{ran}");
    }
}

#[test]
fn the_childs_path_finds_the_program() {
    let world = world();
    let tool = world.file("only-here", "#!/bin/sh\necho found\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&tool, mode).unwrap();
    let path = format!("/no/such/folder:{}:/usr/bin:/bin", world.home().display());
    sandbox(&world)
        .env("PATH", &path)
        .run(&["only-here"])
        .assert_ok()
        .assert_out("found");
}

#[test]
fn timeout_gives_124_and_ends_what_ignores_it() {
    let world = world();
    let (polite, deaf) = (marker(), marker());
    let ran = sandbox(&world)
        .args(&["--timeout", "1s"])
        .run(&["sleep", &polite]);
    ran.assert_code(124);
    assert!(ran.finished.elapsed >= Duration::from_secs(1), "{ran}");
    assert!(ran.finished.elapsed < Duration::from_secs(60), "{ran}");

    // A program that ignores SIGTERM, with a child that left its session and process group.
    let script = format!("trap '' TERM; setsid sleep {deaf} & sleep {deaf}; sleep {deaf}");
    let ran = sandbox(&world).args(&["--timeout", "500ms"]).sh(&script);
    ran.assert_code(124);
    until("the whole tree has ended", || {
        with_argument(&deaf).is_empty()
    });
    assert!(with_argument(&polite).is_empty());
}

/// Runs `portcullis run ARGS`, where nothing may run.
fn before_start(world: &World, args: &[&str]) -> Finished {
    let trace = world.home().join("it-ran");
    let script = format!("echo ran; : > {}", trace.display());
    let line = [&["run"], args, &["--", "sh", "-c", &script]].concat();
    let finished = command(world, &line);
    assert_eq!(finished.code(), Some(125), "{args:?}: {finished}");
    assert!(finished.stdout.is_empty(), "{args:?}: {finished}");
    assert!(!finished.stderr.is_empty(), "{args:?} says nothing");
    assert!(!trace.exists(), "{args:?}: the program ran: {finished}");
    finished
}

#[test]
fn what_fails_before_the_start_gives_125_and_runs_nothing() {
    let world = world();
    let log = world
        .home()
        .join("no/such/folder/log.jsonl")
        .display()
        .to_string();
    let cases: &[&[&str]] = &[
        &["--no-such-flag"],
        &["--allow", "*"],
        &["--allow", "*.com"],
        &["--allow", "api.example.com:70000"],
        &["--allow", "not a name"],
        &["--deny", "exa mple.com"],
        &["--timeout", "soon"],
        &["--timeout", "0"],
        &["--resolver", "resolver.example.com"],
        &["--publish", "8080"],
        &["--resolve", "sometimes"],
        &["--answers", "invented"],
        &["--policy", "/no/such/policy.toml"],
        &["--log", &log],
        &["--tap", "a-name-that-is-far-too-long-for-a-device"],
    ];
    for args in cases {
        let finished = before_start(&world, args);
        // What was given is in the message: nobody has to guess which argument was meant.
        let said = finished.err();
        let given = args[args.len() - 1].trim_start_matches('-');
        assert!(said.contains(given), "{args:?} is not named: {said}");
    }
    let finished = command(&world, &["run"]);
    assert_eq!(finished.code(), Some(125), "no command: {finished}");
}

#[test]
fn a_bad_policy_is_shown_with_its_place_and_runs_nothing() {
    let world = world();
    for (name, text, place) in [
        (
            "unknown.toml",
            "version = 1\n[network]\nmoed = \"full\"\n",
            ":3:1",
        ),
        (
            "typo.toml",
            "version = 1\n[network.domains]\n\"api..example.com\" = \"allow\"\n",
            ":3:",
        ),
        (
            "broad.toml",
            "version = 1\n[network.domains]\n\"*.com\" = \"allow\"\n",
            ":3:",
        ),
        (
            "half.toml",
            "version = 1\n[network.domains]\n\"api.example.com\" = \"al",
            ":3:",
        ),
        (
            "contradiction.toml",
            "version = 1\n[network.domains]\n\"a.example.com\" = \"allow\"\n\"A.example.com.\" = \"deny\"\n",
            ":4:",
        ),
        (
            "later.toml",
            "version = 1\n[network]\nallow_local_binding = false\n",
            ":3:",
        ),
        (
            "bad.yaml",
            "network:\n  domains:\n    api.example.com: perhaps\n",
            ":3:",
        ),
        (
            "bad.json",
            "{\"network\": {\"domains\": {\"api.example.com\": 7}}}",
            ":1:",
        ),
        ("version.toml", "version = 9\n", ":1:"),
        ("empty.toml", "", ":1:1"),
    ] {
        let path = world.file(name, text).display().to_string();
        let said = before_start(&world, &["--policy", &path]).err();
        let place = format!("{name}{place}");
        assert!(said.contains(&place), "no {place}: {said}");
        assert!(!said.contains('\x1b'), "colour without a terminal: {said}");
    }
}

/// A shell's `--policy <(…)` is a policy like any other. Records need a file: CMD inherits pipes,
/// and could write records of its own there.
#[test]
fn a_pipe_is_a_policy_but_no_record_file() {
    let world = world();
    let script = format!(
        "p={}; rules() {{ printf 'version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n'; }}; \
         ask='getent ahostsv4 api.example.com'; \
         $p run --policy <(rules) -- $ask | head -1; rules | $p run --policy /dev/stdin -- $ask | head -1; \
         $p run --log >(cat) -- echo ran; echo code $?; $p run --log /dev/stdout -- echo ran | cat",
        portcullis().display()
    );
    require("bash");
    let done = finish(world.command("bash").args(["-c", &script]), TIMEOUT);
    assert_eq!(done.out().matches("203.0.113.10").count(), 2, "{done}");
    assert!(done.out().ends_with("code 125\n"), "{done}");
    assert!(!done.out().contains("ran"), "{done}");
    assert_eq!(
        done.err().matches("--log takes a file, not a pipe").count(),
        2,
        "{done}"
    );
}

#[test]
fn an_empty_policy_denies_all() {
    let world = world();
    let denies = |ran: Ran| {
        ran.assert_out("gone 6");
        ran.assert_one_denial("dns", "not-in-allowlist", "api.example.com");
    };
    let script = "curl -sS --noproxy '*' https://api.example.com/; echo gone $?";
    for text in ["version = 1\n", "version = 1\n[network.domains]\n"] {
        denies(sandbox(&world).policy("toml", text).sh(script));
    }
    denies(sandbox(&world).sh(script));
    world.assert_never_asked("api.example.com");
}

/// The debug log tells the gateway's steps, is the operator's alone, and costs no run where it cannot
/// be written.
#[test]
fn the_debug_log_is_written_beside_cmd_and_never_by_it() {
    let world = world();
    let log = world.home().join("debug.log");
    let path = log.display().to_string();
    let script = format!("echo forged >> {path}; echo ran");
    let args = ["run", "--debug-log", &path, "--", "sh", "-c", &script];
    let done = command(&world, &args);
    assert_eq!(done.out(), "ran\n", "{done}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("forged"), "{text}");
    for step in ["started part=", "gateway serves", "sandbox ended"] {
        assert!(text.contains(step), "{text}");
    }
    let bad = [
        "run",
        "--debug-log",
        "/no/such/folder/log",
        "--",
        "echo",
        "ran",
    ];
    let done = command(&world, &bad);
    assert_eq!(done.code(), Some(125), "{done}");
    assert!(
        done.out().is_empty() && done.err().contains("hint: --debug-log"),
        "{done}"
    );
}

/// An operator who has a decision's id finds the connection's whole way in the debug log.
#[test]
fn the_debug_log_follows_a_connection_by_its_decision_id() {
    let world = world();
    let log = world.home().join("debug.log");
    let ran = sandbox(&world)
        .allow("api.example.com")
        .args(&["--debug-log", &log.display().to_string()])
        .sh("curl -sS https://api.example.com/ >/dev/null && curl -sS https://api.example.com/a");
    ran.assert_ok();
    let of_flow = |record: &&serde_json::Value| {
        record["event"] == "decision"
            && record["name"] == "api.example.com"
            && record["port"] == 443
    };
    let record = ran.records.0.iter().rfind(of_flow);
    let id = record.and_then(|record| record["id"].as_str());
    let id = id.unwrap_or_else(|| panic!("no decision on the connection: {ran}"));

    let text = std::fs::read_to_string(&log).unwrap();
    let by_id = format!("id={id}");
    let decided = text
        .lines()
        .find(|line| line.contains("decided") && line.contains(&by_id));
    let words = decided.unwrap_or_else(|| panic!("{id} is not decided: {text}"));
    let conn = words
        .split_whitespace()
        .find(|word| word.starts_with("conn="));
    let conn = conn.unwrap_or_else(|| panic!("no number of the connection: {words}"));
    let steps: Vec<&str> = text
        .lines()
        .filter(|line| {
            line.split_whitespace()
                .any(|word| word == conn || word == by_id)
        })
        .collect();
    let wanted = [
        "accepted",
        "decided",
        "dialled",
        "first bytes",
        "relaying",
        "closed",
    ];
    let in_order = steps.iter().zip(wanted).all(|(step, wanted)| {
        let (_, said) = step.split_once(": ").unwrap_or_default();
        said.starts_with(wanted)
    });
    assert!(in_order && steps.len() == wanted.len(), "{steps:#?}");
}

/// A policy or a log in the work tree cannot be replaced inside, and git does not say why.
#[test]
fn files_in_a_git_work_tree_are_told_before_the_start_where_somebody_reads_it() {
    require("git");
    let world = world();
    let policy = world.file("policy.toml", "version = 1\n");
    let log = world.home().join("decisions.jsonl");
    let tree = world.home().join("tree");
    let script = format!(
        "git init -q {tree} && cp {policy} {tree}/ && cd {tree} && git add -A && \
         git -c user.name=a -c user.email=a@b commit -qm x && git rm -q --cached policy.toml && mkdir sub",
        tree = tree.display(),
        policy = policy.display()
    );
    let made = finish(world.command("sh").args(["-c", &script]), TIMEOUT);
    assert!(made.ok(), "{made}");
    let run = |folder: &str, args: &str| {
        let program = portcullis();
        let script = format!(
            "cd {}/{folder} && {} run {args} -- sh -c 'echo ran; git clean -fdq'",
            tree.display(),
            program.display()
        );
        finish(world.command("sh").args(["-c", &script]), TIMEOUT)
    };
    let (policy, log) = (policy.display(), log.display());
    let above = run("sub", "--policy ../policy.toml --summary always");
    assert!(above.err().contains("policy.toml is read-only"), "{above}");
    let warned = run(".", "--policy policy.toml --log log.jsonl --summary always");
    let said = warned.err();
    let (warning, gits) = said
        .split_once("hint: ")
        .unwrap_or_else(|| panic!("{warned}"));
    assert!(
        warning.contains("log.jsonl, policy.toml are read-only for the command")
            && warning.contains("git clean"),
        "{warned}"
    );
    assert!(gits.contains("outside of the work tree"), "{warned}");
    assert_eq!(warned.out(), "ran\n", "{warned}");
    for quiet in [
        "--policy policy.toml",
        "--policy policy.toml --summary never",
        &format!("--policy {policy} --log {log} --summary always"),
    ] {
        let done = run(".", quiet);
        assert!(!done.err().contains("read-only"), "{quiet}: {done}");
    }
}
