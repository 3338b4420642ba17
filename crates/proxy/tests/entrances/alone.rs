//! Runs a test in namespaces of its own.

use std::process::{Command, Stdio};

/// Set in the process that runs inside.
const INSIDE: &str = "PORTCULLIS_TEST_INSIDE";
/// Longest run of one test, in seconds.
const TEST_SECONDS: &str = "60";

/// Runs `body` in a fresh user and network namespace: this test binary again, with this one test.
pub fn run(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        for line in [
            "link set lo up",
            "route add local 0.0.0.0/0 dev lo",
            "-6 route add local ::/0 dev lo",
        ] {
            ip(line);
        }
        return body();
    }
    let name = test.split_once("::").map_or(test, |(_, name)| name);
    let binary = std::env::current_exe().expect("this binary has a path");
    let output = Command::new("timeout")
        .args([
            "--kill-after=1",
            TEST_SECONDS,
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
        ])
        .arg(binary)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("`timeout` and `unshare` are there");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `ip` in the network namespace of the calling thread.
pub fn ip(line: &str) {
    let status = Command::new("ip")
        .args(line.split(' '))
        .status()
        .expect("`ip` is there");
    assert!(status.success(), "ip {line}: {status}");
}

/// A test that runs alone, with a world around it.
#[macro_export]
macro_rules! scenario {
    ($name:ident, |$world:ident| $body:block) => {
        #[test]
        fn $name() {
            let test = concat!(module_path!(), "::", stringify!($name));
            $crate::alone::run(test, || $crate::world::within(|$world| Box::pin(async move $body)));
        }
    };
}
