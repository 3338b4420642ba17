//! The reserved name of the status page.

/// The name under which a sandbox finds the gateway's own page, by plain HTTP. No policy lists it, no
/// resolver is asked for it, and nothing is dialled for it.
pub const STATUS_NAME: &str = "portcullis.internal";

/// The port of the status page.
pub const STATUS_PORT: u16 = 80;
