//! The units of `deploy/` under a real systemd, which is the first process of namespaces of its own.

use crate::support::{finish, portcullis, require};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long the whole may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How exposed the service may be, by systemd's own reckoning: from 0 to 10.
const MOST_EXPOSED: f64 = 7.4;

#[test]
fn the_units_are_started_restarted_killed_and_reloaded() {
    for program in ["unshare", "systemctl", "systemd-analyze", "pivot_root"] {
        require(program);
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let mut machine = Command::new("unshare");
    machine
        .args(["--mount", "--pid", "--fork", "--kill-child", "--uts"])
        .args(["--ipc", "--net", "--cgroup", "--propagation", "private"])
        .arg("bash")
        .arg(here.join("tests/daemon/systemd.sh"))
        .arg(portcullis())
        .arg(here.join("deploy"))
        .arg(out.path())
        .arg(here.join("tests/daemon/systemd.steps"));
    let booted = finish(&mut machine, LIMIT);
    let read = |name| std::fs::read_to_string(out.path().join(name)).unwrap_or_default();
    let (said, errors) = (read("said"), read("errors"));
    let about = |what: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(what));
        let line = line.and_then(|line| line.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("nothing of {what}:\n{said}\n{errors}\n{}", booted.err()))
    };
    for (what, expected) in [
        ("before the first request", "inactive"),
        // The request itself has it started, and waits.
        ("the first request", " 204"),
        ("after it", "active"),
        ("attached", " 201"),
        ("resolvers", "1"),
        ("refused", "403"),
        ("guest", " 201"),
        ("folder of guests", "711"),
        ("refused after a restart", "403"),
        ("while it is stopped", "000"),
        ("refused after a crash", "403"),
        ("the socket", "active"),
        ("verify", ""),
    ] {
        assert_eq!(about(what), expected, "{what}:\n{said}\n{errors}");
    }
    for what in ["after a restart", "after a reload"] {
        let listed = about(what);
        assert_eq!(listed.matches("serving").count(), 2, "{said}\n{errors}");
    }
    let exposed = about("security")
        .rsplit_once(' ')
        .map(|(_, number)| number.parse());
    let exposed: f64 = exposed.expect("a number").expect("a number");
    assert!(exposed <= MOST_EXPOSED, "{said}");
}
