//! What is no sandbox is not attached, and the message says what would help.

use crate::inside::Inside;
use crate::places::{Attached, Who, innermost, started, state};
use crate::processes::Background;
use crate::support::{TIMEOUT, command, finish, portcullis, world};
use portcullis_testkit::World;

#[track_caller]
fn refused(world: &World, who: Who, place: &[&str], what: &str) {
    let mut command = who.command(world, &portcullis().display().to_string());
    let done = finish(command.arg("attach").args(place), TIMEOUT);
    assert_eq!(done.code(), Some(1), "{done}");
    assert!(done.err().contains(what), "not {what:?}: {done}");
    assert!(
        done.err().contains("hint")
            || done.err().contains("help")
            || done.err().lines().count() > 1,
        "{done}"
    );
}

#[test]
fn the_hosts_own_namespace() {
    let world = world();
    for who in Who::BOTH {
        let host = Background::start(who.command(&world, "sleep").arg("1000"));
        let pid = host.pid().to_string();
        refused(
            &world,
            who,
            &["--pid", &pid],
            "network namespace of the host",
        );
    }
    refused(
        &world,
        Who::Root,
        &["--netns", "/proc/self/ns/net"],
        "network namespace of the host",
    );
    refused(
        &world,
        Who::Root,
        &["--netns", "/etc/passwd"],
        "no network namespace",
    );
    refused(
        &world,
        Who::Root,
        &["--netns", "/proc/self/ns/mnt"],
        "no network namespace",
    );
    refused(
        &world,
        Who::Root,
        &["--netns", "/run/netns/none"],
        "nothing is at",
    );
}

#[test]
fn a_process_that_has_ended() {
    let world = world();
    let mut gone = world.command("true").spawn().unwrap();
    gone.wait().unwrap();
    let pid = gone.id().to_string();
    refused(&world, Who::User, &["--pid", &pid], "there is no process");
}

#[test]
fn a_namespace_with_a_way_out() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let made = inside.ask(
        "sh PATH=$PATH:/usr/sbin:/sbin; ip tuntap add dev out mode tap && ip link set out up && echo made",
    );
    assert_eq!(made, "made|");
    let before = state(&mut inside);
    let pid = inside.pid().to_string();
    refused(&world, Who::User, &["--pid", &pid], "network device out");
    assert_eq!(state(&mut inside), before);
}

#[test]
fn a_namespace_with_a_gateway() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let attached = Attached::to(&world, Who::User, &inside, &["--allow", "api.example.com"]);
    let pid = inside.pid().to_string();
    refused(
        &world,
        Who::User,
        &["--pid", &pid],
        "another gateway serves the sandbox",
    );
    inside.expect("name api.example.com", "203.0.113.10");
    assert_eq!(attached.stop("TERM"), Some(0));
}

#[test]
fn a_sandbox_of_root_that_a_user_names() {
    let world = world();
    let inside: Inside = started(&world, Who::Root, &["unshare", "-n"]);
    let pid = innermost(inside.pid()).to_string();
    refused(
        &world,
        Who::User,
        &["--pid", &pid],
        "cannot attach to the sandbox",
    );
}

#[test]
fn bad_flags() {
    let world = world();
    for args in [
        &["attach"][..],
        &["attach", "--pid", "0"],
        &["attach", "--pid", "x"],
        &["attach", "--pid", "1", "--netns", "/x"],
        &["attach", "--pid", "1", "--allow", "*.com"],
        &["attach", "--pid", "1", "--ca-cert", "/tmp/x"],
    ] {
        let done = command(&world, args);
        assert_eq!(done.code(), Some(2), "{args:?}: {done}");
    }
}
