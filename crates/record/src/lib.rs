//! Decision records: what the gateway decided, one line of JSON each.
//!
//! This is the room that answers "the record" and the log side of "exhaustion" among the threats:
//! whatever bytes a sandbox sends, a record is one valid line of at most [`MAX_LINE_BYTES`]; whatever
//! it floods, memory is bounded, no connection waits for a disk, and what could not be kept is
//! counted and said.
//!
//! The way of a decision: [`Recorder::decision`] counts it, joins it to an equal record of the last
//! second (denials) or minute (allowed lookups) if there is one, else makes the line and puts it in
//! a bounded queue. One thread writes the queue to the sink. Fields are documented one by one in
//! `RECORDS.md` and published as `schema/decision-1.json`; a test holds both to the code.
//!
//! Invariant: no function here blocks on I/O but [`Recorder::flush`], which has a deadline.
//! Invariant: every decision is in a written line, in an open window, in the queue, or in the count
//! of a `records-lost` record.
#![forbid(unsafe_code)]

mod again;
mod counters;
mod event;
mod fields;
mod finder;
mod id;
mod line;
mod memory;
mod queue;
mod recorder;
mod sink;
mod summary;
mod tap;
mod text;
mod windows;
mod writer;

pub use again::{Again, Recorded};
pub use counters::Snapshot;
pub use event::{
    Client, Close, CloseReason, Event, Layer, Process, Protocol, Stage, Timings, Transport,
};
pub use fields::{CLOSE_FIELDS, DECISION_FIELDS};
pub use finder::ProcessFinder;
pub use id::DecisionId;
pub use line::{MAX_LINE_BYTES, SCHEMA};
pub use memory::Memory;
pub use recorder::{Flushed, Health, Recorder};
pub use sink::open as open_file;
pub use summary::{Denied, DeniedSummary};
pub use tap::{Seen, Subscription};

#[cfg(test)]
mod finder_tests;
#[cfg(test)]
mod recorder_tests;
#[cfg(test)]
mod schema_tests;
