//! The names of all fields, for whoever reads records: the tests hold the schema and the
//! documentation to this list, and this list to what is written.

/// The fields of a record whose `event` is `decision`, in the order in which they are written.
/// Those without a value are absent.
pub const DECISION_FIELDS: &[&str] = &[
    "schema",
    "event",
    "time",
    "id",
    "sandbox",
    "layer",
    "protocol",
    "verdict",
    "reason",
    "name",
    "canonical_name",
    "port",
    "qtype",
    "addresses",
    "families",
    "rule",
    "source",
    "upstream",
    "method",
    "path",
    "process",
    "attempts",
    "timings",
    "detail",
    "cut",
    "count",
];

/// The fields of a record whose `event` is `close`, in the order in which they are written.
pub const CLOSE_FIELDS: &[&str] = &[
    "schema",
    "event",
    "time",
    "id",
    "sandbox",
    "bytes_up",
    "bytes_down",
    "duration",
    "close_reason",
    "detail",
    "cut",
];
