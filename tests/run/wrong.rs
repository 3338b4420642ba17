//! `run` where something about its caller is wrong: limits, streams, folders, variables, files. CMD runs
//! as outside, or one sentence with a hint says why not and the exit code is 125: never a panic, a
//! signal or a wait.

use crate::support::{TIMEOUT, finish, portcullis, world};
use portcullis_testkit::World;
use portcullis_testkit::exec::Finished;

/// What a case comes to.
#[derive(Clone, Copy, Debug)]
enum Comes {
    /// CMD runs.
    Ran,
    /// It does not; the message has this, and a hint that has the second.
    Failed(&'static str, &'static str),
    /// One of both, as this host has it; a failure has a hint with this.
    Either(&'static str),
}
use Comes::{Either, Failed, Ran};

const MANY: &str = "ulimit -u";

/// What is done before `run` in the same shell, with `$RUN` as the whole command.
const CASES: &[(&str, Comes)] = &[
    ("$RUN", Ran),
    (
        "ulimit -n 4; $RUN",
        Failed("Too many open files", "ulimit -n"),
    ),
    (
        "ulimit -n 8; $RUN",
        Failed("Too many open files", "ulimit -n"),
    ),
    (
        "ulimit -n 16; $RUN",
        Failed("Too many open files", "ulimit -n"),
    ),
    (
        "ulimit -n 24; $RUN",
        Failed("Too many open files", "ulimit -n"),
    ),
    ("ulimit -n 32; $RUN", Either("ulimit -n")),
    ("ulimit -n 64; $RUN", Ran),
    ("ulimit -u 1; $RUN", Either(MANY)),
    ("ulimit -u 3; $RUN", Either(MANY)),
    ("ulimit -u 5; $RUN", Either(MANY)),
    ("ulimit -u 6; $RUN", Either(MANY)),
    ("ulimit -u 7; $RUN", Either(MANY)),
    ("ulimit -u 8; $RUN", Either(MANY)),
    ("ulimit -u 10; $RUN", Either(MANY)),
    ("ulimit -u 12; $RUN", Either(MANY)),
    ("ulimit -f 0; $RUN", Failed("File too large", "ulimit -f")),
    ("ulimit -f 1; $RUN", Ran),
    ("ulimit -d 1000; $RUN", Failed("threads", "ulimit -v")),
    (
        "ulimit -s 128; $RUN",
        Failed("the stack may have 131072 bytes", "ulimit -s"),
    ),
    ("ulimit -s 512; $RUN", Ran),
    ("ulimit -l 0; ulimit -c 0; ulimit -t 5; $RUN", Ran),
    ("unset HOME; $RUN", Ran),
    (
        "export HOME=/no/such/folder TMPDIR=/no/such/folder; $RUN",
        Ran,
    ),
    ("export HOME= TMPDIR= PATH=/usr/bin:/bin; $RUN", Ran),
    (
        "export LANG=xx_YY.KOI8 TZ=No/Where COLUMNS=0 TERM=none; $RUN",
        Ran,
    ),
    ("exec env -i PATH=/usr/bin:/bin $RUN", Ran),
    ("$RUN <&-", Ran),
    ("$RUN 2>&-", Ran),
    ("$RUN <&- 2>&-", Ran),
    (
        "mkdir -p gone; cd gone; rmdir ../gone; $RUN",
        Failed("working directory", "change to one that exists"),
    ),
    (
        "mkdir -p gone; cd gone; rmdir ../gone; $RELATIVE",
        Failed("No such file", "the current folder was deleted"),
    ),
    (
        "mkdir -p shut; cd shut; chmod 0 .; $RUN",
        Either("change to a folder that you may enter"),
    ),
    (
        "$PORTCULLIS run --policy . -- echo ran",
        Failed("Is a directory", "name a file"),
    ),
    (
        "$PORTCULLIS run --policy none.toml -- echo ran",
        Failed("No such file", "check the path"),
    ),
    (
        "cp policy.toml shut.toml; chmod 0 shut.toml; $PORTCULLIS run --policy shut.toml -- echo ran",
        Failed("Permission denied", "let this user read"),
    ),
    (
        "head -c 999 /dev/zero | tr '\\0' '\\377' > odd.toml; $PORTCULLIS run --policy odd.toml -- echo ran",
        Failed("not valid UTF-8", "TOML"),
    ),
    (
        "$PORTCULLIS run --policy /dev/zero -- echo ran",
        Failed("larger than", ""),
    ),
    (
        "cp policy.toml own.toml; $PORTCULLIS run --policy own.toml --log own.toml -- echo ran; code=$?; grep -q time own.toml && echo SPOILT; exit $code",
        Failed("--log cannot write to a file of the policy", "its own file"),
    ),
    (
        "cp policy.toml own.toml; ln -sf own.toml link; $PORTCULLIS run --policy own.toml --debug-log link -- echo ran",
        Failed(
            "--debug-log cannot write to a file of the policy",
            "its own file",
        ),
    ),
    (
        "$PORTCULLIS run --log one --debug-log ./one -- echo ran",
        Failed(
            "--debug-log cannot write to the file of decision records",
            "its own file",
        ),
    ),
    (
        "$PORTCULLIS run --log /dev/null --debug-log /dev/null -- echo ran",
        Ran,
    ),
    (
        "$PORTCULLIS run --log . -- echo ran",
        Failed("Is a directory", "--log takes"),
    ),
    (
        "$PORTCULLIS run --log policy.toml/log -- echo ran",
        Failed("Not a directory", "--log takes"),
    ),
    (
        "ln -sf loop loop; $PORTCULLIS run --log loop -- echo ran",
        Failed("symbolic links", "--log takes"),
    ),
    (
        "$PORTCULLIS run --timeout '' -- echo ran",
        Failed("--timeout", "30s"),
    ),
    (
        "$PORTCULLIS run --timeout 0 -- echo ran",
        Failed("more than zero", "30s"),
    ),
    (
        "$PORTCULLIS run --timeout 99999999999999999999 -- echo ran",
        Failed("--timeout", "30s"),
    ),
];

#[track_caller]
fn shell(world: &World, script: &str) -> Finished {
    let (home, program) = (world.home().display().to_string(), portcullis());
    let run = format!(
        "{} run --policy {home}/policy.toml --log {home}/log.jsonl --debug-log {home}/debug.log --timeout 60 \
         -- echo ran",
        program.display()
    );
    let mut command = world.command("bash");
    command
        .args(["-c", script])
        .env("PORTCULLIS", &program)
        .env("RELATIVE", run.replace(&format!("{home}/policy"), "policy"))
        .env("RUN", run);
    finish(&mut command, TIMEOUT)
}

#[test]
fn whatever_is_wrong_is_said_in_one_sentence_with_a_hint() {
    let world = world();
    for (script, comes) in CASES {
        world.file("policy.toml", "version = 1\n");
        let done = shell(&world, script);
        let (out, err) = (done.out(), done.err());
        assert!(
            !done.timed_out && !err.contains("panicked"),
            "{script}: {done}"
        );
        let ran = done.code() == Some(0) && out == "ran\n" && err.is_empty();
        let failed = |what: &str, hint: &str| {
            let hinted = err
                .split_once("hint: ")
                .or_else(|| err.split_once("help: "));
            let hinted = hinted.map_or(err.as_str(), |(_, hint)| hint);
            done.code() == Some(125)
                && out.is_empty()
                && err.contains(what)
                && hinted.contains(hint)
        };
        let as_expected = match *comes {
            Ran => ran,
            Failed(what, hint) => failed(what, hint),
            Either(hint) => ran || failed("", hint),
        };
        assert!(as_expected, "{script} ({comes:?}): {done}");
    }
}

/// A message that nobody can read is no other exit code. Where a stream is closed, CMD has `/dev/null`.
#[test]
fn closed_and_full_streams_change_no_exit_code() {
    let world = world();
    world.file("policy.toml", "version = 1\n");
    for (script, code) in [
        ("$RUN <&- >&- 2>&-", 0),
        ("$RUN >&-", 0),
        ("$RUN > /dev/full 2> /dev/full", 1),
        ("$PORTCULLIS run -- sh -c 'exit 9' <&- >&- 2>&-", 9),
        (
            "$PORTCULLIS run --policy none.toml -- true <&- >&- 2>&-",
            125,
        ),
        (
            "$PORTCULLIS run --policy none.toml -- true > /dev/full 2> /dev/full",
            125,
        ),
        ("$PORTCULLIS run --no-such-flag 2>&-", 125),
        ("$PORTCULLIS run -- no-such-program 2> /dev/full", 127),
    ] {
        let done = shell(&world, script);
        assert_eq!(done.code(), Some(code), "{script}: {done}");
    }
}

/// A time that is over before CMD could be started is told: CMD cannot say so itself.
#[test]
fn a_time_that_is_over_before_the_start_is_told() {
    let world = world();
    let done = shell(&world, "$PORTCULLIS run --timeout 1ns -- echo ran");
    assert_eq!(done.code(), Some(124), "{done}");
    assert!(done.out().is_empty(), "{done}");
    assert!(
        done.err().contains("the time for echo was over before"),
        "{done}"
    );
}

/// Nothing is written anywhere but where flags say.
#[test]
fn a_read_only_root_is_enough() {
    let world = world();
    world.file("policy.toml", "version = 1\n");
    let home = world.home().display().to_string();
    let script = "mount -o remount,ro,bind / && sh -c \"$INNER\"";
    let inner = format!(
        "touch /etc/here 2>/dev/null && echo WRITABLE; cd {home}; {} run --policy policy.toml -- echo ran",
        portcullis().display()
    );
    let mut command = world.command_as_root("unshare");
    command.args(["-m", "sh", "-c", script]).env("INNER", inner);
    let done = finish(&mut command, TIMEOUT);
    assert!(done.ok() && done.out() == "ran\n", "{done}");
}
