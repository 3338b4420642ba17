//! Decision records: what the gateway decided, one line of JSON each.
//!
//! Answers *the record* and, for logs, *exhaustion* (docs/threats.md). Whatever bytes a sandbox
//! sends, a record is one valid line of at most [`MAX_LINE_BYTES`]. Whatever it floods, memory is
//! bounded, no connection waits for a disk, and what could not be kept is counted and reported.
//!
//! The way of a decision: [`Recorder::decision`] counts it, joins it to an equal record of the last
//! second (denials) or minute (allowed lookups) if there is one, else makes the line and puts it in
//! a bounded queue. One thread writes the queue to the sink, and numbers the lines. `fields.rs` describes each field once;
//! `RECORDS.md` and `schema/decision-1.json` are made from it.
//!
//! Invariant: no function here blocks on I/O but [`Recorder::flush`], which has a deadline.
//! Invariant: every decision is in a written line, in an open window, in the queue, or in the count
//! of a `records-lost` record. A line that is lost takes a number with it, so that a reader sees a gap
//! ahead of that record. Denials above their budget are in the count of one written line.
#![forbid(unsafe_code)]

mod bell;
mod budget;
mod counters;
mod event;
mod fields;
mod finder;
mod id;
mod line;
mod memory;
mod origin;
mod prepared;
mod queue;
mod recorder;
mod repeat;
mod sink;
mod subscription;
mod summary;
mod text;
mod windows;
mod writer;
mod writer_thread;

pub use budget::DEFAULT_DENIAL_LINES;
pub use counters::Snapshot;
pub use event::{
    Client, Close, CloseReason, Event, Layer, Process, Protocol, Stage, Timings, Transport,
};
pub use fields::{CLOSE_FIELDS, DECISION_FIELDS, Field, Kind, Presence};
pub use finder::{FoundProcess, ProcessFinder};
pub use id::{Boot, DecisionId};
pub use line::{MAX_LINE_BYTES, SCHEMA, verdict_code};
pub use memory::Memory;
pub use origin::{
    Label, LabelError, Labels, MAX_LABEL_KEY_BYTES, MAX_LABEL_VALUE_BYTES, MAX_LABELS,
    MAX_LABELS_BYTES, Origin,
};
pub use prepared::Prepared;
pub use recorder::{Flushed, Health, Recorder};
pub use repeat::{Recorded, Repeat};
pub use sink::open as open_file;
pub use subscription::{ObservedDecision, Subscription};
pub use summary::{Denied, DeniedSummary};
pub use writer_thread::WriterThread;

#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod finder_tests;
#[cfg(test)]
mod numbering_tests;
#[cfg(test)]
mod published_tests;
#[cfg(test)]
mod recorder_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod writer_thread_tests;
