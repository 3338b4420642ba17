//! The sandboxed program wants to write its own policy. It runs as the operator's user, so that the
//! file system alone does not stop it.

use crate::inside::Inside;
use crate::processes::until;
use crate::support::{Sandbox, read_records, sandbox, world};
use crate::{allowing, changes, counts};
use portcullis_testkit::World;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const API: &str = "api.example.com:9000";
const EVIL: &str = "evil.example.net";

fn follows<'w>(world: &'w World, policy: &Path) -> (Sandbox<'w>, PathBuf) {
    let sandbox = sandbox(world).args(&["--policy", &policy.display().to_string()]);
    let log = sandbox.log().to_owned();
    (sandbox, log)
}

/// A folder with a policy in it, two levels below the program's own.
fn policy_in(world: &World, folder: &str) -> PathBuf {
    let folder = world.home().join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let policy = folder.join("policy.toml");
    std::fs::write(&policy, allowing(&[API])).unwrap();
    // The program's user may do with all of it what it likes.
    for path in [&folder, folder.parent().unwrap(), &policy] {
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    policy
}

/// The operator's next change counts, in the file that the run began with; nothing before it did.
#[track_caller]
fn only_the_operator_counts(mut inside: Inside, real: &Path, log: &Path) {
    let before = changes(log);
    assert!(
        before.iter().all(|(reason, _)| reason == "policy-rejected"),
        "{before:?}"
    );
    inside.expect(&format!("name {EVIL}"), "none");
    std::fs::write(real, allowing(&[API, "ssh.example.com:22"])).unwrap();
    until("the operator's change counts", || counts(log).0 == 1);
    inside.expect("name ssh.example.com", "203.0.113.22");
    inside.expect(&format!("name {EVIL}"), "none");
    inside.expect("connect api.example.com 9000", "ok");
    let (status, said) = inside.end();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    let records = read_records(log);
    assert!(!records.denials("dns", "not-in-allowlist", EVIL).is_empty());
}

#[test]
fn the_file_cannot_be_written_or_replaced_from_inside() {
    let world = world();
    let policy = policy_in(&world, "a/b");
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    let (file, evil) = (policy.display(), allowing(&[EVIL]).replace('\n', "\\n"));
    let said = inside.ask(&format!(
        "sh exec 2>/dev/null; cd {}; printf '{evil}' > policy.toml && echo WROTE; \
         printf '{evil}' > new; mv -f new policy.toml && echo MOVED; rm -f policy.toml && echo REMOVED; \
         ln -f new policy.toml && echo LINKED; ln -sf new policy.toml && echo TURNED; \
         ln policy.toml second && echo NAMED && printf '{evil}' > second; mv policy.toml away && echo AWAY; \
         umount policy.toml && echo UMOUNTED; unshare -Urm sh -c 'umount {file}; mount -o remount,rw,bind {file}; \
         printf \"{evil}\" > {file}' && echo REMOUNTED; chmod 666 policy.toml && echo CHANGED; echo done",
        policy.parent().unwrap().display()
    ));
    assert_eq!(said, "done|");
    only_the_operator_counts(inside, &policy, &log);
}

/// The folder above is the program's to rename, and another one to put there.
#[test]
fn another_folder_in_the_place_of_the_policy_s_is_not_read() {
    let world = world();
    let policy = policy_in(&world, "a/b");
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    let (home, evil) = (world.home(), allowing(&[EVIL]).replace('\n', "\\n"));
    let said = inside.ask(&format!(
        "sh cd {}; mv a/b a/real && mkdir a/b && printf '{evil}' > a/b/policy.toml && echo one; \
         mv a elsewhere && mkdir -p a/b && printf '{evil}' > a/b/policy.toml && echo two",
        home.display()
    ));
    assert_eq!(said, "one|two|", "the file system lets it");
    assert!(std::fs::read_to_string(&policy).unwrap().contains(EVIL));
    // Long enough for every way of noticing.
    std::thread::sleep(std::time::Duration::from_secs(5));
    only_the_operator_counts(inside, &home.join("elsewhere/real/policy.toml"), &log);
}

/// Once the operator's editor has replaced the file, it is no mount inside any more: the program may
/// put another one there, which is no policy. What the operator owns alone still is.
#[test]
fn what_the_program_puts_in_the_place_of_a_replaced_file_is_not_read() {
    let world = world();
    let policy = policy_in(&world, "a/b");
    let (sandbox, log) = follows(&world, &policy);
    let mut inside = Inside::start(&sandbox);
    crate::replace(&policy, &allowing(&[API, "big.example.com"]));
    until("the operator's change counts", || counts(&log).0 == 1);
    inside.expect("name big.example.com", "203.0.113.81");
    let (folder, evil) = (
        policy.parent().unwrap(),
        allowing(&[EVIL]).replace('\n', "\\n"),
    );
    let said = inside.ask(&format!(
        "sh cd {}; printf '{evil}' > new && mv -f new policy.toml && echo replaced",
        folder.display()
    ));
    assert_eq!(said, "replaced|", "the file system lets it");
    until("it is noticed", || changes(&log).len() == 2);
    assert_eq!(counts(&log), (1, 1), "{:?}", changes(&log));
    let (_, detail) = changes(&log).pop().unwrap();
    assert!(detail.contains("could have written"), "{detail}");
    inside.expect(&format!("name {EVIL}"), "none");
    inside.expect("name big.example.com", "203.0.113.81");
    crate::replace(&policy, &allowing(&[API, "ssh.example.com:22"]));
    until("the operator's next change counts", || counts(&log).0 == 2);
    inside.expect("name ssh.example.com", "203.0.113.22");
    let (status, said) = inside.end();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    world.assert_never_asked("evil");
}

/// Folders on the way may be links, which are the program's to turn.
#[test]
fn a_link_on_the_way_that_is_turned_is_not_followed() {
    let world = world();
    let policy = policy_in(&world, "real");
    let home = world.home();
    std::os::unix::fs::symlink("real", home.join("way")).unwrap();
    let (sandbox, log) = follows(&world, &home.join("way/policy.toml"));
    let mut inside = Inside::start(&sandbox);
    let evil = allowing(&[EVIL]).replace('\n', "\\n");
    let said = inside.ask(&format!(
        "sh cd {}; mkdir evil && printf '{evil}' > evil/policy.toml && ln -sfn evil way && echo turned",
        home.display()
    ));
    assert_eq!(said, "turned|");
    std::thread::sleep(std::time::Duration::from_secs(5));
    only_the_operator_counts(inside, &policy, &log);
}

/// A file that was visible when the program started cannot be hidden from it later.
#[test]
fn a_password_written_into_a_visible_policy_does_not_take_effect() {
    let world = world();
    let policy = policy_in(&world, "a/b");
    let (sandbox, log) = follows(&world, &policy);
    let inside = Inside::start(&sandbox);
    let proxy = "[network.proxy]\nhttps = \"http://bob:secret@203.0.113.99:3128\"\n";
    let with_password = format!("{}{proxy}", allowing(&[API, EVIL]));
    std::fs::write(&policy, with_password).unwrap();
    until("the change is seen", || !changes(&log).is_empty());
    let seen = changes(&log);
    assert_eq!(seen[0].0, "policy-rejected", "{seen:?}");
    assert!(seen[0].1.contains("holds credentials"), "{seen:?}");
    assert!(!seen[0].1.contains("secret"), "{seen:?}");
    only_the_operator_counts(inside, &policy, &log);
}
