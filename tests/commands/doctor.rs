//! `doctor`: what the host can do, and the exact command where it cannot; `run` says the same.

use crate::processes::until;
use crate::support::{TIMEOUT, command, finish, portcullis, require, world};
use portcullis_testkit::World;
use portcullis_testkit::exec::Finished;

#[test]
fn doctor_is_content_where_the_tests_run() {
    let world = world();
    let done = command(&world, &["doctor"]);
    assert!(done.ok() && done.err().is_empty(), "{done}");
    for word in ["namespaces", "nf_tables", "/dev/net/tun", "/proc"] {
        assert!(done.out().contains(word), "nothing about {word}: {done}");
    }
    assert!(!done.out().contains("FAIL"), "{done}");
}

/// Runs portcullis where something is missing; what is missing is a setting of the namespace that
/// `unshare` makes, and ends with it.
fn where_missing(world: &World, takes_away: &str, args: &str) -> Finished {
    require("unshare");
    let script = format!("{takes_away} && exec {} {args}", portcullis().display());
    let mut unshare = world.command("unshare");
    finish(unshare.args(["-Urm", "sh", "-c", &script]), TIMEOUT)
}

/// Each fault is found, the fix is named, and `run` fails closed with the same fix.
#[track_caller]
fn is_found(takes_away: &str, found: &str, fix: &str) {
    let world = world();
    let doctor = where_missing(&world, takes_away, "doctor");
    assert_eq!(doctor.code(), Some(1), "{doctor}");
    let out = doctor.out();
    let failed: Vec<&str> = out
        .lines()
        .filter(|line| line.starts_with("FAIL"))
        .collect();
    assert!(
        failed.iter().any(|line| line.contains(found)),
        "{found} is not found: {doctor}"
    );
    assert!(
        out.lines()
            .any(|line| line.contains("fix:") && line.contains(fix)),
        "{doctor}"
    );
    let run = where_missing(
        &world,
        takes_away,
        "run --allow api.example.com -- echo ran",
    );
    assert_eq!(run.code(), Some(125), "{run}");
    assert!(run.stdout.is_empty(), "{run}");
    assert!(
        run.err().contains(fix),
        "run does not name the fix {fix}: {run}"
    );
}

#[test]
fn no_user_namespaces_are_found() {
    let takes_away = "echo 0 > /proc/sys/user/max_user_namespaces";
    is_found(takes_away, "user", "user.max_user_namespaces");
}

#[test]
fn no_network_namespaces_are_found() {
    let takes_away = "echo 0 > /proc/sys/user/max_net_namespaces";
    is_found(takes_away, "net", "user.max_net_namespaces");
}

/// A container's /proc: files of it are covered, and the kernel gives no new one.
#[test]
fn a_proc_with_covers_is_found() {
    is_found("mount --bind /dev/null /proc/meminfo", "/proc", "/proc");
}

#[test]
fn no_tun_device_is_found_by_who_needs_one() {
    let world = world();
    let takes_away = "mount -t tmpfs none /dev/net";
    let doctor = where_missing(&world, takes_away, "doctor");
    assert!(
        doctor
            .out()
            .lines()
            .any(|line| line.contains("/dev/net/tun") && line.starts_with("no"))
    );
    assert!(doctor.ok(), "run works without TAP devices: {doctor}");
    let run = where_missing(&world, takes_away, "run --tap tap0 -- echo ran");
    assert_eq!(run.code(), Some(125), "{run}");
    assert!(run.err().contains("/dev/net/tun"), "{run}");
    // Who needs none, runs.
    let run = where_missing(&world, takes_away, "run -- echo ran");
    assert_eq!(
        (run.code(), run.out()),
        (Some(0), "ran\n".to_owned()),
        "{run}"
    );
}

/// `doctor` tries what it reports on, and leaves nothing behind.
#[test]
fn doctor_leaves_nothing_behind() {
    let world = world();
    let look = |world: &World| {
        let script = "ls /proc/*/ns/net 2>/dev/null | wc -l; mount | wc -l";
        finish(world.command("sh").args(["-c", script]), TIMEOUT).out()
    };
    let before = mounts(&look(&world));
    assert!(command(&world, &["doctor"]).ok());
    until("the mounts are as before", || {
        mounts(&look(&world)) == before
    });
}

fn mounts(text: &str) -> String {
    text.lines().nth(1).unwrap_or_default().to_owned()
}
