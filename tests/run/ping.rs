//! Ping reaches the sandbox's own addresses, and no other: each is refused at once and recorded, since
//! inside every address is one of the kernel's own, which would answer.

use std::time::{Duration, Instant};

use crate::support::{Ran, Sandbox, require, sandbox, world};

fn ping_is_refused<'a>(ran: &'a Ran, address: &str) -> &'a serde_json::Value {
    let denials = ran.records.denials("udp", "protocol-not-allowed", address);
    assert_eq!(denials.len(), 1, "{address}: {ran}");
    let detail = denials[0]["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("icmp: no rule can allow"), "{ran}");
    denials[0]
}

fn raw_socket_is_recorded(ran: &Ran) {
    let denied = ran.records.all_denials();
    assert_eq!(denied.len(), 1, "{ran}");
    assert_eq!(denied[0]["reason"], "protocol-not-allowed", "{ran}");
    let detail = denied[0]["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("a raw socket"), "{ran}");
}

/// Own addresses are answered, others fail, as this user.
fn pings(sandbox: &Sandbox<'_>) {
    require("ping");
    let ran = sandbox.sh(
        "for at in 127.0.0.1 127.9.9.9 ::1 10.0.2.15 localhost \"$(hostname)\"; do\n\
         ping -n -c1 -W5 \"$at\" | grep -c '1 received'\n\
         done",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "1\n".repeat(6), "{ran}");
    // Listed, unlisted, the gateway, the resolver, the host's own and private addresses.
    for at in [
        "203.0.113.10",
        "8.8.8.8",
        "10.0.2.2",
        "10.0.2.3",
        "169.254.169.254",
        "2001:db8:10::62",
        "fd50::1",
    ] {
        let started = Instant::now();
        let ran = sandbox.run(&["ping", "-n", "-c1", "-W20", at]);
        ran.assert_code(1).assert_out("+1 errors");
        assert!(started.elapsed() < Duration::from_secs(10), "{ran}");
        ping_is_refused(&ran, at);
    }
}

#[test]
fn ping_reaches_the_sandbox_itself_and_nobody_else() {
    let world = world();
    pings(&sandbox(&world).allow("api.example.com"));
    pings(&sandbox(&world).as_root());
}

#[test]
fn ping_by_a_listed_name_is_refused_with_that_name_on_record() {
    let world = world();
    let ran = sandbox(&world).allow("api.example.com").run(&[
        "ping",
        "-4",
        "-c1",
        "-W20",
        "api.example.com",
    ]);
    ran.assert_code(1);
    let denial = ping_is_refused(&ran, "203.0.113.10");
    assert_eq!(denial["name"], "api.example.com", "{ran}");
}

#[test]
fn other_programs_and_flags_find_no_answer_either() {
    let world = world();
    for program in ["ping", "traceroute", "tracepath", "fping", "busybox"] {
        require(program);
    }
    for (command, answer) in [
        ("ping -n -c1 -W20 -I lo 8.8.8.8", "bytes from"),
        ("ping -n -c1 -W20 -I 10.0.2.15 8.8.8.8", "bytes from"),
        ("ping -n -c1 -W20 -t 1 -s 3000 8.8.8.8", "bytes from"),
        ("ping -n -b -c1 -W20 255.255.255.255", "bytes from"),
        ("fping -c1 8.8.8.8", "64 bytes"),
        ("traceroute -n -q1 -w5 -m3 8.8.8.8", " ms"),
        ("traceroute -I -n -q1 -w5 -m3 8.8.8.8", " ms"),
        ("traceroute -6 -I -n -q1 -w5 -m3 2001:db8::1", " ms"),
        ("tracepath -n -m3 8.8.8.8", "reached"),
    ] {
        let ran = sandbox(&world).sh(&format!("{command} 2>&1"));
        assert!(
            !ran.finished.timed_out && !ran.out().contains(answer),
            "{command}: {ran}"
        );
        let denied = ran.records.all_denials();
        assert_eq!(denied.len(), 1, "{command}: {ran}");
        assert_eq!(denied[0]["reason"], "protocol-not-allowed", "{ran}");
    }
    // Raw sockets do not exist inside, whoever asks for one.
    for command in ["busybox ping -c1 8.8.8.8", "traceroute -T -n -m1 8.8.8.8"] {
        for sandbox in [sandbox(&world), sandbox(&world).as_root()] {
            let ran = sandbox.sh(&format!("{command} 2>&1"));
            assert!(ran.code() != Some(0) && !ran.finished.timed_out, "{ran}");
        }
        raw_socket_is_recorded(&sandbox(&world).as_root().sh(command));
    }
    let ran =
        sandbox(&world).sh("traceroute -I -n -q1 -w5 -m3 10.0.2.15 && tracepath -n -m3 127.0.0.1");
    ran.assert_ok().assert_no_denial().assert_out(" ms");
}

/// A program may have a network namespace of its own, which leads nowhere, and raw sockets in it.
#[test]
fn raw_sockets_are_refused_and_recorded_but_not_in_a_namespace_of_the_program_s_own() {
    let world = world();
    require("unshare");
    let raw = "python3 -c 'import socket, sys\n\
               for family, protocol in (socket.AF_INET, 1), (socket.AF_INET6, 58), (socket.AF_INET, 255):\n\
               \x20try: socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol); print(\"made\")\n\
               \x20except PermissionError: print(\"refused\")'";
    // A log of its own for each run.
    let runs = || [sandbox(&world), sandbox(&world).as_root()];
    for sandbox in runs() {
        let ran = sandbox.sh(raw);
        ran.assert_ok();
        assert_eq!(ran.out(), "refused\n".repeat(3), "{ran}");
    }
    let ran = sandbox(&world).as_root().sh(raw);
    raw_socket_is_recorded(&ran);
    assert_eq!(ran.records.all_denials()[0]["count"], 3, "{ran}");
    // An ordinary user gets none outside either.
    sandbox(&world).sh(raw).assert_no_denial();
    for sandbox in runs() {
        let ran = sandbox.sh(&format!("unshare -Urn {raw}"));
        ran.assert_ok().assert_no_denial();
        assert_eq!(ran.out(), "made\n".repeat(3), "{ran}");
    }
}

/// The socket sends echo requests only: no error in another's name, no advertisement.
#[test]
fn a_socket_for_ping_sends_nothing_but_requests_and_hears_nobody_else_s_answers() {
    let world = world();
    let ran = sandbox(&world).python(
        "import socket, errno\n\
         def sends(family, protocol, kinds, to):\n\
         \x20for kind in kinds:\n\
         \x20\x20with socket.socket(family, socket.SOCK_DGRAM, protocol) as s:\n\
         \x20\x20\x20try: s.sendto(bytes([kind]) + bytes(39), (to, 0)); print('sent', kind)\n\
         \x20\x20\x20except OSError as error: assert error.errno in (errno.EINVAL, errno.EPERM), error\n\
         sends(socket.AF_INET, 1, [0, 3, 5, 9, 11, 12, 13, 17], '127.0.0.1')\n\
         sends(socket.AF_INET6, 58, [1, 2, 3, 129, 133, 134, 136, 137], '::1')\n\
         sends(socket.AF_INET, 1, [8], '8.8.8.8')\n\
         one, other = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1) for _ in range(2)]\n\
         one.sendto(b'\\x08' + bytes(7) + b'mine', ('127.0.0.1', 0)); one.settimeout(25)\n\
         assert one.recv(99).endswith(b'mine')\n\
         other.settimeout(0.5)\n\
         try: print('heard', other.recv(99))\n\
         except TimeoutError: print('nothing')",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "nothing\n", "{ran}");
}
