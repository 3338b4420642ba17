//! Hostile text in a decision record: always one line of ASCII, of a bounded length, that is JSON.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use portcullis_policy::{Reason, Verdict};
use portcullis_record::{Event, Layer, Process, Protocol, Recorder};

/// Longest record, in bytes.
const MAX_LINE_BYTES: usize = 16 * 1024;
/// Most of `asked`, in bytes.
const MAX_ASKED_BYTES: usize = 256;

fuzz_target!(|input: &[u8]| {
    let (recorder, memory) = Recorder::to_memory("fuzz");
    let text = String::from_utf8_lossy(input);
    let process = Process { pid: 7, command: &text };
    let mut event = Event::new(Layer::Http, Protocol::Connect, Verdict::Deny, Reason::Malformed)
        .raw_name(input)
        .http(&text, Some(&text))
        .process(Some(process))
        .detail(&text)
        .upstream(&text);
    event.asked = Some(input);
    recorder.decision(event);
    recorder.shutdown(Duration::from_secs(20));
    let lines = memory.lines();
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert!(line.len() <= MAX_LINE_BYTES && line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line}");
    let record: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(record["asked"].is_string());
    let asked = line.split(r#","asked":""#).nth(1).unwrap_or_default();
    assert!(asked.find('"').unwrap_or_default() <= MAX_ASKED_BYTES, "{line}");
});
