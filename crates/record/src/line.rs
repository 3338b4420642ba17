//! A decision or a close, written as one line.
//!
//! Each field has its own share of [`MAX_LINE_BYTES`], counted after escaping, so that no single
//! hostile value can push another out of the record. The shares add up to less than the line: that
//! is checked when this file is compiled.

use std::net::IpAddr;

use jiff::Timestamp;
use portcullis_policy::Verdict;

use crate::event::{Close, Event};
use crate::id::{Boot, DecisionId};
use crate::origin::{self, MAX_LABELS_BYTES};
use crate::text::{LineBuf, path_only, shown_name};

/// The longest line that is ever written, line break included, in bytes.
pub const MAX_LINE_BYTES: usize = 16 * 1024;
/// The value of `schema`. Its number changes when a field changes its meaning or goes away.
pub const SCHEMA: &str = "portcullis.decision/1";

const MAX_SANDBOX_BYTES: usize = 256;
const MAX_HOST_BYTES: usize = 256;
const MAX_NAME_BYTES: usize = 1536;
/// The longest `asked`, in bytes once it is escaped.
const MAX_ASKED_BYTES: usize = 256;
const MAX_RULE_BYTES: usize = 768;
const MAX_UPSTREAM_BYTES: usize = 512;
const MAX_METHOD_BYTES: usize = 128;
const MAX_PATH_BYTES: usize = 4096;
const MAX_COMMAND_BYTES: usize = 512;
const MAX_DETAIL_BYTES: usize = 2048;
/// Addresses in one record; further ones are cut.
pub(crate) const MAX_ADDRESSES: usize = 32;
/// The longest IPv6 text (an IPv4-mapped one) with quotes and comma.
const MAX_ADDRESS_BYTES: usize = 48;
/// Keys, punctuation, numbers, codes, the time and the id together.
const MAX_FIXED_BYTES: usize = 1024;
/// What most lines need.
const USUAL_LINE_BYTES: usize = 512;

const _: () = assert!(
    MAX_SANDBOX_BYTES
        + MAX_HOST_BYTES
        + MAX_LABELS_BYTES
        + 2 * MAX_NAME_BYTES
        + MAX_ASKED_BYTES
        + 2 * MAX_RULE_BYTES
        + MAX_UPSTREAM_BYTES
        + MAX_METHOD_BYTES
        + MAX_PATH_BYTES
        + MAX_COMMAND_BYTES
        + MAX_DETAIL_BYTES
        + MAX_ADDRESSES * MAX_ADDRESS_BYTES
        + MAX_FIXED_BYTES
        <= MAX_LINE_BYTES
);

/// What every line of one recorder carries, escaped once: the sandbox's name, and what stands at the
/// end of a line.
pub(crate) struct Origin {
    sandbox: Box<[u8]>,
    /// Host, labels and boot, up to the line's number.
    end: Box<[u8]>,
}

impl Origin {
    pub(crate) fn new(origin: &origin::Origin, boot: Boot) -> Origin {
        let mut sandbox = LineBuf::with_capacity(origin.sandbox.len() + 2);
        sandbox.string(origin.sandbox.as_bytes(), MAX_SANDBOX_BYTES);
        let mut end = LineBuf::with_capacity(USUAL_LINE_BYTES);
        let host = Some(origin.host.as_str()).filter(|host| !host.is_empty());
        optional(&mut end, "host", host, MAX_HOST_BYTES);
        let mut between = r#","labels":{"#;
        for label in origin.labels.iter() {
            end.format(format_args!(r#"{between}"{}":"#, label.key()));
            end.string(label.value().as_bytes(), MAX_LABELS_BYTES);
            between = ",";
        }
        if between == "," {
            end.json("}");
        }
        end.format(format_args!(r#","boot":"{boot}","seq":"#));
        Origin {
            sandbox: sandbox.into_bytes().into(),
            end: end.into_bytes().into(),
        }
    }

    /// Puts a line's end behind it: where it comes from, and its number in the order of writing.
    pub(crate) fn end(&self, lines: &mut Vec<u8>, seq: u64) {
        use std::io::Write as _;
        lines.extend_from_slice(&self.end);
        // Writing into a Vec cannot fail.
        let _ = writeln!(lines, "{seq}}}");
    }

    fn sandbox(&self) -> &str {
        // Always ASCII: the escaper writes nothing else.
        std::str::from_utf8(&self.sandbox).unwrap_or("\"\"")
    }

    fn begin(&self, event: &str, id: DecisionId, time: Timestamp) -> LineBuf {
        let mut line = LineBuf::with_capacity(USUAL_LINE_BYTES);
        line.format(format_args!(
            r#"{{"schema":"{SCHEMA}","event":"{event}","time":"{time:.6}","id":"{id}","sandbox":{}"#,
            self.sandbox()
        ));
        line
    }
}

/// The decision's line without its count: [`finish_decision`] adds it when its window closes.
pub(crate) fn decision(
    origin: &Origin,
    id: DecisionId,
    time: Timestamp,
    event: &Event<'_>,
) -> Vec<u8> {
    let mut line = origin.begin("decision", id, time);
    line.format(format_args!(
        r#","layer":"{}","protocol":"{}","verdict":"{}","reason":"{}""#,
        event.layer.code(),
        event.protocol.code(),
        verdict_code(event.verdict),
        event.reason.code(),
    ));
    if let Some(name) = event.name {
        text(&mut line, "name", name, MAX_NAME_BYTES);
    } else if let Some(raw) = event.raw_name {
        let (shown, removed) = shown_name(raw);
        if removed {
            line.mark_cut();
        }
        line.json(r#","name":"#);
        line.string(&shown, MAX_NAME_BYTES);
    }
    if let Some(asked) = event.asked {
        line.json(r#","asked":"#);
        line.string(&shown_name(asked).0, MAX_ASKED_BYTES);
    }
    optional(
        &mut line,
        "canonical_name",
        event.canonical_name,
        MAX_NAME_BYTES,
    );
    if let Some(port) = event.port {
        line.format(format_args!(r#","port":{port}"#));
    }
    if let Some(qtype) = event.qtype {
        line.format(format_args!(r#","qtype":"{}""#, qtype));
    }
    addresses(&mut line, event.addresses);
    if event.families {
        families(&mut line, event.addresses);
    }
    if let Some((rule, source)) = event.rule {
        text(&mut line, "rule", rule, MAX_RULE_BYTES);
        text(&mut line, "source", &source.to_string(), MAX_RULE_BYTES);
    }
    optional(&mut line, "upstream", event.upstream, MAX_UPSTREAM_BYTES);
    optional(&mut line, "method", event.method, MAX_METHOD_BYTES);
    optional(&mut line, "path", event.path.map(path_only), MAX_PATH_BYTES);
    if let Some(process) = event.process {
        line.format(format_args!(r#","process":{{"pid":{}"#, process.pid));
        text(&mut line, "command", process.command, MAX_COMMAND_BYTES);
        line.json("}");
    }
    if let Some(attempts) = event.attempts {
        line.format(format_args!(r#","attempts":{attempts}"#));
    }
    timings(&mut line, event);
    optional(&mut line, "detail", event.detail, MAX_DETAIL_BYTES);
    cut_mark(&mut line);
    line.into_bytes()
}

/// The families among the addresses; none where there is no address.
fn families(line: &mut LineBuf, addresses: &[IpAddr]) {
    let four = addresses.iter().any(IpAddr::is_ipv4);
    let six = addresses.iter().any(IpAddr::is_ipv6);
    line.json(match (four, six) {
        (true, true) => r#","families":["ipv4","ipv6"]"#,
        (true, false) => r#","families":["ipv4"]"#,
        (false, true) => r#","families":["ipv6"]"#,
        (false, false) => r#","families":[]"#,
    });
}

/// Adds the number of decisions that share a decision's line; only [`Origin::end`] follows.
pub(crate) fn finish_decision(mut line: Vec<u8>, count: u64) -> Vec<u8> {
    use std::io::Write as _;
    // Writing into a Vec cannot fail.
    let _ = write!(line, r#","count":{count}"#);
    line
}

/// Finishes the line that stands for `count` denials above their budget; `names` are some of them.
pub(crate) fn finish_summary(line: Vec<u8>, names: &[String], count: u64) -> Vec<u8> {
    let names = names.join(", ");
    let mut detail = LineBuf::with_capacity(USUAL_LINE_BYTES);
    let what = format!("too many of this kind for a line each; among them: {names}");
    text(&mut detail, "detail", &what, MAX_DETAIL_BYTES);
    finish_decision([line, detail.into_bytes()].concat(), count)
}

/// The line of a close, up to [`Origin::end`].
pub(crate) fn close(
    origin: &Origin,
    id: DecisionId,
    time: Timestamp,
    close: &Close<'_>,
) -> Vec<u8> {
    let mut line = origin.begin("close", id, time);
    line.format(format_args!(
        r#","bytes_up":{},"bytes_down":{},"duration":{}.{:06},"close_reason":"{}""#,
        close.bytes_up,
        close.bytes_down,
        close.duration.as_secs(),
        close.duration.subsec_micros(),
        close.close_reason.code(),
    ));
    optional(&mut line, "detail", close.detail, MAX_DETAIL_BYTES);
    cut_mark(&mut line);
    line.into_bytes()
}

/// A verdict as it stands in a record.
#[must_use]
pub const fn verdict_code(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::Error => "error",
        Verdict::Audit => "audit",
    }
}

fn text(line: &mut LineBuf, key: &str, value: &str, limit: usize) {
    line.format(format_args!(r#","{key}":"#));
    line.string(value.as_bytes(), limit);
}

fn optional(line: &mut LineBuf, key: &str, value: Option<&str>, limit: usize) {
    if let Some(value) = value {
        text(line, key, value, limit);
    }
}

fn addresses(line: &mut LineBuf, addresses: &[IpAddr]) {
    if addresses.is_empty() {
        return;
    }
    line.json(r#","addresses":["#);
    for (place, address) in addresses.iter().take(MAX_ADDRESSES).enumerate() {
        let comma = if place == 0 { "" } else { "," };
        line.format(format_args!(r#"{comma}"{address}""#));
    }
    line.json("]");
    if addresses.len() > MAX_ADDRESSES {
        line.mark_cut();
    }
}

fn timings(line: &mut LineBuf, event: &Event<'_>) {
    let mut between = r#","timings":{"#;
    for (stage, took) in event.timings.iter() {
        line.format(format_args!(
            r#"{between}"{}":{}"#,
            stage.code(),
            took.as_micros()
        ));
        between = ",";
    }
    if between == "," {
        line.json("}");
    }
}

fn cut_mark(line: &mut LineBuf) {
    if line.was_cut() {
        line.json(r#","cut":true"#);
    }
}

/// The code of the one record that no decision made: it says how many others are missing.
pub(crate) const RECORDS_LOST: &str = "records-lost";

/// The line that stands for `lost` decisions and closes that found no room, up to [`Origin::end`].
pub(crate) fn lost(origin: &Origin, id: DecisionId, time: Timestamp, lost: &Lost) -> Vec<u8> {
    let mut line = origin.begin("decision", id, time);
    line.format(format_args!(
        concat!(
            r#","layer":"gateway","protocol":"startup","verdict":"error","reason":"{}""#,
            r#","detail":"no room for {} denials and errors, {} other decisions, {} closes""#,
        ),
        RECORDS_LOST, lost.urgent, lost.usual, lost.closes
    ));
    finish_decision(line.into_bytes(), lost.total())
}

/// What found no room in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Lost {
    /// Denials and errors, decisions that shared a record included.
    pub(crate) urgent: u64,
    /// Other decisions.
    pub(crate) usual: u64,
    /// Ends of flows.
    pub(crate) closes: u64,
    /// The lines that would have said so.
    pub(crate) lines: u64,
}

impl Lost {
    pub(crate) fn total(&self) -> u64 {
        self.urgent + self.usual + self.closes
    }
}
