//! The command's standard streams are its own, byte by byte: nothing of the gateway is ever in them.

use crate::shared;
use crate::support::sandbox;
use std::time::Duration;

/// What goes through each stream.
const STREAM_BYTES: usize = 100 * 1024 * 1024;
/// How long that may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Bytes that no compression and no line discipline would leave alone (xorshift, fixed seed).
fn random(count: usize, mut state: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

#[test]
fn stdout_and_stderr_are_byte_exact_with_100_mb_through_each() {
    let world = shared::world();
    let (first, second) = (random(STREAM_BYTES, 1), random(STREAM_BYTES, 2));
    world.file("first", &first);
    world.file("second", &second);
    // Denials while they flow: not a word of them may appear.
    let ran = sandbox(&world).limit(LIMIT).sh(
        "cat first & cat second >&2 & \
         curl -s https://streams.evil.example.net/ >/dev/null 2>&1; getent hosts streams.evil.example.net >/dev/null 2>&1; wait",
    );
    let _ = std::fs::remove_file(world.home().join("first"));
    let _ = std::fs::remove_file(world.home().join("second"));
    assert!(
        ran.finished.ok() && !ran.records.all_denials().is_empty(),
        "{}",
        ran.records
    );
    assert!(
        ran.finished.stdout == first,
        "stdout: {} bytes",
        ran.finished.stdout.len()
    );
    assert!(
        ran.finished.stderr == second,
        "stderr: {} bytes",
        ran.finished.stderr.len()
    );
}

#[test]
fn stdin_is_byte_exact_with_100_mb_through_it() {
    let world = shared::world();
    let bytes = random(STREAM_BYTES, 3);
    let ran = sandbox(&world)
        .input(bytes.clone())
        .limit(LIMIT)
        .run(&["cat"]);
    assert!(
        ran.finished.ok() && ran.finished.stdout == bytes,
        "{} bytes",
        ran.finished.stdout.len()
    );
    assert_eq!(ran.err(), "");
}

#[test]
fn nothing_is_written_when_something_was_denied() {
    let world = shared::world();
    let ran = sandbox(&world).sh("getent hosts streams.evil.example.net; exit 7");
    ran.assert_code(7);
    assert_eq!(
        (ran.out(), ran.err()),
        (String::new(), String::new()),
        "{ran}"
    );
    assert!(!ran.records.all_denials().is_empty(), "{ran}");
}
