//! `RECORDS.md` and `schema/decision-1.json` are made here, from the types. The committed files
//! must be what is made; `UPDATE_DOCS=1` writes them.

use std::fmt::Write as _;
use std::path::Path;

use portcullis_policy::{Reason, Verdict};
use serde_json::{Map, Value, json};

use crate::fields::{Field, Kind, Presence};
use crate::line::{MAX_ADDRESSES, RECORDS_LOST, verdict_code};
use crate::*;

/// How the committed files are brought up to date.
const COMMAND: &str = "UPDATE_DOCS=1 cargo test -p portcullis-record published";

const VERDICTS: [Verdict; 4] = [
    Verdict::Allow,
    Verdict::Deny,
    Verdict::Error,
    Verdict::Audit,
];

/// A code and what it means.
type Code = (&'static str, String);

fn reasons() -> Vec<Code> {
    let reasons = Reason::ALL.iter();
    let mut all: Vec<Code> = reasons
        .map(|reason| (reason.code(), reason.sentence().to_owned()))
        .collect();
    let lost = "The records found no room; `count` says how many, `detail` of which kinds.";
    all.push((RECORDS_LOST, lost.to_owned()));
    all
}

macro_rules! codes_of {
    ($list:ident) => {
        $list::ALL
            .iter()
            .map(|code| (code.code(), code.meaning().to_owned()))
            .collect::<Vec<Code>>()
    };
}

fn named(codes: &[Code]) -> Vec<&'static str> {
    codes.iter().map(|(code, _)| *code).collect()
}

/// A field's value in the words of JSON Schema.
fn schema_of(field: &Field) -> Value {
    let described = |code: &Code| (code.0.to_owned(), whole_number(&code.1));
    let mut value = match field.kind {
        Kind::Constant(text) => json!({"const": text}),
        Kind::Text => json!({"type": "string"}),
        Kind::Time => json!({"type": "string", "format": "date-time"}),
        Kind::Id => json!({"type": "string", "pattern": "^[0-9a-hjkmnp-tv-z]{6}-[0-9]{6,}$"}),
        Kind::Layer => json!({"type": "string", "enum": named(&codes_of!(Layer))}),
        Kind::Protocol => json!({"type": "string", "enum": named(&codes_of!(Protocol))}),
        Kind::Verdict => json!({"type": "string", "enum": VERDICTS.map(verdict_code)}),
        Kind::Reason => json!({"type": "string", "enum": named(&reasons())}),
        Kind::CloseReason => json!({"type": "string", "enum": named(&codes_of!(CloseReason))}),
        Kind::Number => json!({"type": "integer", "minimum": 0}),
        Kind::Count => json!({"type": "integer", "minimum": 1}),
        Kind::Port => json!({"type": "integer", "minimum": 0, "maximum": u16::MAX}),
        Kind::Seconds => json!({"type": "number", "minimum": 0}),
        Kind::True => json!({"type": "boolean"}),
        Kind::Addresses => {
            json!({"type": "array", "items": {"type": "string"}, "maxItems": MAX_ADDRESSES})
        }
        Kind::Families => json!({"type": "array", "maxItems": 2,
            "items": {"type": "string", "enum": ["ipv4", "ipv6"]}}),
        Kind::Process => json!({"type": "object", "additionalProperties": false,
        "required": ["pid", "command"],
        "properties": {
            "pid": whole_number("Its process id, as the host sees it."),
            "command": {"type": "string", "description": "Its command name."},
        }}),
        Kind::Boot => json!({"type": "string", "pattern": "^[0-9a-f]{16}$"}),
        Kind::Labels => json!({"type": "object", "maxProperties": MAX_LABELS,
            "additionalProperties": {"type": "string"}}),
        Kind::Timings => json!({"type": "object", "additionalProperties": false,
            "properties": codes_of!(Stage).iter().map(described).collect::<Map<_, _>>()}),
    };
    value["description"] = field.description.into();
    value
}

fn whole_number(description: &str) -> Value {
    json!({"type": "integer", "minimum": 0, "description": description})
}

fn branch(title: &str, fields: &[Field]) -> Value {
    let required = fields
        .iter()
        .filter(|field| field.presence == Presence::Always)
        .map(|field| field.name);
    let properties = fields
        .iter()
        .map(|field| (field.name.to_owned(), schema_of(field)));
    json!({
        "title": title,
        "type": "object",
        "properties": properties.collect::<Map<_, _>>(),
        "required": required.collect::<Vec<_>>(),
        "additionalProperties": false,
    })
}

fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:portcullis:decision:1",
        "title": "Portcullis decision record, version 1",
        "description": "One line of a record file. Within this major version fields and codes may be added; none changes its meaning or goes away.",
        "oneOf": [
            branch("A decision", DECISION_FIELDS),
            branch("The end of a flow", CLOSE_FIELDS),
        ],
    })
}

fn field_table(fields: &[Field]) -> String {
    let mut table = "| field | type | present | meaning |\n|---|---|---|---|\n".to_owned();
    for field in fields {
        let kind = match field.kind {
            Kind::Constant(text) => format!("`\"{text}\"`"),
            Kind::Time => "string (RFC 3339)".into(),
            Kind::Seconds => "number (s)".into(),
            Kind::Timings => "object (µs)".into(),
            _ => schema_of(field)["type"].as_str().unwrap().to_owned(),
        };
        let presence = match field.presence {
            Presence::Always => "always",
            Presence::WhereItApplies => "if it applies",
            Presence::WhereKnown => "if it can be known",
        };
        let Field {
            name, description, ..
        } = field;
        writeln!(table, "| `{name}` | {kind} | {presence} | {description} |").unwrap();
    }
    table
}

fn code_table(codes: &[Code]) -> String {
    let mut table = "| code | meaning |\n|---|---|\n".to_owned();
    for (code, meaning) in codes {
        writeln!(table, "| `{code}` | {meaning} |").unwrap();
    }
    table
}

/// The page with every table made anew. A table stands between `<!-- made from the code: NAME -->`
/// and `<!-- end -->`.
fn page(committed: &str) -> String {
    const BEGIN: &str = "<!-- made from the code: ";
    let mut parts = committed.split(BEGIN);
    let mut page = parts.next().unwrap().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" -->\n").expect("the end of a mark");
        let (_, after) = rest.split_once("<!-- end -->").expect("the end of a table");
        let table = match name {
            "decision" => field_table(DECISION_FIELDS),
            "close" => field_table(CLOSE_FIELDS),
            "timings" => code_table(&codes_of!(Stage)),
            "layers" => code_table(&codes_of!(Layer)),
            "protocols" => code_table(&codes_of!(Protocol)),
            "reasons" => code_table(&reasons()),
            "close reasons" => code_table(&codes_of!(CloseReason)),
            other => panic!("no table {other:?}"),
        };
        write!(page, "{BEGIN}{name} -->\n\n{table}\n<!-- end -->{after}").unwrap();
    }
    page
}

/// Holds a committed file to what is made, or writes it.
fn publish(file: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, made).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == made,
        "{file} is not what the types say; run: {COMMAND}"
    );
}

#[test]
fn the_published_schema_is_made_from_the_types() {
    let schema = serde_json::to_string_pretty(&schema()).unwrap();
    publish("schema/decision-1.json", &format!("{schema}\n"));
}

#[test]
fn the_published_tables_are_made_from_the_types() {
    let committed = include_str!("../RECORDS.md");
    let made = page(committed);
    for (table, fields) in [("decision", DECISION_FIELDS), ("close", CLOSE_FIELDS)] {
        let section = made.split(&format!("code: {table} -->")).nth(1).unwrap();
        let rows = section.split("<!-- end").next().unwrap().matches("\n| `");
        assert_eq!(rows.count(), fields.len(), "{table}");
    }
    publish("RECORDS.md", &made);
}
