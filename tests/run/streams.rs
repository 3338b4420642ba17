//! stdin, stdout, stderr and the environment of CMD. Nothing of ours is ever written there while
//! CMD runs.

use crate::support::{command, sandbox, world};
use portcullis_testkit::exec;
use std::collections::BTreeMap;
use std::time::Duration;

/// Every byte value, in no simple order, more than any pipe holds.
fn noise() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.take(400_000).flatten().collect()
}

#[test]
fn streams_are_byte_exact() {
    let world = world();
    let sent = noise();
    let program = "import sys; all = sys.stdin.buffer.read(); \
                   sys.stdout.buffer.write(all); sys.stderr.buffer.write(all)";
    let ran = sandbox(&world).input(sent.clone()).python(program);
    assert!(ran.finished.ok(), "{}", ran.finished.status);
    assert!(ran.finished.stdout == sent, "stdout differs from stdin");
    assert!(ran.finished.stderr == sent, "stderr differs from stdin");
}

#[test]
fn closed_and_empty_streams_are_passed_on() {
    let world = world();
    let program = crate::support::portcullis();
    let program = program.display();
    let script = format!(
        "{program} run -- sh -c 'cat; echo end of input' < /dev/null; \
         {program} run -- sh -c 'exit 5' <&- >&- 2>&-; echo code $?"
    );
    let mut shell = world.command("sh");
    let done = exec::run(shell.args(["-c", &script]), Duration::from_secs(30)).unwrap();
    assert_eq!(done.out(), "end of input\ncode 5\n", "{done}");
    assert_eq!(done.err(), "", "{done}");
}

#[test]
fn nothing_is_written_to_standard_error_when_something_is_denied() {
    let world = world();
    let script = "getent hosts evil.example.net; nc -zw 25 203.0.113.90 22 2>/dev/null; \
                  curl -s https://evil.example.net/; echo over";
    let ran = sandbox(&world).sh(script);
    ran.assert_ok();
    assert_eq!(ran.finished.out(), "over\n", "{ran}");
    assert_eq!(ran.finished.err(), "", "{ran}");
    assert!(ran.records.all_denials().len() >= 3, "{ran}");
}

#[test]
fn the_environment_names_the_proxies_and_keeps_the_rest() {
    let world = world();
    let ran = sandbox(&world)
        .allow("api.example.com")
        .env("HTTPS_PROXY", "http://198.51.100.80:3128")
        .env("no_proxy", "everything.example.com")
        .env("JAVA_TOOL_OPTIONS", "-Xmx64m")
        .env("MINE", "kept as it was")
        .run(&["env"]);
    ran.assert_ok();
    let out = ran.out();
    let env: BTreeMap<&str, &str> = out
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let get = |name: &str| {
        *env.get(name)
            .unwrap_or_else(|| panic!("{name} is not set: {ran}"))
    };
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        assert_eq!(get(name), "http://10.0.2.2:3128", "{name}");
    }
    for name in ["NO_PROXY", "no_proxy"] {
        assert!(
            get(name).contains("127.0.0.1") && !get(name).contains("everything"),
            "{ran}"
        );
    }
    for name in ["PORTCULLIS", "CODEX_NETWORK_PROXY_ACTIVE"] {
        assert_eq!(get(name), "1", "{name}");
    }
    assert_eq!(get("JAVA_TOOL_OPTIONS"), "-Xmx64m");
    // Each of these breaks a program or makes one write what it would not.
    for name in ["ALL_PROXY", "all_proxy", "NODE_USE_ENV_PROXY"] {
        assert!(!env.contains_key(name), "{name}: {ran}");
    }
    assert_eq!(get("MINE"), "kept as it was");
    assert!(
        !out.contains("198.51.100.80"),
        "the host's own proxy shows inside: {ran}"
    );
}

#[test]
fn the_folder_and_the_user_stay_the_same() {
    let world = world();
    let script = "pwd; id -u; id -g; umask";
    let inside = sandbox(&world).sh(script);
    let mut shell = world.command("sh");
    let outside = exec::run(shell.args(["-c", script]), Duration::from_secs(10)).unwrap();
    assert_eq!(inside.out(), outside.out(), "{inside}");
}

#[test]
fn help_and_version_are_answered_on_standard_output() {
    let world = world();
    for args in [["--version"].as_slice(), &["--help"], &["run", "--help"]] {
        let said = command(&world, args);
        assert!(
            said.ok() && !said.stdout.is_empty() && said.stderr.is_empty(),
            "{said}"
        );
    }
}
