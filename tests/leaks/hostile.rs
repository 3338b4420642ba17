//! Hostile DNS messages (`support/hostile.py`), inside a sandbox and against `serve --dns`: each gets
//! the code it deserves and one record, and nothing of any reaches a resolver.

use crate::processes::{Background, kill, until};
use crate::support::{self, Ran, Records, finish, read_records, require, sandbox};
use crate::{shared, upstream};
use portcullis_testkit::{World, WorldSpec};
use serde_json::Value;
use std::time::Duration;

crate::attacks! {
    hostile_messages_get_their_code_one_record_and_no_way_out,
    ten_thousand_datagrams_of_noise_change_nothing,
}

/// The module of messages; in the world's home, where Python finds it.
const HOSTILE: &str = include_str!("../support/hostile.py");
/// How long a whole list of messages may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);
/// What every name below is answered with, so that what was served can be told from what was not.
const RECORD: &str = "*.hostile.example.com A 203.0.113.10";
const LISTED: &str = "*.hostile.example.com";

fn hostile_world() -> World {
    let world = support::world_from(WorldSpec::standard().record(RECORD));
    world.file("gate.py", shared::GATE);
    world.file("hostile.py", HOSTILE);
    world
}

fn inside(world: &World, program: &str) -> Ran {
    require("python3");
    let ran = sandbox(world)
        .allow(LISTED)
        .limit(LIMIT)
        .python(&format!("import hostile; {program}"));
    ran.assert_ok();
    ran
}

/// `serve --dns` in the world, a Python program as its client, and then its records.
fn served(world: &World, program: &str) -> (String, Records) {
    const DOOR: &str = "127.0.0.1:5300";
    let log = world.home().join("served.jsonl");
    let mut serve = world.command(support::portcullis());
    serve
        .args(["serve", "--allow", LISTED, "--dns", DOOR, "--log"])
        .arg(&log);
    let serve = Background::start(&mut serve);
    until("it listens", || {
        let open = world.run("ss", &["-Hltn"], LIMIT).out();
        open.contains(DOOR)
    });
    let program = format!("import hostile; {program}");
    let mut client = world.command("python3");
    let done = finish(
        client.args(["-c", &program]).env("HOSTILE_SERVER", DOOR),
        LIMIT,
    );
    assert!(done.ok(), "{done}");
    kill("TERM", serve.pid());
    let (status, said) = serve.end();
    assert_eq!(status.code(), Some(0), "{said}");
    (done.out(), read_records(&log))
}

/// How many decisions of this protocol were denied, counts added up.
fn denied(records: &Records, protocol: &str) -> u64 {
    let all = records.all_denials();
    let mine = all.iter().filter(|record| record["protocol"] == protocol);
    mine.map(|record| record["count"].as_u64().unwrap_or(1))
        .sum()
}

/// The number behind a word of a line.
#[track_caller]
fn number(out: &str, line: &str, word: &str) -> u64 {
    let line = out.lines().find(|text| text.starts_with(line));
    let mut words = line.unwrap_or_else(|| panic!("{out}")).split(' ');
    words.by_ref().find(|text| *text == word);
    words
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no {word}: {out}"))
}

/// Fails the test unless every answer was right, every denial is on record once, and what left for
/// the resolvers is a canonical question for each of the messages that deserve an answer.
#[track_caller]
fn assert_right(world: &World, out: &str, records: &Records) {
    for (transport, protocol) in [("udp", "dns-udp"), ("tcp", "dns-tcp")] {
        let line = out.lines().find(|line| line.starts_with(transport));
        assert!(
            line.is_some_and(|line| line.ends_with("wrong []")),
            "{out}\n{records}"
        );
        let expected = number(out, transport, "denied");
        assert!(expected > 50, "{out}");
        assert_eq!(denied(records, protocol), expected, "{protocol}: {records}");
    }
    for denial in records.all_denials() {
        let reason = &denial["reason"];
        let known = ["malformed", "not-in-allowlist", "transfer-refused"];
        assert!(
            denial["layer"] == "dns" && known.iter().any(|one| reason == one),
            "{denial}"
        );
    }
    assert_nothing_smuggled(world);
}

/// Fails the test unless each query upstream is canonical, down to the last byte.
#[track_caller]
fn assert_nothing_smuggled(world: &World) {
    let asked = upstream::assert_all_canonical(world, "hostile.example.com");
    assert_eq!(asked.len(), world.dns_log().len(), "{:?}", world.dns_log());
    for query in &asked {
        assert!(
            query
                .name
                .to_ascii_lowercase()
                .ends_with(".hostile.example.com"),
            "{query:?}"
        );
    }
}

const ALL: &str = "hostile.all_cases('udp'); hostile.all_cases('tcp')";

fn hostile_messages_get_their_code_one_record_and_no_way_out() {
    let world = hostile_world();
    let ran = inside(&world, ALL);
    assert_right(&world, &ran.out(), &ran.records);
}

#[test]
fn hostile_messages_to_the_restrictive_resolver_get_theirs_too() {
    let world = hostile_world();
    let (out, records) = served(&world, ALL);
    assert_right(&world, &out, &records);
}

const STREAMS: &str =
    "hostile.bad_frames(); hostile.byte_by_byte(); hostile.half_closed(); hostile.pipelined()";

/// What [`STREAMS`] says: replies before the end of each bad stream, then bytewise, half-closed and
/// pipelined queries.
const STREAMS_SAY: &str = "zero 0 1\neleven 0\n64k 0 0\nTrue NOERROR\nTrue NOERROR\nTrue NOERROR\n\
                           [0, 1, 2]\nNone\nanswered 1000 right 1000\n";

#[track_caller]
fn assert_streams(world: &World, out: &str, records: &Records) {
    assert_eq!(out, STREAMS_SAY, "{records}");
    let framing = |record: &&&Value| {
        record["detail"]
            .as_str()
            .is_some_and(|text| text.contains("frame"))
    };
    let denials = records.all_denials();
    let bad: u64 = denials
        .iter()
        .filter(framing)
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(bad, 5, "{records}");
    assert_eq!(denied(records, "dns-tcp"), 5 + 500, "{records}");
    assert_nothing_smuggled(world);
}

#[test]
fn bad_frames_end_a_stream_and_pieces_halves_and_a_thousand_at_once_do_not() {
    let world = hostile_world();
    let ran = inside(&world, STREAMS);
    assert_streams(&world, &ran.out(), &ran.records);
}

#[test]
fn bad_frames_to_the_restrictive_resolver_end_a_stream_too() {
    let world = hostile_world();
    let (out, records) = served(&world, STREAMS);
    assert_streams(&world, &out, &records);
}

fn ten_thousand_datagrams_of_noise_change_nothing() {
    let world = hostile_world();
    let ran = inside(&world, "hostile.noise()");
    let alive = "NOERROR NOERROR\n";
    let expected = format!("after datagrams {alive}after streams {alive}");
    assert_eq!(ran.out(), expected, "{} records", ran.records.0.len());
    assert!(denied(&ran.records, "dns-udp") > 0 && denied(&ran.records, "dns-tcp") > 0);
    assert_nothing_smuggled(&world);
}
