//! What resolvers heard and what the record says, against the lines of a scenario.

use std::collections::BTreeMap;

use serde_json::Value;

use super::resolver::Resolver;
use super::tree::{Byte, Line, bytes, quoted};
use crate::world::Heard;

/// Compares what a resolver heard with `heard nothing`, `heard N questions`, or a line for each
/// message: `TYPE NAME`, with `over TCP` or `without EDNS`, or `bytes ...`.
pub fn heard(line: &Line, what: &[&str], heard: &[Heard]) {
    let shown: Vec<String> = heard.iter().map(show).collect();
    let fits = match what {
        ["nothing"] => heard.is_empty(),
        [number, "questions"] => number.parse() == Ok(heard.len()),
        [] => {
            let each = line.below.iter().zip(heard.iter().zip(&shown));
            heard.len() == line.below.len() && each.into_iter().all(|(part, one)| fits(part, one))
        }
        _ => line.wrong("heard nothing, heard N questions, or a line for each"),
    };
    if !fits {
        line.wrong(format!("it heard {shown:#?}\n{heard:02x?}"));
    }
}

fn show(heard: &Heard) -> String {
    let message = heard.message();
    let query = &message.queries[0];
    let name = query.name().to_lowercase().to_ascii();
    let mut text = format!("{} {}", query.query_type(), name.trim_end_matches('.'));
    if heard.tcp {
        text.push_str(" over TCP");
    }
    if message.edns.is_none() {
        text.push_str(" without EDNS");
    }
    text
}

fn fits(part: &Line, (heard, shown): (&Heard, &String)) -> bool {
    match part.words().as_slice() {
        ["bytes", words @ ..] => {
            let expected: Vec<Byte> = bytes(part, words);
            expected.len() == heard.bytes.len()
                && expected.iter().zip(&heard.bytes).all(|(e, b)| e.fits(*b))
        }
        words => *shown == words.join(" "),
    }
}

impl Resolver {
    /// What came in since the last look.
    pub fn heard(&mut self) -> Vec<Heard> {
        let all = self.all_heard();
        let news = all.get(self.seen..).unwrap_or(&[]).to_vec();
        self.seen = all.len();
        news
    }
}

/// Compares the records since the last look with lines of
/// `VERDICT REASON TYPE NAME[, count N][, attempts N][, upstream ADDRESS][, canonical NAME]
/// [, detail 'text']`, in any order. A record without a name has `-` for type and name. Equal
/// records count as one, since real time may part those that virtual time does not.
pub fn records(line: &Line, records: &[Value]) {
    let mut found: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for record in records {
        let text = |field: &str| record[field].as_str().unwrap_or("-").to_owned();
        let key = ["verdict", "reason", "qtype", "name"].map(text).join(" ");
        found.entry(key).or_default().push(record);
    }
    let mut expected: Vec<String> = Vec::new();
    for part in &line.below {
        let mut pieces = part.text.split(", ");
        let key = pieces.next().unwrap_or_default().to_owned();
        let Some(group) = found.get(&key) else {
            part.wrong(format!("the records are {:#?}", found.keys()));
        };
        let mut count = 1;
        for piece in pieces {
            let has = |field: &str, value: &str| {
                group.iter().any(|record| match &record[field] {
                    Value::Number(number) => number.to_string() == value,
                    other => other.as_str() == Some(value),
                })
            };
            let good = match piece.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["count", number] => {
                    count = number
                        .parse()
                        .unwrap_or_else(|_| part.wrong("count NUMBER"));
                    true
                }
                ["attempts", number] => has("attempts", number),
                ["upstream", address] => has("upstream", address),
                ["canonical", name] => has("canonical_name", name),
                ["address", address] => group.iter().any(|record| {
                    let all = record["addresses"].as_array();
                    all.is_some_and(|all| all.iter().any(|a| a == address))
                }),
                ["detail", ..] => {
                    let text = piece.trim_start_matches("detail").trim();
                    let text = quoted(text, '\'').unwrap_or_else(|| part.wrong("detail 'text'"));
                    let detail =
                        |record: &&Value| record["detail"].as_str().unwrap_or("").contains(text);
                    group.iter().any(detail)
                }
                _ => part.wrong("count, attempts, upstream, address, canonical or detail"),
            };
            if !good {
                part.wrong(format!("the record is {group:#?}"));
            }
        }
        let counted: u64 = group.iter().map(|r| r["count"].as_u64().unwrap_or(1)).sum();
        if counted != count {
            part.wrong(format!("there are {counted} of them"));
        }
        expected.push(key);
    }
    let surplus: Vec<&String> = found.keys().filter(|key| !expected.contains(key)).collect();
    if !surplus.is_empty() {
        line.wrong(format!("there are records besides: {surplus:#?}"));
    }
}
