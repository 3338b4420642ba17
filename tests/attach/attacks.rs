//! Programs in an attached sandbox that own its namespace, and use that.

use crate::places::{Attached, Who, assert_cut_off, started, state};
use crate::processes::{runs, with_argument};
use crate::support::world;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const ALLOW: [&str; 4] = ["--allow", "api.example.com", "--allow", "10.20.0.5:443"];

#[test]
fn a_program_that_flushes_the_rules_still_has_no_way_out() {
    let world = world();
    for who in Who::BOTH {
        let mut inside = started(&world, who, &["unshare", "-rn"]);
        let _attached = Attached::to(&world, who, &inside, &ALLOW);
        inside.expect("name api.example.com", "203.0.113.10");
        inside.expect(
            "sh PATH=$PATH:/usr/sbin:/sbin; nft flush ruleset && echo flushed",
            "flushed|",
        );
        for to in [
            "203.0.113.90 22",
            "203.0.113.10 22",
            "8.8.8.8 443",
            "2001:db8:10::90 22",
        ] {
            let said = inside.ask(&format!("open x {to}"));
            assert_ne!(said, "ok", "{to}");
        }
        inside.expect("name evil.example.net", "none");
        let curl = "sh curl -sS -m 60 -o /dev/null -w %{http_code} -x http://10.0.2.2:3128 http://evil.example.net/";
        inside.expect(curl, "403");
        world.assert_never_reached("203.0.113.90");
        world.assert_never_reached("8.8.8.8");
        world.assert_never_asked("evil");
    }
}

#[test]
fn a_program_that_sends_all_to_the_catch_all_meets_lease_and_port_again() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    inside.expect("name api.example.com", "203.0.113.10");
    // Rules of its own in place of the gateway's: everything is accepted, and reaches the listener.
    let rules = "sh export PATH=$PATH:/usr/sbin:/sbin; nft flush ruleset; \
                 nft add table ip own; \
                 nft add chain ip own pre '{ type filter hook prerouting priority -150; }'; \
                 nft add rule ip own pre ip protocol tcp tproxy to 10.0.2.2:15001 && echo open";
    inside.expect(rules, "open|");
    for to in [
        "203.0.113.90 22",
        "203.0.113.10 22",
        "192.0.2.2 22",
        "169.254.169.254 80",
    ] {
        let said = inside.ask(&format!("open x {to}"));
        assert_ne!(said, "ok", "{to}");
    }
    attached.until_denied("tcp", "address-not-leased", "203.0.113.90");
    world.assert_never_reached("203.0.113.90");
    world.assert_never_reached("169.254.169.254");
}

#[test]
fn a_program_that_deletes_the_catching_routes_is_cut_off() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let _attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    inside.ask(
        "sh export PATH=$PATH:/usr/sbin:/sbin; nft flush ruleset; ip route flush table local; \
         ip -6 route flush table local; ip addr flush dev lo; ip rule flush",
    );
    assert_cut_off(&mut inside);
    world.assert_never_reached("203.0.113.90");
}

#[test]
fn devices_of_the_programs_own_lead_nowhere() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let _attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    inside.ask(
        "sh export PATH=$PATH:/usr/sbin:/sbin; nft flush ruleset; ip tuntap add dev own mode tap; \
         ip addr add 203.0.113.1/24 dev own; ip link set own up; \
         ip route del local default dev lo table local; ip route add default dev own",
    );
    for to in ["203.0.113.90 22", "198.51.100.8 443"] {
        assert_ne!(inside.ask(&format!("open x {to}")), "ok");
    }
    world.assert_never_reached("203.0.113.90");
}

#[test]
fn namespaces_inside_the_sandbox_are_no_way_out() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    // A user namespace of its own: the same network, under the same rules.
    inside.expect(
        "sh PATH=$PATH:/usr/sbin:/sbin; unshare -Ur nft flush ruleset 2>/dev/null || echo refused",
        "refused|",
    );
    inside.expect(
        "sh unshare -Ur curl -sS -m 60 -o /dev/null -w %{http_code} -x http://10.0.2.2:3128 http://evil.example.net/",
        "403",
    );
    // A network namespace of its own has nothing at all.
    let alone = inside.ask("sh unshare -Urn curl -sS -m 60 http://203.0.113.90/ 2>&1");
    assert!(alone.contains("curl: ("), "{alone}");
    // The host's and other processes' namespaces are not entered.
    for way in ["-n", "-m", "-U"] {
        let said = inside.ask(&format!(
            "sh PATH=$PATH:/usr/sbin:/sbin; nsenter -t {} {way} true 2>/dev/null && echo entered",
            attached.pid()
        ));
        assert_eq!(said, "", "{way}");
    }
    world.assert_never_reached("203.0.113.90");
}

#[test]
fn the_holder_and_the_gateway_cannot_be_traced_or_read() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    // Others of this machine have holders too.
    let others = with_argument("__hold");
    let attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    let mut pids: Vec<u32> = with_argument("__hold");
    pids.retain(|pid| runs(*pid) && !others.contains(pid));
    assert!(!pids.is_empty());
    pids.push(attached.pid());
    for pid in pids {
        let program = format!(
            "import ctypes, os\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             traced = libc.ptrace(16, {pid}, 0, 0) == 0\n\
             def reads(name):\n    try:\n        os.listdir(f'/proc/{pid}/{{name}}'); return True\n    except OSError:\n        return False\n\
             pidfd = os.pidfd_open({pid})\n\
             stolen = libc.syscall(438, pidfd, 3, 0) >= 0\n\
             said = f'{{traced}} {{reads(\"fd\")}} {{stolen}}'\n"
        );
        assert_eq!(inside.python(&program), "False False False", "{pid}");
    }
}

#[test]
fn a_second_gateway_changes_nothing_of_the_first() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let attached = Attached::to(&world, Who::User, &inside, &ALLOW);
    inside.expect("name api.example.com", "203.0.113.10");
    let before = state(&mut inside);
    let pid = inside.pid().to_string();
    let second = Attached::begin(
        &world,
        Who::User,
        &["--pid", &pid, "--allow", "evil.example.net"],
    );
    assert_eq!(second.end(), Some(1));
    let still = state(&mut inside);
    assert_eq!(still.contains("portcullis"), before.contains("portcullis"));
    inside.expect("connect api.example.com 443", "ok");
    inside.expect("name evil.example.net", "none");
    drop(attached);
}

#[test]
fn a_file_of_the_hosts_that_a_mount_hides_is_not_read_for_the_sandbox() {
    let world = world();
    let secret = world.file("secret", "hosts: secret\n");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    if std::fs::metadata(&secret).unwrap().uid() == 0 {
        std::os::unix::fs::chown(&secret, Some(65_534), Some(65_534)).unwrap();
    }
    // Root's holder would read what lies there; only what everybody may read is copied.
    let mut inside = started(&world, Who::User, &["unshare", "-rnm"]);
    inside.ask(&format!(
        "sh mount --bind {} /etc/nsswitch.conf",
        secret.display()
    ));
    let _attached = Attached::to(&world, Who::Root, &inside, &ALLOW);
    inside.expect("sh cat /etc/nsswitch.conf", "hosts: secret|");
    inside.expect(
        "sh nslookup api.example.com 10.0.2.3 | grep -c 203.0.113.10",
        "1|",
    );
}
