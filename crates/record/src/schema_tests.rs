//! What is written is held to the published schema and to the table of fields.

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_policy::{Reason, Verdict};
use serde_json::Value;

use crate::line::verdict_code;
use crate::*;

const SCHEMA_FILE: &str = include_str!("../schema/decision-1.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA_FILE).unwrap()
}

/// Every field at once, in a decision and in a close.
fn full_records() -> Vec<(String, Value)> {
    let labels = ["tenant=acme".parse().unwrap(), "job=".parse().unwrap()];
    let (recorder, memory) = Recorder::to_memory(Origin {
        sandbox: "test".to_owned(),
        host: "build-7".to_owned(),
        labels: Labels::new(labels).unwrap(),
    });
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
    event.asked = Some(b"http://a.example/");
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

fn names(fields: &[Field]) -> Vec<&'static str> {
    fields.iter().map(|field| field.name).collect()
}

#[test]
fn every_field_that_is_written_is_listed_in_its_order_and_the_other_way_round() {
    let records = full_records();
    for ((line, record), fields) in records.iter().zip([DECISION_FIELDS, CLOSE_FIELDS]) {
        let names = names(fields);
        assert_eq!(
            keys(record),
            names.iter().map(ToString::to_string).collect()
        );
        let places: Vec<_> = names
            .iter()
            .map(|f| line.find(&format!("\"{f}\":")))
            .collect();
        assert!(places.is_sorted(), "{line}");
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
fn verdicts_are_written_as_serde_writes_them() {
    for verdict in [
        Verdict::Allow,
        Verdict::Deny,
        Verdict::Error,
        Verdict::Audit,
    ] {
        assert_eq!(
            serde_json::to_value(verdict).unwrap(),
            verdict_code(verdict)
        );
    }
}
