//! The published schema, the documentation and what is written are held to each other.

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_policy::{Reason, Verdict};
use serde_json::Value;

use crate::line::{RECORDS_LOST, verdict_code};
use crate::*;

const SCHEMA_FILE: &str = include_str!("../schema/decision-1.json");
const DOCUMENTATION: &str = include_str!("../RECORDS.md");

fn schema() -> Value {
    serde_json::from_str(SCHEMA_FILE).unwrap()
}

/// Every field at once, in a decision and in a close.
fn full_records() -> Vec<(String, Value)> {
    let (recorder, memory) = Recorder::to_memory("test");
    let long = "x".repeat(MAX_LINE_BYTES);
    let addresses = ["192.0.2.1".parse().unwrap()];
    let mut event = Event::new(Layer::Http, Protocol::Http, Verdict::Allow, Reason::Allowed)
        .name("a.example")
        .canonical_name("b.example")
        .port(80)
        .qtype(RecordType::A)
        .addresses(&addresses)
        .rule("a.example", "policy.toml:3")
        .upstream("192.0.2.1:80")
        .http("GET", Some("/"))
        .process(Some(Process {
            pid: 7,
            command: "curl",
        }))
        .attempts(1)
        .detail(&long);
    event.families = true;
    for stage in Stage::ALL {
        event.timings.set(*stage, Duration::from_micros(1));
    }
    let id = recorder.decision(event);
    let close = Close {
        detail: Some(&long),
        ..Close::new(CloseReason::Finished, 1, 2, Duration::ZERO)
    };
    recorder.close(id, close);
    assert!(recorder.flush(Duration::from_secs(20)).complete);
    memory
        .lines()
        .into_iter()
        .map(|line| (line.clone(), serde_json::from_str(&line).unwrap()))
        .collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

fn set(fields: &[&str]) -> BTreeSet<String> {
    fields.iter().map(ToString::to_string).collect()
}

#[test]
fn every_field_that_is_written_is_listed_in_its_order_and_the_other_way_round() {
    let records = full_records();
    for ((line, record), fields) in records.iter().zip([DECISION_FIELDS, CLOSE_FIELDS]) {
        assert_eq!(keys(record), set(fields));
        let places: Vec<_> = fields
            .iter()
            .map(|f| line.find(&format!("\"{f}\":")))
            .collect();
        assert!(places.is_sorted(), "{line}");
    }
}

#[test]
fn every_field_is_in_the_schema_and_the_other_way_round() {
    let schema = schema();
    for (place, fields) in [DECISION_FIELDS, CLOSE_FIELDS].into_iter().enumerate() {
        let branch = &schema["oneOf"][place];
        assert_eq!(keys(&branch["properties"]), set(fields));
        assert_eq!(branch["additionalProperties"], false);
    }
    let properties = &schema["oneOf"][0]["properties"];
    assert_eq!(
        keys(&properties["process"]["properties"]),
        set(&["pid", "command"])
    );
    let stages: Vec<_> = Stage::ALL.iter().map(|stage| stage.code()).collect();
    assert_eq!(keys(&properties["timings"]["properties"]), set(&stages));
}

#[test]
fn the_schema_s_closed_lists_are_the_code_s() {
    let schema = schema();
    let list = |branch: usize, field: &str| -> BTreeSet<String> {
        let list = schema["oneOf"][branch]["properties"][field]["enum"]
            .as_array()
            .unwrap();
        list.iter()
            .map(|code| code.as_str().unwrap().to_owned())
            .collect()
    };
    let codes = |codes: Vec<&str>| set(&codes);
    assert_eq!(
        list(0, "layer"),
        codes(Layer::ALL.iter().map(|l| l.code()).collect())
    );
    assert_eq!(
        list(0, "protocol"),
        codes(Protocol::ALL.iter().map(|p| p.code()).collect())
    );
    let mut reasons: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
    reasons.push(RECORDS_LOST);
    assert_eq!(list(0, "reason"), codes(reasons));
    let verdicts = [
        Verdict::Allow,
        Verdict::Deny,
        Verdict::Error,
        Verdict::Audit,
    ];
    assert_eq!(
        list(0, "verdict"),
        codes(verdicts.into_iter().map(verdict_code).collect())
    );
    assert_eq!(
        list(1, "close_reason"),
        codes(CloseReason::ALL.iter().map(|c| c.code()).collect())
    );
    for verdict in verdicts {
        assert_eq!(
            serde_json::to_value(verdict).unwrap(),
            verdict_code(verdict)
        );
    }
}

#[test]
fn what_the_schema_requires_is_in_the_barest_record() {
    let (recorder, memory) = Recorder::to_memory("test");
    let id = recorder.decision(Event::default());
    recorder.close(id, Close::new(CloseReason::Finished, 0, 0, Duration::ZERO));
    assert!(recorder.flush(Duration::from_secs(20)).complete);
    for (place, line) in memory.lines().iter().enumerate() {
        let record: Value = serde_json::from_str(line).unwrap();
        let schema = schema();
        let required = schema["oneOf"][place]["required"].as_array().unwrap();
        let required = required
            .iter()
            .map(|r| r.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(keys(&record), required);
        assert_eq!(record["schema"], SCHEMA);
        let time = record["time"].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok());
        assert_eq!(
            time.len(),
            "2026-11-22T05:32:06.123456Z".len(),
            "{time}: microseconds, UTC"
        );
    }
}

#[test]
fn types_are_those_of_the_schema() {
    for (place, (_, record)) in full_records().iter().enumerate() {
        for (key, value) in record.as_object().unwrap() {
            let schema = schema();
            let field = &schema["oneOf"][place]["properties"][key];
            let found = match value {
                Value::String(_) => "string",
                Value::Number(number) if number.is_u64() => "integer",
                Value::Number(_) => "number",
                Value::Bool(_) => "boolean",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
                Value::Null => "null",
            };
            let wanted = field["type"]
                .as_str()
                .or_else(|| field["const"].as_str().map(|_| "string"));
            assert_eq!(wanted, Some(found), "{key}");
            assert!(field["description"].is_string(), "{key}");
        }
    }
}

#[test]
fn every_field_is_documented_and_the_other_way_round() {
    let rows = |title: &str| -> BTreeSet<String> {
        let section = DOCUMENTATION.split_once(title).expect(title).1;
        let section = section.split("\n## ").next().unwrap();
        let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
        section.lines().filter_map(row).collect()
    };
    assert_eq!(rows("## A decision"), set(DECISION_FIELDS));
    assert_eq!(rows("## A close"), set(CLOSE_FIELDS));
    let codes = |title| rows(title);
    assert_eq!(
        codes("## Layers"),
        set(&Layer::ALL.iter().map(|l| l.code()).collect::<Vec<_>>())
    );
    let protocols: Vec<_> = Protocol::ALL.iter().map(|p| p.code()).collect();
    assert_eq!(codes("## Protocols"), set(&protocols));
    let closes: Vec<_> = CloseReason::ALL.iter().map(|c| c.code()).collect();
    assert_eq!(codes("## Close reasons"), set(&closes));
    let mut reasons: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
    reasons.push(RECORDS_LOST);
    assert_eq!(codes("## Reasons"), set(&reasons));
}
