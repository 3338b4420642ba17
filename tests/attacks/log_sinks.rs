//! Where records go: nowhere that the program can write to as well.

use crate::support::{finish, portcullis, world};
use portcullis_testkit::World;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
/// What a program would do to every descriptor and every file of that device and inode.
const FORGE: &str = "for fd in /proc/self/fd/*; do [ $fd -ef log ] && (: > $fd) && echo forged; done; \
     for f in log other/log; do (echo {} >> $f) 2>/dev/null && echo written; done; true";

/// A script of the operator's shell, with `$p` for the product; as an ordinary user and as root.
fn operators(world: &World, script: &str) -> Vec<(String, String)> {
    let script = format!("p={}; {script}", portcullis().display());
    [world.command("bash"), world.command_as_root("bash")]
        .iter_mut()
        .map(|command| {
            let done = finish(command.args(["-c", &script]), LIMIT);
            (done.out(), done.err())
        })
        .collect()
}

#[test]
fn a_log_by_descriptor_is_not_handed_on() {
    let world = world();
    let script = format!(
        "rm -f log; exec 3>>log; $p run --log /dev/fd/3 -- sh -c '{FORGE}'; echo code $?; \
         grep -c schema log"
    );
    for (out, err) in operators(&world, &script) {
        assert!(out.starts_with("code 0\n"), "{out}{err}");
        assert!(!out.ends_with("\n0\n"), "nothing was recorded: {out}{err}");
    }
}

#[test]
fn a_log_that_is_a_standard_stream_is_refused() {
    let world = world();
    let streams = ["0<>log", "1>>log", "2>>log"];
    let ways = [
        "run --log",
        "run --log rest --debug-log",
        "learn --log rest --output",
    ];
    for (way, stream) in ways
        .iter()
        .flat_map(|way| streams.map(|stream| (way, stream)))
    {
        let script = format!(
            "rm -f log; touch log; ($p {way} log -- sh -c '{FORGE}') {stream}; \
             echo code $? >&9; cat log >&9"
        );
        for (out, err) in operators(&world, &format!("exec 9>&1; {script}")) {
            assert!(out.starts_with("code 125\n"), "{stream}: {out}{err}");
            assert!(!out.contains("forged"), "{stream}: {out}{err}");
            assert!(
                format!("{out}{err}").contains("must not reach"),
                "{stream}: {out}{err}"
            );
        }
    }
}

#[test]
fn a_log_with_a_second_name_or_that_is_a_device_is_refused() {
    let world = world();
    for (make, log) in [
        ("touch log; mkdir -p other; ln -f log other/log", "log"),
        ("true", "/dev/zero"),
        ("true", "/dev/full"),
    ] {
        for way in ["run --log", "run --debug-log", "learn --output"] {
            let script =
                format!("rm -rf log other; {make}; $p {way} {log} -- echo ran; echo code $?");
            for (out, err) in operators(&world, &script) {
                assert_eq!(out, "code 125\n", "{way} {log}: {err}");
                assert!(err.contains(" takes a file"), "{way} {log}: {err}");
            }
        }
    }
}

#[test]
fn a_pipe_is_out_of_reach_inside_and_none_without_a_reader_is_waited_for() {
    let world = world();
    let start = Instant::now();
    let script = "rm -f log got; mkfifo log; $p run --log log -- echo ran; echo code $?; \
         cat log > got & $p run --log log -- sh -c 'echo forged > log; head -c 1 log; true'; wait; \
         grep -c schema got; grep -c forged got; rm log";
    for (out, err) in operators(&world, script) {
        assert!(err.contains("nobody reads this pipe"), "{out}{err}");
        assert!(out.starts_with("code 125\n"), "{out}{err}");
        assert!(
            !out.ends_with("\n0\n0\n") && out.ends_with("\n0\n"),
            "{out}{err}"
        );
    }
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn a_log_that_is_moved_away_with_its_folder_is_told_of() {
    let world = world();
    for (option, code) in [("--log", 123), ("--log other --debug-log", 7)] {
        let script = format!(
            "rm -rf logs*; mkdir logs; $p run {option} logs/log --strict-log --summary always -- \
             sh -c 'mv logs logs.old; mkdir logs; echo forged > logs/log; exit 7'; echo code $?; \
             grep -c forged logs.old/log"
        );
        for (out, err) in operators(&world, &script) {
            assert_eq!(out, format!("code {code}\n0\n"), "{option}: {err}");
            assert!(err.contains("logs/log was moved or replaced"), "{err}");
        }
    }
}

#[test]
fn a_log_whose_folder_is_mounted_a_second_time_stays_as_it_is() {
    let world = world();
    for option in ["--log", "--log other --debug-log"] {
        let script = format!(
            "rm -rf logs again; mkdir logs again; unshare -Urm sh -c \"mount --bind logs again; \
             $p run {option} logs/log -- sh -c 'echo forged >> again/log; echo forged >> logs/log; \
             ln again/log more || mv again/log more; echo forged >> more'\"; \
             grep -c forged logs/log; grep -c . logs/log"
        );
        for (out, err) in operators(&world, &script) {
            let (forged, lines) = out.trim().split_once('\n').unwrap_or_default();
            assert!(forged == "0" && lines != "0", "{option}: {out}{err}");
        }
    }
}

#[test]
fn a_log_in_an_overlay_whose_layer_is_in_reach_is_refused() {
    let world = world();
    let script = "rm -rf low up work all; mkdir low up work all; unshare -Urm sh -c \"\
         mount -t overlay -o lowerdir=low,upperdir=$PWD/up,workdir=work none all || exit 9; \
         for way in 'run --log' 'run --debug-log' 'learn --output'; do \
         $p \\$way all/log -- echo ran; echo code \\$?; done\"";
    for (out, err) in operators(&world, script) {
        assert_eq!(out, "code 125\n".repeat(3), "{err}");
        assert_eq!(err.matches("could write to its layer").count(), 3, "{err}");
    }
}

#[test]
fn a_log_that_cannot_be_written_is_told_of_where_somebody_reads() {
    let world = world();
    // It is as long as a file may be: every write fails, and the opening does not.
    let script = |options: &str, ci: &str| {
        format!(
            "rm -f log; printf '%300000s\n' '' > log; ulimit -f 256; \
             {ci} $p run --log log {options} -- bash -c 'ulimit -f; exit 7'; echo code $?"
        )
    };
    for (options, ci, told, code) in [
        ("--summary always", "CI=", true, 7),
        ("--strict-log", "CI=1", true, 123),
        ("--strict-log --quiet", "CI=1", false, 123),
        ("", "CI=", false, 7),
    ] {
        for (out, err) in operators(&world, &script(options, ci)) {
            assert_eq!(out, format!("256\ncode {code}\n"), "{options}: {err}");
            let says = "records are incomplete: File too large";
            assert_eq!(err.contains(says), told, "{options}: {err}");
        }
    }
}

/// A disk that is full while the command runs, and has room again later, costs no record.
#[test]
fn a_disk_that_is_full_for_a_while_loses_nothing() {
    let world = world();
    let script = |free: &str| {
        format!(
            "rm -rf small; mkdir small; unshare -Urm sh -c \"mount -t tmpfs -o size=16k tmpfs small; \
             $p run --log small/log --strict-log --summary always -- sh -c \
             'for n in 1 2 3; do getent hosts n\\$n.example.net; done; \
             (cat /dev/zero > small/filler) 2>/dev/null; \
             for n in 4 5 6 7 8 9 10 11; do getent hosts n\\$n.example.net; done; sleep 0.6; {free} \
             sleep 0.6; exit 0'; echo code \\$?; grep -c 'n[0-9]*.example.net' small/log\""
        )
    };
    for (out, err) in operators(&world, &script("rm small/filler;")) {
        assert!(out.starts_with("code 0\n"), "{out}{err}");
    }
    for (out, err) in operators(&world, &script("")) {
        assert!(out.starts_with("code 123\n"), "{out}{err}");
        let says = "records are incomplete: No space left on device";
        assert!(err.contains(says), "{out}{err}");
    }
}

/// What the kernel calls a socket cannot be a log, and is not waited for.
#[test]
fn a_socket_or_a_terminal_is_no_log() {
    let world = world();
    let script = "rm -f sock; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"; \
         python3 -c \"import os, pty, sys; \
         a, b = pty.openpty(); print(os.ttyname(b)); sys.stdout.flush(); \
         [os.system(sys.argv[1] + ' run ' + o + ' -- echo ran; echo code \\$?') \
         for o in ['--log sock', '--log ' + os.ttyname(b), '--debug-log sock', \
         '--debug-log ' + os.ttyname(b)]]\" $p; \
         $p run --log <(true) -- echo ran; $p run --debug-log <(true) -- echo ran";
    for (out, err) in operators(&world, script) {
        assert!(!out.contains("ran"), "{out}{err}");
        assert_eq!(out.matches("code 125").count(), 4, "{out}{err}");
    }
}

/// A policy and its credentials, by a descriptor that the command would inherit.
#[test]
fn a_policy_or_a_secret_by_descriptor_is_not_handed_on() {
    let world = world();
    let policy = "version = 1\n[network.proxy]\nhttps = \"http://u:secret@198.51.100.1:9\"\n";
    let script = format!(
        "printf '%s' '{policy}' > p.toml; exec 3<p.toml 4<>p.toml; \
         for path in p.toml /dev/fd/3 /dev/fd/4; do \
         $p run --policy $path -- sh -c 'cat /dev/fd/3 /dev/fd/4 p.toml; echo x >> p.toml; true'; \
         echo code $?; done; exec 5>&1; \
         ($p run --policy p.toml -- cat) <p.toml >&5; echo code $?; \
         ($p run --policy p.toml -- sh -c 'cat <&1 >&5') >>p.toml; echo code $?; tail -c 1 p.toml"
    );
    for (out, err) in operators(&world, &script) {
        let expected = "code 0\ncode 0\ncode 0\ncode 125\ncode 125\n";
        assert_eq!(out.trim_end(), expected.trim_end(), "{err}");
        assert_eq!(err.matches("must not reach").count(), 2, "{err}");
    }
}
