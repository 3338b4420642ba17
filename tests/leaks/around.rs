//! Ways around the gateway: other socket families, io_uring, new rules, other namespaces, the
//! gateway's own process, sockets that fetch on one's behalf.

use crate::support::{Ran, Sandbox, finish, require, sandbox};
use crate::{assert_nothing_leaked, shared};
use std::time::{Duration, Instant};

/// What is still refused, and still served, after whatever was tried before.
const STILL: &str = "
import gate
print('still', gate.attempt('203.0.113.90', 443), gate.attempt('10.20.0.5', 80), gate.datagram('203.0.113.90', 443),
      gate.rcode(gate.ask(gate.query('still.evil.example.net'))), gate.status(gate.connect('203.0.113.90:443')[1]))
";

/// Fails the test unless everything is refused as ever, at the kernel or at least at the gateway.
#[track_caller]
fn assert_still_closed(ran: &Ran) {
    let out = ran.out();
    let line = out
        .lines()
        .find(|line| line.starts_with("still "))
        .unwrap_or_else(|| panic!("{ran}"));
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(
        (words[1], words[2]),
        ("ECONNREFUSED", "ECONNREFUSED"),
        "{ran}"
    );
    assert!(
        words[3].starts_with('E') && words[4] == "3" && words[5] == "403",
        "{ran}"
    );
    assert_nothing_leaked(&shared::world());
}

fn each(run: impl Fn(Sandbox<'_>, &str)) {
    let world = shared::world();
    run(
        sandbox(&world).allow("dual.example.com"),
        "as an ordinary user",
    );
    run(
        sandbox(&world).allow("dual.example.com").as_root(),
        "as root",
    );
}

#[test]
fn other_socket_families_do_not_exist() {
    each(|sandbox, who| {
        let ran = sandbox.python(&format!(
            "import socket\n\
             for family in range(64):\n\
             \x20for kind in 1, 2, 3, 5:\n\
             \x20 try: socket.socket(family, kind).close()\n\
             \x20 except OSError: continue\n\
             \x20 print(family, kind)\n\
             for family, kind, protocol in (17, 3, 0x0300), (2, 3, 255), (10, 3, 58), (2, 3, 1), (40, 1, 0), (2, 2, 262):\n\
             \x20try: socket.socket(family, kind, protocol); print('made', family, kind, protocol)\n\
             \x20except OSError: pass\n{STILL}"
        ));
        ran.assert_ok();
        let out = ran.out();
        for line in out.lines().filter(|line| !line.starts_with("still")) {
            assert!(!line.starts_with("made"), "{who}: {ran}");
            let family = line.split(' ').next().unwrap_or_default();
            // UNIX, INET, INET6, NETLINK.
            assert!(
                ["1", "2", "10", "16"].contains(&family),
                "{who}: family {family}: {ran}"
            );
        }
        assert_still_closed(&ran);
    });
}

#[test]
fn io_uring_keyrings_and_ptrace_of_the_outside() {
    each(|sandbox, who| {
        let ran = sandbox.python(&format!(
            "import ctypes, os, errno\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             def call(*args):\n\
             \x20ctypes.set_errno(0)\n\
             \x20return errno.errorcode.get(ctypes.get_errno(), '') if libc.syscall(*args) < 0 else 'done'\n\
             params = ctypes.create_string_buffer(120)\n\
             print('io_uring', call(425, 4, params))\n\
             print('request_key', call(249, b'dns_resolver', b'key.evil.example.net', b'', 0))\n\
             print('ptrace', ' '.join(sorted({{call(101, 16, pid, 0, 0) for pid in range(1, 300) if pid != os.getpid()}})))\n\
             print('processes', sum(name.isdigit() for name in os.listdir('/proc')))\n{STILL}"
        ));
        ran.assert_ok();
        assert!(
            ran.out().contains("io_uring ENOSYS") || ran.out().contains("io_uring EPERM"),
            "{who}: {ran}"
        );
        assert!(!ran.out().contains("request_key done"), "{who}: {ran}");
        let out = ran.out();
        let processes = out
            .lines()
            .find_map(|line| line.strip_prefix("processes "))
            .unwrap_or_default();
        let processes: usize = processes.parse().unwrap_or(usize::MAX);
        assert!(
            processes <= 4,
            "{who}: the processes of the outside are seen: {ran}"
        );
        assert_still_closed(&ran);
    });
}

#[test]
fn the_rules_cannot_be_flushed() {
    require("nft");
    require("unshare");
    each(|sandbox, who| {
        let ran = sandbox.sh(&format!(
            "nft flush ruleset && echo flushed; nft delete table inet portcullis && echo flushed; \
             ip addr add 192.0.2.200/24 dev lo && echo changed; ip route add default dev lo && echo changed; \
             ip link add dummy9 type dummy && echo changed; \
             unshare -Urn sh -c 'nft flush ruleset; ip link set lo up; dig +tries=1 +time=1 unshared.evil.example.net @8.8.8.8; \
             curl -sk -m 2 https://203.0.113.90/ && echo got out'; \
             python3 -c \"{}\"",
            STILL.replace('"', "\\\"")
        ));
        assert!(
            !ran.out().contains("flushed") && !ran.out().contains("changed"),
            "{who}: {ran}"
        );
        assert!(!ran.out().contains("got out"), "{who}: {ran}");
        assert_still_closed(&ran);
    });
}

#[test]
fn other_namespaces_cannot_be_joined() {
    require("nsenter");
    each(|sandbox, who| {
        let ran = sandbox.sh(&format!(
            "mine=$(readlink /proc/self/ns/net); \
             for pid in $(ls /proc | grep -E '^[0-9]+$') $$ $PPID 1; do for kind in net user mnt pid; do \
             nsenter --$kind=/proc/$pid/ns/$kind sh -c \"[ \\$(readlink /proc/self/ns/net) != $mine ] && echo elsewhere\" 2>/dev/null; \
             done; done; ls /run/netns /var/run/netns 2>/dev/null; nsenter -t 1 -a true && echo joined; \
             python3 -c \"{}\"",
            STILL.replace('"', "\\\"")
        ));
        assert!(!ran.out().contains("elsewhere"), "{who}: {ran}");
        assert_still_closed(&ran);
    });
}

#[test]
fn no_inherited_descriptor_is_a_way_out() {
    each(|sandbox, who| {
        let ran = sandbox.python(&format!(
            "import os\n\
             print('descriptors', sorted(os.readlink('/proc/self/fd/%s' % fd).split(':')[0] for fd in os.listdir('/proc/self/fd')\n\
             \x20     if int(fd) > 2 and os.path.exists('/proc/self/fd/%s' % fd)))\n{STILL}"
        ));
        ran.assert_ok();
        assert!(!ran.out().contains("socket"), "{who}: {ran}");
        assert_still_closed(&ran);
    });
}

/// Something on the host that would fetch for whoever connects: it counts its visitors in a file.
const HELPER: &str = "
import os, socket
path = os.path.abspath('helper.sock')
s = socket.socket(socket.AF_UNIX); s.bind(path); os.chmod(path, 0o777); s.listen()
while True:
    visitor = s.accept()[0]
    open('visitors', 'a').write('x'); visitor.sendall(b'at your service'); visitor.close()
";

const VISITOR: &str = "
import socket, os
s = socket.socket(socket.AF_UNIX); s.settimeout(20)
try: s.connect('helper.sock'); print(s.makefile('rb').read())
except OSError as e: print('refused')
for name in 'nscd/socket', 'systemd/resolve/io.systemd.Resolve', 'dbus/system_bus_socket', 'docker.sock', 'avahi-daemon/socket':
    if os.path.exists('/run/' + name): print('there', name)
";

#[test]
fn unix_sockets_that_listen_outside_are_out_of_reach() {
    let world = crate::support::world();
    let mut helper = world
        .command("python3")
        .args(["-c", HELPER])
        .spawn()
        .unwrap_or_else(|error| panic!("{error}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    let visit = || {
        finish(
            world.command("python3").args(["-c", VISITOR]),
            Duration::from_secs(30),
        )
    };
    while visit().out() != "b'at your service'\n" {
        assert!(
            Instant::now() < deadline,
            "the helper does not stand: {}",
            visit()
        );
    }
    let visitors = || std::fs::read(world.home().join("visitors")).map_or(0, |file| file.len());
    let before = visitors();
    for sandbox in [sandbox(&world), sandbox(&world).as_root()] {
        let ran = sandbox.allow("dual.example.com").python(VISITOR);
        ran.assert_ok();
        assert_eq!(ran.out(), "refused\n", "{ran}");
    }
    assert_eq!(visitors(), before, "something inside reached the helper");
    let _ = helper.kill();
    let _ = helper.wait();
}

#[test]
fn the_policy_and_the_record_are_not_the_child_s_to_write() {
    let world = shared::world();
    let policy = world.file(
        "kept.toml",
        "version = 1\n[network.domains]\n\"dual.example.com\" = \"allow\"\n",
    );
    let policy = policy.display().to_string();
    let sandbox = sandbox(&world).args(&["--policy", &policy]);
    let log = sandbox.log().display().to_string();
    let ran = sandbox.sh(&format!(
        "dig +short first.evil.example.net; for f in {policy} {log}; do \
         (echo nonsense >>$f) 2>/dev/null && echo wrote $f; (: >$f) 2>/dev/null && echo emptied $f; \
         rm -f $f 2>/dev/null && echo removed $f; mv $f $f.old 2>/dev/null && echo moved $f; done; \
         dig +short second.evil.example.net; true"
    ));
    ran.assert_ok();
    assert_eq!(ran.out(), "", "{ran}");
    for name in ["first.evil.example.net", "second.evil.example.net"] {
        ran.assert_one_denial("dns", "not-in-allowlist", name);
    }
    assert_nothing_leaked(&world);
}
