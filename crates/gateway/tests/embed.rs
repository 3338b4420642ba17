//! The example that shows how to embed the gateway does what it says, for an ordinary user.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// Cargo builds examples beside the folder of the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/embed");
    assert!(
        path.is_file(),
        "{} is not there: `cargo build --package portcullis-gateway --examples`",
        path.display()
    );
    path
}

#[test]
fn the_example_lets_one_name_through_and_records_both() {
    let mut command = Command::new(example());
    if nix::unistd::getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.current_dir("/").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{failed}");
    for part in [
        "inside: allowed.example.com: HTTP/1.1 200",
        "inside: other.example.com: HTTP/1.1 403",
        "outside: the gateway has ended",
    ] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    let record = |parts: &[&str]| {
        said.lines()
            .any(|l| parts.iter().all(|part| l.contains(part)))
    };
    let allowed = ["\"allowed.example.com\"", "\"verdict\":\"allow\""];
    assert!(record(&allowed), "{said}");
    let denied = ["\"other.example.com\"", "\"not-in-allowlist\""];
    assert!(record(&denied), "{said}");
}
