//! Decision records.
#![forbid(unsafe_code)]
