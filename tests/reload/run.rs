//! A live `run` follows its policy's files.

use crate::inside::Inside;
use crate::processes::until;
use crate::support::{Records, Sandbox, read_records, sandbox, world};
use crate::{allowing, changes, counts, replace};
use portcullis_testkit::World;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const RAW: &str = "raw.example.com:9000";
const API: &str = "api.example.com:9000";

/// A run by this policy file; its log.
fn follows<'w>(world: &'w World, policy: &Path) -> (Sandbox<'w>, PathBuf) {
    let sandbox = sandbox(world).args(&["--policy", &policy.display().to_string()]);
    let log = sandbox.log().to_owned();
    (sandbox, log)
}

/// Ends the program in order, with nothing on anybody's standard error, and gives the records.
#[track_caller]
fn end(inside: Inside, log: &Path) -> Records {
    let (status, said) = inside.end();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    read_records(log)
}

fn cut(records: &Records) -> usize {
    let closes = records.closes();
    let changed = closes
        .iter()
        .filter(|close| close["close_reason"] == "policy-changed");
    changed.count()
}

#[test]
fn an_edit_cuts_what_it_denies_and_what_it_allows_works_at_once() {
    let world = world();
    let policy = world.file("policy.toml", allowing(&[RAW, API]));
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    inside.expect("open raw raw.example.com 9000", "ok");
    inside.expect("open api api.example.com 9000", "ok");
    inside.expect("name ssh.example.com", "none");
    std::fs::write(&policy, allowing(&[API, "ssh.example.com:22"])).unwrap();
    inside.expect("wait raw", "reset");
    inside.expect("ping api", "ok");
    // Refused at every layer from now on, by name and by an address that was given out before.
    inside.expect("open again raw.example.com 9000", "no-name");
    inside.expect("connect 203.0.113.96 9000", "ECONNREFUSED");
    // And what is new resolves and connects.
    inside.expect("name ssh.example.com", "203.0.113.22");
    inside.expect("connect ssh.example.com 22", "ok");
    inside.expect("ping api", "ok");
    let records = end(inside, &log);
    assert_eq!(counts(&log), (1, 0), "{records}");
    assert_eq!(cut(&records), 1, "{records}");
    assert_eq!(changes(&log)[0].1, "2 rules, 1 flow cut");
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_recorded() {
    let world = world();
    let policy = world.file("policy.toml", allowing(&[API]));
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    inside.expect("open api api.example.com 9000", "ok");
    std::fs::write(
        &policy,
        "version = 1\n[network.domains]\n\"*.com\" = \"allow\"\n",
    )
    .unwrap();
    until("it is rejected", || counts(&log) == (0, 1));
    let (_, detail) = &changes(&log)[0];
    assert!(detail.contains("policy.toml:3:1: error: "), "{detail}");
    inside.expect("ping api", "ok");
    inside.expect("connect api.example.com 9000", "ok");
    inside.expect("name raw.example.com", "none");
    // The half of a file, then the file.
    std::fs::write(&policy, "version = 1\n[network.dom").unwrap();
    until("it is rejected", || counts(&log) == (0, 2));
    std::fs::write(&policy, allowing(&[API, RAW])).unwrap();
    until("it is taken over", || counts(&log) == (1, 2));
    inside.expect("open raw raw.example.com 9000", "ok");
    inside.expect("ping api", "ok");
    let records = end(inside, &log);
    assert_eq!(cut(&records), 0, "{records}");
}

#[test]
fn a_file_may_be_replaced_deleted_and_come_back() {
    let world = world();
    let policy = world.file("policy.toml", allowing(&[API]));
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    inside.expect("open api api.example.com 9000", "ok");
    for round in 1..=3 {
        replace(&policy, &allowing(&[API, RAW]));
        until("raw is allowed", || counts(&log).0 == round * 2 - 1);
        inside.expect("open raw raw.example.com 9000", "ok");
        replace(&policy, &allowing(&[API]));
        inside.expect("wait raw", "reset");
        until("raw is gone", || counts(&log).0 == round * 2);
        inside.expect("name raw.example.com", "none");
    }
    std::fs::remove_file(&policy).unwrap();
    until("it is missed", || counts(&log) == (6, 1));
    assert!(
        changes(&log)[6]
            .1
            .contains("policy.toml: error: cannot read the policy")
    );
    inside.expect("ping api", "ok");
    std::fs::write(&policy, allowing(&[RAW])).unwrap();
    inside.expect("wait api", "reset");
    until("it is back", || counts(&log) == (7, 1));
    inside.expect("open raw raw.example.com 9000", "ok");
    let records = end(inside, &log);
    assert_eq!(cut(&records), 4, "{records}");
}

#[test]
fn what_is_included_is_followed_too() {
    let world = world();
    let base = world.file("base.toml", allowing(&[RAW]));
    let main = format!("include = [\"base.toml\"]\n{}", allowing(&[API]));
    let policy = world.file("policy.toml", main);
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox.args(&["--deny", "ssh.example.com"]));
    inside.expect("open raw raw.example.com 9000", "ok");
    inside.expect("open api api.example.com 9000", "ok");
    // The flag is merged again: it denies what the file allows by now.
    std::fs::write(&base, allowing(&["ssh.example.com:22", "big.example.com"])).unwrap();
    inside.expect("wait raw", "reset");
    inside.expect("ping api", "ok");
    inside.expect("name big.example.com", "203.0.113.81");
    inside.expect("name ssh.example.com", "none");
    // A file that is included only now.
    let more = world.file("more.toml", allowing(&[RAW]));
    let main = format!(
        "include = [\"base.toml\", \"more.toml\"]\n{}",
        allowing(&[API])
    );
    std::fs::write(&policy, main).unwrap();
    until("more is read", || counts(&log) == (2, 0));
    inside.expect("open raw raw.example.com 9000", "ok");
    replace(&more, &allowing(&["smtp.example.com:25"]));
    inside.expect("wait raw", "reset");
    inside.expect("ping api", "ok");
    end(inside, &log);
}

/// The kernel refuses at connect() what address rules do not open; a reload must reach it.
#[test]
fn address_rules_reach_the_kernel() {
    let world = world();
    let rules = |rules: &str| format!("version = 1\n[network.addresses]\n{rules}");
    let open = rules("\"203.0.113.0/24:9000\" = \"allow\"\n");
    let policy = world.file("policy.toml", rules(""));
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    inside.expect("connect 203.0.113.96 9000", "ECONNREFUSED");
    std::fs::write(&policy, &open).unwrap();
    until("it is open", || counts(&log).0 == 1);
    inside.expect("open raw 203.0.113.96 9000", "ok");
    inside.expect("open api 203.0.113.10 9000", "ok");
    let narrower = format!("{open}\"203.0.113.96/32\" = \"deny\"\n");
    std::fs::write(&policy, &narrower).unwrap();
    inside.expect("wait raw", "reset");
    inside.expect("ping api", "ok");
    inside.expect("connect 203.0.113.96 9000", "ECONNREFUSED");
    inside.expect("connect 203.0.113.10 9000", "ok");
    std::fs::write(&policy, rules("")).unwrap();
    inside.expect("wait api", "reset");
    inside.expect("connect 203.0.113.10 9000", "ECONNREFUSED");
    until("all is recorded", || counts(&log).0 == 3);
    // More than the kernel's list holds is refused as a whole, and nothing changes.
    let many: String = (0..2_000)
        .map(|n| {
            format!(
                "\"198.51.{}.{}/32:{}\" = \"allow\"\n",
                n / 250,
                n % 250,
                1 + n
            )
        })
        .collect();
    std::fs::write(&policy, rules(&many)).unwrap();
    until("too many are rejected", || counts(&log) == (3, 1));
    assert!(
        changes(&log)[3].1.contains("exceed the limit of 1024"),
        "{:?}",
        changes(&log)
    );
    std::fs::write(&policy, &open).unwrap();
    until("it is open again", || counts(&log) == (4, 1));
    inside.expect("open raw 203.0.113.96 9000", "ok");
    end(inside, &log);
}

#[test]
fn a_storm_of_writes_ends_in_the_last_of_them() {
    let world = world();
    let policy = world.file("policy.toml", allowing(&[API]));
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    inside.expect("open api api.example.com 9000", "ok");
    for number in 0..200 {
        let text = allowing(&[
            API,
            if number % 2 == 0 {
                RAW
            } else {
                "git.example.com"
            },
        ]);
        match number % 3 {
            0 => replace(&policy, &text),
            _ => std::fs::write(&policy, text).unwrap(),
        }
    }
    std::fs::write(&policy, allowing(&[API, "ssh.example.com:22"])).unwrap();
    until("the last one counts", || {
        inside.ask("name ssh.example.com") == "203.0.113.22"
    });
    inside.expect("name git.example.com", "none");
    inside.expect("name raw.example.com", "none");
    inside.expect("ping api", "ok");
    let records = end(inside, &log);
    assert_eq!(cut(&records), 0, "{records}");
}

#[test]
fn of_a_thousand_flows_the_half_that_lost_its_rule_is_cut() {
    let world = world();
    let policy = world.file("policy.toml", allowing(&[RAW, API]));
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    inside.expect("many raw raw.example.com 9000 500", "ok");
    inside.expect("many api api.example.com 9000 500", "ok");
    replace(&policy, &allowing(&[API]));
    inside.expect("all wait raw 500", "reset");
    inside.expect("all ping api 500", "ok");
    let records = end(inside, &log);
    assert_eq!(cut(&records), 500, "{records}");
    assert_eq!(changes(&log)[0].1, "1 rule, 500 flows cut");
}

/// As Kubernetes shows a ConfigMap: a link to a file in a folder that a second link names.
fn mounted(world: &World, mode: u32) -> PathBuf {
    let folder = world.home().join("mounted");
    for (version, text) in [("v1", allowing(&[API])), ("v2", allowing(&[API, RAW]))] {
        std::fs::create_dir_all(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("policy.toml"), text).unwrap();
    }
    symlink("v1", folder.join("..data")).unwrap();
    symlink("..data/policy.toml", folder.join("policy.toml")).unwrap();
    std::fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
    folder
}

fn turn(folder: &Path, to: &str) {
    symlink(to, folder.join("..new")).unwrap();
    std::fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
}

#[test]
fn a_link_in_a_folder_that_the_sandbox_cannot_write_to_is_followed() {
    let world = world();
    let folder = mounted(&world, 0o755);
    let (sandbox, log) = follows(&world, &folder.join("policy.toml"));
    let mut inside = Inside::start(&sandbox);
    inside.expect("open api api.example.com 9000", "ok");
    turn(&folder, "v2");
    until("the second version counts", || counts(&log).0 == 1);
    inside.expect("open raw raw.example.com 9000", "ok");
    turn(&folder, "v1");
    inside.expect("wait raw", "reset");
    inside.expect("ping api", "ok");
    end(inside, &log);
}

#[test]
fn a_link_that_the_sandbox_could_have_turned_is_not_followed() {
    let world = world();
    let folder = mounted(&world, 0o777);
    let (sandbox, log) = follows(&world, &folder.join("policy.toml"));
    let mut inside = Inside::start(&sandbox);
    inside.expect("open api api.example.com 9000", "ok");
    turn(&folder, "v2");
    // Its file is followed where it was when the run began.
    let text = allowing(&[API, "ssh.example.com:22"]);
    std::fs::write(folder.join("v1/policy.toml"), text).unwrap();
    until("the file counts", || counts(&log).0 == 1);
    inside.expect("name ssh.example.com", "203.0.113.22");
    inside.expect("name raw.example.com", "none");
    inside.expect("ping api", "ok");
    end(inside, &log);
}

#[test]
fn a_direct_connection_that_only_listens_is_cut_too() {
    let world = world();
    let policy = world.file("policy.toml", allowing(&["ssh.example.com:22", API]));
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    let listen = "import socket\ns = socket.create_connection(('ssh.example.com', 22), 30)\nsaid = s.recv(100)[:4].decode()";
    assert_eq!(inside.python(listen), "SSH-");
    std::fs::write(&policy, allowing(&[API])).unwrap();
    until("it is in force", || counts(&log) == (1, 0));
    let wait =
        "try: said = repr(s.recv(100))\nexcept OSError as error: said = type(error).__name__";
    assert_eq!(inside.python(wait), "ConnectionResetError");
    let records = end(inside, &log);
    assert_eq!(cut(&records), 1, "{records}");
}
