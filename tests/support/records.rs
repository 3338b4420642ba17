//! Decision records as a test reads them: plain JSON, so that the schema itself is under test.

use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// The longest line that a record may have (CONTRACT: records), in bytes.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// The records of one run, in order.
#[derive(Clone, Debug, Default)]
pub struct Records(pub Vec<Value>);

/// Reads a record file. Every line must be valid JSON of the known schema: a line that is not
/// fails the test, whatever it is about. No file is no records.
#[track_caller]
pub fn read_records(path: &Path) -> Records {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Records::default(),
        Err(error) => panic!("cannot read {}: {error}", path.display()),
    };
    let text = String::from_utf8(text).unwrap_or_else(|e| panic!("records are not UTF-8: {e}"));
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "the last record is cut off: {text:?}"
    );
    let records: Vec<Value> = text.lines().map(checked).collect();
    assert_numbered(&records);
    Records(records)
}

/// Numbers rise by one for each record of a gateway; one is missing only ahead of a record of the loss.
#[track_caller]
fn assert_numbered(records: &[Value]) {
    let mut last: HashMap<&str, u64> = HashMap::new();
    for record in records {
        let (Some(boot), Some(seq)) = (record["boot"].as_str(), record["seq"].as_u64()) else {
            panic!("no boot or seq: {record}");
        };
        let before = last.insert(boot, seq).unwrap_or(0);
        let has_gap = seq > before && record["reason"] == "records-lost";
        assert!(
            seq == before + 1 || has_gap,
            "number {seq} behind {before}: {record}"
        );
    }
}

/// How long one record's decision was before or after another's, in seconds.
pub fn seconds_between(one: &Value, other: &Value) -> f64 {
    let of_day = |record: &Value| -> f64 {
        let time = record["time"].as_str().unwrap_or_default();
        let clock = time.split_once('T').map_or("", |(_, clock)| clock);
        let parts = clock.trim_end_matches('Z').split(':');
        parts.fold(0.0, |sum, part| {
            sum * 60.0
                + part
                    .parse::<f64>()
                    .unwrap_or_else(|error| panic!("{error}: {record}"))
        })
    };
    let apart = (of_day(one) - of_day(other)).abs();
    apart.min(24.0 * 3600.0 - apart)
}

fn checked(line: &str) -> Value {
    assert!(
        line.len() < MAX_LINE_BYTES,
        "a record of {} bytes: {line}",
        line.len()
    );
    let record: Value =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
    assert_eq!(record["schema"], "portcullis.decision/1", "{line}");
    for key in ["time", "id", "event"] {
        assert!(record[key].is_string(), "no {key}: {line}");
    }
    record
}

impl Records {
    /// The decisions, without those the gateway makes for itself at start-up.
    pub fn decisions(&self) -> Vec<&Value> {
        self.0
            .iter()
            .filter(|r| r["event"] == "decision" && r["reason"] != "self-probe")
            .filter(|r| r["protocol"] != "startup")
            .collect()
    }

    /// The ends of flows.
    pub fn closes(&self) -> Vec<&Value> {
        self.0.iter().filter(|r| r["event"] == "close").collect()
    }

    /// The end of the flow that this decision opened.
    pub fn close_of(&self, decision: &Value) -> Option<&Value> {
        self.closes()
            .into_iter()
            .find(|close| close["id"] == decision["id"])
    }

    /// The decisions about a name (any case) or an address.
    pub fn about(&self, whom: &str) -> Vec<&Value> {
        let is = |value: &Value| value.as_str().is_some_and(|v| v.eq_ignore_ascii_case(whom));
        self.decisions()
            .into_iter()
            .filter(|r| {
                is(&r["name"])
                    || r["addresses"]
                        .as_array()
                        .is_some_and(|all| all.iter().any(is))
            })
            .collect()
    }

    /// The decisions with this verdict.
    pub fn verdict(&self, verdict: &str) -> Vec<&Value> {
        self.decisions()
            .into_iter()
            .filter(|r| r["verdict"] == verdict)
            .collect()
    }

    /// Everything that was denied.
    pub fn all_denials(&self) -> Vec<&Value> {
        self.verdict("deny")
    }

    /// The denials of a name or address at a layer with a reason.
    pub fn denials(&self, layer: &str, reason: &str, whom: &str) -> Vec<&Value> {
        self.about(whom)
            .into_iter()
            .filter(|r| r["verdict"] == "deny" && r["layer"] == layer && r["reason"] == reason)
            .collect()
    }

    /// The one decision about a name or address over this protocol.
    #[track_caller]
    pub fn one(&self, protocol: &str, whom: &str) -> &Value {
        let found: Vec<&Value> = self
            .about(whom)
            .into_iter()
            .filter(|r| r["protocol"] == protocol)
            .collect();
        assert!(
            found.len() == 1,
            "{} decisions about {whom} over {protocol}, not 1:\n{self}",
            found.len()
        );
        found[0]
    }
}

impl std::fmt::Display for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|record| writeln!(f, "{record}"))
    }
}
