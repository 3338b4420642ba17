//! Files that the sandbox must not change: its policy, its records, its resolv.conf. And a disk
//! that is full.

use crate::support::{TIMEOUT, command, finish, portcullis, sandbox, world};

#[test]
fn the_resolver_cannot_be_replaced() {
    let world = world();
    let script = "cat /etc/resolv.conf; \
        { umount /etc/resolv.conf; umount -l /etc/resolv.conf; \
          unshare -Urm umount /etc/resolv.conf; unshare -Urm umount -l /etc/resolv.conf; \
          unshare -Urm mount -o remount,rw,bind /etc/resolv.conf; \
          echo nameserver 8.8.8.8 > /etc/resolv.conf; rm -f /etc/resolv.conf; } >/dev/null 2>&1; \
        echo ---; cat /etc/resolv.conf; getent ahostsv4 api.example.com | head -1; \
        grep ^hosts: /etc/nsswitch.conf";
    let ran = sandbox(&world).allow("api.example.com").sh(script);
    ran.assert_ok().assert_out("203.0.113.10");
    let out = ran.out();
    let (before, after) = out.split_once("---\n").unwrap_or_else(|| panic!("{ran}"));
    assert!(before.contains("nameserver 10.0.2.3"), "{ran}");
    assert!(after.starts_with(before), "{ran}");
    assert_eq!(before.matches("nameserver").count(), 1, "{ran}");
    assert!(
        after.contains("hosts:") && after.contains("files dns"),
        "{ran}"
    );
    let bad = ["resolve", "mdns", "mymachines", "myhostname", "nis"];
    let hosts = after
        .lines()
        .find(|line| line.starts_with("hosts:"))
        .unwrap_or("");
    assert!(!bad.iter().any(|word| hosts.contains(word)), "{hosts}");
}

#[test]
fn the_policy_and_the_records_are_read_only_inside() {
    let world = world();
    let base = world.file(
        "base.toml",
        "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n",
    );
    let text = "version = 1\ninclude = [\"base.toml\"]\n";
    let policy = world.file("main.toml", text);
    let run = sandbox(&world).args(&["--policy", &policy.display().to_string()]);
    let log = run.log().to_owned();
    let mut script = String::from("getent ahostsv4 evil.example.net; ");
    for file in [&base, &policy, &log] {
        let file = file.display();
        script += &format!(
            "cat {file} >/dev/null && echo readable; \
             {{ echo x >> {file} && echo APPENDED; true > {file} && echo EMPTIED; rm -f {file} && echo REMOVED; \
                mv {file} {file}.old && echo MOVED; chmod 777 {file} && echo CHANGED; \
                umount {file} && echo UNCOVERED; unshare -Urm umount {file} && echo UNCOVERED; \
                unshare -Urm mount -o remount,rw,bind {file} && echo REMOUNTED; }} 2>/dev/null; "
        );
    }
    let ran = run.sh(&(script + "true"));
    ran.assert_ok();
    assert_eq!(ran.out(), "readable\n".repeat(3), "{ran}");
    ran.assert_one_denial("dns", "not-in-allowlist", "evil.example.net");
    assert_eq!(std::fs::read_to_string(&policy).unwrap(), text);
}

/// Everything else on disk is the user's, as outside.
#[test]
fn other_files_are_as_they_were() {
    let world = world();
    let ran = sandbox(&world).sh("echo written > note.txt && cat note.txt && df /tmp > /dev/null");
    ran.assert_ok().assert_out("written");
    let note = std::fs::read_to_string(world.home().join("note.txt"));
    assert_eq!(note.unwrap_or_default(), "written\n");
}

/// Exhaustion: a full disk under the log. The program goes on, and decisions stay what they are.
#[test]
fn a_full_disk_under_the_log_does_not_break_the_program() {
    let world = world();
    let small = world.home().join("small");
    std::fs::create_dir(&small).unwrap();
    let small = small.display().to_string();
    let script = format!(
        "mount -t tmpfs -o size=4k,mode=777 small {small} && {{ cat /dev/zero > {small}/filler; \
         ls -l {small}; }} 2>/dev/null"
    );
    let mounted = finish(world.command_as_root("sh").args(["-c", &script]), TIMEOUT);
    assert!(mounted.out().contains("4096"), "no full disk: {mounted}");
    let log = format!("{small}/decisions.jsonl");
    let child = "for number in $(seq 60); do getent hosts $number.evil.example.net; done; \
                 curl -sS --noproxy '*' https://api.example.com/after; \
                 nc -zw 25 203.0.113.90 22 2>/dev/null || echo still refused";
    let args = [
        "run",
        "--allow",
        "api.example.com",
        "--log",
        &log,
        "--",
        "sh",
        "-c",
        child,
    ];
    let done = command(&world, &args);
    assert!(done.ok(), "{done}");
    assert!(
        done.out().contains("GET /after") && done.out().contains("still refused"),
        "{done}"
    );
    assert_eq!(done.err(), "", "{done}");
    world.assert_never_asked("evil");

    // What follows once there is room again is whole lines, and says that some are missing.
    let look = format!("rm {small}/filler; stat -c %s {log}");
    let size = finish(world.command("sh").args(["-c", &look]), TIMEOUT);
    assert!(size.ok(), "{size}");
}

/// One that is there but cannot be written is a failure before the start, not a silent one.
#[test]
fn a_log_that_cannot_be_opened_fails_before_the_start() {
    let world = world();
    for log in ["/proc/version", "/no/such/folder/log", "/"] {
        let done = command(&world, &["run", "--log", log, "--", "echo", "ran"]);
        assert_eq!(done.code(), Some(125), "{log}: {done}");
        assert!(
            done.stdout.is_empty() && done.err().contains(log),
            "{log}: {done}"
        );
    }
}

/// Several runs may share one file: lines of both, each whole.
#[test]
fn two_runs_append_to_one_log() {
    let world = world();
    let log = world.home().join("shared.jsonl");
    let program = portcullis();
    let script = format!(
        "for each in 1 2 3; do {program} run --log {log} -- sh -c \
         \"for n in 1 2 3 4 5; do getent ahostsv4 $each-\\$n.evil.example.net; done\" & done; wait",
        program = program.display(),
        log = log.display()
    );
    let done = finish(world.command("sh").args(["-c", &script]), TIMEOUT);
    assert!(done.ok(), "{done}");
    let records = crate::support::read_records(&log);
    for each in 1..=3 {
        for n in 1..=5 {
            let name = format!("{each}-{n}.evil.example.net");
            assert_eq!(
                records.denials("dns", "not-in-allowlist", &name).len(),
                1,
                "{name}\n{records}"
            );
        }
    }
}
