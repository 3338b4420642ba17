//! Look-ups of processes: who is looked up, and what a flood of denials costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use portcullis_policy::Verdict;

use crate::finder::{Finder, MAX_LOOKUP_TIME, MAX_LOOKUPS, PERIOD};
use crate::recorder_tests::{denial, flow, lookup, records, with};
use crate::windows::DENIAL_WINDOW;
use crate::*;

/// A recorder whose finder counts its calls and answers with them.
fn finding() -> (Recorder, Memory, Arc<AtomicUsize>) {
    let (recorder, memory) = Recorder::to_memory("test");
    let asked = Arc::new(AtomicUsize::new(0));
    let calls = asked.clone();
    let finder = move |client: Client| {
        let pid = calls.fetch_add(1, Ordering::SeqCst) as u32 + 1;
        let known = client.address.port() != 9;
        known.then(|| FoundProcess {
            pid,
            command: format!("{:?}", client.transport),
        })
    };
    (
        recorder.with_process_finder(Arc::new(finder)),
        memory,
        asked,
    )
}

fn from(port: u16) -> Option<Client> {
    Some(Client {
        transport: Transport::Tcp,
        address: ([10, 0, 2, 15], port).into(),
        server: None,
    })
}

#[test]
fn a_denial_s_process_is_looked_up_once_for_each_record() {
    let (recorder, memory, asked) = finding();
    let start = Instant::now();
    let event = denial("denied.example").client(from(4000));
    let mut first = None;
    for _ in 0..5 {
        first = Some(recorder.clone().decision_at(&event, start));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "repeats do not ask");
    let later = recorder.decision_at(&event, start + DENIAL_WINDOW);
    recorder.decision(denial("gone.example").client(from(9)));
    let known = Process {
        pid: 77,
        command: "known",
    };
    recorder.decision(
        denial("known.example")
            .client(from(4000))
            .process(Some(known)),
    );
    recorder.decision(denial("nowhere.example"));
    let records = records(&recorder, &memory);
    let first = with(&records, "id", &first.unwrap().to_string())[0];
    assert_eq!(first["count"], 5);
    assert_eq!(first["process"]["pid"], 1);
    assert_eq!(first["process"]["command"], "Tcp");
    let later = with(&records, "id", &later.to_string())[0];
    assert_eq!(later["process"]["pid"], 2);
    assert!(
        with(&records, "name", "gone.example")[0]
            .get("process")
            .is_none()
    );
    assert_eq!(
        with(&records, "name", "known.example")[0]["process"]["pid"],
        77
    );
    assert!(
        with(&records, "name", "nowhere.example")[0]
            .get("process")
            .is_none()
    );
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn what_is_let_through_is_never_looked_up() {
    let (recorder, memory, asked) = finding();
    recorder.decision(flow("a.example").client(from(4000)));
    recorder.decision(lookup("a.example").client(from(4000)));
    for verdict in [Verdict::Audit, Verdict::Error] {
        let event = Event {
            verdict,
            ..flow("b.example")
        };
        recorder.decision(event.client(from(4000)));
    }
    assert_eq!(records(&recorder, &memory).len(), 4);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn a_flood_of_different_denials_has_a_record_each_and_a_bounded_number_of_look_ups() {
    let (recorder, memory, asked) = finding();
    let start = Instant::now();
    let flood = 3 * MAX_LOOKUPS as usize;
    for number in 0..flood {
        let name = format!("{number}.example");
        recorder.decision_at(&denial(&name).client(from(4000)), start);
    }
    let looked_up = asked.load(Ordering::SeqCst);
    assert!(looked_up <= MAX_LOOKUPS as usize, "{looked_up}");
    recorder.decision_at(
        &denial("later.example").client(from(4000)),
        start + 2 * PERIOD,
    );
    assert_eq!(
        asked.load(Ordering::SeqCst),
        looked_up + 1,
        "another second"
    );
    let records = records(&recorder, &memory);
    assert_eq!(records.len(), flood + 1);
    let named = records
        .iter()
        .filter(|record| record.get("process").is_some());
    assert_eq!(named.count(), looked_up + 1);
    assert!(looked_up > 0);
}

#[test]
fn time_is_a_budget_too() {
    let slow = Finder::new(Arc::new(|_| {
        std::thread::sleep(MAX_LOOKUP_TIME);
        Some(FoundProcess {
            pid: 1,
            command: "x".to_owned(),
        })
    }));
    let client = from(4000).unwrap();
    let start = Instant::now();
    assert!(slow.find(client, start).is_some());
    assert_eq!(slow.find(client, start), None, "one look-up took it all");
    assert!(slow.find(client, start + 2 * PERIOD).is_some());
}
