//! Floods of denials that differ: what they may write, and that the counts are exact.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use portcullis_policy::{Reason, Verdict};
use serde_json::Value;

use crate::recorder_tests::{denial, records};
use crate::{DEFAULT_DENIAL_LINES, Event, Layer, Protocol, Recorder};

fn datagram(detail: &str) -> Event<'_> {
    Event::new(
        Layer::Udp,
        Protocol::Kernel,
        Verdict::Deny,
        Reason::ProtocolNotAllowed,
    )
    .name(detail)
}

fn question(name: &str) -> Event<'_> {
    Event::new(
        Layer::Dns,
        Protocol::DnsUdp,
        Verdict::Deny,
        Reason::NotListed,
    )
    .name(name)
}

fn counted(records: &[Value]) -> u64 {
    records.iter().map(|r| r["count"].as_u64().unwrap()).sum()
}

fn is_summary(record: &Value) -> bool {
    record["detail"].is_string()
}

#[test]
fn below_the_budget_every_denial_has_its_own_record() {
    let (recorder, memory) = Recorder::to_memory("test");
    let own = DEFAULT_DENIAL_LINES.get() / 2;
    for n in 0..own {
        recorder.decision(denial(&format!("n{n}.example")));
        recorder.decision(question(&format!("n{n}.example")));
    }
    let records = records(&recorder, &memory);
    assert_eq!(records.len(), 2 * own as usize);
    assert!(!records.iter().any(is_summary));
}

#[test]
fn a_flood_of_one_kind_writes_its_budget_and_a_line_a_second_and_counts_exactly() {
    const MINUTES: u64 = 4;
    const LINES: u32 = 120;
    let (recorder, memory) = Recorder::to_memory("test");
    let recorder = recorder.with_denial_lines(NonZeroU32::new(LINES).unwrap());
    let start = Instant::now();
    let each = Duration::from_millis(5);
    let total = MINUTES * 60 * 200;
    for n in 0..u32::try_from(total).unwrap() {
        recorder.decide(&datagram(&format!("n{n}")), start + each * n, &|| None);
    }
    // Another kind still has lines of its own.
    let late = start + each * u32::try_from(total).unwrap();
    recorder.decide(&denial("quiet.example"), late, &|| None);
    let records = records(&recorder, &memory);
    assert_eq!(counted(&records), total + 1);
    let summaries = records.iter().filter(|record| is_summary(record));
    let own = records.len() - summaries.clone().count();
    let (minutes, lines) = (usize::try_from(MINUTES).unwrap(), LINES as usize);
    assert!(
        own <= lines / 2 * (minutes + 1) + 2,
        "{own} lines of their own"
    );
    assert!(summaries.clone().count() <= minutes * 60 + 1);
    for summary in summaries {
        assert_eq!(summary["reason"], "protocol-not-allowed");
        assert!(
            summary["detail"]
                .as_str()
                .unwrap()
                .contains("among them: n")
        );
    }
    assert!(
        records
            .iter()
            .any(|record| record["name"] == "quiet.example")
    );
}

#[test]
fn long_lines_and_many_kinds_stay_within_the_bytes_that_are_promised() {
    let (recorder, memory) = Recorder::to_memory("test");
    let start = Instant::now();
    let path = "/x".repeat(2_000);
    let mut total = 0;
    for &reason in Reason::ALL {
        for n in 0..500_u32 {
            let (name, now) = (
                format!("n{n}.example"),
                start + Duration::from_millis(100) * n,
            );
            let event = Event::new(Layer::Http, Protocol::Http, Verdict::Deny, reason);
            let mut event = event.name(&name);
            event.path = Some(&path);
            recorder.decide(&event, now, &|| None);
            total += 1;
        }
    }
    let records = records(&recorder, &memory);
    assert_eq!(counted(&records), total);
    let bytes: usize = memory.lines().iter().map(String::len).sum();
    let own = 8 * DEFAULT_DENIAL_LINES.get() as usize * 512;
    let summaries = Reason::ALL.len() * 61 * 1_024;
    assert!(bytes < own + summaries, "{bytes} bytes in a minute");
    let lines = memory.lines();
    let longest = lines.iter().filter(|line| line.contains("among them"));
    assert!(longest.map(String::len).max().unwrap() <= 1_024);
}

#[test]
fn threads_that_flood_at_once_are_counted_exactly() {
    const THREADS: u64 = 4;
    const EACH: u64 = 5_000;
    let (recorder, memory) = Recorder::to_memory("test");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let recorder = recorder.clone();
            scope.spawn(move || {
                for n in 0..EACH {
                    recorder.decision(question(&format!("t{thread}-{n}.example")));
                }
            });
        }
    });
    let records = records(&recorder, &memory);
    assert_eq!(counted(&records), THREADS * EACH);
    assert_eq!(recorder.denied_summary().total(), THREADS * EACH);
    assert!(records.len() < 2 * DEFAULT_DENIAL_LINES.get() as usize);
}
