//! What records say of where they come from: the host, and the labels that the operator gave.

use crate::support::{command, read_records, sandbox, world};
use serde_json::Value;

fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().to_owned()
}

#[test]
fn every_record_of_a_run_names_its_host_and_has_its_labels() {
    let world = world();
    for run in [sandbox(&world), sandbox(&world).as_root()] {
        let labels = [
            "--label",
            "tenant=acme",
            "--label",
            "repository=github.com/acme/api",
        ];
        let run = run.allow("api.example.com").args(&labels);
        let ran = run.sh(
            "curl -sS -o /dev/null http://api.example.com/; getent hosts evil.example.net; true",
        );
        ran.assert_ok();
        let records = read_records(run.log());
        assert!(!records.closes().is_empty(), "{ran}");
        ran.assert_one_denial("dns", "not-in-allowlist", "evil.example.net");
        for record in &records.0 {
            assert_eq!(record["host"], node_name().as_str(), "{record}");
            let labels = &record["labels"];
            assert_eq!(labels["tenant"], "acme", "{record}");
            assert_eq!(labels["repository"], "github.com/acme/api", "{record}");
        }
    }
}

#[test]
fn the_operator_chooses_the_hosts_name_or_none() {
    let world = world();
    for (name, expected) in [("build-7", Value::from("build-7")), ("", Value::Null)] {
        let run = sandbox(&world).args(&["--log-host", name]);
        run.sh("getent hosts evil.example.net; true").assert_ok();
        let records = read_records(run.log());
        assert!(!records.decisions().is_empty());
        for record in &records.0 {
            assert_eq!(record["host"], expected, "{record}");
            assert_eq!(record["labels"], Value::Null, "{record}");
        }
    }
}

#[test]
fn two_runs_on_one_log_are_told_apart_and_nothing_is_missing() {
    let world = world();
    let run = sandbox(&world);
    for _ in 0..2 {
        run.sh("getent hosts evil.example.net; true").assert_ok();
    }
    // Reading holds the numbers to their order.
    let records = read_records(run.log());
    let first = records.0.iter().filter(|record| record["seq"] == 1);
    let boots: Vec<&Value> = first.map(|record| &record["boot"]).collect();
    assert_eq!(boots.len(), 2);
    assert_ne!(boots[0], boots[1]);
}

#[test]
fn labels_that_cannot_be_had_are_refused_before_anything_starts() {
    let world = world();
    let marker = world.home().join("started");
    let log = world.home().join("labels.jsonl");
    let (marker_text, log) = (marker.display().to_string(), log.display().to_string());
    for labels in [
        &["--label", "tenant"][..],
        &["--label", "=acme"],
        &["--label", "a b=c"],
        &["--label", "a=b\nc"],
        &["--label", "tenant=acme", "--label", "tenant=other"],
    ] {
        let run = [
            &["run", "--log", &log],
            labels,
            &["--", "touch", &marker_text],
        ]
        .concat();
        let finished = command(&world, &run);
        assert_eq!(finished.code(), Some(125), "{labels:?}: {finished:?}");
        assert!(!marker.exists(), "{labels:?}");
        let serve = [&["serve", "--dns", "127.0.0.1:0", "--log", &log], labels].concat();
        assert_eq!(command(&world, &serve).code(), Some(2), "{labels:?}");
        let policy = world.home().join("policy.toml").display().to_string();
        let learn = ["learn", "-o", &policy, "--log", &log];
        let learn = [&learn, labels, &["--", "touch", &marker_text]].concat();
        assert_eq!(command(&world, &learn).code(), Some(2), "{labels:?}");
        assert!(!marker.exists(), "{labels:?}");
    }
}
