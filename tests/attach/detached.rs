//! When a gateway ends, however it does, the namespace is what it was: without a network, never open.

use crate::inside::Inside;
use crate::places::{Attached, Who, assert_cut_off, innermost, started, state};
use crate::processes::{kill, runs, until, with_argument};
use crate::support::world;

const ALLOW: [&str; 2] = ["--allow", "api.example.com"];

/// The holders in a sandbox's network namespace.
fn holders(inside: &Inside) -> Vec<u32> {
    let network = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let of = network(innermost(inside.pid()));
    let mut holders = with_argument("__hold");
    holders.retain(|pid| runs(*pid) && network(*pid) == of);
    holders
}

#[test]
fn nothing_is_left_of_a_gateway_that_is_stopped() {
    let world = world();
    for who in Who::BOTH {
        for signal in ["TERM", "INT"] {
            let mut inside = started(&world, who, &["unshare", "-rn"]);
            let before = state(&mut inside);
            let attached = Attached::to(&world, who, &inside, &ALLOW);
            inside.expect("name api.example.com", "203.0.113.10");
            assert_ne!(state(&mut inside), before);
            assert_eq!(attached.stop(signal), Some(0));
            assert_eq!(state(&mut inside), before, "{who:?} {signal}");
            assert_cut_off(&mut inside);
        }
    }
}

#[test]
fn a_namespace_that_was_up_stays_up() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    inside.ask("sh PATH=$PATH:/usr/sbin:/sbin ip link set lo up");
    let before = state(&mut inside);
    let attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    assert_eq!(attached.stop("TERM"), Some(0));
    assert_eq!(state(&mut inside), before);
}

#[test]
fn a_killed_gateway_leaves_a_sandbox_without_a_network() {
    let world = world();
    for who in Who::BOTH {
        let mut inside = started(&world, who, &["unshare", "-rn"]);
        let before = state(&mut inside);
        let attached = Attached::to(&world, who, &inside, &ALLOW);
        inside.expect("name api.example.com", "203.0.113.10");
        assert_eq!(attached.stop("KILL"), None);
        until("the holder has taken the doors away", || {
            state(&mut inside) == before
        });
        assert_cut_off(&mut inside);
        until("no holder is left", || holders(&inside).is_empty());
    }
}

#[test]
fn what_a_killed_holder_leaves_leads_nowhere_and_is_cleared_by_the_next() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    inside.expect("name api.example.com", "203.0.113.10");
    let [holder] = holders(&inside)[..] else {
        panic!("there is one holder");
    };
    kill("KILL", holder);
    assert_eq!(attached.end(), Some(0), "the sandbox's doors are gone");
    assert_cut_off(&mut inside);
    let attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    inside.expect("name api.example.com", "203.0.113.10");
    inside.expect("connect api.example.com 443", "ok");
    assert_eq!(attached.stop("TERM"), Some(0));
    assert!(!state(&mut inside).contains("portcullis"));
    assert_cut_off(&mut inside);
}

#[test]
fn one_gateway_after_another_serves_the_same_sandbox() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rnm"]);
    for (allow, other) in [
        ("api.example.com", "ssh.example.com"),
        ("ssh.example.com", "api.example.com"),
    ] {
        let attached = Attached::to(&world, Who::User, &inside, &["--allow", allow]);
        assert_ne!(inside.ask(&format!("name {allow}")), "none");
        inside.expect(&format!("name {other}"), "none");
        assert_eq!(attached.stop("TERM"), Some(0));
    }
}
