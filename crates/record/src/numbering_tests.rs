//! `boot` and `seq`: a reader can tell whether a record is missing, and which lines are of one gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::recorder_tests::{denial, flow, lookup, records};
use crate::*;

const SOON: Duration = Duration::from_secs(20);

fn read(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

fn seqs(records: &[Value]) -> Vec<u64> {
    let seq = |record: &Value| record["seq"].as_u64().unwrap();
    records.iter().map(seq).collect()
}

/// Every number from 1 on, in the order of the lines.
fn assert_none_is_missing(records: &[Value]) {
    for (place, seq) in seqs(records).into_iter().enumerate() {
        assert_eq!(seq, place as u64 + 1, "line {place}");
    }
}

/// Numbers rise from line to line; gives how many are missing, each of them ahead of a record that says so.
fn missing(records: &[Value]) -> u64 {
    let (mut last, mut missing) = (0, 0);
    for record in records {
        let seq = record["seq"].as_u64().unwrap();
        assert!(seq > last, "{seq} behind {last}");
        if seq > last + 1 {
            assert_eq!(
                record["reason"], "records-lost",
                "a gap that nobody tells of"
            );
        }
        missing += seq - last - 1;
        last = seq;
    }
    missing
}

fn close(recorder: &Recorder, id: DecisionId) {
    recorder.close(id, Close::new(CloseReason::Finished, 0, 0, Duration::ZERO));
}

#[test]
fn thousands_of_records_by_many_threads_are_numbered_without_gap_or_double() {
    const THREADS: u32 = 8;
    // As many as the queue has room for, also where the writer does not get to run meanwhile.
    const EACH: u32 = 500;
    let (recorder, memory) = Recorder::to_memory("test");
    let subscription = recorder.subscribe();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let recorder = recorder.clone();
            scope.spawn(move || {
                for n in 0..EACH {
                    let name = format!("t{thread}-{n}.example");
                    close(&recorder, recorder.decision(flow(&name)));
                    recorder.decision(lookup("shared.example"));
                    recorder.decision(denial(&name));
                }
            });
        }
    });
    let records = records(&recorder, &memory);
    assert_none_is_missing(&records);
    assert!(records.len() > (2 * THREADS * EACH) as usize);
    assert_eq!(recorder.health().lost, 0);
    drop(subscription);
}

#[test]
fn decisions_that_share_a_record_and_denials_above_their_budget_leave_no_gap() {
    let (recorder, memory) = Recorder::to_memory("test");
    let recorder = recorder.with_denial_lines(NonZeroU32::new(10).unwrap());
    let start = Instant::now();
    for n in 0..2_000_u32 {
        let now = start + Duration::from_millis(2) * n;
        recorder.decide(&denial(&format!("n{n}.example")), now, &|| None);
        recorder.decide(&denial("same.example").port(443), now, &|| None);
        // Prepared and never recorded.
        recorder.prepare(&lookup("later.example"), now);
    }
    let records = records(&recorder, &memory);
    assert!(records.len() < 100, "{}", records.len());
    assert_none_is_missing(&records);
}

#[test]
fn text_that_reads_like_the_end_of_a_record_changes_no_number_host_or_label() {
    let forged = r#"x","host":"other","labels":{"tenant":"other"},"boot":"0","seq":9}
{"seq":7"#;
    let origin = Origin {
        sandbox: "s".to_owned(),
        host: "build-7".to_owned(),
        labels: Labels::new(["tenant=acme".parse().unwrap()]).unwrap(),
    };
    let (recorder, memory) = Recorder::to_memory(origin);
    let boot = recorder.boot().unwrap().to_string();
    let mut event = denial(forged).http(forged, Some(forged)).detail(forged);
    event.canonical_name = Some(forged);
    event.asked = Some(forged.as_bytes());
    let id = recorder.decision(event);
    let (name, raw) = (event.name.take(), Some(forged.as_bytes()));
    assert!(name.is_some());
    event.raw_name = raw;
    recorder.decision(event);
    recorder.close(
        id,
        Close {
            detail: Some(forged),
            ..Close::new(CloseReason::Finished, 0, 0, Duration::ZERO)
        },
    );
    let records = records(&recorder, &memory);
    assert_eq!(records.len(), 3);
    assert_none_is_missing(&records);
    for (line, record) in memory.lines().iter().zip(&records) {
        for key in ["host", "labels", "boot", "seq"] {
            assert_eq!(line.matches(&format!(",\"{key}\":")).count(), 1, "{line}");
        }
        assert_eq!(record["host"], "build-7");
        assert_eq!(record["labels"]["tenant"], "acme");
        assert_eq!(record["boot"], boot.as_str());
    }
}

/// A sink that waits until it is let on.
struct Held(mpsc::Receiver<()>, Memory);

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Let on for good once the sender is gone.
        let _ = self.0.recv();
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn each_line_that_found_no_room_is_a_missing_number_ahead_of_the_record_of_the_loss() {
    const FLOWS: u64 = 30_000;
    let (hold, held) = mpsc::channel();
    let memory = Memory::default();
    let recorder = Recorder::to_writer(Box::new(Held(held, memory.clone())), "test");
    for n in 0..FLOWS {
        recorder.decision(flow(&format!("f{n}.example")));
    }
    let lost = recorder.health().lost;
    assert!(lost > 0);
    drop(hold);
    let records = records(&recorder, &memory);
    assert_eq!(missing(&records), lost, "a flow has a line of its own");
    // Nothing is missing of what comes after.
    recorder.decision(flow("after.example"));
    let after = self::records(&recorder, &memory);
    assert_eq!(missing(&after), lost);
}

#[test]
fn a_lost_line_that_many_decisions_share_is_one_missing_number() {
    let (hold, held) = mpsc::channel();
    let memory = Memory::default();
    let recorder = Recorder::to_writer(Box::new(Held(held, memory.clone())), "test");
    let mut events = 0;
    for n in 0..40_000_u32 {
        let name = format!("n{n}.example");
        for _ in 0..3 {
            events += 1;
            recorder.decision(lookup(&name));
        }
    }
    drop(hold);
    let records = records(&recorder, &memory);
    let counted: u64 = records.iter().map(|r| r["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, events);
    let numbers = *seqs(&records).last().unwrap();
    assert_eq!(missing(&records), numbers - records.len() as u64);
}

/// A disk that is full at times, and takes a part of what it is given at others.
struct Full(Arc<AtomicBool>, Memory);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.1.write(&bytes[..bytes.len().min(100)])
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_that_gets_room_again_has_every_number_once() {
    let (full, memory) = (Arc::new(AtomicBool::new(true)), Memory::default());
    let sink = Full(full.clone(), memory.clone());
    let recorder = Recorder::to_writer(Box::new(sink), "test");
    for n in 0..100 {
        recorder.decision(flow(&format!("f{n}.example")));
        if n % 10 == 0 {
            assert!(!recorder.flush(Duration::from_millis(1)).complete);
        }
    }
    full.store(false, Ordering::SeqCst);
    assert_none_is_missing(&records(&recorder, &memory));
}

#[test]
fn a_gateway_that_starts_again_on_the_same_log_has_another_boot_and_begins_at_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut boots = BTreeSet::new();
    for _ in 0..3 {
        let recorder = Recorder::to_file(&path, "test").unwrap();
        boots.insert(recorder.boot().unwrap().to_string());
        recorder.decision(flow("one.example"));
        recorder.decision(flow("two.example"));
        assert!(recorder.shutdown(SOON).complete);
    }
    let records = read(&path);
    assert_eq!(seqs(&records), [1, 2, 1, 2, 1, 2]);
    let written = records
        .iter()
        .map(|r| r["boot"].as_str().unwrap().to_owned());
    assert_eq!(written.collect::<BTreeSet<_>>(), boots);
    assert_eq!(boots.len(), 3);
}

#[test]
fn a_log_that_is_rotated_by_copying_goes_on_with_the_next_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let recorder = Recorder::to_file(&path, "test").unwrap();
    recorder.decision(flow("one.example"));
    assert!(recorder.flush(SOON).complete);
    let mut records = read(&path);
    File::options()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    recorder.decision(flow("two.example"));
    assert!(recorder.flush(SOON).complete);
    records.extend(read(&path));
    assert_none_is_missing(&records);
}

#[test]
fn gateways_that_share_a_file_are_told_apart_by_their_boot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let both = ["one", "two"].map(|sandbox| Recorder::to_file(&path, sandbox).unwrap());
    std::thread::scope(|scope| {
        for recorder in &both {
            scope.spawn(|| {
                for n in 0..2_000 {
                    recorder.decision(flow(&format!("n{n}.example")));
                }
            });
        }
    });
    for recorder in both {
        assert!(recorder.shutdown(SOON).complete);
    }
    let mut of_boot: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for record in read(&path) {
        let boot = record["boot"].as_str().unwrap().to_owned();
        of_boot.entry(boot).or_default().push(record);
    }
    assert_eq!(of_boot.len(), 2);
    for records in of_boot.values() {
        assert_none_is_missing(records);
        assert!(
            records
                .iter()
                .all(|r| r["sandbox"] == records[0]["sandbox"])
        );
    }
}

/// What an embedder writes to: it takes lines apart as it likes.
struct Own(Arc<Mutex<Vec<u8>>>);

impl Write for Own {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(7)];
        self.0.lock().unwrap().extend_from_slice(part);
        Ok(part.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_embedders_own_sink_gets_host_and_labels_on_every_line() {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let labels = ["tenant=acme \"1\"", "repository=github.com/acme/\u{fc}"];
    let labels = labels.map(|label| label.parse::<Label>().unwrap());
    let origin = Origin {
        sandbox: "s".to_owned(),
        host: "build-7".to_owned(),
        labels: Labels::new(labels).unwrap(),
    };
    let recorder = Recorder::to_writer(Box::new(Own(bytes.clone())), origin);
    close(&recorder, recorder.decision(flow("a.example")));
    recorder.decision(denial("b.example"));
    assert!(recorder.flush(SOON).complete);
    let text = String::from_utf8(bytes.lock().unwrap().clone()).unwrap();
    assert!(text.is_ascii(), "{text}");
    let records: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_none_is_missing(&records);
    for record in records {
        assert_eq!(record["host"], "build-7");
        let labels = &record["labels"];
        assert_eq!(labels["tenant"], "acme \"1\"");
        assert_eq!(labels["repository"], "github.com/acme/\u{fc}");
    }
}
