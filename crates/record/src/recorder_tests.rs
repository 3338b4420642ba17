//! The recorder as a whole: what is merged, what is never lost in silence, what a broken sink does.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};

use portcullis_names::RecordType;
use portcullis_policy::{Reason, Verdict};
use proptest::prelude::*;
use serde_json::Value;

use crate::windows::{DENIAL_WINDOW, LOOKUP_WINDOW};
use crate::*;

const SOON: Duration = Duration::from_secs(20);

pub(crate) fn denial(name: &str) -> Event<'_> {
    Event::new(
        Layer::Http,
        Protocol::Connect,
        Verdict::Deny,
        Reason::NotListed,
    )
    .name(name)
}

pub(crate) fn lookup(name: &str) -> Event<'_> {
    Event::new(
        Layer::Dns,
        Protocol::DnsUdp,
        Verdict::Allow,
        Reason::Allowed,
    )
    .name(name)
    .qtype(RecordType::A)
}

pub(crate) fn flow(name: &str) -> Event<'_> {
    Event::new(
        Layer::Http,
        Protocol::Connect,
        Verdict::Allow,
        Reason::Allowed,
    )
    .name(name)
    .port(443)
}

pub(crate) fn records(recorder: &Recorder, memory: &Memory) -> Vec<Value> {
    let flushed = recorder.flush(SOON);
    assert!(flushed.complete, "{flushed:?}");
    memory
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

pub(crate) fn with<'a>(records: &'a [Value], key: &str, value: &str) -> Vec<&'a Value> {
    records
        .iter()
        .filter(|record| record[key] == value)
        .collect()
}

/// Decides twice, which gives leave to repeat.
fn leave(recorder: &Recorder, event: &Event<'_>, now: Instant) -> Repeat {
    recorder.decide(event, now, &|| None);
    let repeat = recorder.decide(event, now, &|| None).repeat;
    repeat.expect("an equal decision was recorded before")
}

#[test]
fn log_flood_of_repeated_decisions_is_counted_into_one_record() {
    let (recorder, memory) = Recorder::to_memory("test");
    let start = Instant::now();
    let repeat = leave(&recorder, &denial("denied.example").port(443), start);
    for _ in 0..98 {
        assert!(recorder.repeat(&repeat, start + DENIAL_WINDOW / 2));
    }
    assert!(!recorder.repeat(&repeat, start + DENIAL_WINDOW));
    let records = records(&recorder, &memory);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0]["count"], 100);
    assert_eq!(recorder.counters().verdict(Verdict::Deny), 100);
    assert_eq!(recorder.denied_summary().groups[0].count, 100);
    assert!(
        !recorder.repeat(&repeat, start),
        "its record is written: the next decision needs one of its own"
    );
}

#[test]
fn a_subscriber_sees_repeated_decisions_too() {
    let recorder = Recorder::null();
    let start = Instant::now();
    let repeat = leave(&recorder, &lookup("listed.example"), start);
    assert!(recorder.repeat(&repeat, start));
    let subscription = recorder.subscribe();
    assert!(!recorder.repeat(&repeat, start));
    drop(subscription);
}

#[test]
fn a_suggestion_is_made_once_for_a_group() {
    let (recorder, _memory) = Recorder::to_memory("test");
    let made = AtomicUsize::new(0);
    let suggest = || {
        made.fetch_add(1, Ordering::Relaxed);
        Some("line".to_owned())
    };
    let start = Instant::now();
    for second in 0..3 {
        let event = denial("denied.example");
        recorder.decide(&event, start + DENIAL_WINDOW * second, &suggest);
    }
    assert_eq!(made.load(Ordering::Relaxed), 1);
    let summary = recorder.denied_summary();
    assert_eq!(summary.groups[0].suggestion.as_deref(), Some("line"));
}

#[test]
fn equal_denials_within_a_second_share_one_record_and_later_ones_do_not() {
    let (recorder, memory) = Recorder::to_memory("test");
    let start = Instant::now();
    let event = denial("denied.example").port(443);
    let first = recorder.decision_at(&event, start);
    let second = recorder.decision_at(&event, start + DENIAL_WINDOW - Duration::from_millis(1));
    let third = recorder.decision_at(&event, start + DENIAL_WINDOW);
    assert_eq!(first, second);
    assert_ne!(first, third);
    let records = records(&recorder, &memory);
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!(with(&records, "id", &first.to_string())[0]["count"], 2);
    assert_eq!(with(&records, "id", &third.to_string())[0]["count"], 1);
}

#[test]
fn denials_that_differ_in_anything_have_records_of_their_own() {
    let (recorder, memory) = Recorder::to_memory("test");
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let addresses = [address];
    let base = denial("a.example").port(443);
    let mut variants = vec![base; 8];
    variants[1].layer = Layer::Tcp;
    variants[2].protocol = Protocol::Socks5;
    variants[3].reason = Reason::DeniedByRule;
    variants[4].name = Some("b.example");
    variants[5].port = Some(80);
    variants[6].addresses = &addresses;
    variants[7].path = Some("/x");
    for event in &variants {
        recorder.decision(*event);
    }
    let query = denial("a.example").port(443).http("GET", Some("/x?1"));
    let same = denial("a.example").port(443).http("GET", Some("/x?2"));
    assert_eq!(
        recorder.decision(query),
        recorder.decision(same),
        "the query is not recorded"
    );
    assert_eq!(records(&recorder, &memory).len(), variants.len() + 1);
}

#[test]
fn allowed_lookups_of_one_name_and_type_share_a_minute_whatever_the_answer() {
    let (recorder, memory) = Recorder::to_memory("test");
    let start = Instant::now();
    let (one, two) = (
        ["192.0.2.1".parse().unwrap()],
        ["192.0.2.2".parse().unwrap()],
    );
    let first = recorder.decision_at(&lookup("a.example").addresses(&one), start);
    let later = start + LOOKUP_WINDOW - Duration::from_millis(1);
    assert_eq!(
        recorder.decision_at(&lookup("a.example").addresses(&two), later),
        first
    );
    assert_ne!(
        recorder.decision_at(&lookup("a.example").qtype(RecordType::AAAA), later),
        first
    );
    assert_ne!(
        recorder.decision_at(&lookup("a.example"), start + LOOKUP_WINDOW),
        first
    );
    let records = records(&recorder, &memory);
    assert_eq!(with(&records, "qtype", "A").len(), 2);
    assert_eq!(with(&records, "qtype", "AAAA").len(), 1);
}

#[test]
fn flows_are_never_merged_since_a_close_refers_to_each() {
    let (recorder, memory) = Recorder::to_memory("test");
    let ids = [
        recorder.decision(flow("a.example")),
        recorder.decision(flow("a.example")),
    ];
    assert_ne!(ids[0], ids[1]);
    for (id, reason) in ids
        .into_iter()
        .zip([CloseReason::Finished, CloseReason::Shutdown])
    {
        recorder.close(
            id,
            Close::new(reason, 5, 7, Duration::from_micros(1_000_042)),
        );
    }
    let records = records(&recorder, &memory);
    let closes = with(&records, "event", "close");
    assert_eq!(closes.len(), 2);
    assert_eq!(closes[0]["id"], ids[0].to_string());
    assert_eq!(closes[0]["duration"].as_f64(), Some(1.000_042));
    assert_eq!(
        (&closes[0]["bytes_up"], &closes[0]["bytes_down"]),
        (&5.into(), &7.into())
    );
    assert_eq!(closes[1]["close_reason"], "shutdown");
}

#[test]
fn a_denial_is_written_soon_after_its_second_without_anyone_asking() {
    let (recorder, memory) = Recorder::to_memory("test");
    let start = Instant::now();
    recorder.decision(denial("a.example"));
    while memory.lines().is_empty() {
        assert!(start.elapsed() < SOON, "never written");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() >= DENIAL_WINDOW - Duration::from_millis(50));
}

#[test]
fn a_window_that_opens_while_the_writer_sleeps_is_still_closed() {
    let (recorder, memory) = Recorder::to_memory("test");
    // The writer has written and sleeps without an end.
    recorder.decision(flow("a.example"));
    assert!(recorder.flush(SOON).complete);
    std::thread::sleep(Duration::from_millis(50));
    recorder.decision(denial("b.example"));
    let start = Instant::now();
    while memory.lines().len() < 2 {
        assert!(start.elapsed() < SOON, "the writer slept through it");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn dropping_the_last_handle_writes_what_waits() {
    let (recorder, memory) = Recorder::to_memory("test");
    let clone = recorder.clone();
    recorder.decision(denial("a.example"));
    drop(recorder);
    assert!(memory.lines().is_empty());
    drop(clone);
    assert_eq!(memory.lines().len(), 1);
}

/// A sink that takes nothing until its gate is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

struct Gated(Gate, Memory);

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (open, changed) = &*self.0.0;
        let mut guard = open.lock().unwrap();
        while !*guard {
            guard = changed.wait(guard).unwrap();
        }
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn log_flood_under_a_stuck_disk_blocks_nobody_and_every_decision_is_accounted_for() {
    let (gate, memory) = (Gate::default(), Memory::default());
    let recorder = Recorder::to_writer(Box::new(Gated(gate.clone(), memory.clone())), "test");
    let flows = 20_000;
    let names = 30_000;
    let start = Instant::now();
    for n in 0..flows {
        recorder.decision(flow(&format!("f{n}.example")));
    }
    for n in 0..names {
        recorder.decision(denial(&format!("n{n}.example")));
    }
    assert!(start.elapsed() < SOON, "a decision waited for the disk");
    assert!(recorder.health().lost > 0);
    assert!(!recorder.flush(Duration::from_millis(50)).complete);
    gate.open();
    let records = records(&recorder, &memory);
    let lost = with(&records, "reason", "records-lost");
    assert!(!lost.is_empty());
    let lost: u64 = lost
        .iter()
        .map(|record| record["count"].as_u64().unwrap())
        .sum();
    assert_eq!(lost, recorder.health().lost);
    let count = |verdict| -> u64 {
        with(&records, "verdict", verdict)
            .iter()
            .map(|r| r["count"].as_u64().unwrap())
            .sum()
    };
    // The loss itself is the only error.
    assert_eq!(
        count("allow") + count("deny") + count("error"),
        flows + names
    );
    assert!(
        count("deny") >= 4 * 1024,
        "the reserve is for denials: {}",
        count("deny")
    );
    assert_eq!(recorder.counters().verdict(Verdict::Deny), names);
    assert_eq!(recorder.denied_summary().total(), names);
}

/// A sink that fails a number of times, and takes one byte in between.
struct Failing(Arc<AtomicUsize>, Memory);

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.0.load(Ordering::SeqCst);
        if left == 0 {
            return self.1.write(bytes);
        }
        self.0.store(left - 1, Ordering::SeqCst);
        if left % 2 == 1 {
            self.1.write(&bytes[..1])
        } else {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn full_disk_is_reported_retried_and_leaves_whole_lines() {
    let (failures, memory) = (
        Arc::new(AtomicUsize::new(usize::MAX - 1)),
        Memory::default(),
    );
    let recorder = Recorder::to_writer(Box::new(Failing(failures.clone(), memory.clone())), "test");
    recorder.decision(flow("a.example"));
    let flushed = recorder.flush(Duration::from_millis(300));
    assert!(!flushed.complete && flushed.error.is_some(), "{flushed:?}");
    assert!(recorder.health().last_error.is_some());
    failures.store(3, Ordering::SeqCst);
    recorder.decision(flow("b.example"));
    assert_eq!(records(&recorder, &memory).len(), 2);
    assert_eq!(recorder.health().last_error, None);
}

#[test]
fn a_recorder_whose_sink_is_broken_for_good_ends_in_time() {
    let failures = Arc::new(AtomicUsize::new(usize::MAX - 1));
    let recorder = Recorder::to_writer(Box::new(Failing(failures, Memory::default())), "test");
    recorder.decision(denial("a.example"));
    let start = Instant::now();
    drop(recorder);
    assert!(start.elapsed() < SOON);
}

#[test]
fn dev_full_is_a_full_disk() {
    let recorder = Recorder::to_file("/dev/full", "test").unwrap();
    recorder.decision(flow("a.example"));
    let flushed = recorder.flush(Duration::from_millis(200));
    assert!(!flushed.complete);
    assert!(flushed.error.unwrap().contains("No space left"));
}

#[test]
fn two_recorders_append_whole_lines_to_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let both = ["one", "two"].map(|sandbox| Recorder::to_file(&path, sandbox).unwrap());
    for n in 0..2_000 {
        for recorder in &both {
            recorder.decision(flow(&format!("n{n}.example")));
        }
    }
    for recorder in both {
        assert!(recorder.shutdown(SOON).complete);
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let records: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(with(&records, "sandbox", "one").len(), 2_000);
    assert_eq!(with(&records, "sandbox", "two").len(), 2_000);
}

#[test]
fn threads_that_race_for_one_denial_share_its_record() {
    let (recorder, memory) = Recorder::to_memory("test");
    let barrier = Barrier::new(8);
    let now = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..1_000 {
                    recorder.decision_at(&denial("a.example"), now);
                }
            });
        }
    });
    let records = records(&recorder, &memory);
    // The writer may close the window in between if the machine is slow: no decision is lost then.
    let sum: u64 = records
        .iter()
        .map(|record| record["count"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, 8_000);
    assert!(records.len() < 10, "{}", records.len());
    assert_eq!(recorder.denied_summary().groups[0].count, 8_000);
}

#[test]
fn a_null_recorder_counts_and_shows() {
    let recorder = Recorder::null();
    let subscription = recorder.subscribe();
    let id = recorder.decision(denial("a.example").suggestion("\"a.example\" = \"allow\""));
    recorder.close(id, Close::new(CloseReason::Finished, 0, 0, Duration::ZERO));
    assert_eq!(recorder.counters().get(Verdict::Deny, Reason::NotListed), 1);
    let summary = recorder.denied_summary();
    assert_eq!(
        summary.groups[0].suggestion.as_deref(),
        Some("\"a.example\" = \"allow\"")
    );
    assert_eq!(
        subscription.next(Duration::ZERO).map(|seen| seen.id),
        Some(id)
    );
    assert!(recorder.flush(Duration::ZERO).complete);
}

#[test]
fn subscribers_see_decisions_that_share_a_record_one_by_one() {
    let (recorder, _memory) = Recorder::to_memory("test");
    let subscription = recorder.subscribe();
    let ids = [
        recorder.decision(lookup("a.example")),
        recorder.decision(lookup("a.example")),
    ];
    let seen: Vec<_> = subscription.drain().iter().map(|seen| seen.id).collect();
    assert_eq!(seen, ids);
}

#[test]
fn sixty_four_kib_paths_and_names_are_cut_and_marked_and_push_nothing_out() {
    let (key, value) = ("k".repeat(MAX_LABEL_KEY_BYTES), "\u{fc}".repeat(100));
    let (recorder, memory) = Recorder::to_memory(Origin {
        sandbox: "s\u{1b}".repeat(40_000),
        host: "h\u{1b}".repeat(40_000),
        labels: Labels::new([Label::new(key, value).unwrap()]).unwrap(),
    });
    let long = "/\u{202e}\"".repeat(32_768);
    let addresses = vec!["2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(); 500];
    let mut event = denial(&long)
        .http(&long, Some(&long))
        .addresses(&addresses)
        .detail(&long);
    event.canonical_name = Some(&long);
    event.rule = Some((&long, long.as_str().into()));
    event.upstream = Some(&long);
    event.process = Some(Process {
        pid: u32::MAX,
        command: &long,
    });
    event.attempts = Some(u32::MAX);
    (event.port, event.qtype) = (Some(u16::MAX), Some((u16::MAX - 1).into()));
    for stage in Stage::ALL {
        event.timings.set(*stage, Duration::MAX);
    }
    let id = recorder.decision(event);
    recorder.close(
        id,
        Close {
            detail: Some(&long),
            ..Close::new(
                CloseReason::UpstreamProtocol,
                u64::MAX,
                u64::MAX,
                Duration::MAX,
            )
        },
    );
    let records = records(&recorder, &memory);
    for (line, record) in memory.lines().iter().zip(&records) {
        assert!(line.len() < MAX_LINE_BYTES, "{}", line.len());
        assert!(line.is_ascii());
        assert_eq!(record["cut"], true);
    }
    let (decision, close) = (
        with(&records, "event", "decision"),
        with(&records, "event", "close"),
    );
    assert_eq!(decision[0]["count"], 1);
    assert_eq!(decision[0]["timings"]["total"], u32::MAX - 1);
    assert_eq!(close[0]["close_reason"], "upstream-protocol");
}

#[test]
fn credentials_in_a_malformed_target_do_not_reach_the_record() {
    let (recorder, memory) = Recorder::to_memory("test");
    let mut event = denial("").http("GET", Some("http://user:SECRET@host/a?token=SECRET#SECRET"));
    event.name = None;
    event.raw_name = Some(b"user:SECRET@host\r\n");
    event.asked = Some(b"http://user:SECRET@evil.example/a?token=SECRET");
    recorder.decision(event);
    let records = records(&recorder, &memory);
    assert!(!memory.lines()[0].contains("SECRET"));
    assert_eq!(records[0]["name"], "[userinfo]@host\r\n");
    assert_eq!(records[0]["path"], "/a");
    assert_eq!(records[0]["asked"], "[userinfo]@evil.example/a");
    assert_eq!(records[0]["cut"], true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_bytes_the_sandbox_sends_a_record_is_one_valid_line(
        raw in proptest::collection::vec(any::<u8>(), 0..2_000),
        method in ".{0,10}", path in ".{0,2000}", detail in ".{0,400}", command in ".{0,40}",
    ) {
        let (recorder, memory) = Recorder::to_memory("test");
        let mut event = denial("").http(&method, Some(&path)).detail(&detail);
        event.name = None;
        event.raw_name = Some(&raw);
        event.asked = Some(&raw);
        event.process = Some(Process { pid: 1, command: &command });
        recorder.decision(event);
        prop_assert!(recorder.flush(SOON).complete);
        let lines = memory.lines();
        prop_assert_eq!(lines.len(), 1);
        prop_assert!(lines[0].bytes().all(|b| (0x20..0x7f).contains(&b)));
        let record: Value = serde_json::from_str(&lines[0]).unwrap();
        prop_assert!(record["asked"].as_str().unwrap().len() <= 3 * 256);
        prop_assert_eq!(record["verdict"].as_str(), Some("deny"));
        prop_assert_eq!(record["method"].as_str(), Some(method.as_str()));
    }
}

#[test]
fn what_was_lost_is_counted_each_time_and_shown_once() {
    let recorder = Recorder::null();
    let subscription = recorder.subscribe();
    let reason = Reason::ProtocolNotAllowed;
    let event = Event::new(Layer::Udp, Protocol::Kernel, Verdict::Deny, reason);
    recorder.decisions(&event, 5_000);
    recorder.decisions(&event, 0);
    assert_eq!(recorder.denied_summary().total(), 5_000);
    assert_eq!(subscription.drain().len(), 1);
    assert_eq!(subscription.missed(), 0);
}
