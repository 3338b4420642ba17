//! The reserved name of the host.

/// The name under which programs reach the loopback of the host that the gateway runs on. It is
/// listed like any other name, but only by a rule for this very name.
pub const HOST_NAME: &str = "host.portcullis.internal";
