//! Around the gateway: process trees. A double-forked child that outlives `run`; the gateway, the
//! sandbox's first process and `run` itself killed in mid-run; signals passed on.

use crate::processes::{Background, family, kill, marker, runs, until, with_argument};
use crate::support::{sandbox, world};
use portcullis_testkit::World;
use std::os::unix::process::ExitStatusExt;

#[test]
fn a_child_that_forked_twice_does_not_outlive_the_run() {
    let world = world();
    let mark = marker();
    let script = format!("(setsid sleep {mark} &) ; nohup sleep {mark} >/dev/null 2>&1 & exit 3");
    let ran = sandbox(&world).sh(&script);
    ran.assert_code(3);
    until("the children have ended", || {
        with_argument(&mark).is_empty()
    });
}

/// A sandbox in mid-run: a program that talks to a listed name, and children of its own.
fn busy(world: &World, mark: &str) -> Background {
    let script = format!(
        "setsid sleep {mark} & curl -sS --noproxy '*' https://api.example.com/ >/dev/null && \
         echo busy; sleep {mark}"
    );
    let run = sandbox(world).allow("api.example.com");
    let run = Background::start(&mut run.command(&["sh", "-c", &script]));
    run.wait_line("busy");
    until("both children run", || with_argument(mark).len() >= 2);
    run
}

#[test]
fn when_the_gateway_is_killed_the_tree_ends_and_run_fails() {
    let world = world();
    let mark = marker();
    let run = busy(&world, &mark);
    let all = family(run.pid());
    kill("KILL", all.gateway);
    let (status, said) = run.end();
    assert!(!status.success(), "{status}");
    assert!(said.contains("gateway"), "nobody is told why: {said}");
    until("nothing is left inside", || with_argument(&mark).is_empty());
    assert!(!runs(all.init) && !runs(all.gateway));
}

/// Cut off, never open: whatever the program still does after the gateway's death reaches nobody.
#[test]
fn when_the_gateway_is_killed_nothing_gets_out_any_more() {
    let world = world();
    let mark = marker();
    // Connects without a pause; each connection is a line in the world's log.
    let program = format!(
        "import socket\nprint('busy', flush=True)\nwhile True:\n  try:\n    \
         socket.create_connection(('raw.example.com', 9000), 20).sendall(b'{mark}')\n  \
         except OSError: pass\n"
    );
    let run = sandbox(&world).allow("raw.example.com:9000");
    let run = Background::start(&mut run.command(&["python3", "-c", &program]));
    run.wait_line("busy");
    let visits = |world: &World| {
        let log = world.server_log();
        log.iter()
            .filter(|event| event.event == "accept" && event.local.ends_with(":9000"))
            .count()
    };
    until("connections arrive", || visits(&world) > 3);
    kill("KILL", family(run.pid()).gateway);
    assert!(!run.end().0.success());
    // Both logs are written before an answer is given; the sandbox has ended.
    let at_the_end = visits(&world);
    let again = sandbox(&world).allow("api.example.com").run(&[
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "https://api.example.com/",
    ]);
    again.assert_ok();
    assert_eq!(visits(&world), at_the_end);
}

#[test]
fn when_run_is_killed_nothing_survives() {
    let world = world();
    let mark = marker();
    let run = busy(&world, &mark);
    let all = family(run.pid());
    kill("KILL", run.pid());
    assert_eq!(run.end().0.signal(), Some(9));
    until("nothing is left inside", || with_argument(&mark).is_empty());
    until("the gateway has ended", || !runs(all.gateway));
    until("the first process has ended", || !runs(all.init));
}

#[test]
fn when_the_first_process_is_killed_the_tree_ends_and_run_fails() {
    let world = world();
    let mark = marker();
    let run = busy(&world, &mark);
    let all = family(run.pid());
    kill("KILL", all.init);
    assert!(!run.end().0.success());
    until("nothing is left inside", || with_argument(&mark).is_empty());
    until("the gateway has ended", || !runs(all.gateway));
}

/// The program inside cannot end the one that holds its door: it is out of reach, and deaf.
#[test]
fn the_first_process_cannot_be_signalled_from_inside() {
    let world = world();
    let ran = sandbox(&world).sh(
        "for signal in TERM INT HUP QUIT USR1 STOP KILL; do kill -$signal 1; done 2>/dev/null; \
         getent ahostsv4 localhost >/dev/null && echo alive",
    );
    ran.assert_ok().assert_out("alive");
}

#[test]
fn signals_to_run_reach_the_program() {
    let world = world();
    for (signal, code) in [
        ("TERM", 31),
        ("INT", 32),
        ("HUP", 33),
        ("USR1", 34),
        ("USR2", 35),
    ] {
        let program = format!(
            "import os, signal\nsignal.signal(signal.SIG{signal}, lambda *_: os._exit({code}))\n\
             print('ready', flush=True)\nwhile True: signal.pause()"
        );
        let run = Background::start(&mut sandbox(&world).command(&["python3", "-c", &program]));
        run.wait_line("ready");
        kill(signal, run.pid());
        let (status, said) = run.end();
        assert_eq!(status.code(), Some(code), "SIG{signal}: {said}");
        assert_eq!(said, "", "SIG{signal}");
    }
}

#[test]
fn signals_that_end_the_program_give_128_and_the_signal() {
    let world = world();
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let mark = marker();
        let script = format!("echo ready; exec sleep {mark}");
        let run = Background::start(&mut sandbox(&world).command(&["sh", "-c", &script]));
        run.wait_line("ready");
        until("sleep runs", || !with_argument(&mark).is_empty());
        kill(signal, run.pid());
        assert_eq!(run.end().0.code(), Some(code), "SIG{signal}");
    }
}

/// One who knows `run` alone, not its job, continues the program through it.
#[test]
fn a_stopped_program_is_continued_through_run() {
    let world = world();
    let script = "kill -STOP $$; echo goes on; exit 5";
    let run = Background::start(&mut sandbox(&world).command(&["sh", "-c", script]));
    let stands = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", run.pid()));
        status.is_ok_and(|text| text.contains("State:\tT"))
    };
    until("run stands still, as its program does", stands);
    kill("CONT", run.pid());
    run.wait_line("goes on");
    assert_eq!(run.end().0.code(), Some(5));
}
