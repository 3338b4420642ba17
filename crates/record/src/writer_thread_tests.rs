//! One thread that writes for many: each recorder does as if it had its own.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::recorder_tests::{denial, flow, records};
use crate::*;

const SOON: Duration = Duration::from_secs(20);
const RECORDERS: usize = 100;

fn shared(thread: &WriterThread) -> (Recorder, Memory) {
    let (recorder, memory) = Recorder::to_memory("test");
    (recorder.with_writer_thread(thread), memory)
}

fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_hundred_recorders_write_each_its_own_records_all_of_them_in_order() {
    let thread = WriterThread::start().unwrap();
    let all: Vec<_> = (0..RECORDERS).map(|_| shared(&thread)).collect();
    std::thread::scope(|scope| {
        for part in all.chunks(RECORDERS / 4) {
            scope.spawn(move || {
                for n in 0..100 {
                    for (recorder, _) in part {
                        recorder.decision(flow(&format!("f{n}.example")));
                        recorder.decision(denial("same.example"));
                    }
                }
            });
        }
    });
    for (recorder, memory) in &all {
        let records = records(recorder, memory);
        let flows = records.iter().filter(|record| record["verdict"] == "allow");
        assert_eq!(flows.count(), 100);
        let denied = |record: &&Value| record["verdict"] == "deny";
        let denied = records.iter().filter(denied);
        assert_eq!(
            denied
                .map(|record| record["count"].as_u64().unwrap())
                .sum::<u64>(),
            100
        );
        for (place, record) in records.iter().enumerate() {
            assert_eq!(record["seq"], place + 1);
        }
    }
}

#[test]
fn what_waits_for_its_time_is_written_without_anyone_asking() {
    let thread = WriterThread::start().unwrap();
    let all: Vec<_> = (0..RECORDERS).map(|_| shared(&thread)).collect();
    for (recorder, _) in &all {
        recorder.decision(denial("a.example"));
    }
    until("a denial is never written", || {
        all.iter().all(|(_, memory)| memory.lines().len() == 1)
    });
    // Nothing is open now; a flow wakes the thread again.
    for (recorder, _) in &all {
        recorder.decision(flow("b.example"));
    }
    until("a flow is never written", || {
        all.iter().all(|(_, memory)| memory.lines().len() == 2)
    });
}

#[test]
fn the_thread_ends_with_the_last_that_could_need_it_and_writes_what_waits() {
    let thread = WriterThread::start().unwrap();
    let bell = Arc::downgrade(&thread.0.0);
    let (early, early_memory) = shared(&thread);
    let (late, late_memory) = shared(&thread);
    let (never, _) = shared(&thread);
    early.decision(denial("a.example"));
    drop(early);
    assert_eq!(early_memory.lines().len(), 1);
    drop(thread);
    // It has recorded nothing so far.
    late.decision(denial("b.example"));
    assert!(late.flush(SOON).complete);
    assert_eq!(late_memory.lines().len(), 1);
    drop((late, never));
    until("the thread is still there", || bell.strong_count() == 0);
}

/// A sink that panics, or fails until it is mended.
struct Bad {
    panics: bool,
    fails: Arc<AtomicBool>,
    memory: Memory,
}

impl Write for Bad {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.panics, "it broke on purpose");
        match self.fails.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.memory.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_panics_or_is_full_harms_no_other_recorder() {
    let thread = WriterThread::start().unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let memory = Memory::default();
    let bad = |panics| {
        let (fails, memory) = (fails.clone(), memory.clone());
        let sink = Box::new(Bad {
            panics,
            fails,
            memory,
        });
        Recorder::to_writer(sink, "bad").with_writer_thread(&thread)
    };
    let (panics, full) = (bad(true), bad(false));
    let told = Arc::new(Mutex::new(String::new()));
    let tell = told.clone();
    panics.on_death(move |why| *tell.lock().unwrap() = why.to_owned());
    panics.decision(flow("a.example"));
    full.decision(flow("a.example"));
    until("nobody is told", || !told.lock().unwrap().is_empty());
    assert_eq!(
        *told.lock().unwrap(),
        "their writer panicked: it broke on purpose"
    );
    assert!(!panics.flush(SOON).complete);
    assert!(!full.flush(Duration::from_millis(50)).complete);
    let (good, good_memory) = shared(&thread);
    good.decision(flow("b.example"));
    assert!(good.flush(SOON).complete);
    assert_eq!(good_memory.lines().len(), 1);
    fails.store(false, Ordering::SeqCst);
    assert!(full.flush(SOON).complete);
    assert_eq!(memory.lines().len(), 1);
}

#[test]
fn a_recorder_that_has_begun_keeps_its_own_thread() {
    let (recorder, memory) = Recorder::to_memory("test");
    recorder.decision(flow("a.example"));
    let thread = WriterThread::start().unwrap();
    let recorder = recorder.with_writer_thread(&thread);
    drop(thread);
    recorder.decision(flow("b.example"));
    assert_eq!(records(&recorder, &memory).len(), 2);
}
