//! How long a name may be: answers *names* and *exhaustion* (docs/threats.md).

/// Longest canonical name, in bytes: 255 on the wire (RFC 1035 section 2.3.4) less the first
/// length byte and the root label.
pub const MAX_NAME_BYTES: usize = 253;

/// Longest label, in bytes (RFC 1035 section 2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;
