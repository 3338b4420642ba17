//! What a program could do to its own record.

use crate::support::{sandbox, world};
use std::os::unix::fs::PermissionsExt;

#[test]
fn the_records_behind_a_symbolic_link_are_out_of_reach() {
    let world = world();
    let real = world.file("real.jsonl", "");
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o666)).unwrap();
    let log = sandbox(&world);
    std::os::unix::fs::symlink(&real, log.log()).unwrap();
    let ran = log.sh("getent hosts hidden.evil.example.net; \
         for file in real.jsonl decisions-*.jsonl; do \
         (: > $file) 2>/dev/null && echo emptied; rm -f $file 2>/dev/null && echo removed; \
         mv $file away 2>/dev/null && echo moved; done; true");
    ran.assert_ok();
    assert_eq!(ran.out(), "", "{ran}");
    ran.assert_one_denial("dns", "not-in-allowlist", "hidden.evil.example.net");
}
