//! A host's `/etc` of the test's own.

use crate::support::finish;
use portcullis_testkit::World;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Gives the world's host an `/etc` of its own, which the test can change; returns it.
pub fn own_etc(world: &World) -> PathBuf {
    let etc = world.home().join("etc");
    let script = "set -e; mkdir etc; cp -a /etc/. etc/ 2>/dev/null || true; \
        cat /etc/resolv.conf > etc/resolv.new; mv etc/resolv.new etc/resolv.conf; \
        chmod -R a+rX etc; chmod a+rwx etc; mount --bind etc /etc";
    let mut command = world.command_as_root("sh");
    let done = finish(command.args(["-c", script]), LIMIT);
    assert_eq!(done.code(), Some(0), "{done}");
    etc
}

/// Replaces a file as an editor does: by a rename.
pub fn replace(world: &World, name: &str, text: &str) {
    let file = world.file("replacement", text);
    let script = format!(
        "cat {} > etc/{name}.new; mv etc/{name}.new etc/{name}",
        file.display()
    );
    let mut command = world.command_as_root("sh");
    let done = finish(command.args(["-c", &script]), LIMIT);
    assert_eq!(done.code(), Some(0), "{done}");
}
