//! Canonical names, patterns, ports and address classes.
#![forbid(unsafe_code)]
